//! Where ownerships are recorded.

use crate::store::Key;
use crate::txn::{Claim, KeyKind, KeyRow};

/// Sessions by replica.
pub const SESSION: KeyKind<Claim> = KeyKind::new("/cpl/v1/sessions/{replica}");
/// The renewals of sessions by replica, on shared stores.
pub const RENEWAL: KeyKind<Claim> = KeyKind::new("/cpl/v1/session_renewals/{replica}");
/// The newest epoch of a session.
pub const EPOCH: KeyKind<Claim> = KeyKind::new("/cpl/v1/session_epoch");
/// Owners by shard.
pub const SHARD: KeyKind<Claim> = KeyKind::new("/cpl/v1/shards/{shard}");

/// Whether a key is of a session: nobody holds one in the next life of a store, where it need not lapse first.
pub fn is_of_a_session(key: &Key) -> bool {
    SESSION.parts(key).is_some() || RENEWAL.parts(key).is_some()
}

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![SESSION.row(), RENEWAL.row(), EPOCH.row(), SHARD.row()]
}
