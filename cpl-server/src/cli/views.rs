//! Objects as rows of tables.

use cpl_api::object::{Convergence, NodeStatus, Object, TargetGroupStatus};
use cpl_api::routes::Collection;
use cpl_core::delivery::DataPlaneState;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::table::{Cell, Table, Tone};

/// An empty table for objects of a kind.
pub fn table(kind: Collection, wide: bool) -> Table {
    Table::new(match (kind, wide) {
        (Collection::Targetgroups, false) => {
            &["NAME", "PROTOCOL", "PORT", "ENDPOINTS", "NODES", "VERSION"]
        },
        (Collection::Targetgroups, true) => &[
            "NAME",
            "PROTOCOL",
            "PORT",
            "ENDPOINTS",
            "NODES",
            "VERSION",
            "GENERATION",
            "TENANT",
            "LABELS",
            "MODIFIED",
            "BY",
        ],
        (Collection::Nodes, false) => &[
            "NAME",
            "CONVERGENCE",
            "CURRENT/DESIRED",
            "DATA PLANE",
            "HEARTBEAT",
        ],
        (Collection::Nodes, true) => &[
            "NAME",
            "CONVERGENCE",
            "CURRENT/DESIRED",
            "DATA PLANE",
            "HEARTBEAT",
            "TARGETGROUPS",
            "GENERATION",
            "TENANT",
            "LABELS",
            "MODIFIED",
            "BY",
        ],
    })
}

/// The row of an object.
pub fn row(kind: Collection, object: &Object, wide: bool) -> Vec<Cell> {
    let mut cells = match kind {
        Collection::Targetgroups => targetgroup(object),
        Collection::Nodes => node(object, wide),
    };
    if wide {
        let meta = &object.metadata;
        cells.extend([
            meta.generation.into(),
            meta.tenant.clone().unwrap_or_default().into(),
            labels(object).into(),
            meta.modified_at.clone().into(),
            meta.modified_by.clone().into(),
        ]);
    }
    cells
}

/// The `status` of an object in the form of its kind; nothing when there is none, or when this program
/// does not understand it.
pub fn status<T: DeserializeOwned>(object: &Object) -> Option<T> {
    serde_json::from_value(object.status.clone()?).ok()
}

fn targetgroup(object: &Object) -> Vec<Cell> {
    let status: Option<TargetGroupStatus> = status(object);
    let share = |part: fn(&TargetGroupStatus) -> (usize, usize)| match status.as_ref().map(part) {
        Some((some, all)) => Cell::new(format!("{some}/{all}"), fraction(some, all)),
        None => Cell::new("", Tone::Faint),
    };
    vec![
        name(object).into(),
        text(object.spec.get("protocol")).into(),
        text(object.spec.get("port")).into(),
        share(|status| (status.endpoints_healthy, status.endpoints)),
        share(|status| (status.nodes_converged, status.nodes)),
        object.metadata.config_version.into(),
    ]
}

const fn fraction(some: usize, all: usize) -> Tone {
    match (some, all) {
        (_, 0) => Tone::Faint,
        (0, _) => Tone::Bad,
        _ if some < all => Tone::Watch,
        _ => Tone::Good,
    }
}

fn node(object: &Object, wide: bool) -> Vec<Cell> {
    let mut cells = vec![name(object).into()];
    match status::<NodeStatus>(object) {
        Some(status) => {
            let drained = object.spec.get("drained") == Some(&Value::Bool(true));
            let drained = if drained { " (drained)" } else { "" };
            let convergence = format!("{}{drained}", word(status.convergence));
            let versions = format!(
                "{}/{}",
                status.current_config_version, status.desired_config_version
            );
            cells.extend([
                Cell::new(convergence, tone(status.convergence)),
                versions.into(),
                data_plane(&status),
                status.last_heartbeat.clone().unwrap_or_default().into(),
            ]);
        },
        None => cells.extend(["", "", "", ""].map(Cell::from)),
    }
    if wide {
        let assigned = object
            .spec
            .get("assigned_targetgroups")
            .and_then(Value::as_array);
        let assigned = assigned.into_iter().flatten().map(|name| text(Some(name)));
        cells.push(assigned.collect::<Vec<_>>().join(",").into());
    }
    cells
}

/// What is known of a node's data plane. A driver that only writes files must never look like one that
/// carries traffic.
pub fn data_plane(status: &NodeStatus) -> Cell {
    match (&status.driver, status.carries_traffic) {
        (None, _) => Cell::new("unknown", Tone::Faint),
        (Some(driver), false) => Cell::new(format!("none ({driver}: no traffic)"), Tone::Watch),
        (Some(driver), true) => {
            let (word, tone) = state(status.data_plane_state);
            Cell::new(format!("{word} ({driver})"), tone)
        },
    }
}

const fn state(state: DataPlaneState) -> (&'static str, Tone) {
    match state {
        DataPlaneState::Healthy => ("healthy", Tone::Good),
        DataPlaneState::Degraded => ("degraded", Tone::Watch),
        DataPlaneState::Down => ("down", Tone::Bad),
        DataPlaneState::None => ("none", Tone::Watch),
        DataPlaneState::Unknown => ("unknown", Tone::Watch),
    }
}

/// The word for how a node stands to what it should run.
pub const fn word(convergence: Convergence) -> &'static str {
    match convergence {
        Convergence::Converged => "converged",
        Convergence::Pending => "pending",
        Convergence::Held => "held",
        Convergence::Silent => "silent",
        Convergence::NeverSeen => "never-seen",
    }
}

/// How it should strike the eye.
pub const fn tone(convergence: Convergence) -> Tone {
    match convergence {
        Convergence::Converged => Tone::Good,
        Convergence::Pending => Tone::Watch,
        Convergence::Held | Convergence::Silent => Tone::Bad,
        Convergence::NeverSeen => Tone::Faint,
    }
}

/// A scalar without quotes, anything else as JSON; empty when there is none.
pub fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `key=value,...`.
pub fn labels(object: &Object) -> String {
    let labels = object
        .metadata
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

/// The name of an object, with a word about what is wrong with it.
fn name(object: &Object) -> String {
    let name = &object.metadata.name;
    match object.foreign {
        Some(_) => format!("{name} (changed past CPL)"),
        None => name.clone(),
    }
}
