//! What a task is.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::version::{AgentIncarnation, ConfigVersion};

/// A node is being brought to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigUpdate {
    /// Which node.
    pub node_id: String,
    /// To which version; raised in place when another change comes before the node is there.
    pub target_config_version: ConfigVersion,
    /// The change that asked for it.
    pub related_change_id: String,
    /// Why, for example `configuration_changed`.
    pub reason: String,
    /// When it was first asked for, RFC 3339.
    pub created_at: String,
    /// The agent process that holds it; none while no agent is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<AgentIncarnation>,
    /// When its lease of 60 s ends; an unfinished task then returns with one more attempt.
    pub lease_until: Timestamp,
    /// How often it has been handed out.
    pub attempt: u32,
}
