//! A store that notes what it is asked and what it answers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;

use super::cells::{Answer, Call, State};
use super::table::Coverage;
use crate::ids::{SealId, TxnId};
use crate::store::{
    Class, Commit, Cursor, EndReason, Entry, Error, Key, Limits, ListRequest, Outcome, Page, Range,
    Read, Revision, Store, Txn, WatchItem, WatchStream,
};

#[derive(Debug)]
pub(super) struct Observed {
    inner: Arc<dyn Store>,
    notes: Arc<Notes>,
}

/// What was met so far, of this store and of the run.
#[derive(Debug)]
struct Notes {
    coverage: Coverage,
    written: AtomicBool,
    compacted: AtomicBool,
    /// Commits that were sent and not answered.
    under_way: AtomicUsize,
    /// Transactions of which nobody knows what became of them.
    unsettled: Mutex<BTreeSet<TxnId>>,
}

impl Observed {
    pub(super) fn new(inner: Arc<dyn Store>, coverage: Coverage) -> Self {
        let notes = Arc::new(Notes {
            coverage,
            written: AtomicBool::new(false),
            compacted: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            unsettled: Mutex::default(),
        });
        Self { inner, notes }
    }
}

impl Notes {
    /// The states that hold now: one of the first three, and the last one besides.
    fn states(&self) -> Vec<State> {
        let history = if self.compacted.load(Ordering::SeqCst) {
            State::Compacted
        } else if self.written.load(Ordering::SeqCst) {
            State::Written
        } else {
            State::Empty
        };
        let unsettled = self.unsettled.lock();
        let unsettled = !unsettled.unwrap_or_else(PoisonError::into_inner).is_empty();
        let states = [(true, history), (unsettled, State::Unsettled)];
        states
            .into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, state)| state)
            .collect()
    }

    fn met<T>(
        &self,
        call: Call,
        states: &[State],
        result: Result<T, Error>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Result<T, Error> {
        let answer = match &result {
            Ok(value) => answer(value),
            Err(error) => Answer::Failed(error.class()),
        };
        // A commit of another caller may be in the answer before its own is told: the store was empty when
        // this call began, and what was answered says nothing of an empty one.
        let own = matches!(call, Call::Commit | Call::CommitWithId);
        let under_way = self.under_way.load(Ordering::SeqCst) > 0;
        let passed = !own && (under_way || !self.states().contains(&State::Empty));
        let held = |state: &&State| !(passed && **state == State::Empty);
        for state in states.iter().filter(held) {
            self.coverage.met(call, answer, *state);
        }
        result
    }

    fn item(&self, item: &WatchItem) {
        let answer = match item {
            WatchItem::Events { .. } => Answer::Events,
            WatchItem::Progress(_) => Answer::Progress,
            WatchItem::Stalled(_) => Answer::Stalled,
            WatchItem::End(EndReason::Compacted(_)) => Answer::EndCompacted,
            WatchItem::End(EndReason::Overflow) => Answer::EndOverflow,
            WatchItem::End(
                EndReason::Unauthorized | EndReason::IdentityChanged | EndReason::Closed,
            ) => Answer::EndOther,
        };
        for state in self.states() {
            self.coverage.met(Call::WatchItem, answer, state);
        }
    }

    /// Remembers a transaction whose outcome is unknown, and forgets one whose outcome was told.
    fn settle<T>(&self, id: Option<TxnId>, result: &Result<T, Error>) {
        let Some(id) = id else { return };
        let unsettled = self.unsettled.lock();
        let mut unsettled = unsettled.unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(error) if error.class() == Class::Indeterminate => {
                unsettled.insert(id);
            },
            // Nothing is said of an earlier attempt.
            Err(error) if error.class() == Class::NotApplied => {},
            Ok(_) | Err(_) => {
                unsettled.remove(&id);
            },
        }
    }
}

/// A transaction under way; when it is dropped before it is answered, its outcome is unknown.
struct GivenUp<'a> {
    notes: &'a Notes,
    id: Option<TxnId>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let unsettled = self.notes.unsettled.lock();
            unsettled.unwrap_or_else(PoisonError::into_inner).insert(id);
            self.notes.written.store(true, Ordering::SeqCst);
        }
        self.notes.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a write was made, for all that its caller knows.
fn may_have_happened<T>(result: &Result<T, Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => error.class() == Class::Indeterminate,
    }
}

#[async_trait]
impl Store for Observed {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        let states = self.notes.states();
        let result = self.inner.head().await;
        self.notes
            .met(Call::Head, &states, result, |_| Answer::Done)
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let states = self.notes.states();
        let result = self.inner.get(key).await;
        self.notes
            .met(Call::Get, &states, result, |read| match &read.value {
                Some(_) => Answer::Found,
                None => Answer::Absent,
            })
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        let states = self.notes.states();
        let call = match &request.page {
            None => Call::FirstPage,
            Some(_) => Call::NextPage,
        };
        let result = self.inner.list(request).await;
        self.notes
            .met(call, &states, result, |page| match &page.next {
                Some(_) => Answer::More,
                None => Answer::Last,
            })
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let states = self.notes.states();
        let id = txn.id;
        let call = match id {
            None => Call::Commit,
            Some(_) => Call::CommitWithId,
        };
        self.notes.under_way.fetch_add(1, Ordering::SeqCst);
        let mut given_up = GivenUp {
            notes: &self.notes,
            id,
        };
        let result = self.inner.commit(txn).await;
        given_up.id = None;
        self.notes.settle(id, &result);
        let nothing = matches!(result, Ok(Commit::CompareFailed { .. }));
        if !nothing && may_have_happened(&result) {
            self.notes.written.store(true, Ordering::SeqCst);
        }
        self.notes
            .met(call, &states, result, |commit| match commit {
                Commit::Applied { replayed: true, .. } => Answer::Replayed,
                Commit::Applied {
                    replayed: false, ..
                } => Answer::Applied,
                Commit::CompareFailed { .. } => Answer::CompareFailed,
            })
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        let states = self.notes.states();
        let result = self.inner.watch(range, after).await;
        let stream = self
            .notes
            .met(Call::Watch, &states, result, |_| Answer::Done)?;
        let notes = Arc::clone(&self.notes);
        Ok(Box::pin(stream.inspect(move |item| notes.item(item))))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let states = self.notes.states();
        let result = self.inner.outcome(id).await;
        if result.is_ok() {
            self.notes.settle(Some(id), &result);
        }
        self.notes
            .met(Call::Outcome, &states, result, |outcome| match outcome {
                Outcome::Applied(_) => Answer::Applied,
                Outcome::Void => Answer::Void,
            })
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let states = self.notes.states();
        let result = self.inner.compact(through).await;
        if may_have_happened(&result) {
            let written = self.notes.written.load(Ordering::SeqCst);
            self.notes.compacted.fetch_or(written, Ordering::SeqCst);
        }
        self.notes
            .met(Call::Compact, &states, result, |()| Answer::Done)
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        let states = self.notes.states();
        let result = self.inner.seal(seal).await;
        self.notes
            .met(Call::Seal, &states, result, |_| Answer::Done)
    }

    async fn unseal(&self) -> Result<(), Error> {
        let states = self.notes.states();
        let result = self.inner.unseal().await;
        self.notes
            .met(Call::Unseal, &states, result, |()| Answer::Done)
    }
}
