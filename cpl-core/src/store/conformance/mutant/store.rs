//! A correct store with one defect before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::defect::Defect;
use super::{lists, watches};
use crate::ids::{SealId, TxnId};
use crate::store::conformance::world::step_aside;
use crate::store::{
    Commit, Cursor, Entry, Error, Expect, Key, Kind, Limits, ListRequest, Op, Outcome, Page, Range,
    Read, Revision, Store, Txn, WatchStream,
};

/// Most watches of a store that leaks them.
const ROOM_FOR_WATCHES: usize = 1_000;
/// Longest key of a store that refuses long ones.
const LONG_KEY: usize = 1_000;

/// A store with a [`Defect`]; apart from that it does what the store below does.
#[derive(Debug)]
pub struct Mutant {
    pub(super) inner: Arc<dyn Store>,
    pub(super) defect: Defect,
    memory: Mutex<Memory>,
}

/// What defects need to remember.
#[derive(Debug, Default)]
struct Memory {
    compacted: Revision,
    reads: BTreeMap<Key, Read<Option<Entry>>>,
    watches: usize,
    dropped: bool,
}

impl Mutant {
    /// `inner`, broken in one way.
    pub fn new(inner: Arc<dyn Store>, defect: Defect) -> Self {
        Self {
            inner,
            defect,
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store below is asked to commit instead.
    async fn changed(&self, mut txn: Txn) -> Result<Txn, Error> {
        let only_deletes = txn.ops.iter().all(|op| matches!(op, Op::Delete(_)));
        match self.defect {
            Defect::IgnoresCompares => txn.compares.clear(),
            Defect::DeletesWithoutComparing if only_deletes && !txn.ops.is_empty() => {
                txn.compares.clear();
            },
            Defect::ForgetsIds => txn.id = None,
            Defect::NothingIsARevision if txn.ops.is_empty() => {
                txn = txn.put(Key::new("bump")?, "");
            },
            Defect::AcceptsAKeyTwice => {
                let last: BTreeMap<Key, Op> = txn
                    .ops
                    .into_iter()
                    .map(|op| (op.key().clone(), op))
                    .collect();
                txn.ops = last.into_values().collect();
            },
            Defect::KeepsDeletedKeys => {
                for op in &mut txn.ops {
                    if let Op::Delete(key) = op {
                        *op = Op::Put(key.clone(), bytes::Bytes::new());
                    }
                }
            },
            Defect::SkipsEqualValues => {
                let mut changing = Vec::new();
                for op in txn.ops {
                    let there = self.inner.get(op.key()).await?.value;
                    let equal = matches!((&op, there),
                        (Op::Put(_, value), Some(entry)) if entry.value == value);
                    if !equal {
                        changing.push(op);
                    }
                }
                txn.ops = changing;
            },
            Defect::RefusesLongKeys if txn.ops.iter().any(is_long) => {
                return Err(Error::new(Kind::Invalid, "commit a long key"));
            },
            _ => {},
        }
        Ok(txn)
    }

    /// Looks first, lets others go ahead, and then writes.
    async fn compare_then_write(&self, mut txn: Txn) -> Result<Commit, Error> {
        let mut failed = Vec::new();
        for compare in std::mem::take(&mut txn.compares) {
            let found = self
                .inner
                .get(&compare.key)
                .await?
                .value
                .map(|entry| entry.meta);
            let holds = match compare.expect {
                Expect::Absent => found.is_none(),
                Expect::ModRevision(at) => found.is_some_and(|meta| meta.mod_revision == at),
            };
            if !holds {
                failed.push((compare.key, found));
            }
        }
        if !failed.is_empty() {
            let at = self.inner.head().await?;
            return Ok(Commit::CompareFailed { failed, at });
        }
        step_aside().await;
        self.inner.commit(txn).await
    }

    async fn one_by_one(&self, txn: Txn) -> Result<Commit, Error> {
        let mut rest = txn.ops.into_iter();
        let first = Txn {
            ops: rest.next().into_iter().collect(),
            ..Txn {
                ops: Vec::new(),
                ..txn
            }
        };
        let mut answer = self.inner.commit(first).await?;
        if matches!(answer, Commit::CompareFailed { .. }) {
            return Ok(answer);
        }
        for op in rest {
            let ops = vec![op];
            answer = self.inner.commit(Txn { ops, ..Txn::new() }).await?;
        }
        Ok(answer)
    }

    /// Whether the commit is to be answered without being made, because a caller gave up before.
    async fn lost_after_a_drop(&self) -> bool {
        let mut under_way = UnderWay(Some(self));
        step_aside().await;
        under_way.0 = None;
        std::mem::take(&mut self.memory().dropped)
    }
}

/// A call that has not got past its first step.
struct UnderWay<'a>(Option<&'a Mutant>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(mutant) = self.0 {
            mutant.memory().dropped = true;
        }
    }
}

fn is_long(op: &Op) -> bool {
    op.key().as_bytes().len() > LONG_KEY
}

/// What the caller is told instead of an answer to a commit.
async fn told(mutant: &Mutant, answer: Result<Commit, Error>) -> Result<Commit, Error> {
    match (mutant.defect, answer) {
        (Defect::TakesFailureForFalseCompare, Err(_)) => {
            let failed = Vec::new();
            let at = mutant.inner.head().await?;
            Ok(Commit::CompareFailed { failed, at })
        },
        (Defect::KeepsFalseComparesToItself, Ok(Commit::CompareFailed { at, .. })) => {
            let failed = Vec::new();
            Ok(Commit::CompareFailed { failed, at })
        },
        (Defect::DoesNotNameLimits, Err(error))
            if matches!(error.kind(), Kind::LimitExceeded { .. }) =>
        {
            Err(Error::new(Kind::Invalid, "commit a transaction"))
        },
        (Defect::ForgetsBodies, Err(error)) if *error.kind() == Kind::TxnIdReused => {
            let at = mutant.inner.head().await?;
            Ok(Commit::Applied { at, replayed: true })
        },
        (_, answer) => answer,
    }
}

#[async_trait]
impl Store for Mutant {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        let mut head = self.inner.head().await?;
        if self.defect == Defect::TellsAnOldHead {
            head.revision = Revision(head.revision.0.saturating_sub(1));
        }
        Ok(head)
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let mut read = self.inner.get(key).await?;
        match self.defect {
            Defect::ServesAStaleRead => {
                let mut memory = self.memory();
                if let Some(old) = memory.reads.remove(key) {
                    return Ok(old);
                }
                memory.reads.insert(key.clone(), read.clone());
            },
            Defect::TakesEmptyForAbsent => read.value = read.value.filter(|e| !e.value.is_empty()),
            Defect::CompactsLiveValues => {
                let compacted = self.memory().compacted;
                read.value = read.value.filter(|e| e.meta.mod_revision > compacted);
            },
            _ => {},
        }
        Ok(read)
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        let compacted = self.memory().compacted;
        lists::list(self, request, compacted).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let txn = self.changed(txn).await?;
        let answer = match self.defect {
            Defect::ComparesBeforeItWrites => self.compare_then_write(txn).await,
            Defect::SplitsATransaction if txn.ops.len() > 1 => self.one_by_one(txn).await,
            Defect::LosesWhatFollowsADrop if self.lost_after_a_drop().await => {
                let at = self.inner.head().await?;
                let replayed = false;
                Ok(Commit::Applied { at, replayed })
            },
            _ => self.inner.commit(txn).await,
        };
        told(self, answer).await
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        if self.defect == Defect::LeaksWatches {
            let mut memory = self.memory();
            memory.watches += 1;
            if memory.watches > ROOM_FOR_WATCHES {
                return Err(Error::new(Kind::Overloaded, "start a watch"));
            }
        }
        watches::watch(self, range, after).await
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        if self.defect == Defect::OnlyLooksAtOutcomes {
            return Ok(Outcome::Void);
        }
        self.inner.outcome(id).await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        if self.defect == Defect::NeverCompacts {
            return Ok(());
        }
        let result = self.inner.compact(through).await;
        let mut memory = self.memory();
        match result {
            Err(_) if self.defect == Defect::CompactsTheFuture => Ok(()),
            Ok(()) => {
                memory.compacted = memory.compacted.max(through);
                Ok(())
            },
            refused => refused,
        }
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        match self.defect {
            Defect::IgnoresTheSeal => self.inner.head().await,
            Defect::SealsLate => {
                let told = self.inner.head().await?;
                step_aside().await;
                self.inner.seal(seal).await.map(|_| told)
            },
            Defect::TakesAnySeal => match self.inner.seal(seal).await {
                Err(error) if *error.kind() == Kind::Invalid => self.inner.head().await,
                answer => answer,
            },
            _ => self.inner.seal(seal).await,
        }
    }

    async fn unseal(&self) -> Result<(), Error> {
        if self.defect == Defect::StaysSealed {
            return Ok(());
        }
        self.inner.unseal().await
    }
}
