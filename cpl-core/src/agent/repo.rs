//! Where agents are recorded.

use crate::txn::{Claim, Held, KeyKind, KeyRow, TypedKey};

/// The process that speaks for a node.
pub const AGENT: KeyKind<Claim> = KeyKind::new("/cpl/v1/nodes/{name}/agent");
/// Whether it is heard.
pub const HEARTBEAT_LEASE: KeyKind<Held> = KeyKind::new("/cpl/v1/nodes/{name}/heartbeat_lease");

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![AGENT.row(), HEARTBEAT_LEASE.row()]
}

/// The record of a node's agent.
pub fn agent_key(node: &str) -> TypedKey<Claim> {
    AGENT.key(&[node])
}

/// The presence of a node's agent.
pub fn heartbeat_lease_key(node: &str) -> TypedKey<Held> {
    HEARTBEAT_LEASE.key(&[node])
}
