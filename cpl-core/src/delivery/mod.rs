//! What a node must run, what it has, what it holds back, and how it catches up.
//!
//! ```text
//! specs --render--> Configuration --sync--> agent --facts--> append --fold--> status, log
//! ```
//!
//! Delivery never waits for a task or a plan: a `sync` is answered from the cache at once when the
//! configuration differs from what the agent received last. Reports are facts: they are appended
//! durably in batches before the call goes on, and folded into status by the owner of the shard.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{
    Body, ConfigObject, Configuration, DataPlaneState, Delivered, Fact, Facts, Hold, Input,
    LogEntry, Rendered, RenderedRecord, Report, Stage, StatusRecord, SyncAnswer, SyncCall, System,
};
pub use self::repo::{
    LOG, RENDERED, REPORT, STATUS, companions, keys, log_key, rendered_key, report_key,
    report_range, status_key,
};
pub use self::rules::{
    Advance, Answered, Folded, NodeFacts, NodePlan, Standing, advance, decide, fold, plan_node,
    standing,
};
pub use self::service::{Appender, Deliveries, DeliveryConfig, Folder};
pub use crate::ids::ObjectRef;
