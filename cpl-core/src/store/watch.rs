//! The newest revisions of a store, in memory, for all watchers of one process.
//!
//! A backend over a network follows its store once per process and tells a [`Tail`] what it sees;
//! watchers pull from it. One that is older than what is kept reads from the backend until it has
//! caught up, through [`Backlog`]: a slow watcher costs the others nothing.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use tokio::sync::watch;

use super::WatchStream;
use super::error::{Error, Kind};
use super::types::{Cursor, EndReason, Event, Identity, Opening, Range, WatchItem};
use crate::clock::{Clock, Monotonic};
use crate::version::Revision;

/// What is kept for watchers that are a little behind: this many bytes of keys and values.
const KEPT_BYTES: usize = 16 << 20;
/// And at most this many revisions.
const KEPT_REVISIONS: usize = 65_536;
/// Pause before the backend is asked again for what it could not tell.
const AGAIN: Duration = Duration::from_millis(500);

/// What is older than a [`Tail`], from the backend.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// The oldest changes in `range` after a revision, whole revisions only, as many as fit into some
    /// megabytes.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when some of them are forgotten, [`Kind::IdentityChanged`]. Any other is
    /// repeated, and the watcher is told that it stalls.
    async fn read(&self, range: &Range, after: Revision) -> Result<Past, Error>;
}

/// A piece of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Oldest first; the events of each ordered by key.
    pub revisions: Vec<(Revision, Vec<Event>)>,
    /// Nothing more happened in the range up to here.
    pub through: Revision,
}

/// The newest revisions of one store and life of it.
pub struct Tail {
    identity: Identity,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// Every revision above this one is in `revisions`.
    floor: Revision,
    head: Revision,
    compacted: Revision,
    revisions: VecDeque<(Revision, Arc<[Event]>)>,
    bytes: usize,
    /// How often and for how long the backend has been silent.
    stalled: (u64, Duration),
    end: Option<EndReason>,
}

impl Debug for Tail {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Tail {
    /// A tail that is told everything after `head`.
    pub fn new(
        identity: Identity,
        head: Revision,
        compacted: Revision,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let state = State {
            floor: head,
            head,
            compacted,
            revisions: VecDeque::new(),
            bytes: 0,
            stalled: (0, Duration::ZERO),
            end: None,
        };
        Self {
            identity,
            clock,
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(()),
        }
    }

    /// Which store and life this is.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// A revision of this store, as a cursor.
    pub const fn cursor(&self, revision: Revision) -> Cursor {
        Cursor {
            identity: self.identity,
            opening: Opening(0),
            revision,
        }
    }

    /// The newest revision that it was told of.
    pub fn head(&self) -> Revision {
        self.state().head
    }

    /// Everything above this revision is kept; what happened at it has been told, or is forgotten.
    pub fn floor(&self) -> Revision {
        self.state().floor
    }

    /// Everything up to here is forgotten, as far as is known.
    pub fn compacted(&self) -> Revision {
        self.state().compacted
    }

    /// The next revision with all its events, ordered by key. What it was told before is ignored.
    pub fn push(&self, revision: Revision, events: Vec<Event>) {
        let mut state = self.state();
        if revision <= state.head {
            return;
        }
        state.head = revision;
        if !events.is_empty() {
            state.bytes += bytes(&events);
            state.revisions.push_back((revision, events.into()));
        }
        while state.bytes > KEPT_BYTES || state.revisions.len() > KEPT_REVISIONS {
            let Some((revision, events)) = state.revisions.pop_front() else {
                break;
            };
            state.floor = revision;
            state.bytes -= bytes(&events);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Nothing more happened up to this revision.
    pub fn progress(&self, revision: Revision) {
        self.push(revision, Vec::new());
    }

    /// Everything up to here is forgotten: watchers that are behind it end, and a tail that is behind it
    /// goes on from there.
    pub fn compact(&self, through: Revision) {
        let mut state = self.state();
        if through > state.compacted {
            state.compacted = through;
            if through > state.head {
                (state.head, state.floor) = (through, through);
                state.revisions.clear();
                state.bytes = 0;
            }
            drop(state);
            self.changed.send_replace(());
        }
    }

    /// The backend has been silent for this long; watchers are told each time.
    pub fn stall(&self, silence: Duration) {
        let mut state = self.state();
        state.stalled = (state.stalled.0 + 1, silence);
        drop(state);
        self.changed.send_replace(());
    }

    /// Nothing more will be told; the first reason counts.
    pub fn end(&self, reason: EndReason) {
        self.state().end.get_or_insert(reason);
        self.changed.send_replace(());
    }

    /// Checks what can be checked of a cursor without the backend.
    ///
    /// # Errors
    /// [`Kind::IdentityChanged`], [`Kind::Compacted`].
    pub fn check(&self, cursor: &Cursor) -> Result<(), Error> {
        let fail = |kind| Err(Error::new(kind, "resume after a cursor"));
        let compacted = self.compacted();
        if cursor.identity != self.identity || cursor.opening != Opening(0) {
            return fail(Kind::IdentityChanged);
        }
        if cursor.revision < compacted {
            return fail(Kind::Compacted { compacted });
        }
        Ok(())
    }

    /// Every change in `range` after a cursor that was checked. One that is ahead of this tail waits for
    /// it: another process may have seen more.
    pub fn watch(&self, range: Range, after: Cursor, backlog: Arc<dyn Backlog>) -> WatchStream {
        let watcher = Watcher {
            range,
            seen: after,
            stalled: self.state().stalled.0,
            state: Arc::clone(&self.state),
            changed: self.changed.subscribe(),
            clock: Arc::clone(&self.clock),
            backlog,
            past: VecDeque::new(),
            failing: None,
            ended: false,
        };
        Box::pin(stream::unfold(watcher, Watcher::next))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(events: &[Event]) -> usize {
    events.iter().map(Event::bytes).sum()
}

struct Watcher {
    range: Range,
    seen: Cursor,
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<()>,
    clock: Arc<dyn Clock>,
    backlog: Arc<dyn Backlog>,
    /// What was read from the backend and not yet told.
    past: VecDeque<(Revision, Vec<Event>)>,
    /// Since when the backend could not tell the past.
    failing: Option<Monotonic>,
    /// How often it was told of a silence.
    stalled: u64,
    ended: bool,
}

enum Pulled {
    Item(WatchItem),
    Behind,
    Nothing,
}

impl Watcher {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        while !self.ended {
            let item = match self.pull() {
                Pulled::Item(item) => Some(item),
                Pulled::Behind => self.catch_up().await,
                Pulled::Nothing => match self.changed.changed().await {
                    Ok(()) => None,
                    // The store is gone; what it told before has been pulled.
                    Err(_) => Some(WatchItem::End(EndReason::Closed)),
                },
            };
            if let Some(item) = item {
                self.ended = matches!(item, WatchItem::End(_));
                return Some((item, self));
            }
        }
        None
    }

    /// The next item that is already there. Progress is told only when nothing else is, so it can
    /// never overtake an event.
    fn pull(&mut self) -> Pulled {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.seen.revision < state.compacted {
            return Pulled::Item(WatchItem::End(EndReason::Compacted(state.compacted)));
        }
        if let Some((revision, events)) = self.past.pop_front() {
            self.seen.revision = revision;
            if events.is_empty() {
                return Pulled::Item(WatchItem::Progress(self.seen));
            }
            let at = self.seen;
            return Pulled::Item(WatchItem::Events { at, events });
        }
        if self.seen.revision < state.floor {
            return Pulled::Behind;
        }
        let first = state
            .revisions
            .partition_point(|(revision, _)| *revision <= self.seen.revision);
        for (revision, events) in state.revisions.range(first..) {
            let inside = |event: &&Event| self.range.contains(event.key());
            let events: Vec<Event> = events.iter().filter(inside).cloned().collect();
            if !events.is_empty() {
                self.seen.revision = *revision;
                let at = self.seen;
                return Pulled::Item(WatchItem::Events { at, events });
            }
        }
        if self.seen.revision < state.head {
            self.seen.revision = state.head;
            return Pulled::Item(WatchItem::Progress(self.seen));
        }
        if self.stalled != state.stalled.0 {
            self.stalled = state.stalled.0;
            return Pulled::Item(WatchItem::Stalled(state.stalled.1));
        }
        match &state.end {
            Some(reason) => Pulled::Item(WatchItem::End(reason.clone())),
            None => Pulled::Nothing,
        }
    }

    /// Reads the next piece of what is no longer kept.
    async fn catch_up(&mut self) -> Option<WatchItem> {
        let read = self.backlog.read(&self.range, self.seen.revision).await;
        let past = match read {
            Ok(past) => past,
            Err(error) => return Some(self.failed(&error).await),
        };
        self.failing = None;
        self.past.extend(past.revisions);
        let last = self.past.back().map_or(self.seen.revision, |last| last.0);
        if past.through > last {
            self.past.push_back((past.through, Vec::new()));
        } else if self.past.is_empty() {
            self.clock.sleep(AGAIN).await;
        }
        None
    }

    async fn failed(&mut self, error: &Error) -> WatchItem {
        let reason = if let Kind::Compacted { compacted } = error.kind() {
            EndReason::Compacted(*compacted)
        } else if *error.kind() == Kind::IdentityChanged {
            EndReason::IdentityChanged
        } else if *error.kind() == Kind::Unauthorized {
            EndReason::Unauthorized
        } else {
            let since = *self.failing.get_or_insert(self.clock.monotonic());
            self.clock.sleep(AGAIN).await;
            return WatchItem::Stalled(self.clock.monotonic().since(since));
        };
        WatchItem::End(reason)
    }
}
