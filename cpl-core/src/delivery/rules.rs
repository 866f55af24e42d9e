//! What to answer an agent, what a report means, and what is to be planned for a node. Pure.

use super::model::{
    Fact, Facts, Hold, Input, LogEntry, Rendered, RenderedRecord, Report, StatusRecord,
};
use crate::clock::Timestamp;
use crate::error::{Error, Kind};
use crate::store::Incarnation;
use crate::task::{self, ConfigUpdate};
use crate::version::{AgentIncarnation, ConfigVersion};

/// Lines of a node's log.
const LOG_LINES: usize = 200;

/// What an agent is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It should run something else.
    Configuration,
    /// It runs the right thing, under an older version: everything up to the present one is inside it.
    Advance,
    /// Nothing is new.
    Nothing,
}

/// What the head says of a node.
#[derive(Clone, Copy, Debug)]
pub struct Advance<'a> {
    /// The life of the store.
    pub incarnation: Incarnation,
    /// The version of the head.
    pub head: ConfigVersion,
    /// The digest of what the node must run.
    pub digest: &'a str,
    /// The last version that changed it.
    pub desired: ConfigVersion,
}

/// What to answer an agent that has `facts`.
///
/// The version alone is answered when the content is the same but the node is behind what it must
/// reach: a change that cancels out or changes nothing of the rendered content would otherwise leave
/// it behind for ever.
pub fn decide(facts: &Facts, now: &Advance<'_>) -> Answered {
    let same_life = facts.incarnation == Some(now.incarnation);
    if !same_life || facts.received_digest.as_deref() != Some(now.digest) {
        return Answered::Configuration;
    }
    let received = facts.received.unwrap_or_default();
    if received < now.desired && received < now.head {
        Answered::Advance
    } else {
        Answered::Nothing
    }
}

/// Whether a report of an agent can be true: within one life of agent and store, what was accepted
/// never goes back.
pub fn advance(before: Option<&Report>, report: &Report) -> bool {
    let Some(before) = before else { return true };
    let same_life = before.agent_incarnation == report.agent_incarnation
        && before.facts.incarnation == report.facts.incarnation;
    !same_life || before.facts.accepted <= report.facts.accepted
}

/// A node's status and log after some facts about it, or `None` where nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// The status.
    pub status: Option<StatusRecord>,
    /// The log.
    pub log: Option<Vec<LogEntry>>,
}

/// Folds facts about one node into its status and log. Folding the same facts again changes nothing but
/// may repeat notes in the log.
pub fn fold(
    status: Option<&StatusRecord>,
    log: &[LogEntry],
    rendered: Option<&RenderedRecord>,
    facts: &[&Fact],
) -> Folded {
    let mut now: Option<StatusRecord> = status.cloned();
    let mut lines = log.to_vec();
    for fact in facts {
        match fact {
            Fact::Note { entry, .. } if !lines.contains(entry) => lines.push(entry.clone()),
            Fact::Note { .. } => {},
            Fact::Report(report) if is_newer(now.as_ref(), report) => {
                let sent = report.sent.iter().filter(|line| !lines.contains(line));
                let sent: Vec<_> = sent.cloned().collect();
                lines.extend(sent);
                lines.extend(told(now.as_ref(), report));
                now = Some(status_of(now.as_ref(), report, rendered));
            },
            Fact::Report(_) => {},
        }
    }
    lines.drain(..lines.len().saturating_sub(LOG_LINES));
    Folded {
        status: (now.as_ref() != status).then_some(now).flatten(),
        log: (lines != log).then_some(lines),
    }
}

/// The greatest (store incarnation, agent incarnation, sequence) counts, whatever the order of arrival.
fn is_newer(status: Option<&StatusRecord>, report: &Report) -> bool {
    status.is_none_or(|status| {
        (
            status.facts.incarnation,
            status.agent_incarnation,
            status.sequence,
        ) < (
            report.facts.incarnation,
            report.agent_incarnation,
            report.sequence,
        ) || (status.agent_incarnation < report.agent_incarnation)
    })
}

fn status_of(
    before: Option<&StatusRecord>,
    report: &Report,
    rendered: Option<&RenderedRecord>,
) -> StatusRecord {
    let current = report.facts.accepted.unwrap_or_default();
    let applied = rendered
        .filter(|r| current >= r.config_version)
        .map(|r| r.change.clone());
    StatusRecord {
        current_config_version: current,
        last_heartbeat: report.at.rfc3339(),
        last_applied_change_id: applied
            .or_else(|| before.and_then(|before| before.last_applied_change_id.clone())),
        agent_incarnation: report.agent_incarnation,
        sequence: report.sequence,
        facts: report.facts.clone(),
    }
}

/// The log lines of a report: what is different from before.
fn told(before: Option<&StatusRecord>, report: &Report) -> Vec<LogEntry> {
    let line = |event: &str, message: String| LogEntry {
        at: report.at,
        event: event.to_owned(),
        message,
    };
    let nothing = Facts::default();
    let (old, new) = (
        before.map_or(&nothing, |status| &status.facts),
        &report.facts,
    );
    let mut lines = Vec::new();
    let key = |hold: &Hold| (hold.object.clone(), hold.generation);
    for hold in new
        .holds
        .iter()
        .filter(|h| !old.holds.iter().any(|o| key(o) == key(h)))
    {
        let what = format!(
            "{} generation {}: {}",
            hold.object, hold.generation, hold.message
        );
        lines.push(line("held", what));
    }
    for hold in old
        .holds
        .iter()
        .filter(|o| !new.holds.iter().any(|h| h.object == o.object))
    {
        lines.push(line("released", hold.object.to_string()));
    }
    if let Some(accepted) = new.accepted.filter(|_| new.accepted != old.accepted) {
        lines.push(line(
            "accepted",
            format!("everything up to version {accepted}"),
        ));
    }
    if old.data_plane_state != new.data_plane_state {
        let state = serde_json::to_value(new.data_plane_state).unwrap_or_default();
        lines.push(line(
            "data_plane",
            state.as_str().unwrap_or_default().to_owned(),
        ));
    }
    lines
}

/// What is known of a node when it is planned for.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Its name.
    pub node: &'a str,
    /// What it must run.
    pub rendered: &'a Rendered,
    /// What it was found to have to run last time.
    pub record: Option<&'a RenderedRecord>,
    /// Its open task.
    pub task: Option<&'a ConfigUpdate>,
    /// What it has.
    pub status: Option<&'a StatusRecord>,
    /// The agent that is there.
    pub agent: Option<AgentIncarnation>,
}

/// What is to be written for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// What it must run, when that changed; its version is the node's `desired_config_version`.
    pub record: Option<RenderedRecord>,
    /// What happens to its task.
    pub task: task::Step,
}

/// Plans for one node. `desired_config_version` is the version of the newest object that went into what
/// the node must run, and moves only when that changed: no other node notices the change.
pub fn plan_node(facts: &NodeFacts<'_>, now: Timestamp) -> NodePlan {
    let digest = facts.rendered.configuration.digest();
    let Input { version, change } = &facts.rendered.newest;
    let moved = facts.record.is_none_or(|record| record.digest != digest);
    let record = moved.then(|| RenderedRecord {
        digest,
        // Never back, whatever was removed from what the node runs.
        config_version: facts
            .record
            .map_or(*version, |old| old.config_version.max(*version)),
        change: change.clone(),
    });
    let (desired, change) = match (&record, facts.record) {
        (Some(record), _) => (record.config_version, record.change.as_str()),
        (None, Some(record)) => (record.config_version, record.change.as_str()),
        (None, None) => (ConfigVersion(0), ""),
    };
    let wanted = task::Wanted {
        node: facts.node,
        desired,
        current: facts
            .status
            .map(|status| status.current_config_version)
            .unwrap_or_default(),
        change,
        holder: facts.agent,
    };
    let task = task::step(facts.task, &wanted, now);
    NodePlan { record, task }
}

/// How a node stands to what it should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs what it should.
    Converged,
    /// It has been told, or will be.
    Pending,
    /// It refused an object.
    Held,
    /// Its agent does not answer.
    Silent,
    /// No agent has ever registered for it.
    NeverSeen,
}

/// How a node stands. A silent node is silent whatever it had reached: what it runs is not known.
pub fn standing(
    desired: ConfigVersion,
    status: Option<&StatusRecord>,
    seen: bool,
    alive: bool,
) -> Standing {
    match status {
        _ if !seen => Standing::NeverSeen,
        _ if !alive => Standing::Silent,
        Some(status) if !status.facts.holds.is_empty() => Standing::Held,
        Some(status) if status.current_config_version >= desired => Standing::Converged,
        Some(_) | None => Standing::Pending,
    }
}

/// The refusal of a process that does not speak for the node.
pub(super) fn register_again(node: &str) -> Error {
    let detail = format!("this process is not registered for {node}");
    Error::new(Kind::Aborted, "AGENT_UNKNOWN", detail)
}

/// The refusal of a server that is shutting down.
pub(super) fn closing() -> Error {
    Error::new(Kind::Unavailable, "CLOSING", "the server is shutting down")
}
