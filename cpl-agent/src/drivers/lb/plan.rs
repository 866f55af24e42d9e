//! Commands or a reload: decided purely from what runs and what should.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::net::SocketAddr;

use cpl_lb::plan::{NodeConfig, TargetGroup};
use cpl_lb::spec::{Endpoint, EndpointStatus};

use super::names::{ServerKey, backend};
use super::observe::{Admin, Server, Servers, wanted};
use super::read::object;
use super::render::server_words;
use crate::driver::Drift;

/// How to get from what runs to what should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It runs already.
    Noop,
    /// By these commands, in this order.
    Runtime(Vec<Op>),
    /// Only by a reload, for these reasons.
    Reload(Vec<String>),
}

/// One command to the running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Adds a server: in maintenance and unchecked, as HAProxy does it.
    Add { key: ServerKey, words: String },
    /// Starts its health checks.
    EnableHealth(ServerKey),
    /// No new connections.
    Drain(ServerKey),
    /// No new connections and no checks.
    Maintenance(ServerKey),
    /// Connections, while it is healthy.
    Ready(ServerKey),
    /// Takes it for failed until its checks have passed as often as they must.
    HealthDown(ServerKey),
    /// Its share.
    Weight(ServerKey, u16),
    /// Where it is.
    Address(ServerKey, SocketAddr),
    /// Ends its connections.
    EndSessions(ServerKey),
    /// Removes it.
    Delete(ServerKey),
}

impl Display for Op {
    /// The command as HAProxy reads it.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Add { key, words } => write!(f, "add server {key} {words}"),
            Self::EnableHealth(key) => write!(f, "enable health {key}"),
            Self::Drain(key) => write!(f, "set server {key} state drain"),
            Self::Maintenance(key) => write!(f, "set server {key} state maint"),
            Self::Ready(key) => write!(f, "set server {key} state ready"),
            Self::HealthDown(key) => write!(f, "set server {key} health down"),
            Self::Weight(key, weight) => write!(f, "set server {key} weight {weight}"),
            Self::Address(key, address) => {
                let (ip, port) = (address.ip(), address.port());
                write!(f, "set server {key} addr {ip} port {port}")
            },
            Self::EndSessions(key) => write!(f, "shutdown sessions server {key}"),
            Self::Delete(key) => write!(f, "del server {key}"),
        }
    }
}

impl Op {
    /// Whether HAProxy's answer is the one that it gives on success. It proves little (an unknown
    /// command may be answered in the same tone), so what was done is read back besides.
    pub(super) fn succeeded(&self, answer: &str) -> bool {
        let answer = answer.trim();
        match self {
            Self::Add { .. } => answer == "New server registered.",
            Self::Delete(_) => answer == "Server deleted.",
            Self::Address(..) => answer.contains("changed from") || answer.contains("no need"),
            Self::EnableHealth(_)
            | Self::Drain(_)
            | Self::Maintenance(_)
            | Self::Ready(_)
            | Self::HealthDown(_)
            | Self::Weight(..)
            | Self::EndSessions(_) => answer.is_empty(),
        }
    }
}

/// How an endpoint that nobody has checked yet begins to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Once its checks have passed: others serve meanwhile.
    AfterChecks,
    /// At once: nobody else serves, so waiting would protect nobody.
    AtOnce,
}

/// How endpoints enter a target group: whether there is one that serves now and goes on to.
pub(super) fn entry(tg: &TargetGroup, observed: &Servers) -> Entry {
    let backend = backend(&tg.name);
    let serves = |e: &Endpoint| {
        let server = observed.get(&backend, &e.id);
        e.status == EndpointStatus::Up
            && e.weight > 0
            && server.is_some_and(|s| s.serves() && s.is_at(e))
    };
    if tg.body.endpoints.iter().any(serves) {
        Entry::AfterChecks
    } else {
        Entry::AtOnce
    }
}

/// Decides. `old` is what the process was configured with; `None` when that is not known, or when it
/// was rendered by other rules.
pub(super) fn plan(observed: &Servers, old: Option<&NodeConfig>, new: &NodeConfig) -> Plan {
    let reasons = match old {
        Some(old) => reload_reasons(old, new),
        None => vec!["it is not known what the process was configured with".to_owned()],
    };
    if !reasons.is_empty() {
        return Plan::Reload(reasons);
    }
    let ops = runtime_ops(observed, new);
    if ops.is_empty() {
        Plan::Noop
    } else {
        Plan::Runtime(ops)
    }
}

fn reload_reasons(old: &NodeConfig, new: &NodeConfig) -> Vec<String> {
    let mut reasons = Vec::new();
    if old.node.listen_addresses != new.node.listen_addresses {
        reasons.push("listen_addresses of the node changed".to_owned());
    }
    if old.node.drained != new.node.drained {
        reasons.push("drained of the node changed".to_owned());
    }
    for gone in without(&old.targetgroups, &new.targetgroups) {
        reasons.push(format!("target group {} was removed", gone.name));
    }
    for added in without(&new.targetgroups, &old.targetgroups) {
        reasons.push(format!("target group {} was added", added.name));
    }
    for new in &new.targetgroups {
        if let Some(old) = old.targetgroups.iter().find(|old| old.name == new.name) {
            reasons.extend(changed_fields(old, new));
        }
    }
    reasons
}

fn without<'a>(some: &'a [TargetGroup], others: &[TargetGroup]) -> Vec<&'a TargetGroup> {
    let others: BTreeSet<&str> = others.iter().map(|tg| tg.name.as_str()).collect();
    some.iter()
        .filter(|tg| !others.contains(tg.name.as_str()))
        .collect()
}

/// The fields that HAProxy takes from its file only. `deregistration_delay` is the agent's matter.
fn changed_fields(old: &TargetGroup, new: &TargetGroup) -> Vec<String> {
    let (from, to) = (&old.body.spec, &new.body.spec);
    [
        ("protocol", from.protocol != to.protocol),
        ("port", from.port != to.port),
        ("algorithm", from.algorithm != to.algorithm),
        ("health_check", from.health_check != to.health_check),
        ("idle_timeout", from.idle_timeout != to.idle_timeout),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(field, _)| format!("{field} of target group {} changed", new.name))
    .collect()
}

/// Capacity comes before it goes: first the endpoints that begin to serve, then weights, then those
/// that stop.
fn runtime_ops(observed: &Servers, new: &NodeConfig) -> Vec<Op> {
    let (mut begin, mut weigh, mut end) = (Vec::new(), Vec::new(), Vec::new());
    for tg in &new.targetgroups {
        let entry = entry(tg, observed);
        for endpoint in &tg.body.endpoints {
            let Some(key) = ServerKey::of(&tg.name, &endpoint.id) else {
                continue;
            };
            let Some(server) = observed.get(key.backend(), key.server()) else {
                begin.extend(add(tg, endpoint, &key, entry));
                continue;
            };
            if server.weight != endpoint.weight {
                weigh.push(Op::Weight(key.clone(), endpoint.weight));
            }
            let stops = endpoint.status != EndpointStatus::Up;
            let ops = if stops { &mut end } else { &mut begin };
            ops.extend(change(server, endpoint, key, entry));
        }
    }
    end.extend(
        leaving(observed, new)
            .filter(|server| server.admin() == Admin::Ready)
            .map(|server| Op::Drain(server.key.clone())),
    );
    begin.into_iter().chain(weigh).chain(end).collect()
}

/// Servers that run in a backend of ours and have no endpoint any more.
pub(super) fn leaving<'a>(
    observed: &'a Servers,
    config: &NodeConfig,
) -> impl Iterator<Item = &'a Server> {
    let wanted: BTreeSet<ServerKey> = config
        .targetgroups
        .iter()
        .flat_map(|tg| {
            let ids = tg.body.endpoints.iter();
            ids.filter_map(|e| ServerKey::of(&tg.name, &e.id))
        })
        .collect();
    observed
        .iter()
        .filter(move |s| s.key.targetgroup().is_some() && !wanted.contains(&s.key))
}

fn add(tg: &TargetGroup, endpoint: &Endpoint, key: &ServerKey, entry: Entry) -> Vec<Op> {
    let words = server_words(endpoint, &tg.body.spec.health_check);
    let mut ops = vec![Op::Add {
        key: key.clone(),
        words,
    }];
    match endpoint.status {
        EndpointStatus::Up => ops.extend(begin_serving(key, entry)),
        EndpointStatus::Drain => ops.push(Op::Drain(key.clone())),
        EndpointStatus::Down => {},
    }
    // Last: a check that ended before the server was taken for failed would be forgotten.
    ops.push(Op::EnableHealth(key.clone()));
    ops
}

/// From maintenance to serving. HAProxy takes a server that leaves maintenance for healthy and sends
/// to it before the first check; under a drain it gets nothing, can be taken for failed, and then
/// HAProxy itself brings it in when its checks have passed, whatever becomes of the agent.
fn begin_serving(key: &ServerKey, entry: Entry) -> Vec<Op> {
    match entry {
        Entry::AtOnce => vec![Op::Ready(key.clone())],
        Entry::AfterChecks => vec![
            Op::Drain(key.clone()),
            Op::HealthDown(key.clone()),
            Op::Ready(key.clone()),
        ],
    }
}

fn change(server: &Server, endpoint: &Endpoint, key: ServerKey, entry: Entry) -> Vec<Op> {
    let is = server.admin();
    let wanted = wanted(endpoint.status);
    let address = SocketAddr::new(endpoint.ip, endpoint.port);
    let moved = server.address != address;
    match (wanted, moved) {
        (Admin::Ready, true) => {
            // What is known of its health is that of another address.
            let mut ops = begin_serving(&key, entry);
            ops.insert(ops.len() - 1, Op::Address(key, address));
            ops
        },
        (Admin::Ready, false) => match is {
            Admin::Ready => Vec::new(),
            // Checks went on in a drain: what they say is true.
            Admin::Drain => vec![Op::Ready(key)],
            Admin::Maintenance => begin_serving(&key, entry),
        },
        (Admin::Drain | Admin::Maintenance, moved) => {
            let mut ops = Vec::new();
            if wanted != is {
                ops.push(match wanted {
                    Admin::Drain | Admin::Ready => Op::Drain(key.clone()),
                    Admin::Maintenance => Op::Maintenance(key.clone()),
                });
            }
            if moved {
                ops.push(Op::Address(key, address));
            }
            ops
        },
    }
}

/// What differs between the servers that run and those that should, for people. Health is no drift:
/// an endpoint that waits for its checks is where it should be.
pub(super) fn drift(observed: &Servers, config: &NodeConfig) -> Vec<Drift> {
    let mut drift = Vec::new();
    for tg in &config.targetgroups {
        let mut add = |what: String| {
            drift.push(Drift {
                object: Some(object(&tg.name)),
                what,
            });
        };
        let backend = backend(&tg.name);
        for endpoint in &tg.body.endpoints {
            match observed.get(&backend, &endpoint.id) {
                Some(server) => differences(server, endpoint).into_iter().for_each(&mut add),
                None => add(format!("endpoint {} does not run", endpoint.id)),
            }
        }
    }
    for server in leaving(observed, config).filter(|s| s.admin() == Admin::Ready) {
        drift.push(Drift {
            object: server.key.targetgroup().map(object),
            what: format!("{} serves although nobody asked for it", server.key),
        });
    }
    drift
}

fn differences(server: &Server, endpoint: &Endpoint) -> Vec<String> {
    let id = &endpoint.id;
    let mut differences = Vec::new();
    if !server.is_at(endpoint) {
        let wanted = SocketAddr::new(endpoint.ip, endpoint.port);
        let is = server.address;
        differences.push(format!("endpoint {id} is at {is} instead of {wanted}"));
    }
    if server.weight != endpoint.weight {
        let (is, wanted) = (server.weight, endpoint.weight);
        differences.push(format!("endpoint {id} weighs {is} instead of {wanted}"));
    }
    let (is, wanted) = (server.admin(), wanted(endpoint.status));
    if is != wanted {
        let (is, wanted) = (admin_word(is), admin_word(wanted));
        differences.push(format!("endpoint {id} is {is} instead of {wanted}"));
    }
    differences
}

const fn admin_word(admin: Admin) -> &'static str {
    match admin {
        Admin::Ready => "ready",
        Admin::Drain => "draining",
        Admin::Maintenance => "in maintenance",
    }
}
