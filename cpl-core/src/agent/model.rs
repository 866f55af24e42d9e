//! Who speaks for a node.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::version::{AgentIncarnation, Epoch};

/// The process that speaks for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Greater than that of every process before.
    pub agent_incarnation: AgentIncarnation,
    /// What the process drew when it started: registering again with it changes nothing.
    pub process: String,
    /// Its driver.
    pub driver: String,
    /// Whether traffic flows through it.
    pub carries_traffic: bool,
    /// Its program version.
    pub software: String,
    /// When it registered.
    pub registered_at: Timestamp,
}

/// What a process says when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What it drew when it started.
    pub process: String,
    /// Its driver.
    pub driver: String,
    /// Whether traffic flows through it.
    pub carries_traffic: bool,
    /// Its program version.
    pub software: String,
}

/// Whether an agent is heard: the value of a node's `heartbeat_lease`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The epoch of the session of the replica that hears it, and keeps its deadline.
    pub epoch: Epoch,
    /// The process.
    pub agent_incarnation: AgentIncarnation,
    /// Its call that changed this.
    pub sequence: u64,
    /// It is heard.
    pub present: bool,
    /// Since when.
    pub since: Timestamp,
}

/// A word of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    /// The process.
    pub incarnation: AgentIncarnation,
    /// Its call.
    pub sequence: u64,
}
