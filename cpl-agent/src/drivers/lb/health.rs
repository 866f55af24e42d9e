//! What observers are told of endpoints. Pure.

use std::collections::BTreeMap;

use cpl_lb::observed::{EndpointHealth, Health};
use cpl_lb::plan::{NodeConfig, TargetGroup};
use cpl_lb::spec::{Endpoint, EndpointStatus};

use super::names::ServerKey;
use super::observe::{Admin, CheckResult, Server, Servers, StatRow};

/// Connections of each server in all workers, those that are ending included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connections(BTreeMap<ServerKey, u64>);

impl Connections {
    /// Adds what one worker says.
    pub(super) fn add(&mut self, rows: &[StatRow]) {
        for row in rows {
            if let Some(key) = ServerKey::named(&row.proxy, &row.server) {
                *self.0.entry(key).or_default() += row.sessions;
            }
        }
    }

    /// How many a server has.
    pub(super) fn of(&self, key: &ServerKey) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }

    /// The servers that have any.
    pub(super) fn busy(&self) -> impl Iterator<Item = &ServerKey> {
        self.0.iter().filter(|(_, n)| **n > 0).map(|(key, _)| key)
    }
}

/// One process, as its three sources show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// Administrative state and results of checks.
    pub(super) servers: &'a Servers,
    /// The kind of each check's result.
    pub(super) stats: &'a [StatRow],
    /// Connections over all workers.
    pub(super) connections: &'a Connections,
}

/// The health of every endpoint of `config`.
pub(super) fn health(config: &NodeConfig, from: Sources<'_>) -> Vec<EndpointHealth> {
    let endpoints = config.targetgroups.iter().flat_map(|tg| {
        let of = move |endpoint| endpoint_health(tg, endpoint, config.node.drained, from);
        tg.body.endpoints.iter().filter_map(of)
    });
    endpoints.collect()
}

fn endpoint_health(
    tg: &TargetGroup,
    endpoint: &Endpoint,
    drained: bool,
    from: Sources<'_>,
) -> Option<EndpointHealth> {
    let key = ServerKey::of(&tg.name, &endpoint.id)?;
    let server = from.servers.get(key.backend(), key.server());
    let row = |row: &&StatRow| row.proxy == key.backend() && row.server == key.server();
    let check = from.stats.iter().find(row);
    let check = check.map_or("", |row| row.check_status.as_str());
    let (health, reason) = match server {
        Some(server) => judge(server, endpoint, check),
        None => (Health::Unknown, Some("Cpl.RegistrationInProgress")),
    };
    Some(EndpointHealth {
        targetgroup: tg.name.clone(),
        endpoint: endpoint.id.clone(),
        health,
        reason: reason.map(str::to_owned),
        receives_new: server.is_some_and(Server::serves) && !drained,
        connections: from.connections.of(&key),
    })
}

fn judge(server: &Server, endpoint: &Endpoint, check: &str) -> (Health, Option<&'static str>) {
    if server.is_in_maintenance() {
        return (
            Health::Unknown,
            Some(match endpoint.status {
                EndpointStatus::Down => "Target.NotInUse",
                EndpointStatus::Up | EndpointStatus::Drain => "External.Maint",
            }),
        );
    }
    let (health, reason) = checked(server, check);
    let draining = server.admin() == Admin::Drain;
    let reason = match reason {
        None if draining => Some("Target.DeregistrationInProgress"),
        None if endpoint.weight == 0 => Some("Target.NotInUse"),
        reason => reason,
    };
    (health, reason)
}

fn checked(server: &Server, check: &str) -> (Health, Option<&'static str>) {
    match (server.is_running(), server.check_result()) {
        (true, CheckResult::Passed | CheckResult::Failed) => (Health::Healthy, None),
        // It passed, but not often enough yet, or the result is from before it was moved.
        (_, CheckResult::Unknown) | (false, CheckResult::Passed) => {
            (Health::Initial, Some("Cpl.InitialHealthChecking"))
        },
        (false, CheckResult::Failed) => (Health::Unhealthy, Some(failure(check))),
    }
}

/// The reason of a failed check, from HAProxy's `check_status`.
fn failure(check: &str) -> &'static str {
    match check {
        "L4TOUT" | "L6TOUT" | "L7TOUT" => "Target.Timeout",
        "L4CON" | "SOCKERR" => "Target.ConnectionFailed",
        "L7STS" => "Target.ResponseCodeMismatch",
        "L6RSP" | "L7RSP" => "Target.InvalidResponse",
        _ => "Target.FailedHealthChecks",
    }
}
