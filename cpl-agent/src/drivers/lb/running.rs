//! Reading the running process.

use std::time::Duration;

use cpl_lb::plan::{self, NodeConfig};

use super::files::Files;
use super::health::Connections;
use super::mark::{self, Mark, RENDERER};
use super::names::ServerKey;
use super::observe::{self, Processes, Servers, StatRow};
use super::process::recorded_master;
use super::socket::{Kind, Socket};
use crate::driver::Unavailable;

/// How long a master that executes itself anew may look like none.
const ANEW: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// What a running HAProxy says of itself.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// Its processes.
    pub(super) processes: Processes,
    /// What it says it runs.
    pub(super) mark: Option<Mark>,
    /// Its servers.
    pub(super) servers: Servers,
}

impl Running {
    /// What it was configured with, if that is known and was rendered by today's rules.
    pub(super) fn configured(&self, files: &Files) -> Option<NodeConfig> {
        let mark = self.mark.as_ref()?;
        let known = files.remembered(&mark.label.digest)?;
        (mark.renderer == RENDERER).then(|| plan::read(&known).ok())?
    }
}

/// The two sockets of one HAProxy.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    /// The master's.
    pub(super) master: Socket,
    /// The worker's.
    pub(super) worker: Socket,
}

impl Sockets {
    /// Reads everything; `None` when nothing runs.
    ///
    /// # Errors
    /// A process of ours is alive and does not answer, or its answer cannot be understood.
    pub(super) async fn running(&self, files: &Files) -> Result<Option<Running>, Unavailable> {
        if !self.is_there(files).await {
            return Ok(None);
        }
        let processes = match self.processes().await {
            Ok(processes) => processes,
            // Workers inherit the socket: one that outlives its master accepts and does not answer.
            Err(_) if recorded_master(files).is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        if processes.worker.is_none() {
            return Ok(Some(Running {
                processes,
                mark: None,
                servers: Servers::default(),
            }));
        }
        Ok(Some(Running {
            processes,
            mark: self.mark().await?,
            servers: self.servers().await?,
        }))
    }

    /// Whether a process of ours exists. A master executes itself anew when it has started and at every
    /// reload: for a moment its socket refuses, its pidfile is empty, and its command cannot be read. Taken
    /// for dead, it would be started a second time.
    async fn is_there(&self, files: &Files) -> bool {
        let never = !files.pidfile().exists() && !files.master_socket().exists();
        let clock = &self.master.clock;
        let until = clock.monotonic().plus(ANEW);
        loop {
            if self.master.is_answered().await || recorded_master(files).is_some() {
                return true;
            }
            if never || clock.monotonic() >= until {
                return false;
            }
            clock.sleep(POLL).await;
        }
    }

    /// Asks the master for its processes.
    pub(super) async fn processes(&self) -> Result<Processes, Unavailable> {
        let answer = self.master.ask("show proc", Kind::Read).await?;
        observe::processes(&answer).map_err(unreadable)
    }

    /// Asks the worker for its label.
    pub(super) async fn mark(&self) -> Result<Option<Mark>, Unavailable> {
        let command = format!("get var {}", mark::VARIABLE);
        let answer = self.worker.ask(&command, Kind::Read).await?;
        Ok(observe::variable(&answer).and_then(mark::read))
    }

    /// Changes the label of the worker. Only the answer to reading it back says whether that worked.
    pub(super) async fn set_mark(&self, text: &str) -> Result<(), Unavailable> {
        let name = mark::VARIABLE;
        let command = format!("experimental-mode on; set var {name} str({text})");
        self.worker.ask(&command, Kind::Write).await?;
        Ok(())
    }

    /// Asks the worker for its servers.
    pub(super) async fn servers(&self) -> Result<Servers, Unavailable> {
        let answer = self.worker.ask("show servers state", Kind::Read).await?;
        observe::servers(&answer).map_err(unreadable)
    }

    /// Asks the worker for its frontends and servers.
    pub(super) async fn stats(&self) -> Result<Vec<StatRow>, Unavailable> {
        let answer = self.worker.ask("show stat -1 5 -1", Kind::Read).await?;
        observe::stats(&answer).map_err(unreadable)
    }

    /// Asks a worker that was replaced for its servers; nothing when it has ended in the meantime.
    pub(super) async fn old_stats(&self, pid: u32) -> Vec<StatRow> {
        let command = format!("@!{pid} show stat -1 4 -1");
        match self.master.ask(&command, Kind::Read).await {
            Ok(answer) => observe::stats(&answer).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Counts connections over all workers: after a reload the old one has the long ones, and the new
    /// one alone would look drained.
    pub(super) async fn connections(&self, stats: &[StatRow], old: &[u32]) -> Connections {
        let mut connections = Connections::default();
        connections.add(stats);
        for pid in old {
            connections.add(&self.old_stats(*pid).await);
        }
        connections
    }

    /// Ends the connections to some servers in a worker that was replaced. The command that ends all
    /// of a server is refused there; the one that ends a single session is not.
    pub(super) async fn end_old_sessions(&self, pid: u32, servers: &[ServerKey]) {
        let list = format!("@!{pid} show sess");
        let Ok(answer) = self.master.ask(&list, Kind::Read).await else {
            return;
        };
        for (server, handle) in observe::sessions(&answer) {
            if servers.contains(&server) {
                let end = format!("@!{pid} shutdown session {handle}");
                // One that ended by itself is refused, which is as good.
                let _ = self.master.ask(&end, Kind::Write).await;
            }
        }
    }
}

/// An answer that could not be understood.
pub(super) fn unreadable(source: observe::Unreadable) -> Unavailable {
    Unavailable {
        what: "understand HAProxy".to_owned(),
        source: Some(Box::new(source)),
    }
}
