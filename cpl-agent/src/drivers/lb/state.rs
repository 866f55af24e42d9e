//! The server state that HAProxy reads when it starts and at every reload.
//!
//! Without it a reload forgets drains and maintenance, and takes every server for healthy. A dump of
//! the old process would bring its ports into the new configuration, so the state is made from what
//! is wanted, and only health is taken from what is observed.

use std::fmt::Write as _;

use cpl_lb::plan::NodeConfig;
use cpl_lb::spec::{CheckKind, Endpoint, EndpointStatus, HealthCheck, TargetGroupSpec};

use super::names::backend;
use super::observe::{Server, Servers};
use super::plan::{Entry, entry};

const HEAD: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
    srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result \
    srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn \
    srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";

/// Makes the state of every server of `config`. Numbers of backends and servers are ours: HAProxy
/// finds the servers by name.
pub(super) fn synthesise(config: &NodeConfig, observed: &Servers) -> String {
    let mut text = HEAD.to_owned();
    for (be_id, tg) in (1..).zip(&config.targetgroups) {
        let be_name = backend(&tg.name);
        for (srv_id, endpoint) in (1..).zip(&tg.body.endpoints) {
            let server = observed.get(&be_name, &endpoint.id);
            let health = health(endpoint, &tg.body.spec, server, entry(tg, observed));
            let _ = writeln!(
                text,
                "{be_id} {be_name} {srv_id} {} {} {} {} {weight} {weight} 0 {} {} {} {} 0 0 0 - {} - 0 {} - - 0",
                endpoint.id,
                endpoint.ip,
                health.operational,
                admin(endpoint.status),
                health.status,
                health.result,
                health.points,
                health.mode,
                endpoint.port,
                tg.body.spec.health_check.port.unwrap_or(0),
                weight = endpoint.weight,
            );
        }
    }
    text
}

struct Health {
    operational: u8,
    status: u8,
    result: u8,
    points: u32,
    mode: u8,
}

/// The bits of `srv_admin_state` that a command sets.
fn admin(status: EndpointStatus) -> u8 {
    match status {
        EndpointStatus::Up => 0,
        EndpointStatus::Down => 1,
        EndpointStatus::Drain => 8,
    }
}

fn health(
    endpoint: &Endpoint,
    spec: &TargetGroupSpec,
    server: Option<&Server>,
    entry: Entry,
) -> Health {
    let check = &spec.health_check;
    if endpoint.status == EndpointStatus::Down {
        return Health {
            mode: 14,
            ..unchecked(0, 0)
        };
    }
    let known = server.filter(|s| s.is_at(endpoint) && !s.is_in_maintenance());
    match (known, entry) {
        (Some(server), _) if server.is_running() => passed(check),
        // One that has not been checked yet goes on from nothing, one that failed as well.
        (Some(_), _) => unchecked(0, 0),
        (None, Entry::AfterChecks) => unchecked(0, 0),
        (None, Entry::AtOnce) => unchecked(2, u32::from(check.rise)),
    }
}

fn passed(check: &HealthCheck) -> Health {
    Health {
        operational: 2,
        // HAProxy's numbers of L4OK and L7OK.
        status: match check.kind {
            CheckKind::Tcp => 6,
            CheckKind::Http => 15,
        },
        result: 3,
        points: u32::from(check.rise) + u32::from(check.fall) - 1,
        mode: 6,
    }
}

const fn unchecked(operational: u8, points: u32) -> Health {
    Health {
        operational,
        status: 1,
        result: 0,
        points,
        mode: 6,
    }
}
