//! Objects, changes of them, their history, and how far a change has come.

use std::collections::BTreeMap;

use cpl_core::clock::Timestamp;
use cpl_core::delivery::{DataPlaneState, Hold};
use cpl_core::ids::Uid;
use cpl_core::version::{ConfigVersion, Generation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the server knows of an object besides its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its name, unique in its kind.
    pub name: String,
    /// Whose it is; an attribute, not part of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Words to select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Another one after the name was deleted and made again.
    pub uid: Uid,
    /// Number of changes of its content by people.
    pub generation: Generation,
    /// The `global_version` of its last change.
    pub config_version: ConfigVersion,
    /// `uid-generation`, for `If-Match`.
    pub etag: String,
    /// When it was made.
    pub created_at: String,
    /// When it was last changed.
    pub modified_at: String,
    /// Who changed it last.
    pub modified_by: String,
}

/// An object: `spec` and further parts that people write, and `status` that they do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `TargetGroup` or `Node`.
    pub kind: String,
    /// Name, labels, versions.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Value,
    /// The endpoints of a target group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Value>,
    /// What is: of a node a [`NodeStatus`], of a target group a [`TargetGroupStatus`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// What somebody has put in its place in the store, past CPL. It does not run: what is above does, until the
    /// change is adopted or reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignChange>,
}

/// A change of an object past CPL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignChange {
    /// Where the store differs from what runs.
    pub differences: Vec<Difference>,
    /// Parts that cannot be read, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreadable: BTreeMap<String, String>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListResponse<T> {
    /// In order of names, or of time.
    pub items: Vec<T>,
    /// Hand this back as `page_token` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
    /// The place in history that the list shows; a watch can start after it.
    pub cursor: String,
}

/// `POST /v1/apply`: brings all these objects to what the manifests say, in one version, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// Each with `kind`, `metadata {name, tenant, labels}`, `spec`, and for a target group `endpoints`:
    /// absent leaves them as they are, present replaces all.
    pub manifests: Vec<Value>,
}

/// What a change did to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It was not there before.
    Created,
    /// Its content changed.
    Updated,
    /// It was already as wanted.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// One object of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedObject {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What happened to it.
    pub operation: Operation,
    /// Its generation afterwards; before, when it was deleted.
    pub generation: Generation,
    /// Its etag afterwards.
    pub etag: String,
}

/// The answer to every change of specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResponse {
    /// The version of the change; absent when nothing had to change, and on a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_version: Option<ConfigVersion>,
    /// Every object that was named.
    pub objects: Vec<ChangedObject>,
    /// The nodes that will run something else because of it.
    pub affected_nodes: Vec<String>,
    /// Nothing was written.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/targetgroups/{name}/endpoints:change`: adds, changes and removes endpoints by id without
/// touching the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointsChange {
    /// Endpoints to add, or to replace by id.
    #[serde(default)]
    pub upsert: Vec<Value>,
    /// Ids to remove; one that is not there is an error.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// One record of an object's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its id, `change-<version>-<timestamp>`.
    pub id: String,
    /// What was done: `CREATE`, `UPDATE`, `ADD_ENDPOINT`, `ROLLBACK`, ...
    pub operation: String,
    /// The generation of the object after it.
    pub target_version: Generation,
    /// The `global_version` of it.
    pub config_version: ConfigVersion,
    /// Ids of endpoints that came.
    pub endpoints_added: Vec<String>,
    /// Ids of endpoints that went.
    pub endpoints_removed: Vec<String>,
    /// Ids of endpoints that changed.
    pub endpoints_changed: Vec<String>,
    /// Who did it.
    pub modified_by: String,
    /// When.
    pub timestamp: String,
    /// Which request did it.
    pub request_id: String,
}

/// `GET .../{name}:diff?from=&to=`: what differs between two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffResponse {
    /// The earlier content.
    pub from: Value,
    /// The later content.
    pub to: Value,
    /// Every place that differs.
    pub differences: Vec<Difference>,
}

/// One place that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// A JSON pointer; endpoints are named by id: `/endpoints/ep-1/weight`.
    pub pointer: String,
    /// What stood there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// `POST .../{name}:rollback`: makes a new version with old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The generation whose content is wanted; the one before the present when absent.
    #[serde(default)]
    pub to_generation: Option<Generation>,
}

/// How a node stands to what it should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convergence {
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

/// The `status` of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Everything up to this version is accepted and runs.
    pub current_config_version: ConfigVersion,
    /// The last version that changed what the node must run.
    pub desired_config_version: ConfigVersion,
    /// How the two compare.
    pub convergence: Convergence,
    /// When its agent was last heard, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
    /// Whether its agent is heard.
    pub alive: bool,
    /// What the data plane is in.
    pub data_plane_state: DataPlaneState,
    /// Which driver it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether traffic flows through it at all; the `render` driver only writes files.
    pub carries_traffic: bool,
    /// The last change that it applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_change_id: Option<String>,
    /// What it refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// Endpoints as the node sees them, in the system's form.
    #[serde(default)]
    pub health: Value,
}

/// The `status` of a target group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroupStatus {
    /// Nodes that are assigned to it.
    pub nodes: usize,
    /// Those of them that run its newest generation.
    pub nodes_converged: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Endpoints that every node that reports finds healthy.
    pub endpoints_healthy: usize,
}

/// `GET .../{name}/rollout`: how far the newest generation of an object has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutResponse {
    /// The version of the object's last change.
    pub config_version: ConfigVersion,
    /// All nodes run it.
    pub complete: bool,
    /// Every node that must run it.
    pub nodes: Vec<RolloutNode>,
}

/// One node of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutNode {
    /// Its name.
    pub node: String,
    /// What it must reach.
    pub desired: ConfigVersion,
    /// What it has reached.
    pub current: ConfigVersion,
    /// How the two compare.
    pub convergence: Convergence,
    /// Why it is not there, for people; empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// `GET /v1/nodes/{name}:why`: what is wrong with a node, most important first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyResponse {
    /// The node.
    pub node: String,
    /// In one word.
    pub convergence: Convergence,
    /// In one sentence.
    pub summary: String,
    /// In detail.
    pub findings: Vec<Finding>,
}

/// One thing that explains a node's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable, `UPPER_SNAKE`: `OBJECT_HELD`, `AGENT_SILENT`, `CONFIG_ON_ITS_WAY`, ...
    pub code: String,
    /// The object, like `TargetGroup/web`, when it is one object's matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The field of it, as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// For people.
    pub message: String,
    /// What would help.
    pub remedy: String,
}

/// One line of a node's log: what was sent, accepted or refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLogEntry {
    /// When the control plane learned it.
    pub at: Timestamp,
    /// `registered`, `accepted`, `held`, `released`, `silent`, `returned`, ...
    pub event: String,
    /// For people.
    pub message: String,
}

/// One event of `GET /v1/watch` (server-sent events; `id:` is the cursor to resume after).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchEvent {
    /// An object came or changed; its status may have changed only.
    Put {
        /// The object.
        object: Box<Object>,
    },
    /// An object went.
    Delete {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Nothing happened up to this cursor.
    Bookmark,
}

/// One record of the audit: who changed what, when, by which request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub objects: Vec<String>,
    /// By which request.
    pub request_id: String,
    /// The version that came of it, when it was a change of specs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_version: Option<ConfigVersion>,
}
