//! The four constructors. What they build is only ever committed by [`commit`](super::commit).

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::model::{AuditRecord, Claim, Command, Held, Record, Spec, TypedKey};
use crate::ids::TxnId;
use crate::store::{Expect, Key, KeyMeta, Op, Revision, Txn};
use crate::version::ConfigVersion;

/// What a write knows of a key that it guards: its revision, or that it is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(Expect);

impl Guard {
    /// The key is not there.
    pub const ABSENT: Self = Self(Expect::Absent);

    /// The key is as it was when `meta` was read; absent when there was none.
    pub fn of(meta: Option<&KeyMeta>) -> Self {
        Self(meta.map_or(Expect::Absent, |meta| {
            Expect::ModRevision(meta.mod_revision)
        }))
    }

    /// The key was last put at this revision.
    pub const fn at(revision: Revision) -> Self {
        Self(Expect::ModRevision(revision))
    }
}

/// The proof of an ownership: the compare that fails once somebody else is the owner.
pub trait Fence {
    /// The record of the ownership.
    fn key(&self) -> &Key;

    /// The revision of that record while the ownership lasts.
    fn revision(&self) -> Revision;
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Types that are stored hold only what JSON can express; see their goldens.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Adds a compare once: several writes of one transaction may guard the same key.
fn guard(txn: &mut Txn, key: &Key, guard: Guard) {
    if txn.compares.iter().all(|compare| compare.key != *key) {
        *txn = std::mem::take(txn).expect(key.clone(), guard.0);
    }
}

fn put(txn: &mut Txn, key: Key, value: Bytes) {
    txn.ops.push(Op::Put(key, value));
}

/// A change of people's configuration, for one or several versions in a row.
#[derive(Debug)]
pub struct SpecTxn(Txn);

impl SpecTxn {
    /// Starts from the version counter as it was read; `last` is the highest version of the changes.
    pub fn new(id: TxnId, counter: &TypedKey<Spec>, was: Guard, last: ConfigVersion) -> Self {
        let mut txn = Txn::new().with_id(id);
        guard(&mut txn, counter.key(), was);
        put(&mut txn, counter.key().clone(), last.to_string().into());
        Self(txn)
    }

    /// Writes a part of an object that is as it was read.
    pub fn put(&mut self, key: TypedKey<Spec>, was: Guard, value: &Value) {
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(value));
    }

    /// Removes a part of an object that is as it was read.
    pub fn delete(&mut self, key: TypedKey<Spec>, was: Guard) {
        guard(&mut self.0, key.key(), was);
        self.0.ops.push(Op::Delete(key.into_key()));
    }

    /// Adds a record that must not exist yet.
    pub fn record<T: Serialize>(&mut self, key: TypedKey<Record>, value: &T) {
        guard(&mut self.0, key.key(), Guard::ABSENT);
        put(&mut self.0, key.into_key(), json(value));
    }

    /// Removes what agents and controllers keep of an object that goes with this transaction, so that
    /// nothing of it lands on another object of the same name.
    pub fn forget(&mut self, companions: impl IntoIterator<Item = Key>) {
        self.0.ops.extend(companions.into_iter().map(Op::Delete));
    }

    /// Whether `more` further writes and bytes fit into one transaction.
    pub fn fits(&self, more_ops: usize, more_bytes: usize, limits: &crate::store::Limits) -> bool {
        let ops = self.0.ops.len().max(self.0.compares.len());
        ops + more_ops <= limits.txn_ops && self.0.bytes() + more_bytes <= limits.txn_bytes
    }

    pub(super) fn into_txn(self) -> Txn {
        self.0
    }
}

/// A write of people that is no change of specs. Audited, without a version.
#[derive(Debug)]
pub struct CommandTxn(Txn);

impl CommandTxn {
    /// Starts with its audit record, which goes to `key`.
    pub fn new(id: TxnId, key: TypedKey<Record>, audit: &AuditRecord) -> Self {
        let mut txn = Txn::new().with_id(id);
        guard(&mut txn, key.key(), Guard::ABSENT);
        put(&mut txn, key.into_key(), json(audit));
        Self(txn)
    }

    /// Writes a record that is as it was read.
    #[must_use]
    pub fn put<T: Serialize>(mut self, key: TypedKey<Command>, was: Guard, value: &T) -> Self {
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(value));
        self
    }

    /// Removes a record that is as it was read.
    #[must_use]
    pub fn delete(mut self, key: TypedKey<Command>, was: Guard) -> Self {
        guard(&mut self.0, key.key(), was);
        self.0.ops.push(Op::Delete(key.into_key()));
        self
    }

    /// Adds a record that must not exist yet, for example the answer to an idempotency key.
    #[must_use]
    pub fn record<T: Serialize>(mut self, key: TypedKey<Record>, value: &T) -> Self {
        guard(&mut self.0, key.key(), Guard::ABSENT);
        put(&mut self.0, key.into_key(), json(value));
        self
    }

    pub(super) fn into_txn(self) -> Txn {
        self.0
    }
}

/// Taking an ownership from whoever has it, or from nobody.
#[derive(Debug)]
pub struct ClaimTxn(Txn);

impl ClaimTxn {
    /// Takes `key`, which is as it was read.
    pub fn new<T: Serialize>(id: TxnId, key: TypedKey<Claim>, was: Guard, value: &T) -> Self {
        let mut txn = Txn::new().with_id(id);
        guard(&mut txn, key.key(), was);
        put(&mut txn, key.into_key(), json(value));
        Self(txn)
    }

    /// Removes an ownership, which is as it was read, and takes nothing.
    pub fn end(id: TxnId, key: TypedKey<Claim>, was: Guard) -> Self {
        Self(Txn::new().with_id(id)).release(key, was)
    }

    /// Only while this is still held.
    #[must_use]
    pub fn under(mut self, fence: &dyn Fence) -> Self {
        guard(&mut self.0, fence.key(), Guard::at(fence.revision()));
        self
    }

    /// Also takes `key`, which is as it was read.
    #[must_use]
    pub fn also<T: Serialize>(mut self, key: TypedKey<Claim>, was: Guard, value: &T) -> Self {
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(value));
        self
    }

    /// Removes the ownership of somebody who is gone, which is as it was read.
    #[must_use]
    pub fn release(mut self, key: TypedKey<Claim>, was: Guard) -> Self {
        guard(&mut self.0, key.key(), was);
        self.0.ops.push(Op::Delete(key.into_key()));
        self
    }

    /// Also writes a record that the claim uses up or brings along, as it was read.
    #[must_use]
    pub fn with<T: Serialize>(mut self, key: TypedKey<Command>, was: Guard, value: &T) -> Self {
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(value));
        self
    }

    pub(super) fn into_txn(self) -> Txn {
        self.0
    }
}

/// A write of a holder; refused once somebody else holds.
#[derive(Debug)]
pub struct FencedTxn(Txn);

impl FencedTxn {
    /// Starts with the fence.
    pub fn new(id: TxnId, fence: &dyn Fence) -> Self {
        let mut txn = Txn::new().with_id(id);
        guard(&mut txn, fence.key(), Guard::at(fence.revision()));
        Self(txn)
    }

    /// Whether nothing would be written.
    pub const fn is_empty(&self) -> bool {
        self.0.ops.is_empty()
    }

    /// Writes a record that is as it was read.
    pub fn put<T: Serialize>(&mut self, key: TypedKey<Held>, was: Guard, value: &T) {
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(value));
    }

    /// Removes a record, whatever it is now: only the holder writes it.
    pub fn delete(&mut self, key: TypedKey<Held>) {
        self.0.ops.push(Op::Delete(key.into_key()));
    }

    /// Requires that a key is as it was read, without writing it.
    pub fn require(&mut self, key: &Key, was: Guard) {
        guard(&mut self.0, key, was);
    }

    /// Removes a record that has outlived its retention.
    pub fn trim(&mut self, key: TypedKey<Record>) {
        self.0.ops.push(Op::Delete(key.into_key()));
    }

    /// The one exception: sets `desired_config_version` inside a node's stored spec, which is as it was
    /// read, and changes nothing else in it.
    pub fn put_desired_version(
        &mut self,
        key: TypedKey<Spec>,
        was: Guard,
        stored: &Value,
        desired: ConfigVersion,
    ) {
        let mut spec = stored.clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.insert("desired_config_version".to_owned(), desired.0.into());
        }
        guard(&mut self.0, key.key(), was);
        put(&mut self.0, key.into_key(), json(&spec));
    }

    pub(super) fn into_txn(self) -> Txn {
        self.0
    }
}

/// Any of the four.
pub trait IntoTxn: Send {
    /// The transaction that it stands for.
    fn into_txn(self) -> Txn;
}

macro_rules! into_txn {
    ($($name:ident),*) => {
        $(impl IntoTxn for $name {
            fn into_txn(self) -> Txn {
                Self::into_txn(self)
            }
        })*
    };
}

into_txn!(SpecTxn, CommandTxn, ClaimTxn, FencedTxn);
