//! `cpl dev`: a whole control plane on this machine, to look at and to play with.
//!
//! A server in this process, demo applications in this process, and one agent per node as a child
//! process, each with a HAProxy of its own: agents may be killed, and are started again.

mod apps;
mod demo;
mod fleet;
mod install;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cpl_api::client::{ControlPlaneClient, WriteOptions};
use cpl_api::error::ControlPlaneError;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::object::{ApplyRequest, Convergence, NodeStatus};
use cpl_api::routes::{Collection, ListQuery};
use cpl_api::token::BearerToken;
use cpl_core::lease::SessionTimes;
use cpl_host::Host;
use serde::Deserialize;

use self::fleet::Fleet;
use crate::cli::agent::DriverName;
use crate::cli::dev::DevArgs;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{Format, Manner, Output, Talk};
use crate::cli::serve_config::{LogFormat, ServeConfig, StoreUrl};
use crate::plane::PlaneConfig;
use crate::serve::{Server, runtime, start_log, until_told_to_stop};

/// How long the nodes may take to come to what they should run.
const CONVERGING: Duration = Duration::from_secs(90);
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(300);

/// Runs until it is told to stop. Blocks; must be called outside of any runtime.
pub fn run(args: &DevArgs) -> Outcome {
    start_log(LogFormat::Text, "warn")?;
    let manner = Manner {
        format: Format::Table,
        headers: true,
        colour: true,
        talk: Talk::Live,
    };
    let mut out = Output::of_process(manner, &|name| std::env::var(name).ok());
    let driver = install::driver(args.driver, args.no_install, &mut out)?;
    runtime()?.block_on(dev(args, driver, &mut out))
}

async fn dev(args: &DevArgs, driver: DriverName, out: &mut Output) -> Outcome {
    let dir = absolute(&args.dir)?;
    let host = Host::new();
    let server = start_server(args.listen, &dir, &host, out).await?;
    let client = client(&server, &host)?;
    let apps = apps::start(&host)?;
    let manifest = dir.join("web.yaml");
    apply_demo(&client, &manifest, args.nodes, out).await?;
    let mut fleet = Fleet::start(&dir, &server.url(), args.nodes, driver, &client).await?;

    let told = until_told_to_stop();
    tokio::pin!(told);
    let converged = tokio::select! {
        converged = converge(&client, &host, out) => Some(converged?),
        stopped = &mut told => {
            stopped?;
            None
        },
    };
    if let Some(converged) = converged {
        report(&client, &server, &manifest, driver, out).await?;
        if !converged {
            out.warn("not every node has come to what it should run; `cpl why NODE` says why");
        }
        tokio::select! {
            stopped = &mut told => stopped?,
            () = fleet.watch(&host) => {},
        }
    }
    out.say("stopping: agents and their data planes, then the server");
    fleet.stop(&host).await;
    apps.stop().await;
    server.stop().await;
    out.say("everything has ended; the same command goes on from here");
    Ok(Exit::Success)
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir)
        .map_err(|error| Failure::invalid(format!("{} is no folder: {error}", dir.display())))
}

/// Starts the server; on another port when the wanted one is taken.
async fn start_server(
    listen: SocketAddr,
    dir: &Path,
    host: &Host,
    out: &mut Output,
) -> Result<Server, Failure> {
    let taken = std::net::TcpListener::bind(listen).is_err();
    let listen = if taken {
        out.say(&format!(
            "{listen} is taken; listening on a free port instead"
        ));
        SocketAddr::new(listen.ip(), 0)
    } else {
        listen
    };
    let config = ServeConfig {
        listen,
        store: StoreUrl::Embedded(dir.join("cpl.redb")),
        store_password: None,
        session: SessionTimes::default(),
        data_dir: dir.to_owned(),
        tls: None,
        log_format: LogFormat::Text,
        log: "warn".to_owned(),
    };
    Server::start(&config, PlaneConfig::default(), host.clone()).await
}

fn client(server: &Server, host: &Host) -> Result<ControlPlaneClient, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, error.to_string());
    let text = std::fs::read_to_string(&server.admin_token).map_err(|error| wrong(&error))?;
    let token: BearerToken = text.trim().parse().map_err(|error| wrong(&error))?;
    let config = HttpConfig::new(server.url());
    let transport = HttpControlPlaneTransport::new(&config, Arc::clone(&host.clock));
    let transport: Arc<dyn cpl_api::transport::ControlPlaneTransport> =
        Arc::new(transport.map_err(|error| wrong(&error))?);
    let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
    Ok(ControlPlaneClient::new(transport, clock, ids).with_token(token))
}

/// A refusal of the server, as a failure of this command.
fn refused(error: &ControlPlaneError) -> Failure {
    Failure::new(Exit::of(error.code()), error.to_string())
}

/// Applies the demo the first time; later the state in the folder goes on.
async fn apply_demo(
    client: &ControlPlaneClient,
    manifest: &Path,
    nodes: u8,
    out: &mut Output,
) -> Result<(), Failure> {
    let about = client.version().await.map_err(|error| refused(&error))?;
    if about.global_version.0 > 0 {
        out.say(&format!("going on at version {}", about.global_version));
        return Ok(());
    }
    let (text, manifests) = demo::manifests(nodes);
    std::fs::write(manifest, text).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("{} cannot be written: {error}", manifest.display()),
        )
    })?;
    out.say(&format!("applying {}", manifest.display()));
    // In parts, since one request changes a bounded number of objects.
    for chunk in manifests.chunks(8) {
        let request = ApplyRequest {
            manifests: chunk.to_vec(),
        };
        let options = WriteOptions::default();
        client
            .apply(&request, &options)
            .await
            .map_err(|error| refused(&error))?;
    }
    Ok(())
}

/// Waits until every node runs what it should; false when that takes too long.
async fn converge(
    client: &ControlPlaneClient,
    host: &Host,
    out: &mut Output,
) -> Result<bool, Failure> {
    let until = host.clock.monotonic().plus(CONVERGING);
    loop {
        let nodes = statuses(client).await?;
        let there = |(_, status): &&(String, NodeStatus)| {
            status.convergence == Convergence::Converged && status.desired_config_version.0 > 0
        };
        let converged = nodes.iter().filter(there).count();
        out.progress(&format!(
            "{converged} of {} nodes run what they should",
            nodes.len()
        ));
        if converged == nodes.len() {
            return Ok(true);
        }
        if host.clock.monotonic() >= until {
            return Ok(false);
        }
        host.clock.sleep(LOOK).await;
    }
}

async fn statuses(client: &ControlPlaneClient) -> Result<Vec<(String, NodeStatus)>, Failure> {
    let listed = client
        .list_all(Collection::Nodes, &ListQuery::default())
        .await;
    let listed = listed.map_err(|error| refused(&error))?;
    let status = |object: cpl_api::object::Object| {
        let status = NodeStatus::deserialize(object.status?).ok()?;
        Some((object.metadata.name, status))
    };
    Ok(listed.items.into_iter().filter_map(status).collect())
}

async fn report(
    client: &ControlPlaneClient,
    server: &Server,
    manifest: &Path,
    driver: DriverName,
    out: &mut Output,
) -> Result<(), Failure> {
    let nodes = statuses(client).await?;
    let here = std::env::current_dir().unwrap_or_default();
    let short = |path: &Path| {
        path.strip_prefix(&here)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let program = std::env::current_exe().map_or_else(|_| "cpl".to_owned(), |exe| short(&exe));
    let told = demo::Told {
        nodes: &nodes,
        url: &server.url(),
        token: &short(&server.admin_token),
        manifest: &short(manifest),
        program: &program,
        traffic: driver == DriverName::Haproxy,
    };
    out.text(&told.text())
}
