//! `cpl agent`: the agent of one node, with the driver that its command line names.

use std::path::PathBuf;
use std::sync::Arc;

use cpl_agent::driver::Driver;
use cpl_agent::drivers::lb::{
    AnnouncerConfig, AnnouncingDriver, HaproxyConfig, HaproxyDriver, RenderConfig, RenderDriver,
};
use cpl_agent::runtime::{AgentConfig, AgentError, run_agent};
use cpl_host::Host;
use tokio::io::AsyncReadExt;

use crate::cli::agent::{AgentArgs, DriverName};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::serve_config::LogFormat;
use crate::serve::{runtime, start_log, until_told_to_stop};

/// What an agent logs when nothing is said.
const LOG: &str = "info";

/// Runs an agent until it is told to stop. Blocks; must be called outside of any runtime.
pub fn run(args: &AgentArgs) -> Outcome {
    start_log(LogFormat::Text, LOG)?;
    let driver = driver(args)?;
    let config = AgentConfig {
        node: args.node.clone(),
        servers: args.server.clone(),
        ca_file: args.ca.clone(),
        state_dir: args.state_dir(),
        join_token_file: args.join_token_file.clone(),
        stop_data_plane_on_exit: args.stop_data_plane_on_exit,
    };
    let with_stdin = args.exit_with_stdin;
    runtime()?.block_on(async move {
        let stop = async move {
            let told = async {
                if let Err(failure) = until_told_to_stop().await {
                    tracing::error!(?failure, "stopping, since signals cannot be heard");
                }
            };
            if with_stdin {
                tokio::select! {
                    () = told => {},
                    () = stdin_ends() => tracing::info!("stopping with whoever started this agent"),
                }
            } else {
                told.await;
            }
        };
        match run_agent(config, driver, stop).await {
            Ok(()) => Ok(Exit::Success),
            Err(error) => Err(ended(&error)),
        }
    })
}

fn ended(error: &AgentError) -> Failure {
    let exit = match error {
        AgentError::Superseded { .. } => Exit::Conflict,
        _ => Exit::Failed,
    };
    let mut failure = Failure::new(exit, format!("failed to {error}"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        failure = failure.detail(cause.to_string());
        source = cause.source();
    }
    failure
}

async fn stdin_ends() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while stdin.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

fn driver(args: &AgentArgs) -> Result<Box<dyn Driver>, Failure> {
    let clock = Host::new().clock;
    let state_dir = args.state_dir().join("data-plane");
    let binary = find_program(&args.haproxy);
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Failed,
            format!("the data plane cannot be driven: {error}"),
        )
    };
    match args.driver {
        DriverName::Haproxy => {
            let binary = binary.ok_or_else(|| {
                let what = format!("there is no program {}", args.haproxy.display());
                let remedy = "install it: apt-get install --no-install-recommends haproxy";
                Failure::new(Exit::Failed, what).detail(remedy)
            })?;
            let config = HaproxyConfig {
                state_dir: state_dir.clone(),
                runtime_dir: args.runtime_dir(),
                binary,
            };
            let haproxy = HaproxyDriver::new(config, Arc::clone(&clock));
            let haproxy = haproxy.map_err(|error| wrong(&error))?;
            // Needed by nodes that announce something only: where they are missing, that node says so.
            let tool =
                |name: &std::path::Path| find_program(name).unwrap_or_else(|| name.to_owned());
            let config = AnnouncerConfig {
                state_dir,
                gobgp: tool(&args.gobgp),
                target: args.gobgp_target.clone(),
                ip: tool(std::path::Path::new("ip")),
            };
            Ok(Box::new(AnnouncingDriver::new(haproxy, config, clock)))
        },
        DriverName::Render => {
            tracing::warn!("the render driver only writes files: no data plane, no traffic");
            let binary = binary.unwrap_or_else(|| args.haproxy.clone());
            let driver = RenderDriver::new(RenderConfig { state_dir, binary }, clock);
            Ok(Box::new(driver.map_err(|error| wrong(&error))?))
        },
    }
}

/// The file of a program: as it is named, or in the usual places, of which `PATH` of a service often
/// lacks `/usr/sbin`.
pub(crate) fn find_program(name: &std::path::Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.exists().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(usual);
    places
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}
