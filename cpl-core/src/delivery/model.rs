//! A node's configuration and what the node says of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ids::{ObjectRef, Uid};
use crate::store::Identity;
use crate::version::{ConfigVersion, Generation};

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
    pub body: Value,
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
            add(&body.to_string());
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    Unknown,
}
