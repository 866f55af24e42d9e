//! What a driver must do, whatever its data plane is.

use std::fmt::{Debug, Display, Formatter};

use async_trait::async_trait;
use cpl_core::delivery::{Configuration, DataPlaneState, ObjectRef, Stage};
use cpl_core::store::Incarnation;
use cpl_core::version::ConfigVersion;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a running data plane says it runs: the label of the last configuration that was applied and
/// verified. It is kept in the data plane itself, not in a file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The life of the store that the version belongs to.
    pub incarnation: Incarnation,
    /// The version that was received.
    pub version: ConfigVersion,
    /// [`Configuration::digest`] of what was applied, which is not what was received while an object
    /// is held.
    pub digest: String,
}

/// What really runs, read from the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whether it runs at all.
    pub state: DataPlaneState,
    /// What it says it runs; `None` when it does not run or was never told.
    pub label: Option<Label>,
}

/// How a configuration was brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It ran already.
    Unchanged,
    /// By this many commands to the running process.
    Runtime(usize),
    /// By a reload, for these reasons.
    Reloaded(Vec<String>),
    /// The data plane was not running and was started.
    Started,
    /// Files were written; there is no data plane.
    Written,
}

/// An object that the data plane does not take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// Which object; `None` when the fault cannot be laid at one object's door.
    pub object: Option<ObjectRef>,
    /// Where it was refused.
    pub stage: Stage,
    /// Why, stable and `UPPER_SNAKE`, for example `ADDRESS_IN_USE`.
    pub code: String,
    /// The field of the object as a JSON pointer, for example `/spec/port`.
    pub field: Option<String>,
    /// Why, for people.
    pub message: String,
}

impl Display for Rejection {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{object}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// What runs differs from what should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// Which object, when it is one object's matter.
    pub object: Option<ObjectRef>,
    /// What differs, for people.
    pub what: String,
}

/// The data plane could not be asked or changed; nothing is known to be wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Unavailable {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Why a configuration was not applied. Traffic goes on as before in every case.
#[derive(Debug)]
pub enum ApplyError {
    /// The configuration is at fault: the same one will be refused again. Not empty.
    Rejected(Vec<Rejection>),
    /// The data plane is at fault: the same configuration may be accepted later.
    Unavailable(Unavailable),
}

impl From<Unavailable> for ApplyError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

/// The part of an agent that touches the real thing.
///
/// One caller at a time: the runtime never calls two methods at once. Dropping a future half-way leaves
/// the data plane in some state between; the next [`Driver::apply`] starts from what it observes.
#[async_trait]
pub trait Driver: Send + Sync + Debug {
    /// Its name as operators write it: `haproxy`, `render`.
    fn name(&self) -> &'static str;

    /// Whether traffic flows. One that only writes files says no, and everything that shows its nodes
    /// says so too.
    fn carries_traffic(&self) -> bool;

    /// Reads what really runs from the data plane itself.
    async fn observe(&self) -> Result<Observed, Unavailable>;

    /// Validates a configuration with the data plane's own means, and without any effect on traffic.
    ///
    /// # Errors
    /// All rejections at once, as far as the data plane tells them at once; or that it could not be
    /// asked.
    async fn check(&self, configuration: &Configuration) -> Result<(), ApplyError>;

    /// Brings the data plane from whatever it runs to `configuration`, verifies that by reading back,
    /// and only then leaves `label` in it. A configuration that runs already is not touched, but the
    /// label is brought up to date.
    async fn apply(
        &self,
        label: &Label,
        configuration: &Configuration,
    ) -> Result<Applied, ApplyError>;

    /// What differs between what runs and `configuration`; empty when nothing does.
    async fn verify(&self, configuration: &Configuration) -> Result<Vec<Drift>, Unavailable>;

    /// What the system's observers want to know, in the system's own form; small.
    async fn health(&self, configuration: &Configuration) -> Result<Value, Unavailable>;

    /// Goes on with work that takes time, for example ending connections of removed endpoints whose
    /// delay has passed. Called about once a second.
    async fn housekeep(&self, configuration: &Configuration) -> Result<(), Unavailable>;

    /// Ends the data plane, when this driver started it. For `cpl dev` and tests: an agent that stops
    /// leaves traffic alone.
    async fn stop(&self) -> Result<(), Unavailable>;
}
