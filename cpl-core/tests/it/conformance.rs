//! The in-memory store keeps the contract, and the suite notices stores that do not.

use std::sync::Arc;

use async_trait::async_trait;
use cpl_core::store::{
    Clock, Commit, Cursor, Entry, Error, Event, Key, Limits, ListRequest, MemoryStore, Monotonic,
    Outcome, Page, Range, Read, Revision, Store, StoreId, Timestamp, Txn, TxnId, WatchItem,
    WatchStream, conformance,
};
use cpl_host::Host;
use futures::StreamExt as _;
use futures::future::BoxFuture;

fn memory(host: &Host) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&host.clock)))
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let host = Host::new();
    let report = conformance::run_all(Arc::clone(&host.clock), async || memory(&host)).await;
    assert_eq!(report, Ok(()));
}

/// Gives up a hundred times sooner, for stores that are expected to keep a case waiting.
#[derive(Debug)]
struct Hurried(Arc<dyn Clock>);

impl Clock for Hurried {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn monotonic(&self) -> Monotonic {
        self.0.monotonic()
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        let left = until.since(self.0.monotonic());
        self.0.sleep(left / 100)
    }
}

/// One way of breaking the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Nothing,
    DropsAnEvent,
    SplitsARevision,
    TellsProgressEarly,
    SkipsTheFirstAfterResuming,
    ForgetsIds,
    TakesFailureForFalseCompare,
    ShortPage,
    PinsAnew,
    ReplaysOldPages,
    NeverCompacts,
    OutcomeOnlyLooks,
    NothingBumps,
}

#[derive(Debug)]
struct Mutant {
    inner: Arc<dyn Store>,
    how: Break,
}

#[async_trait]
impl Store for Mutant {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        self.inner.head().await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, mut request: ListRequest) -> Result<Page, Error> {
        if self.how == Break::PinsAnew
            && let Some(token) = &mut request.page
        {
            token.at = self.inner.head().await?;
        }
        if self.how == Break::ReplaysOldPages
            && let Some(token) = &mut request.page
        {
            token.range = request.range.clone();
        }
        let mut page = self.inner.list(request).await?;
        if self.how == Break::ShortPage {
            page.next = None;
        }
        Ok(page)
    }

    async fn commit(&self, mut txn: Txn) -> Result<Commit, Error> {
        if self.how == Break::ForgetsIds {
            txn.id = None;
        }
        if self.how == Break::NothingBumps && txn.ops.is_empty() {
            txn = txn.put(Key::new("bump")?, "");
        }
        match self.inner.commit(txn).await {
            Err(_) if self.how == Break::TakesFailureForFalseCompare => {
                let at = self.inner.head().await?;
                Ok(Commit::CompareFailed {
                    failed: Vec::new(),
                    at,
                })
            },
            result => result,
        }
    }

    async fn watch(&self, range: Range, mut after: Cursor) -> Result<WatchStream, Error> {
        if self.how == Break::SkipsTheFirstAfterResuming && after.revision > Revision(0) {
            let head = self.inner.head().await?;
            after.revision = Revision((after.revision.0 + 1).min(head.revision.0));
        }
        let stream = self.inner.watch(range, after).await?;
        let how = self.how;
        let mut seen = 0;
        Ok(Box::pin(stream.flat_map(move |item| {
            seen += 1;
            futures::stream::iter(broken(how, seen, item))
        })))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        if self.how == Break::OutcomeOnlyLooks {
            return Ok(Outcome::Void);
        }
        self.inner.outcome(id).await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        if self.how == Break::NeverCompacts {
            return Ok(());
        }
        self.inner.compact(through).await
    }
}

fn broken(how: Break, seen: usize, item: WatchItem) -> Vec<WatchItem> {
    match (how, item) {
        (Break::DropsAnEvent, WatchItem::Events { at, .. }) if seen == 2 => {
            vec![WatchItem::Progress(at)]
        },
        (Break::SplitsARevision, WatchItem::Events { at, events }) => {
            let one = |event: Event| WatchItem::Events {
                at,
                events: vec![event],
            };
            events.into_iter().map(one).collect()
        },
        (Break::TellsProgressEarly, WatchItem::Events { at, events }) => {
            vec![WatchItem::Progress(at), WatchItem::Events { at, events }]
        },
        (_, item) => vec![item],
    }
}

#[tokio::test]
async fn every_broken_store_fails_a_case() {
    let host = Host::new();
    let hurried: Arc<dyn Clock> = Arc::new(Hurried(Arc::clone(&host.clock)));
    let run = async |how| {
        conformance::run_all(Arc::clone(&hurried), async || {
            let inner = memory(&host);
            Arc::new(Mutant { inner, how }) as Arc<dyn Store>
        })
        .await
    };
    assert_eq!(run(Break::Nothing).await, Ok(()));
    let breaks = [
        Break::DropsAnEvent,
        Break::SplitsARevision,
        Break::TellsProgressEarly,
        Break::SkipsTheFirstAfterResuming,
        Break::ForgetsIds,
        Break::TakesFailureForFalseCompare,
        Break::ShortPage,
        Break::PinsAnew,
        Break::ReplaysOldPages,
        Break::NeverCompacts,
        Break::OutcomeOnlyLooks,
        Break::NothingBumps,
    ];
    for how in breaks {
        assert!(run(how).await.is_err(), "{how:?} passed the suite");
    }
}
