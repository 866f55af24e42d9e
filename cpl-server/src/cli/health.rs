//! What nodes say of endpoints, gathered per endpoint.

use std::collections::BTreeMap;

use cpl_api::object::{NodeStatus, Object};
use cpl_lb::observed::{EndpointHealth, Health, NodeHealth};

use super::table::{Cell, Tone};
use super::views;

/// What each node says of one endpoint, by the node's name.
pub type Seen = BTreeMap<String, EndpointHealth>;

/// What nodes say of the endpoints of a target group, by endpoint.
pub fn of_targetgroup(nodes: &[Object], targetgroup: &str) -> BTreeMap<String, Seen> {
    let mut endpoints: BTreeMap<String, Seen> = BTreeMap::new();
    for node in nodes {
        for health in reports(node) {
            if health.targetgroup == targetgroup {
                let seen = endpoints.entry(health.endpoint.clone()).or_default();
                seen.insert(node.metadata.name.clone(), health);
            }
        }
    }
    endpoints
}

fn reports(node: &Object) -> Vec<EndpointHealth> {
    let Some(status) = views::status::<NodeStatus>(node) else {
        return Vec::new();
    };
    // A report that this program does not understand says nothing to it.
    NodeHealth::read(&status.health)
        .unwrap_or_default()
        .endpoints
}

/// How many of the nodes that report an endpoint find it healthy.
pub fn cell(seen: Option<&Seen>) -> Cell {
    let Some(seen) = seen.filter(|seen| !seen.is_empty()) else {
        return Cell::new("not reported", Tone::Faint);
    };
    let healthy = seen
        .values()
        .filter(|one| one.health == Health::Healthy)
        .count();
    let tone = match healthy {
        0 => Tone::Bad,
        some if some < seen.len() => Tone::Watch,
        _ => Tone::Good,
    };
    Cell::new(format!("{healthy}/{} healthy", seen.len()), tone)
}

/// The nodes that do not find an endpoint healthy, and why.
pub fn doubts(seen: &Seen) -> Vec<String> {
    let doubting = seen.iter().filter(|(_, one)| one.health != Health::Healthy);
    let told = doubting.map(|(node, one)| {
        let reason = one.reason.as_ref().map(|reason| format!(" ({reason})"));
        format!("{node}: {}{}", word(one.health), reason.unwrap_or_default())
    });
    told.collect()
}

const fn word(health: Health) -> &'static str {
    match health {
        Health::Initial => "not checked yet",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Unknown => "unknown",
    }
}
