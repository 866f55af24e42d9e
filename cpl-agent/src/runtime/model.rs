//! What an agent remembers.

use std::sync::Arc;

use cpl_core::delivery::{ConfigObject, Configuration, Hold};
use cpl_core::store::Identity;
use cpl_core::version::ConfigVersion;
use serde::{Deserialize, Serialize};

use crate::driver::Label;

/// The format of [`Record`] in files.
pub(super) const FORMAT: u32 = 1;

/// Who an agent is. Nothing of it changes while the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Me {
    /// The node.
    pub(super) node: String,
    /// The driver's name.
    pub(super) driver: String,
    /// Drawn at start: what this process was refused it does not try again, the next one does.
    pub(super) process: String,
}

/// Which configuration was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Received {
    /// Of which store and life the version is.
    pub(super) identity: Identity,
    /// Everything up to this version is in it.
    pub(super) version: ConfigVersion,
    /// Its digest.
    pub(super) digest: String,
}

/// A hold, with what makes it end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// What is reported.
    pub(super) hold: Hold,
    /// What exactly was refused: see [`basis`]; for a hold of the whole the digest of the whole.
    pub(super) basis: String,
    /// Which process was refused.
    pub(super) process: String,
}

/// What was applied and verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    /// What the data plane was told to call it.
    pub(super) label: Label,
    /// The content.
    pub(super) configuration: Configuration,
}

/// What the agent knows of its node, as it is kept on disk: `current.json` holds what is so,
/// `pending.json` what will be so if the apply in progress succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// The node that it is about.
    pub(super) node: String,
    /// The driver that applied it.
    pub(super) driver: String,
    /// What was received and worked on last.
    pub(super) received: Received,
    /// Everything up to here, of the life that `received` is of, was applied and verified.
    pub(super) accepted: Option<ConfigVersion>,
    /// The objects whose newest body does not run, by kind and name.
    pub(super) held: Vec<Held>,
    /// Why nothing of what was received runs, when that is so.
    pub(super) whole: Option<Held>,
    /// What runs instead, or because of it; absent before the first success.
    pub(super) running: Option<Arc<Running>>,
}

impl Record {
    /// Whether everything that was received runs.
    pub(super) fn is_complete(&self) -> bool {
        self.held.is_empty() && self.whole.is_none() && self.running.is_some()
    }

    /// Why a record that was read from a file must not be used.
    pub(super) fn fault(&self, node: &str, driver: &str) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("its format is {}, not {FORMAT}", self.format));
        }
        if self.node != node || self.driver != driver {
            return Some(format!(
                "it is of node {} with driver {}",
                self.node, self.driver
            ));
        }
        let running = self.running.as_ref()?;
        (running.configuration.digest() != running.label.digest)
            .then(|| "its content is not what its digest says".to_owned())
    }
}

/// What an agent was refused when an object was refused: the object with its generation and body, the
/// attempt, and the node's own part, on which the refusal may have depended.
pub(super) fn basis(configuration: &Configuration, object: &ConfigObject) -> String {
    let alone = Configuration {
        system: configuration.system.clone(),
        schema: configuration.schema,
        attempt: configuration.attempt,
        node: configuration.node.clone(),
        objects: vec![object.clone()],
    };
    format!("{}/{}", object.generation, alone.digest())
}
