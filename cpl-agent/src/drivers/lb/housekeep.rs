//! Work that takes time: endpoints that leave.

use std::collections::BTreeSet;

use cpl_core::delivery::Configuration;
use cpl_lb::plan::NodeConfig;

use super::haproxy::HaproxyDriver;
use super::health::Connections;
use super::leaving::stays;
use super::names::ServerKey;
use super::observe::{Admin, Server};
use super::plan::{Op, leaving};
use super::read;
use super::running::Running;
use super::state::synthesise;
use crate::driver::Unavailable;

impl HaproxyDriver {
    /// See [`crate::driver::Driver::housekeep`]. Does nothing while the process does not say that it
    /// runs `configuration`: what leaves would be a guess.
    pub(super) async fn tidy(&self, configuration: &Configuration) -> Result<(), Unavailable> {
        self.files.trim_log();
        let Ok(config) = read::read(configuration) else {
            return Ok(());
        };
        let Some(running) = self.sockets.running(&self.files).await? else {
            return Ok(());
        };
        let digest = running.mark.as_ref().map(|mark| &mark.label.digest);
        if digest != Some(&configuration.digest()) {
            return Ok(());
        }
        self.end_leaving(&config, &running).await?;
        self.refresh_state(&config).await
    }

    async fn end_leaving(&self, config: &NodeConfig, running: &Running) -> Result<(), Unavailable> {
        let stats = self.sockets.stats().await?;
        let old = &running.processes.old;
        let connections = self.sockets.connections(&stats, old).await;
        let expired = self.expired(config, running, &connections);
        let mut ops = Vec::new();
        for server in leaving(&running.servers, config) {
            let expired = expired.contains(&server.key);
            ops.push(removal(server, &connections, expired));
        }
        for server in running.servers.iter().filter(|s| expired.contains(&s.key)) {
            // An endpoint that is down exists, and serves nothing any more.
            if connections.of(&server.key) > 0 {
                ops.push(vec![Op::EndSessions(server.key.clone())]);
            }
        }
        for ops in ops {
            let refused = self.execute(&ops).await?;
            self.complain(refused);
        }
        let busy: Vec<ServerKey> = connections
            .busy()
            .filter(|key| expired.contains(*key))
            .cloned()
            .collect();
        if !busy.is_empty() {
            for pid in old {
                self.sockets.end_old_sessions(*pid, &busy).await;
            }
        }
        Ok(())
    }

    fn expired(
        &self,
        config: &NodeConfig,
        running: &Running,
        connections: &Connections,
    ) -> BTreeSet<ServerKey> {
        let servers = running.servers.iter().map(|server| &server.key);
        let leaving: BTreeSet<ServerKey> = servers
            .chain(connections.busy())
            .filter(|key| !stays(config, key))
            .cloned()
            .collect();
        let now = self.clock.monotonic();
        let mut memory = self.memory();
        memory.delays.learn(config);
        memory.leaving.update(&leaving, now);
        memory.leaving.expired(&memory.delays, now)
    }

    /// Says once what HAProxy refused; the next round tries again. Connections that end a moment later
    /// than they were counted are the usual reason.
    fn complain(&self, refused: Option<String>) {
        let Some(refused) = refused else { return };
        if refused.contains("still has connections") {
            return;
        }
        let mut memory = self.memory();
        if memory.complaints.len() < 1_000 && memory.complaints.insert(refused.clone()) {
            tracing::warn!(%refused, "HAProxy does not let an endpoint go");
        }
    }

    /// Health changes by itself: a reload by anybody must find what is true now.
    async fn refresh_state(&self, config: &NodeConfig) -> Result<(), Unavailable> {
        let state = synthesise(config, &self.sockets.servers().await?);
        if self.memory().server_state == state {
            return Ok(());
        }
        self.write_state(state)
    }
}

/// Removes a server whose connections have ended, or whose time has passed; keeps new connections away
/// from it until then. HAProxy deletes only what is in maintenance.
fn removal(server: &Server, connections: &Connections, expired: bool) -> Vec<Op> {
    let key = &server.key;
    let busy = connections.of(key) > 0;
    match (busy, expired) {
        (true, false) if server.admin() == Admin::Ready => vec![Op::Drain(key.clone())],
        (true, false) => Vec::new(),
        (true, true) => vec![Op::Maintenance(key.clone()), Op::EndSessions(key.clone())],
        (false, _) => vec![Op::Maintenance(key.clone()), Op::Delete(key.clone())],
    }
}
