//! What a node reports of its endpoints.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// What a node reports of itself: what its endpoints answer and what it announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    /// Every endpoint.
    pub endpoints: Vec<EndpointHealth>,
    /// What is announced; nothing for a node that announces nothing.
    pub announcement: Option<Announcement>,
}

/// Whether a node announces its prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Whether it does.
    pub state: AnnouncementState,
    /// Why not, stable: for example `Announce.BelowLowMark`, `Announce.GobgpUnreachable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Prefixes that are in the announcer's own table, read from it.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Neighbours whose session is established.
    #[serde(default)]
    pub established: Vec<String>,
    /// Addresses that could not be put on the loopback device, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loopback: Option<String>,
}

/// What is known of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnouncementState {
    /// Every prefix is announced.
    Announced,
    /// None is, and none should be.
    Withdrawn,
    /// The announcer could not be asked or changed.
    Unknown,
}

/// The form of a report with an announcement.
#[derive(Serialize, Deserialize)]
struct Whole {
    endpoints: Vec<EndpointHealth>,
    announcement: Announcement,
}

impl NodeHealth {
    /// As it is reported: a list of endpoints, as it always was, where nothing is announced.
    ///
    /// # Errors
    /// None that the types allow.
    pub fn write(self) -> Result<Value, serde_json::Error> {
        match self.announcement {
            None => serde_json::to_value(self.endpoints),
            Some(announcement) => serde_json::to_value(Whole {
                endpoints: self.endpoints,
                announcement,
            }),
        }
    }

    /// What was reported; `None` when it has neither form.
    pub fn read(value: &Value) -> Option<Self> {
        if value.is_array() {
            return Some(Self {
                endpoints: Vec::deserialize(value).ok()?,
                announcement: None,
            });
        }
        let Whole {
            endpoints,
            announcement,
        } = Whole::deserialize(value).ok()?;
        Some(Self {
            endpoints,
            announcement: Some(announcement),
        })
    }
}
