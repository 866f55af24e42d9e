//! One agent per node, each a child process that may be killed and is then started again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cpl_api::client::{ControlPlaneClient, WriteOptions};
use cpl_api::token::JoinRequest;
use cpl_host::Host;
use tokio::process::{Child, Command};

use super::demo::node_name;
use super::refused;
use crate::cli::agent::DriverName;
use crate::cli::failure::{Exit, Failure};

/// How often the agents are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long an agent may take to end its data plane and itself.
const ENDING: Duration = Duration::from_secs(15);
/// Longest path of a folder for sockets: HAProxy's own limit is 97 characters with the socket's name.
const SOCKET_DIR: usize = 70;

/// The agents of `cpl dev`.
pub(super) struct Fleet {
    agents: Vec<Agent>,
}

struct Agent {
    node: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Fleet {
    /// Starts one agent per node; one that has never run gets a token to join with.
    pub(super) async fn start(
        dir: &Path,
        url: &str,
        nodes: u8,
        driver: DriverName,
        client: &ControlPlaneClient,
    ) -> Result<Self, Failure> {
        let program =
            std::env::current_exe().map_err(|error| cannot("find this program", &error))?;
        let mut agents = Vec::new();
        for number in 1..=nodes {
            let node = node_name(number);
            let state = dir.join(&node);
            make_dir(&state)?;
            let join = state.join("join.token");
            if !state.join("agent.token").exists() {
                let options = WriteOptions::default();
                let token = client.join(&node, &JoinRequest::default(), &options).await;
                let token = token.map_err(|error| refused(&error))?;
                write_private(&join, &token.secret)?;
            }
            let text = |path: &Path| path.display().to_string();
            let driver = match driver {
                DriverName::Haproxy => "haproxy",
                DriverName::Render => "render",
            };
            let arguments: Vec<String> = [
                "agent",
                "--node",
                &node,
                "--server",
                url,
                "--state-dir",
                &text(&state),
                "--runtime-dir",
                &text(&socket_dir(&state, dir, &node)?),
                "--join-token-file",
                &text(&join),
                "--driver",
                driver,
                "--stop-data-plane-on-exit",
                "--exit-with-stdin",
            ]
            .map(str::to_owned)
            .into();
            let log = state.join("agent.log");
            let child = spawn(&program, &arguments, &log)?;
            agents.push(Agent {
                node,
                program: program.clone(),
                arguments,
                log,
                child,
            });
        }
        Ok(Self { agents })
    }

    /// Starts agents again that have ended. Never returns.
    pub(super) async fn watch(&mut self, host: &Host) {
        loop {
            host.clock.sleep(LOOK).await;
            for agent in &mut self.agents {
                let Ok(Some(status)) = agent.child.try_wait() else {
                    continue;
                };
                tracing::warn!(node = agent.node, %status, "an agent ended; starting it again");
                match spawn(&agent.program, &agent.arguments, &agent.log) {
                    Ok(child) => agent.child = child,
                    Err(failure) => {
                        tracing::warn!(node = agent.node, ?failure, "an agent cannot be started");
                    },
                }
            }
        }
    }

    /// Ends every agent with its data plane.
    pub(super) async fn stop(mut self, host: &Host) {
        for agent in &mut self.agents {
            drop(agent.child.stdin.take());
        }
        for mut agent in self.agents {
            let ended = tokio::select! {
                ended = agent.child.wait() => Some(ended),
                () = host.clock.sleep(ENDING) => None,
            };
            if ended.is_none() {
                tracing::warn!(node = agent.node, "an agent does not end; killing it");
                if let Err(error) = agent.child.kill().await {
                    tracing::warn!(node = agent.node, %error, "failed to kill an agent");
                }
            }
        }
    }
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("failed to {what}: {error}"))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| cannot(&format!("make {}", dir.display()), &error))
}

/// A folder for sockets: below the state, or in the system's temporary folder when that is too deep.
fn socket_dir(state: &Path, dir: &Path, node: &str) -> Result<PathBuf, Failure> {
    use sha2::{Digest, Sha256};
    let below = state.join("run");
    if below.as_os_str().len() <= SOCKET_DIR {
        make_dir(&below)?;
        return Ok(below);
    }
    let digest = hex::encode(Sha256::digest(dir.as_os_str().as_encoded_bytes()));
    let short = std::env::temp_dir()
        .join(format!("cpl-dev-{}", &digest[..12]))
        .join(node);
    make_dir(&short)?;
    Ok(short)
}

fn write_private(path: &Path, secret: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let written = opened.and_then(|mut file| writeln!(file, "{secret}"));
    written.map_err(|error| cannot(&format!("write {}", path.display()), &error))
}

fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<Child, Failure> {
    let wrong = |error: std::io::Error| cannot("start an agent", &error);
    let output: File = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(wrong)?;
    let errors = output.try_clone().map_err(wrong)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        // Ctrl-C is for this process alone, which then ends its agents in order.
        .process_group(0)
        .spawn()
        .map_err(wrong)
}
