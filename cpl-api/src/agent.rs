//! What agents and servers say to each other. Agents dial out; nothing of ours listens on a node.

use cpl_core::delivery::{DataPlaneState, Delivered, Hold};
use cpl_core::store::{Identity, Incarnation};
use cpl_core::version::{AgentIncarnation, ConfigVersion};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of this protocol.
pub const PROTOCOL: u32 = 1;

/// The reason (409) that ends an agent: a later process speaks for the node now.
pub const AGENT_SUPERSEDED: &str = "AGENT_SUPERSEDED";
/// The reason (409) that makes an agent register again: the control plane does not know its
/// incarnation, or wants it to begin anew.
pub const AGENT_UNKNOWN: &str = "AGENT_UNKNOWN";

/// Most holds of one report: what a node's status has room for. Agents leave the rest out.
pub const REPORT_HOLDS: usize = 256;
/// Most bytes of the observations of one report. Agents leave larger ones out.
pub const REPORT_HEALTH_BYTES: usize = 256 << 10;

/// `POST /v1/agents/{node}:register`: this process speaks for the node from now on.
///
/// Repeating it with the same `process` gives the same answer, so a lost reply does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Drawn by the process when it started, 32 hexadecimal digits.
    pub process: String,
    /// SHA-256, in hexadecimal, of the whole token that the agent will use from now on and has drawn
    /// itself (`cpl_<id>_<secret>`): the server never sees the secret before it is used. Only with a
    /// join token; absent when the agent registers anew with its own token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// The id part of that token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// Lowest and highest protocol that the agent speaks.
    pub protocol: (u32, u32),
    /// The agent's program version.
    pub software: String,
    /// The driver's name.
    pub driver: String,
    /// Whether traffic flows through it.
    pub carries_traffic: bool,
}

/// The answer to [`RegisterRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// Every later call carries it; a greater one supersedes this process.
    pub agent_incarnation: AgentIncarnation,
    /// Which store the control plane has now.
    pub identity: Identity,
    /// The protocol to speak.
    pub protocol: u32,
    /// How long to ask the server to wait in `sync`, in milliseconds, before jitter.
    pub wait_ms: u64,
    /// How long the control plane takes an agent for alive after its last word, in milliseconds.
    pub grace_ms: u64,
}

/// What the agent says of its data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlaneReport {
    /// What it is in.
    pub state: DataPlaneState,
    /// The version that the data plane itself says it runs.
    #[serde(default)]
    pub running_version: Option<ConfigVersion>,
    /// Observations in the system's form: for `lb` a list of endpoints with their health.
    #[serde(default)]
    pub health: Value,
}

/// `POST /v1/agents/{node}:sync`: heartbeat, report and poll in one. `:heartbeat` takes the same and
/// answers at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// From registration.
    pub agent_incarnation: AgentIncarnation,
    /// Greater with every call of this incarnation; a lower one is a late duplicate.
    pub sequence: u64,
    /// Which store the versions below are of; absent before the first configuration.
    #[serde(default)]
    pub incarnation: Option<Incarnation>,
    /// The newest version that was received and worked on.
    #[serde(default)]
    pub received: Option<ConfigVersion>,
    /// The digest of what was received: the server answers when it would send another.
    #[serde(default)]
    pub received_digest: Option<String>,
    /// Everything up to here is applied and verified, and nothing of it is held.
    #[serde(default)]
    pub accepted: Option<ConfigVersion>,
    /// What is not applied, and why.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// What the data plane is in.
    pub data_plane: DataPlaneReport,
    /// How long the server may wait for something new, in milliseconds; it caps this.
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer to [`SyncRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum SyncResponse {
    /// What the agent received last is still what it should run.
    Same {
        /// The same content, but this version says so: everything up to here is inside it. Absent when
        /// nothing new is to be said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<ConfigVersion>,
        /// When to call again, in milliseconds; zero means now.
        next_after_ms: u64,
    },
    /// Something else should run.
    Configuration {
        /// What, and under which version.
        delivered: Box<Delivered>,
    },
}
