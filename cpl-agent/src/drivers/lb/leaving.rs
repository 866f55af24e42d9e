//! Endpoints that stop serving: how long their connections may go on. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cpl_core::clock::Monotonic;
use cpl_lb::plan::NodeConfig;
use cpl_lb::spec::EndpointStatus;

use super::names::ServerKey;

/// For a target group that nobody remembers.
const DEFAULT_DELAY: Duration = Duration::from_mins(5);

/// Since when endpoints leave. It is kept in memory: after a restart of the agent a delay begins
/// again, which errs on the side of the connections.
#[derive(Debug, Default)]
pub(super) struct Leaving(BTreeMap<ServerKey, Monotonic>);

/// How long each target group lets connections of its endpoints go on.
#[derive(Debug, Default)]
pub(super) struct Delays(BTreeMap<String, Duration>);

impl Delays {
    /// Learns the delays of a configuration. Those of target groups that it lacks stay known.
    pub(super) fn learn(&mut self, config: &NodeConfig) {
        for tg in &config.targetgroups {
            let delay = tg.body.spec.deregistration_delay.0;
            self.0.insert(tg.name.clone(), delay);
        }
    }

    fn of(&self, server: &ServerKey) -> Duration {
        let known = server.targetgroup().and_then(|tg| self.0.get(tg));
        known.copied().unwrap_or(DEFAULT_DELAY)
    }
}

impl Leaving {
    /// Brings the list up to date with the servers that leave now; the others came back or are gone.
    pub(super) fn update(&mut self, leaving: &BTreeSet<ServerKey>, now: Monotonic) {
        self.0.retain(|key, _| leaving.contains(key));
        for key in leaving {
            self.0.entry(key.clone()).or_insert(now);
        }
    }

    /// Those whose time has passed.
    pub(super) fn expired(&self, delays: &Delays, now: Monotonic) -> BTreeSet<ServerKey> {
        let expired =
            |(key, since): &(&ServerKey, &Monotonic)| now.since(**since) >= delays.of(key);
        self.0
            .iter()
            .filter(expired)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Whether a server may keep connections for ever: its endpoint exists and is not down.
pub(super) fn stays(config: &NodeConfig, server: &ServerKey) -> bool {
    let Some(name) = server.targetgroup() else {
        return true;
    };
    config
        .targetgroups
        .iter()
        .filter(|tg| tg.name == name)
        .flat_map(|tg| &tg.body.endpoints)
        .any(|e| e.id == server.server() && e.status != EndpointStatus::Down)
}
