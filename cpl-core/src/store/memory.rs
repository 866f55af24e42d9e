//! The executable model of the contract: everything in memory, kept simple on purpose.
//!
//! It shares no code with the other backends, so that it can be held against them. Watchers pull from
//! one log of committed revisions; a slow watcher costs the writer nothing and ends with
//! [`EndReason::Compacted`] once compaction has passed it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;

use super::error::{Error, Kind};
use super::types::{
    Commit, Compare, Cursor, EndReason, Entry, Event, Expect, Identity, Incarnation, Key, KeyMeta,
    Limits, ListRequest, Op, Opening, Outcome, Page, PageToken, Range, Read, Txn, WatchItem,
};
use super::{Store, WatchStream};
use crate::clock::{Clock, Timestamp};
use crate::ids::{SealId, StoreId, TxnId};
use crate::limits;
use crate::version::Revision;

/// A store that lives and dies with the process.
#[derive(Debug)]
pub struct MemoryStore {
    identity: Identity,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    head: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct State {
    head: Revision,
    compacted: Revision,
    /// Every version of every key that compaction has not passed, oldest first.
    keys: BTreeMap<Key, Vec<Version>>,
    log: BTreeMap<Revision, Vec<Event>>,
    outcomes: BTreeMap<TxnId, Recorded>,
    seal: Option<SealId>,
}

#[derive(Clone, Debug)]
struct Version {
    revision: Revision,
    /// `None` when this revision deleted the key.
    live: Option<(Bytes, KeyMeta)>,
}

#[derive(Clone, Debug)]
struct Recorded {
    at: Timestamp,
    outcome: Outcome,
    body: Option<Txn>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(id: StoreId, clock: Arc<dyn Clock>) -> Self {
        let identity = Identity {
            store: id,
            incarnation: Incarnation(1),
        };
        let (head, _) = watch::channel(Revision(0));
        Self {
            identity,
            clock,
            state: Arc::default(),
            head,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn cursor(&self, revision: Revision) -> Cursor {
        Cursor {
            identity: self.identity,
            opening: Opening(0),
            revision,
        }
    }

    fn check_cursor(&self, cursor: &Cursor, state: &State) -> Result<(), Error> {
        let fail = |kind| Err(Error::new(kind, "resume after a cursor"));
        if cursor.identity != self.identity || cursor.opening != Opening(0) {
            return fail(Kind::IdentityChanged);
        }
        if cursor.revision > state.head {
            return fail(Kind::FutureRevision { head: state.head });
        }
        if cursor.revision < state.compacted {
            return fail(Kind::Compacted {
                compacted: state.compacted,
            });
        }
        Ok(())
    }
}

impl State {
    fn live(&self, key: &Key) -> Option<&(Bytes, KeyMeta)> {
        self.keys.get(key)?.last()?.live.as_ref()
    }

    fn entry_at(key: &Key, versions: &[Version], at: Revision) -> Option<Entry> {
        let version = versions.iter().rev().find(|v| v.revision <= at)?;
        let (value, meta) = version.live.clone()?;
        Some(Entry {
            key: key.clone(),
            value,
            meta,
        })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let meta = self.live(&compare.key).map(|(_, meta)| meta);
        match compare.expect {
            Expect::ModRevision(revision) => meta.is_some_and(|m| m.mod_revision == revision),
            Expect::Absent => meta.is_none(),
        }
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Event> {
        let revision = Revision(self.head.0 + 1);
        let mut events: Vec<Event> = ops
            .iter()
            .filter_map(|op| self.write(op, revision))
            .collect();
        if !events.is_empty() {
            events.sort_by(|a, b| a.key().cmp(b.key()));
            self.head = revision;
            self.log.insert(revision, events.clone());
        }
        events
    }

    fn write(&mut self, op: &Op, revision: Revision) -> Option<Event> {
        let before = self.live(op.key()).map(|(_, meta)| *meta);
        let (live, event) = match op {
            Op::Put(key, value) => {
                let meta = KeyMeta {
                    create_revision: before.map_or(revision, |m| m.create_revision),
                    mod_revision: revision,
                    version: before.map_or(1, |m| m.version + 1),
                };
                let entry = Entry {
                    key: key.clone(),
                    value: value.clone(),
                    meta,
                };
                (Some((value.clone(), meta)), Event::Put { entry })
            },
            Op::Delete(key) => {
                before?;
                (None, Event::Delete { key: key.clone() })
            },
        };
        self.keys
            .entry(op.key().clone())
            .or_default()
            .push(Version { revision, live });
        Some(event)
    }

    fn forget_outcomes(&mut self, now: Timestamp) {
        self.outcomes
            .retain(|_, recorded| now.since(recorded.at) < limits::OUTCOME_RETENTION);
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn limits(&self) -> Limits {
        Limits::portable(true)
    }

    fn refusal(&self) -> Option<Error> {
        self.state().seal.map(|_| Error::sealed())
    }

    async fn head(&self) -> Result<Cursor, Error> {
        Ok(self.cursor(self.state().head))
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let state = self.state();
        let value = state.live(key).map(|(value, meta)| Entry {
            key: key.clone(),
            value: value.clone(),
            meta: *meta,
        });
        Ok(Read {
            value,
            at: self.cursor(state.head),
        })
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        let state = self.state();
        let at = match &request.page {
            Some(token) if token.range != request.range => {
                let context = "list: the page token belongs to another range";
                return Err(Error::new(Kind::Invalid, context));
            },
            Some(token) => {
                self.check_cursor(&token.at, &state)?;
                token.at.revision
            },
            None => state.head,
        };
        let after = request.page.as_ref().map(|token| &token.after);
        let mut matching = state
            .keys
            .iter()
            .filter(|(key, _)| request.range.contains(key) && after.is_none_or(|a| *key > a))
            .filter_map(|(key, versions)| State::entry_at(key, versions, at))
            .peekable();
        let limit = request.limit.clamp(1, limits::PAGE_ENTRIES);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = matching.next_if(|entry| {
            bytes += entry.key.as_bytes().len() + entry.value.len();
            entries.is_empty() || (entries.len() < limit && bytes <= limits::PAGE_BYTES)
        }) {
            entries.push(entry);
        }
        let next = matching.peek().and(entries.last()).map(|last| PageToken {
            at: self.cursor(at),
            after: last.key.clone(),
            range: request.range.clone(),
        });
        Ok(Page {
            entries,
            at: self.cursor(at),
            next,
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        txn.validate(&self.limits())?;
        let mut state = self.state();
        let now = self.clock.wall();
        state.forget_outcomes(now);
        if let Some(recorded) = txn.id.and_then(|id| state.outcomes.get(&id)) {
            let refuse = |kind| Err(Error::new(kind, "commit a transaction"));
            return match recorded.outcome {
                Outcome::Void => refuse(Kind::TxnVoid),
                Outcome::Applied(_) if recorded.body.as_ref() != Some(&txn) => {
                    refuse(Kind::TxnIdReused)
                },
                Outcome::Applied(at) => Ok(Commit::Applied {
                    at: self.cursor(at),
                    replayed: true,
                }),
            };
        }
        if state.seal.is_some() {
            return Err(Error::sealed());
        }
        let failed: Vec<_> = txn
            .compares
            .iter()
            .filter(|compare| !state.holds(compare))
            .map(|c| (c.key.clone(), state.live(&c.key).map(|(_, meta)| *meta)))
            .collect();
        if !failed.is_empty() {
            return Ok(Commit::CompareFailed {
                failed,
                at: self.cursor(state.head),
            });
        }
        let changed = !state.apply(&txn.ops).is_empty();
        let at = state.head;
        if let Some(id) = txn.id {
            let outcome = Outcome::Applied(at);
            state.outcomes.insert(
                id,
                Recorded {
                    at: now,
                    outcome,
                    body: Some(txn),
                },
            );
        }
        drop(state);
        if changed {
            self.head.send_replace(at);
        }
        Ok(Commit::Applied {
            at: self.cursor(at),
            replayed: false,
        })
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.check_cursor(&after, &self.state())?;
        let watcher = Watcher {
            range,
            seen: after,
            state: Arc::clone(&self.state),
            head: self.head.subscribe(),
            ended: false,
        };
        Ok(Box::pin(stream::unfold(watcher, Watcher::next)))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let mut state = self.state();
        let now = self.clock.wall();
        state.forget_outcomes(now);
        let void = Recorded {
            at: now,
            outcome: Outcome::Void,
            body: None,
        };
        Ok(state.outcomes.entry(id).or_insert(void).outcome)
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let mut state = self.state();
        if through > state.head {
            let kind = Kind::FutureRevision { head: state.head };
            return Err(Error::new(kind, "compact the store"));
        }
        if through <= state.compacted {
            return Ok(());
        }
        state.compacted = through;
        state.log.retain(|revision, _| *revision > through);
        state.keys.retain(|_, versions| {
            let superseded = versions
                .iter()
                .rposition(|v| v.revision <= through)
                .unwrap_or_default();
            versions.drain(..superseded);
            versions.len() > 1
                || versions
                    .iter()
                    .any(|v| v.live.is_some() || v.revision > through)
        });
        Ok(())
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        let mut state = self.state();
        if *state.seal.get_or_insert(seal) != seal {
            return Err(Error::sealed_by_another());
        }
        Ok(self.cursor(state.head))
    }

    async fn unseal(&self) -> Result<(), Error> {
        self.state().seal = None;
        Ok(())
    }
}

struct Watcher {
    range: Range,
    seen: Cursor,
    state: Arc<Mutex<State>>,
    head: watch::Receiver<Revision>,
    ended: bool,
}

impl Watcher {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(item) = self.pull() {
                self.ended = matches!(item, WatchItem::End(_));
                return Some((item, self));
            }
            if self.head.changed().await.is_err() {
                // The store is gone; what it committed before has been pulled.
                self.ended = true;
                return Some((WatchItem::End(EndReason::Closed), self));
            }
        }
    }

    /// The next item that is already there. Progress is told only when nothing else is, so it can
    /// never overtake an event.
    fn pull(&mut self) -> Option<WatchItem> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.seen.revision < state.compacted {
            return Some(WatchItem::End(EndReason::Compacted(state.compacted)));
        }
        let newer = (
            std::ops::Bound::Excluded(self.seen.revision),
            std::ops::Bound::Unbounded,
        );
        for (revision, events) in state.log.range(newer) {
            self.seen.revision = *revision;
            let inside: Vec<Event> = events
                .iter()
                .filter(|e| self.range.contains(e.key()))
                .cloned()
                .collect();
            if !inside.is_empty() {
                return Some(WatchItem::Events {
                    at: self.seen,
                    events: inside,
                });
            }
            if *revision == state.head {
                return Some(WatchItem::Progress(self.seen));
            }
        }
        None
    }
}
