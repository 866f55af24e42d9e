//! The waist of CPL: a small transactional store with revisions and watches.
//!
//! Everything above is built from [`Store::get`], [`Store::list`], [`Store::commit`] and
//! [`Store::watch`]; every backend keeps the same contract, and `conformance` (a feature of this
//! crate) is the suite that says so.

mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod copy;
mod error;
mod faulty;
mod memory;
mod seal;
mod text;
mod types;
mod watch;

use std::fmt::Debug;
use std::pin::Pin;

use async_trait::async_trait;
use futures::Stream;

pub use self::cache::{Cache, Changed, Follower, Index, Snapshot};
pub use self::error::{Class, Error, Kind};
pub use self::faulty::{Faults, FaultyStore};
pub use self::memory::MemoryStore;
pub use self::seal::{OpenMode, Seal};
pub use self::text::{Decoded, Decoder, LINE_BYTES, Summary, export};
pub use self::types::{
    Bound, Commit, Compare, Cursor, EndReason, Entry, Event, Expect, Identity, Incarnation, Key,
    KeyMeta, Limits, ListRequest, Op, Opening, Outcome, Page, PageToken, Range, Read, Txn,
    WatchItem,
};
pub use self::watch::{Backlog, Past, Tail};
pub use crate::clock::{Clock, Monotonic, Spawner, Task, Timestamp};
pub use crate::ids::{IdGen, SealId, StoreId, TxnId};
pub use crate::limits;
pub use crate::version::Revision;

/// The items of a watch; ends after exactly one [`WatchItem::End`].
pub type WatchStream = Pin<Box<dyn Stream<Item = WatchItem> + Send>>;

/// A transactional key-value store with ordered revisions.
///
/// # Contract
///
/// - **Revisions** strictly increase in commit order, and commit order is visibility order: a read at
///   revision R holds all effects of every revision up to R and none of a later one. They need not be
///   dense.
/// - **Reads** are linearizable, unless the caller names a revision that they must have reached.
/// - **Only durable data is readable**: nothing is visible before it would survive a crash.
/// - **Transactions** are all or nothing and are never split. A false compare is an answer, not an
///   error, and then nothing happened.
/// - **Dropping a future** of `commit` or `outcome` leaves its outcome unknown: it may have happened,
///   or may still happen.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// What this store accepts, and whether one process has it alone.
    fn limits(&self) -> Limits;

    /// Why the next write would be refused, as far as is known without asking: a full disk, a standby.
    /// `None` promises nothing. For health checks; asks nobody and never blocks.
    fn refusal(&self) -> Option<Error> {
        None
    }

    /// The newest revision, linearizably, as a cursor that a watch can start after.
    async fn head(&self) -> Result<Cursor, Error>;

    /// One entry, or its absence, and the revision at which that was true.
    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error>;

    /// One page of a range, in key order.
    ///
    /// The first page fixes a revision and every later page reads at that one; a page may be short,
    /// only the absence of a next token ends the list.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when compaction passed the revision of the token: list anew.
    /// [`Kind::FutureRevision`] when the token is ahead of the store.
    /// [`Kind::IdentityChanged`] when the token is of another store, incarnation or copy.
    /// [`Kind::Invalid`] when the token is of another range.
    async fn list(&self, request: ListRequest) -> Result<Page, Error>;

    /// Applies a transaction, or answers which compares were false.
    ///
    /// Repeating a transaction that carries a [`TxnId`] within [`limits::OUTCOME_RETENTION`] returns
    /// the first outcome without evaluating it again.
    ///
    /// # Errors
    /// Their [`Error::class`] says what happened to the write. [`Kind::TxnIdReused`] when the id is
    /// known with another body, [`Kind::TxnVoid`] when [`Store::outcome`] has ruled it out.
    async fn commit(&self, txn: Txn) -> Result<Commit, Error>;

    /// Every change in `range` after the cursor, once and in order.
    ///
    /// # Errors
    /// [`Kind::Compacted`], [`Kind::FutureRevision`], [`Kind::IdentityChanged`]; once the stream
    /// runs, its last item says why it ended.
    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error>;

    /// What became of the transaction with this id. This is a write: when the transaction is not
    /// recorded it is recorded as void, and can never apply later.
    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error>;

    /// Forgets superseded values and events up to and including `through`; live values stay. Lower
    /// than an earlier compaction does nothing.
    ///
    /// # Errors
    /// [`Kind::FutureRevision`] when `through` is above the newest revision.
    async fn compact(&self, through: Revision) -> Result<(), Error>;

    /// Ends all writing, of every process, until [`Store::unseal`]: whoever moves a store seals it first.
    ///
    /// The answer is a place in history after everything that was ever applied. From then on every
    /// transaction that would change something is refused with [`Kind::ReadOnly`], also when the store is
    /// opened anew. Everything else goes on, also the settling of outcomes. May be repeated with the same `seal`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when it has another seal, or is not complete.
    async fn seal(&self, seal: SealId) -> Result<Cursor, Error>;

    /// Takes writes again, whoever has sealed it. Changes nothing where there is no seal. A store that was
    /// opened to be filled ([`OpenMode::New`]) is complete from then on.
    async fn unseal(&self) -> Result<(), Error>;
}
