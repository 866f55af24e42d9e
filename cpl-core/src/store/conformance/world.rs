//! What the cases are written in.

use std::fmt::Debug;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{Either, select};
use tokio::sync::oneshot;

use super::failure::Failure;
use crate::clock::{Clock, Spawner};
use crate::store::{
    Commit, Cursor, EndReason, Entry, Error, Event, Expect, Key, KeyMeta, Kind, ListRequest, Range,
    Revision, Store, Txn, WatchItem, WatchStream,
};

/// Longest wait for an item of a watch.
const ITEM_LIMIT: Duration = Duration::from_secs(10);

pub(super) type Checked<T = ()> = Result<T, Failure>;
/// The events of a watch by revision.
pub(super) type History = Vec<(Revision, Vec<Event>)>;

/// A store, the clock that bounds waiting for it, and where its clients run.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) spawner: Arc<dyn Spawner>,
}

/// # Panics
/// Never: the names in the cases are short and not empty.
#[expect(clippy::expect_used, reason = "the names in the cases are valid keys")]
pub(super) fn key(name: impl AsRef<str>) -> Key {
    Key::new(name.as_ref().to_owned()).expect("a case names a valid key")
}

#[expect(clippy::expect_used, reason = "the prefixes in the cases are short")]
pub(super) fn under(prefix: &'static str) -> Range {
    Range::prefix(prefix).expect("a case names a valid prefix")
}

/// Lets others run first.
pub(super) async fn step_aside() {
    let mut stepped = false;
    poll_fn(|context| {
        if stepped {
            return Poll::Ready(());
        }
        stepped = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Fails with both sides unless they are equal.
pub(super) fn same<T: PartialEq + Debug>(what: &str, got: &T, expected: &T) -> Checked {
    holds(got == expected, || {
        format!("{what}: expected {expected:?}, got {got:?}")
    })
}

/// Fails with what was expected unless it holds.
pub(super) fn holds(condition: bool, expected: impl FnOnce() -> String) -> Checked {
    if condition {
        Ok(())
    } else {
        Err(Failure::new(expected()))
    }
}

/// Fails unless the call was refused with this kind.
pub(super) fn refused<T: Debug>(what: &str, got: Result<T, Error>, expected: &Kind) -> Checked {
    match got {
        Ok(answer) => Err(Failure::new(format!(
            "{what}: expected the error {expected:?}, got the answer {answer:?}"
        ))),
        Err(error) => same(what, error.kind(), expected),
    }
}

impl World {
    /// That a revision is the expected one; where the store's own records take revisions, that it is not below.
    pub(super) fn not_moved(&self, what: &str, got: Revision, expected: Revision) -> Checked {
        if self.store.limits().dense {
            return same(what, &got, &expected);
        }
        holds(got >= expected, || {
            format!("{what}: expected at least {expected}, got {got}")
        })
    }

    /// That the newest revision is still this one.
    pub(super) async fn head_is(&self, expected: Cursor) -> Checked {
        let head = self.head().await?;
        self.not_moved("the head", head.revision, expected.revision)?;
        same("the identity", &head.identity, &expected.identity)
    }

    /// A revision that is ahead of the store, also if its own records take some in the meantime.
    pub(super) fn future(head: Revision) -> Revision {
        Revision(head.0 + 1_000)
    }

    /// That a revision is refused because the newest one is this.
    pub(super) fn refused_as_future<T: Debug>(
        &self,
        what: &str,
        got: Result<T, Error>,
        expected: Revision,
    ) -> Checked {
        if let Err(error) = &got
            && let Kind::FutureRevision { head } = *error.kind()
        {
            return self.not_moved(what, head, expected);
        }
        refused(what, got, &Kind::FutureRevision { head: expected })
    }

    /// Runs clients side by side, each a task of its own, and returns what they found in their order.
    /// The first failure cancels the others.
    pub(super) async fn together<T, F>(
        &self,
        clients: impl IntoIterator<Item = F>,
    ) -> Checked<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Checked<T>> + Send + 'static,
    {
        let mut running = Vec::new();
        for client in clients {
            let (tell, told) = oneshot::channel();
            let task = Box::pin(async move {
                // Nobody listens any more when another client has failed.
                let _told = tell.send(client.await);
            });
            running.push((told, self.spawner.spawn("conformance-client", task)));
        }
        let mut found = Vec::new();
        for (told, task) in running {
            found.push(
                told.await
                    .map_err(|_| Failure::new("a client panicked"))??,
            );
            task.join().await;
        }
        Ok(found)
    }

    pub(super) async fn head(&self) -> Checked<Cursor> {
        Ok(self.store.head().await?)
    }

    /// Commits what must apply.
    pub(super) async fn apply(&self, txn: Txn) -> Checked<Revision> {
        match self.store.commit(txn.clone()).await? {
            Commit::Applied { at, .. } => Ok(at.revision),
            Commit::CompareFailed { failed, .. } => Err(Failure::new(format!(
                "expected {txn:?} to apply, but a compare was false: {failed:?}"
            ))),
        }
    }

    pub(super) async fn put(&self, name: &str, value: &str) -> Checked<Revision> {
        self.apply(Txn::new().put(key(name), value.to_owned()))
            .await
    }

    pub(super) async fn delete(&self, name: &str) -> Checked<Revision> {
        self.apply(Txn::new().delete(key(name))).await
    }

    pub(super) async fn get(&self, name: &str) -> Checked<Option<Entry>> {
        Ok(self.store.get(&key(name)).await?.value)
    }

    pub(super) async fn meta(&self, name: &str) -> Checked<KeyMeta> {
        let entry = self.get(name).await?;
        let absent = || Failure::new(format!("expected the key {name} to be there"));
        Ok(entry.ok_or_else(absent)?.meta)
    }

    /// The keys whose compare was false.
    pub(super) async fn compare_fails(&self, txn: Txn) -> Checked<Vec<(Key, Option<KeyMeta>)>> {
        match self.store.commit(txn.clone()).await? {
            Commit::CompareFailed { failed, .. } => Ok(failed),
            Commit::Applied { at, .. } => Err(Failure::new(format!(
                "expected a compare of {txn:?} to fail, but it was applied at {at}"
            ))),
        }
    }

    /// All pages of a range.
    pub(super) async fn list(&self, range: Range) -> Checked<(Vec<Entry>, Cursor)> {
        self.rest(ListRequest::first(range)).await
    }

    /// This page and all after it.
    pub(super) async fn rest(&self, mut request: ListRequest) -> Checked<(Vec<Entry>, Cursor)> {
        let mut entries = Vec::new();
        loop {
            let page = self.store.list(request.clone()).await?;
            entries.extend(page.entries);
            request.page = page.next;
            if request.page.is_none() {
                return Ok((entries, page.at));
            }
        }
    }

    /// Reads a number and replaces it, until nobody was faster.
    pub(super) async fn increment(&self, name: &str) -> Checked<Revision> {
        loop {
            let entry = self.get(name).await?;
            let (expect, value) = match &entry {
                None => (Expect::Absent, 0),
                Some(entry) => (Expect::ModRevision(entry.meta.mod_revision), number(entry)),
            };
            let txn = Txn::new()
                .expect(key(name), expect)
                .put(key(name), (value + 1).to_string());
            if let Commit::Applied { at, .. } = self.store.commit(txn).await? {
                return Ok(at.revision);
            }
        }
    }

    pub(super) async fn watch(&self, range: Range, after: Cursor) -> Checked<Watch> {
        let stream = self.store.watch(range.clone(), after).await?;
        Ok(self.checked(stream, range, after))
    }

    /// A watch, or nothing when compaction has passed the cursor.
    pub(super) async fn watch_unless_compacted(
        &self,
        range: Range,
        after: Cursor,
    ) -> Checked<Option<Watch>> {
        match self.store.watch(range.clone(), after).await {
            Err(error) if matches!(error.kind(), Kind::Compacted { .. }) => Ok(None),
            stream => Ok(Some(self.checked(stream?, range, after))),
        }
    }

    fn checked(&self, stream: WatchStream, range: Range, after: Cursor) -> Watch {
        Watch {
            stream,
            range,
            clock: Arc::clone(&self.clock),
            told: after.revision,
            cursors: Vec::new(),
        }
    }

    /// A watch's refusal, without the stream, which has no `Debug`.
    pub(super) async fn try_watch(&self, range: Range, after: Cursor) -> Result<(), Error> {
        self.store.watch(range, after).await.map(drop)
    }
}

pub(super) fn number(entry: &Entry) -> i64 {
    std::str::from_utf8(&entry.value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// A watch that checks what holds of every watch.
pub(super) struct Watch {
    stream: WatchStream,
    range: Range,
    clock: Arc<dyn Clock>,
    /// Everything up to here was told.
    told: Revision,
    /// After which items the watch could be resumed, in order.
    pub(super) cursors: Vec<Cursor>,
}

impl Watch {
    /// All events up to a revision that the watch must reach.
    pub(super) async fn until(&mut self, fence: Revision) -> Checked<History> {
        let mut history = History::new();
        while self.told < fence {
            match self.item(fence).await? {
                WatchItem::Events { at, events } => history.push((at.revision, events)),
                WatchItem::Progress(_) | WatchItem::Stalled(_) => {},
                WatchItem::End(reason) => {
                    let told = self.told;
                    return Err(Failure::new(format!(
                        "expected the watch to reach {fence}, but it ended at {told}: {reason:?}"
                    )));
                },
            }
        }
        Ok(history)
    }

    /// The events of the next item that has some.
    pub(super) async fn more(&mut self) -> Checked<History> {
        loop {
            let past = Revision(self.told.0 + 1);
            let history = self.until(past).await?;
            if !history.is_empty() {
                return Ok(history);
            }
        }
    }

    /// All events up to a revision, or until compaction ends the watch before.
    pub(super) async fn until_compacted(&mut self, fence: Revision) -> Checked<(History, bool)> {
        let mut history = History::new();
        while self.told < fence {
            match self.item(fence).await? {
                WatchItem::Events { at, events } => history.push((at.revision, events)),
                WatchItem::Progress(_) | WatchItem::Stalled(_) => {},
                WatchItem::End(EndReason::Compacted(_)) => {
                    let after = self.stream.next().await;
                    same("what follows the end of a watch", &after, &None)?;
                    return Ok((history, true));
                },
                WatchItem::End(reason) => {
                    return Err(Failure::new(format!("the watch ended: {reason:?}")));
                },
            }
        }
        Ok((history, false))
    }

    async fn item(&mut self, fence: Revision) -> Checked<WatchItem> {
        let limit = self.clock.sleep(ITEM_LIMIT);
        let next = match select(self.stream.next(), limit).await {
            Either::Left((next, _)) => next,
            Either::Right(_) => {
                let told = self.told;
                return Err(Failure::new(format!(
                    "the watch told everything up to {told}, then nothing for {ITEM_LIMIT:?}; \
                     expected it to reach {fence}"
                )));
            },
        };
        let item = next.ok_or_else(|| Failure::new("the watch ended without a reason"))?;
        self.check(&item)?;
        Ok(item)
    }

    fn check(&mut self, item: &WatchItem) -> Checked {
        match item {
            WatchItem::Events { at, events } => {
                let told = self.told;
                holds(at.revision > told, || {
                    format!(
                        "events of {} came after everything up to {told}",
                        at.revision
                    )
                })?;
                holds(!events.is_empty(), || "an item without events".to_owned())?;
                let ordered = events.windows(2).all(|pair| pair[0].key() < pair[1].key());
                holds(ordered, || {
                    format!("events are not ordered by key: {events:?}")
                })?;
                let inside = events.iter().all(|event| self.range.contains(event.key()));
                holds(inside, || {
                    format!("events outside of the range: {events:?}")
                })?;
                self.reached(*at);
            },
            WatchItem::Progress(at) => {
                let told = self.told;
                holds(at.revision >= told, || {
                    format!("progress went back from {told} to {}", at.revision)
                })?;
                self.reached(*at);
            },
            WatchItem::Stalled(_) | WatchItem::End(_) => {},
        }
        Ok(())
    }

    fn reached(&mut self, at: Cursor) {
        self.told = at.revision;
        self.cursors.push(at);
    }
}
