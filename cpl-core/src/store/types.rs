//! What goes into a store and what comes out.

use std::fmt::{Debug, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{Error, Kind};
use crate::ids::{StoreId, TxnId};
use crate::limits;
use crate::version::Revision;

/// Which life of a store this is; a restore raises it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Which store, and which life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn once, when the store was created.
    pub store: StoreId,
    /// Raised by every restore.
    pub incarnation: Incarnation,
}

/// A nonce that an embedded file draws at each opening, so that a copy or an old backup of the file
/// is noticed. Zero where the backend has no such thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opening(pub u64);

/// A place in the history of one store: everything up to `revision` has been seen.
///
/// Its text form, `store.incarnation.opening.revision`, is what clients carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which store and life.
    pub identity: Identity,
    /// Which opening of it issued the cursor.
    pub opening: Opening,
    /// The newest revision that was seen.
    pub revision: Revision,
}

impl Display for Cursor {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Identity { store, incarnation } = self.identity;
        write!(
            f,
            "{store}.{}.{:x}.{}",
            incarnation.0, self.opening.0, self.revision
        )
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_cursor(text).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "read a cursor: expected store.incarnation.opening.revision",
            )
        })
    }
}

fn parse_cursor(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(4, '.');
    let store = parts.next()?.parse().ok()?;
    let incarnation = Incarnation(parts.next()?.parse().ok()?);
    let opening = Opening(u64::from_str_radix(parts.next()?, 16).ok()?);
    let revision = Revision(parts.next()?.parse().ok()?);
    Some(Cursor {
        identity: Identity { store, incarnation },
        opening,
        revision,
    })
}

/// A key: 1 to [`limits::KEY_BYTES`] bytes, ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// A key of these bytes.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when empty, [`Kind::LimitExceeded`] when too long.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(Error::new(Kind::Invalid, "build a key: it is empty"));
        }
        check_limit("key bytes", limits::KEY_BYTES, bytes.len())?;
        Ok(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, when it is UTF-8; every key that CPL itself writes is.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Before this key.
    Before(Key),
    /// After every key.
    End,
}

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first key that is inside; `None` for the very first.
    start: Option<Key>,
    end: Bound,
}

impl Range {
    /// Every key.
    pub const fn all() -> Self {
        Self {
            start: None,
            end: Bound::End,
        }
    }

    /// Every key that begins with `prefix`; every key at all when the prefix is empty.
    ///
    /// # Errors
    /// [`Kind::LimitExceeded`] when the prefix is longer than a key may be.
    pub fn prefix(prefix: impl Into<Bytes>) -> Result<Self, Error> {
        let prefix: Bytes = prefix.into();
        if prefix.is_empty() {
            return Ok(Self::all());
        }
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Before(Key::new(end)?)
            },
            None => Bound::End,
        };
        Ok(Self {
            start: Some(Key::new(prefix)?),
            end,
        })
    }

    /// From `start` up to, not including, `end`; empty when it ends before it starts.
    pub const fn between(start: Key, end: Bound) -> Self {
        Self {
            start: Some(start),
            end,
        }
    }

    /// Exactly one key.
    pub fn one(key: &Key) -> Self {
        let mut end = key.0.to_vec();
        end.push(0);
        Self {
            start: Some(key.clone()),
            end: Bound::Before(Key(end.into())),
        }
    }

    /// The first key inside, or `None` when there is no lower bound.
    pub const fn start(&self) -> Option<&Key> {
        self.start.as_ref()
    }

    /// Where it ends.
    pub const fn end(&self) -> &Bound {
        &self.end
    }

    /// Whether `key` is inside.
    pub fn contains(&self, key: &Key) -> bool {
        self.start.as_ref().is_none_or(|start| start <= key)
            && match &self.end {
                Bound::Before(end) => key < end,
                Bound::End => true,
            }
    }
}

/// What the store knows of a live key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyMeta {
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision of its last put.
    pub mod_revision: Revision,
    /// 1 when created, one more with every put; starts again after a delete.
    pub version: u64,
}

/// A live key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value; may be empty, which is not the same as absent.
    pub value: Bytes,
    /// Its revisions.
    pub meta: KeyMeta,
}

/// A result and the place in history at which it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The store as of this revision.
    pub at: Cursor,
}

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Which keys.
    pub range: Range,
    /// Most entries of the page; at least 1, capped by [`limits::PAGE_ENTRIES`].
    pub limit: usize,
    /// Where to go on; `None` for the first page.
    pub page: Option<PageToken>,
}

impl ListRequest {
    /// The first page of `range`, as large as pages may be.
    pub const fn first(range: Range) -> Self {
        Self {
            range,
            limit: limits::PAGE_ENTRIES,
            page: None,
        }
    }
}

/// Where the next page of a list starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The revision that all pages are read at, and the store that it belongs to.
    pub at: Cursor,
    /// The last key of the page before.
    pub after: Key,
    /// The range of the list, so that a token is not used with another.
    pub range: Range,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision that all pages of this list are read at.
    pub at: Cursor,
    /// Where to go on; `None` ends the list.
    pub next: Option<PageToken>,
}

/// What must be true for a transaction to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// The key is live and its last put was this revision.
    ModRevision(Revision),
    /// The key is not live.
    Absent,
}

/// One compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// What is expected of it.
    pub expect: Expect,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sets a value, even to the one that is there.
    Put(Key, Bytes),
    /// Removes a key; removing an absent key changes nothing.
    Delete(Key),
}

impl Op {
    /// The key that is written.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// A set of compares and a set of writes: all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Txn {
    /// The client's name for it, which makes repeating it safe.
    pub id: Option<TxnId>,
    /// All must be true.
    pub compares: Vec<Compare>,
    /// No key twice.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub const fn new() -> Self {
        Self {
            id: None,
            compares: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// With an id.
    #[must_use]
    pub const fn with_id(mut self, id: TxnId) -> Self {
        self.id = Some(id);
        self
    }

    /// With one more compare.
    #[must_use]
    pub fn expect(mut self, key: Key, expect: Expect) -> Self {
        self.compares.push(Compare { key, expect });
        self
    }

    /// With one more put.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put(key, value.into()));
        self
    }

    /// With one more delete.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.ops.push(Op::Delete(key));
        self
    }

    /// Keys and values together, in bytes.
    pub fn bytes(&self) -> usize {
        let compares: usize = self.compares.iter().map(|c| c.key.0.len()).sum();
        let ops: usize = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Put(key, value) => key.0.len() + value.len(),
                Op::Delete(key) => key.0.len(),
            })
            .sum();
        compares + ops
    }

    /// What makes two transactions the same: everything but the id. Backends keep it with the id.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for compare in &self.compares {
            field(compare.key.as_bytes());
            match compare.expect {
                Expect::Absent => field(b"absent"),
                Expect::ModRevision(revision) => field(&revision.0.to_be_bytes()),
            }
        }
        // Compares are pairs and writes are triples: without this a compare could pass as a write.
        field(b"writes");
        for op in &self.ops {
            field(op.key().as_bytes());
            match op {
                Op::Put(_, value) => {
                    field(b"put");
                    field(value);
                },
                Op::Delete(_) => field(b"delete"),
            }
        }
        hash.finalize().into()
    }

    /// Checks everything that every backend refuses, so that all refuse the same.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a key twice among the compares or among the writes,
    /// [`Kind::LimitExceeded`] for what is too much.
    pub fn validate(&self, limits: &Limits) -> Result<(), Error> {
        check_limit("transaction compares", limits.txn_ops, self.compares.len())?;
        check_limit("transaction writes", limits.txn_ops, self.ops.len())?;
        for op in &self.ops {
            if let Op::Put(_, value) = op {
                check_limit("value bytes", limits.value_bytes, value.len())?;
            }
        }
        check_limit("transaction bytes", limits.txn_bytes, self.bytes())?;
        no_key_twice("compared", self.compares.iter().map(|c| &c.key))?;
        no_key_twice("written", self.ops.iter().map(Op::key))
    }
}

fn check_limit(what: &'static str, limit: usize, got: usize) -> Result<(), Error> {
    if got > limit {
        return Err(Error::new(
            Kind::LimitExceeded { what, limit, got },
            "check a request",
        ));
    }
    Ok(())
}

fn no_key_twice<'a>(how: &str, keys: impl Iterator<Item = &'a Key>) -> Result<(), Error> {
    let mut sorted: Vec<&Key> = keys.collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let context = format!("check a transaction: {} is {how} twice", pair[0]);
            Err(Error::new(Kind::Invalid, context))
        },
        None => Ok(()),
    }
}

/// What became of a transaction that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// It is applied and durable.
    Applied {
        /// Its revision; the newest one when it changed nothing.
        at: Cursor,
        /// It had been applied before, and this is that outcome.
        replayed: bool,
    },
    /// A compare was false, and nothing happened.
    CompareFailed {
        /// The keys whose compare was false, and what they are instead.
        failed: Vec<(Key, Option<KeyMeta>)>,
        /// When that was true.
        at: Cursor,
    },
}

/// What is recorded of a transaction id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied at this revision.
    Applied(Revision),
    /// It was not applied, and can never apply.
    Void,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was set.
    Put {
        /// The key as it is now; its version is 1 when this created it.
        entry: Entry,
    },
    /// The key was removed. What it was is not said: etcd would have to read it for every event.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Event {
    /// Key and value together, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { entry } => entry.key.0.len() + entry.value.len(),
            Self::Delete { key } => key.0.len(),
        }
    }

    /// The key that changed.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { entry } => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All events of one revision that are in the range, ordered by key.
    Events {
        /// The revision, as a cursor to resume after.
        at: Cursor,
        /// At least one.
        events: Vec<Event>,
    },
    /// Every event up to here has been delivered.
    Progress(Cursor),
    /// The backend has been silent for this long; the watch goes on.
    Stalled(Duration),
    /// The last item: why the watch ended.
    End(EndReason),
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Compaction passed the watcher: list anew.
    Compacted(Revision),
    /// The watcher was too slow: resume after its last item.
    Overflow,
    /// The backend no longer accepts this client.
    Unauthorized,
    /// The store is another one than it was.
    IdentityChanged,
    /// The store is closing.
    Closed,
}

/// What a store accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest value in bytes.
    pub value_bytes: usize,
    /// Most compares, and most writes, in one transaction.
    pub txn_ops: usize,
    /// Largest transaction in bytes, keys and values together.
    pub txn_bytes: usize,
    /// Only one process at a time can have this store open: a new one proves the old one dead.
    pub exclusive: bool,
    /// Every revision is a change of a key. Where it is not, the store's own records take revisions, and so may others
    /// who share the backend: the newest revision moves though nothing changed.
    pub dense: bool,
}

impl Limits {
    /// The limits that every backend keeps.
    pub const fn portable(exclusive: bool) -> Self {
        Self {
            value_bytes: limits::VALUE_BYTES,
            txn_ops: limits::TXN_OPS,
            txn_bytes: limits::TXN_BYTES,
            exclusive,
            dense: true,
        }
    }

    /// The same, of a store whose own records take revisions.
    #[must_use]
    pub const fn sparse(self) -> Self {
        Self {
            dense: false,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_that_differ_have_other_digests() {
        let key = |name: &str| Key::new(name.to_owned()).unwrap();
        let txns = [
            Txn::new(),
            Txn::new().put(key("a"), "b"),
            Txn::new().put(key("ab"), ""),
            Txn::new().put(key("a"), "").put(key("b"), ""),
            Txn::new().delete(key("a")),
            Txn::new().put(key("a"), ""),
            Txn::new().put(key("a"), "delete"),
            Txn::new().expect(key("a"), Expect::Absent),
            Txn::new().expect(key("a"), Expect::ModRevision(Revision(1))),
        ];
        let digests: std::collections::BTreeSet<_> = txns.iter().map(Txn::digest).collect();
        assert_eq!(digests.len(), txns.len());
        let named = Txn::new().with_id(TxnId(7));
        assert_eq!(named.digest(), Txn::new().digest());
    }
}
