//! A node's configuration and what the node says of it.

use std::fmt::{Debug, Formatter};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::ids::{ObjectRef, Uid};
use crate::spec::{Object, View, change_id};
use crate::store::{Identity, Incarnation};
use crate::version::{AgentIncarnation, ConfigVersion, Generation};

/// One object as a node must run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigObject {
    /// Which object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Its uid: a name that was deleted and made again is another object.
    pub uid: Uid,
    /// The generation of its spec that the body was rendered from.
    pub generation: Generation,
    /// What the driver of the system understands.
    pub body: Body,
}

/// A JSON value that many configurations share, with its text: what a thousand nodes serve is written and
/// hashed for each of them, and made once.
#[derive(Clone)]
pub struct Body(Arc<(Value, String)>);

impl Body {
    /// Its text: members of objects in the order of their names.
    fn text(&self) -> &str {
        &self.0.1
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        let text = value.to_string();
        Self(Arc::new((value, text)))
    }
}

impl Deref for Body {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0.0
    }
}

impl Debug for Body {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.text() == other.text()
    }
}

impl Eq for Body {}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Value::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// Everything that one node must run. Rendered purely; equal content has an equal [`digest`].
///
/// [`digest`]: Configuration::digest
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Which system rendered it, for example `lb`.
    pub system: String,
    /// The format of the bodies.
    pub schema: u32,
    /// Raised when an operator asks for another try: whatever a node held under a lower number it
    /// tries again.
    #[serde(default)]
    pub attempt: u64,
    /// What concerns the node as a whole.
    pub node: Value,
    /// The objects, ordered by kind and name.
    pub objects: Vec<ConfigObject>,
}

impl Configuration {
    /// A hash of what a node would run: system, format, attempt, node part, and each object with its body, but
    /// not the generations, since a generation that changes nothing must not reload anything.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            // Lengths keep neighbouring parts apart.
            hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(&self.system);
        add(&self.schema.to_string());
        add(&self.attempt.to_string());
        // `serde_json` keeps the members of an object in key order, so equal values print equally.
        add(&self.node.to_string());
        for ConfigObject {
            object,
            uid,
            generation: _,
            body,
        } in &self.objects
        {
            add(&object.kind);
            add(&object.name);
            add(&uid.to_string());
            add(body.text());
        }
        hex::encode(hasher.finalize())
    }
}

/// A configuration on its way to a node, with the label that the node reports back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Of which store and life the version is.
    pub identity: Identity,
    /// The `global_version` of the state that it was rendered from: everything up to here is inside.
    pub version: ConfigVersion,
    /// [`Configuration::digest`] of the content.
    pub digest: String,
    /// The content.
    pub configuration: Configuration,
}

/// Where in the work of a node an object was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The body could not be understood by this agent.
    Parse,
    /// The data plane's own validation refused it.
    Check,
    /// It would not have come up, for example because another process holds its port.
    Preflight,
    /// The data plane refused it while it was applied.
    Apply,
    /// It was applied, but reading back showed something else.
    Verify,
}

/// An object whose newest body a node refused and does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// The generation that was refused.
    pub generation: Generation,
    /// The generation that runs instead; `None` when the object is left out.
    pub running: Option<Generation>,
    /// Where it was refused.
    pub stage: Stage,
    /// Why, stable and `UPPER_SNAKE`.
    pub code: String,
    /// The field of the object, as a JSON pointer, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Why, for people.
    pub message: String,
}

/// What a node says of its data plane.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DataPlaneState {
    /// It runs what it was given.
    Healthy,
    /// It runs, but not everything is as it should be.
    Degraded,
    /// It does not run.
    Down,
    /// The driver writes files only: there is no data plane and no traffic.
    None,
    /// Nothing is known.
    #[default]
    Unknown,
}

/// The version of an object that went into a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// The version of its last change.
    pub version: ConfigVersion,
    /// The id of that change.
    pub change: String,
}

impl Input {
    /// That of an object.
    pub fn of(object: &Object) -> Self {
        let version = object.meta.config_version;
        Self {
            version,
            change: change_id(version, object.meta.modified_at),
        }
    }
}

/// A configuration and the newest change that went into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What the node must run.
    pub configuration: Configuration,
    /// The newest of the objects that it was made from.
    pub newest: Input,
}

/// What a system says of its nodes. Everything is pure.
pub trait System: Send + Sync + Debug {
    /// The kind of its nodes.
    fn node_kind(&self) -> &'static str;

    /// What a node must run; `None` when its spec is not readable.
    fn render(&self, node: &Object, view: &View<'_>) -> Option<Rendered>;

    /// The nodes that may have to run something else when this object changes.
    fn affected(&self, object: &ObjectRef, view: &View<'_>) -> Vec<String>;
}

/// What the head renders to for a node, as its planner last saw it: `nodes/<n>/rendered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedRecord {
    /// The digest of the configuration.
    pub digest: String,
    /// The last version that changed it.
    pub config_version: ConfigVersion,
    /// The id of that change.
    pub change: String,
}

/// What a node has, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of which life of the store the versions are.
    #[serde(default)]
    pub incarnation: Option<Incarnation>,
    /// The newest version that it received.
    #[serde(default)]
    pub received: Option<ConfigVersion>,
    /// The digest of what it received.
    #[serde(default)]
    pub received_digest: Option<String>,
    /// Everything up to here is applied and verified.
    #[serde(default)]
    pub accepted: Option<ConfigVersion>,
    /// What is not applied, and why.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// What its data plane is in.
    #[serde(default)]
    pub data_plane_state: DataPlaneState,
    /// The version that the data plane itself says it runs.
    #[serde(default)]
    pub running_version: Option<ConfigVersion>,
    /// Observations in the system's form.
    #[serde(default)]
    pub health: Value,
}

/// Facts with the place that they have in the life of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The node.
    pub node: String,
    /// The process.
    pub agent_incarnation: AgentIncarnation,
    /// Its call.
    pub sequence: u64,
    /// When it was received.
    pub at: Timestamp,
    /// What it said.
    pub facts: Facts,
    /// Lines for the node's log about what the agent was sent since its last report: they are of use
    /// together, and cost no write of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<LogEntry>,
}

/// Something that is appended durably and folded later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// What a node has.
    Report(Report),
    /// Something for the node's log.
    Note {
        /// The node.
        node: String,
        /// The line.
        entry: LogEntry,
    },
}

impl Fact {
    /// The node that it is about.
    pub fn node(&self) -> &str {
        match self {
            Self::Report(report) => &report.node,
            Self::Note { node, .. } => node,
        }
    }
}

/// One line of a node's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When.
    pub at: Timestamp,
    /// `registered`, `sent`, `accepted`, `held`, `released`, `silent`, `returned`.
    pub event: String,
    /// For people.
    pub message: String,
}

/// The stored status of a node, with the names of the seed document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Everything up to this version is accepted and runs.
    pub current_config_version: ConfigVersion,
    /// When the report came that this was made from, RFC 3339; the live value is newer.
    pub last_heartbeat: String,
    /// The last change of the node's own configuration that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_change_id: Option<String>,
    /// The process that said so.
    pub agent_incarnation: AgentIncarnation,
    /// Its call.
    pub sequence: u64,
    /// What it said.
    #[serde(flatten)]
    pub facts: Facts,
}

/// One `sync` of an agent.
#[derive(Clone, Debug)]
pub struct SyncCall {
    /// The node.
    pub node: String,
    /// The process.
    pub agent_incarnation: AgentIncarnation,
    /// Its call.
    pub sequence: u64,
    /// What it has.
    pub facts: Facts,
    /// How long it may be kept waiting.
    pub wait: Duration,
}

/// What an agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAnswer {
    /// Nothing new; under this version when one is named.
    Same(Option<ConfigVersion>),
    /// It should run this.
    Configuration(Box<Delivered>),
}
