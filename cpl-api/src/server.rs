//! What a server says of itself and of its own work.

use cpl_core::store::{Identity, Revision, SealId};
use cpl_core::version::ConfigVersion;
use serde::{Deserialize, Serialize};

/// `GET /healthz` and `GET /readyz`; the latter answers 503 with a problem when it is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// `GET /version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The program's version.
    pub software: String,
    /// Lowest and highest agent protocol that it speaks.
    pub protocol: (u32, u32),
    /// Which store it has.
    pub identity: Identity,
    /// Its newest version of the configuration.
    pub global_version: ConfigVersion,
}

/// One open task of `GET /v1/tasks/config_update`: a node is to be brought to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigUpdateTask {
    /// Its id.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// The version that the node is to reach.
    pub target_config_version: ConfigVersion,
    /// The change that made it necessary.
    pub related_change_id: String,
    /// Why, for people.
    pub reason: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When its lease ends, RFC 3339; a task that is not done then is handed out again.
    pub lease_until: String,
    /// How often it was handed out.
    pub attempt: u32,
}

/// `POST /v1/store:seal`: the store takes no more writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealRequest {
    /// Who seals it: 32 hexadecimal digits. It may be repeated.
    pub seal: SealId,
}

/// The answer to `POST /v1/store:seal` and `:unseal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealResponse {
    /// The newest revision of the store.
    pub revision: Revision,
}
