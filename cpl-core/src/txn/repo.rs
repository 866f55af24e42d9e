//! The keys of the records that go with every write of people.

use serde::de::DeserializeOwned;

use super::model::{KeyKind, KeyRow, Record, TypedKey};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::store::Entry;

/// Where everything that people read with a store's own tools lies.
pub const ROOT: &str = "/cpl/v1/";
/// Audit records, in order of time.
pub const AUDIT: KeyKind<Record> = KeyKind::new("/cpl/v1/audit/{id}");
/// Answers by the digest of actor and idempotency key.
pub const IDEMPOTENCY: KeyKind<Record> = KeyKind::new("/cpl/v1/idempotency/{digest}");

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![AUDIT.row(), IDEMPOTENCY.row()]
}

/// The key of an audit record; the request id tells apart those of one millisecond.
pub fn audit_key(at: Timestamp, request_id: &str) -> TypedKey<Record> {
    AUDIT.key(&[&format!("{:013}-{request_id}", at.0)])
}

/// The key of an answer; the actor is inside, so that nobody meets another's keys.
pub fn idempotency_key(actor: &str, key: &str) -> TypedKey<Record> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{}:{actor}:{key}", actor.len()).as_bytes());
    IDEMPOTENCY.key(&[&hex::encode(digest)])
}

/// The stored record of an entry, when there is one.
///
/// # Errors
/// `Corrupt` when it is not readable: that is never taken for absence.
pub fn decode<T: DeserializeOwned>(entry: Option<&Entry>) -> Result<Option<T>, Error> {
    let read = |entry: &Entry| {
        serde_json::from_slice(&entry.value).map_err(|error| Error::corrupt(&entry.key, error))
    };
    entry.map(read).transpose()
}
