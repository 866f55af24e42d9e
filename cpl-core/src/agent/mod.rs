//! Agents: which process speaks for a node, and whether it is heard.
//!
//! Registration gives each process of an agent an incarnation; a greater one supersedes it. Presence
//! costs one write when an agent arrives and one when it falls silent, and nothing in between.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{AgentRecord, Arrival, Heard, Presence};
pub use self::repo::{AGENT, HEARTBEAT_LEASE, agent_key, heartbeat_lease_key, keys};
pub use self::rules::{Hearing, Orphans, Roll, RollChange};
pub use self::service::{Registry, RegistryConfig};
