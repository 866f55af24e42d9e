//! HAProxy as the data plane of a load balancer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use cpl_core::clock::Clock;
use cpl_core::delivery::{Configuration, DataPlaneState};
use cpl_lb::plan::NodeConfig;
use serde_json::Value;

use super::files::Files;
use super::health::{self, Sources};
use super::leaving::{Delays, Leaving};
use super::names::frontend;
use super::observe::StatRow;
use super::process::{Program, recorded_master};
use super::running::Sockets;
use super::socket::Socket;
use super::{plan, preflight, read};
use crate::driver::{Applied, ApplyError, Drift, Driver, Label, Observed, Unavailable};

/// Where a [`HaproxyDriver`] keeps things and which program it runs.
#[derive(Clone, Debug)]
pub struct HaproxyConfig {
    /// Its files: what HAProxy was configured with, its log, its server state.
    pub state_dir: PathBuf,
    /// Its sockets. Together with `/master.sock` the path must not have more than 97 characters, which
    /// is why it is not the state directory. One directory is one HAProxy: drivers that share it
    /// control the same process.
    pub runtime_dir: PathBuf,
    /// The program, 2.6 or later, for example `/usr/sbin/haproxy`.
    pub binary: PathBuf,
}

/// Runs HAProxy: starts it or adopts the one that runs, changes it by commands where that is enough
/// and by reloads where it is not, and reads back what it did.
///
/// HAProxy is no child in spirit: it goes on when the agent ends in any way, and the next driver with
/// the same directories adopts it, with the label that the process itself carries.
#[derive(Debug)]
pub struct HaproxyDriver {
    pub(super) files: Files,
    pub(super) program: Program,
    pub(super) sockets: Sockets,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ipv6: bool,
    memory: Mutex<Memory>,
}

/// What a driver remembers between calls; all of it can be lost.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Since when endpoints leave.
    pub(super) leaving: Leaving,
    /// How long they may.
    pub(super) delays: Delays,
    /// The server state that was written last.
    pub(super) server_state: String,
    /// What was said of commands that failed while tidying, so that it is said once.
    pub(super) complaints: BTreeSet<String>,
}

impl HaproxyDriver {
    /// A driver for the HAProxy of these directories. Makes the directories; starts nothing.
    ///
    /// # Errors
    /// They cannot be made, or the path of a socket would be too long for HAProxy.
    pub fn new(config: HaproxyConfig, clock: Arc<dyn Clock>) -> Result<Self, Unavailable> {
        let HaproxyConfig {
            state_dir,
            runtime_dir,
            binary,
        } = config;
        let files = Files::open(&state_dir, &runtime_dir)?;
        let socket = |path| Socket {
            path,
            clock: Arc::clone(&clock),
        };
        let sockets = Sockets {
            master: socket(files.master_socket()),
            worker: socket(files.worker_socket()),
        };
        let program = Program {
            binary,
            clock: Arc::clone(&clock),
        };
        Ok(Self {
            files,
            program,
            sockets,
            clock,
            ipv6: preflight::has_ipv6(),
            memory: Mutex::default(),
        })
    }

    /// What is remembered; never held across an await.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Driver for HaproxyDriver {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn carries_traffic(&self) -> bool {
        true
    }

    async fn observe(&self) -> Result<Observed, Unavailable> {
        let Some(running) = self.sockets.running(&self.files).await? else {
            return Ok(Observed {
                state: DataPlaneState::Down,
                label: None,
            });
        };
        // Without a label it was told something that could not be verified, or nothing by us.
        let state = match (&running.processes.worker, &running.mark) {
            (Some(_), Some(_)) => DataPlaneState::Healthy,
            (Some(_), None) | (None, _) => DataPlaneState::Degraded,
        };
        let label = running.mark.map(|mark| mark.label);
        Ok(Observed { state, label })
    }

    async fn check(&self, configuration: &Configuration) -> Result<(), ApplyError> {
        self.only_check(configuration).await
    }

    async fn apply(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError> {
        self.bring(label, configuration).await
    }

    async fn verify(&self, configuration: &Configuration) -> Result<Vec<Drift>, Unavailable> {
        let whole = |what: String| Drift { object: None, what };
        let config = match read::read(configuration) {
            Ok(config) => config,
            Err(wrong) => return Ok(wrong.iter().map(|r| whole(r.to_string())).collect()),
        };
        let Some(running) = self.sockets.running(&self.files).await? else {
            return Ok(vec![whole("HAProxy does not run".to_owned())]);
        };
        if running.processes.worker.is_none() {
            return Ok(vec![whole("HAProxy has no worker".to_owned())]);
        }
        let mut drift = plan::drift(&running.servers, &config);
        let runs = running.mark.map(|mark| mark.label.digest);
        if runs.as_deref() != Some(&configuration.digest()) {
            drift.push(whole("HAProxy runs another configuration".to_owned()));
        }
        drift.extend(closed_frontends(&config, &self.sockets.stats().await?));
        Ok(drift)
    }

    async fn health(&self, configuration: &Configuration) -> Result<Value, Unavailable> {
        let nothing = || Value::Array(Vec::new());
        let Ok(config) = read::read(configuration) else {
            return Ok(nothing());
        };
        let Some(running) = self.sockets.running(&self.files).await? else {
            return Ok(nothing());
        };
        if running.processes.worker.is_none() {
            return Ok(nothing());
        }
        let stats = self.sockets.stats().await?;
        let old = &running.processes.old;
        let connections = self.sockets.connections(&stats, old).await;
        let sources = Sources {
            servers: &running.servers,
            stats: &stats,
            connections: &connections,
        };
        let health = health::health(&config, sources);
        serde_json::to_value(health).map_err(|source| Unavailable {
            what: "write down the health of endpoints".to_owned(),
            source: Some(Box::new(source)),
        })
    }

    async fn housekeep(&self, configuration: &Configuration) -> Result<(), Unavailable> {
        self.tidy(configuration).await
    }

    async fn stop(&self) -> Result<(), Unavailable> {
        let pids = match self.sockets.processes().await {
            Ok(processes) => {
                let workers = processes.worker.into_iter().chain(processes.old);
                std::iter::once(processes.master).chain(workers).collect()
            },
            // It may hang: then the process that we wrote down is ended.
            Err(_) => Vec::from_iter(recorded_master(&self.files)),
        };
        self.program.end(&pids).await
    }
}

/// Listeners that somebody closed behind our back.
fn closed_frontends(config: &NodeConfig, stats: &[StatRow]) -> Vec<Drift> {
    if config.node.drained {
        return Vec::new();
    }
    let open: BTreeSet<&str> = stats
        .iter()
        .filter(|row| row.server == "FRONTEND" && row.status == "OPEN")
        .map(|row| row.proxy.as_str())
        .collect();
    config
        .targetgroups
        .iter()
        .filter(|tg| !open.contains(frontend(&tg.name).as_str()))
        .map(|tg| Drift {
            object: Some(read::object(&tg.name)),
            what: "its listener does not accept connections".to_owned(),
        })
        .collect()
}
