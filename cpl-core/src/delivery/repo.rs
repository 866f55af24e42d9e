//! Where deliveries are recorded.

use crate::agent::{agent_key, heartbeat_lease_key};
use crate::store::{Key, Range};
use crate::task::config_update_key;
use crate::txn::{Held, KeyKind, KeyRow, TypedKey};
use crate::version::Epoch;

/// What a node has.
pub const STATUS: KeyKind<Held> = KeyKind::new("/cpl/v1/nodes/{name}/status");
/// What was sent, accepted and refused, and why.
pub const LOG: KeyKind<Held> = KeyKind::new("/cpl/v1/nodes/{name}/log");
/// What the head renders to.
pub const RENDERED: KeyKind<Held> = KeyKind::new("/cpl/v1/nodes/{name}/rendered");
/// Batches of facts that are not folded yet; outside of what people read.
pub const REPORT: KeyKind<Held> = KeyKind::new("/cpl/reports/{shard}/{id}");
/// The one shard of an exclusive store.
const ONLY_SHARD: &str = "0";

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![STATUS.row(), LOG.row(), RENDERED.row(), REPORT.row()]
}

/// The status of a node.
pub fn status_key(node: &str) -> TypedKey<Held> {
    STATUS.key(&[node])
}

/// The log of a node.
pub fn log_key(node: &str) -> TypedKey<Held> {
    LOG.key(&[node])
}

/// What the head renders to for a node.
pub fn rendered_key(node: &str) -> TypedKey<Held> {
    RENDERED.key(&[node])
}

/// The key of a batch: in the order in which they were appended.
pub fn report_key(epoch: Epoch, number: u64) -> TypedKey<Held> {
    REPORT.key(&[ONLY_SHARD, &format!("{:012}-{number:016}", epoch.0)])
}

/// All batches.
pub fn report_range() -> Range {
    REPORT.range(&[ONLY_SHARD])
}

/// Everything that agents and controllers keep of a node, which goes when the node goes.
pub fn companions(node: &str) -> Vec<Key> {
    let held = [
        status_key(node),
        log_key(node),
        rendered_key(node),
        heartbeat_lease_key(node),
        config_update_key(node),
    ];
    let held = held.into_iter().map(TypedKey::into_key);
    held.chain([agent_key(node).into_key()]).collect()
}
