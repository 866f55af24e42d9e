//! What a node reports of its endpoints.

use serde::{Deserialize, Serialize};

/// Whether an endpoint answers its health check on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No check has ended yet.
    Initial,
    /// Checks succeed.
    Healthy,
    /// Checks fail.
    Unhealthy,
    /// Nothing is known, for example in maintenance, where HAProxy does not check.
    Unknown,
}

/// One endpoint as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// The target group.
    pub targetgroup: String,
    /// The endpoint's id.
    pub endpoint: String,
    /// Whether it answers.
    pub health: Health,
    /// Why, stable: for example `Target.Timeout`, `Target.ConnectionFailed`, `Cpl.InitialHealthChecking`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether new connections may go there.
    pub receives_new: bool,
    /// Connections that it serves now, those of workers that are ending included.
    pub connections: u64,
}
