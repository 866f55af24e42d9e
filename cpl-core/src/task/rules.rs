//! What happens to the task of a node.

use std::time::Duration;

use super::model::ConfigUpdate;
use crate::clock::Timestamp;
use crate::version::{AgentIncarnation, ConfigVersion};

/// How long a task is held before it returns: the seed document's figure.
pub const LEASE: Duration = Duration::from_mins(1);

/// What to do with the task of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave it, and look again after this time when one is named.
    Keep(Option<Duration>),
    /// Write it like this.
    Put(ConfigUpdate),
    /// It is done.
    Remove,
}

/// What the task of a node should be.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The node.
    pub node: &'a str,
    /// What it should run.
    pub desired: ConfigVersion,
    /// What it runs.
    pub current: ConfigVersion,
    /// The change behind `desired`.
    pub change: &'a str,
    /// The agent that is there.
    pub holder: Option<AgentIncarnation>,
}

/// Decides. A task exists exactly while a node is behind, for the newest version only; one whose lease
/// has ended is handed out again.
pub fn step(task: Option<&ConfigUpdate>, wanted: &Wanted<'_>, now: Timestamp) -> Step {
    let behind = wanted.current < wanted.desired;
    match task {
        None if behind => Step::Put(fresh(wanted, now)),
        None => Step::Keep(None),
        Some(_) if !behind => Step::Remove,
        Some(task) if task.target_config_version != wanted.desired => Step::Put(ConfigUpdate {
            created_at: task.created_at.clone(),
            ..fresh(wanted, now)
        }),
        Some(task) if task.lease_until <= now || task.holder != wanted.holder => {
            let lease_until = now.plus(LEASE);
            let attempt = task.attempt.saturating_add(1);
            Step::Put(ConfigUpdate {
                lease_until,
                attempt,
                holder: wanted.holder,
                ..task.clone()
            })
        },
        Some(task) => Step::Keep(Some(task.lease_until.since(now).min(LEASE))),
    }
}

fn fresh(wanted: &Wanted<'_>, now: Timestamp) -> ConfigUpdate {
    ConfigUpdate {
        node_id: wanted.node.to_owned(),
        target_config_version: wanted.desired,
        related_change_id: wanted.change.to_owned(),
        reason: "configuration_changed".to_owned(),
        created_at: now.rfc3339(),
        holder: wanted.holder,
        lease_until: now.plus(LEASE),
        attempt: 1,
    }
}
