//! A client that settles every unknown outcome, so that the suite can run behind faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use crate::clock::Clock;
use crate::ids::{SealId, TxnId};
use crate::store::{
    Class, Commit, Cursor, EndReason, Entry, Error, Key, Kind, Limits, ListRequest, Outcome, Page,
    Range, Read, Revision, Store, Txn, WatchItem, WatchStream,
};

/// Most attempts at one call; far more than faults of any sensible rate need.
const ATTEMPTS: usize = 1_000;
/// Pause between them for a backend that may be away for a while.
const PAUSE: Duration = Duration::from_millis(20);

/// A store that repeats what certainly did not happen and settles what may have.
///
/// It makes the suite runnable over a [`FaultyStore`](crate::store::FaultyStore): every case then
/// shows that a careful client cannot tell the faults. It repeats at once and without end but for a
/// bound, which no real client should.
#[derive(Debug)]
pub struct Settling {
    inner: Arc<dyn Store>,
    /// Ids of transactions that came without one; those of the cases are small.
    ids: AtomicU64,
    /// What pauses are taken from; `None` repeats at once.
    clock: Option<Arc<dyn Clock>>,
}

impl Settling {
    /// Over `inner`, whose faults must not be permanent.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            ids: AtomicU64::new(0),
            clock: None,
        })
    }

    /// Over `inner`, which may be away for some seconds.
    pub fn patient(inner: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            ids: AtomicU64::new(0),
            clock: Some(clock),
        })
    }

    async fn pause(&self) {
        pause(self.clock.as_deref()).await;
    }

    /// A refusal, or a compare that was false, after an attempt whose outcome is unknown: that attempt may still
    /// arrive, when the compare holds again, so it has to be ruled out first.
    async fn rule_out(&self, id: TxnId, answer: Result<Commit, Error>) -> Result<Commit, Error> {
        match self.outcome(id).await? {
            Outcome::Void => answer,
            Outcome::Applied(revision) => {
                let at = self.head().await?;
                Ok(Commit::Applied {
                    at: Cursor { revision, ..at },
                    replayed: false,
                })
            },
        }
    }
}

async fn pause(clock: Option<&dyn Clock>) {
    if let Some(clock) = clock {
        clock.sleep(PAUSE).await;
    }
}

/// Repeats a call that failed in a way that allows it.
async fn repeat<T, F>(clock: Option<&dyn Clock>, mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match call().await {
            Err(error) if may_be_repeated(&error) => last = Some(error),
            answer => return answer,
        }
        pause(clock).await;
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Timeout, "repeat a call")))
}

fn may_be_repeated(error: &Error) -> bool {
    // What takes no writes goes on doing so until somebody does something about it.
    if *error.kind() == Kind::ReadOnly {
        return false;
    }
    match error.class() {
        Class::NotApplied | Class::Indeterminate => true,
        Class::Rejected | Class::Corrupt => false,
    }
}

#[async_trait]
impl Store for Settling {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        repeat(self.clock.as_deref(), || self.inner.head()).await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        repeat(self.clock.as_deref(), || self.inner.get(key)).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        repeat(self.clock.as_deref(), || self.inner.list(request.clone())).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let own = || TxnId(u128::MAX - u128::from(self.ids.fetch_add(1, Ordering::Relaxed)));
        let mut id = txn.id.unwrap_or_else(own);
        let mut unknown = false;
        for _ in 0..ATTEMPTS {
            match self.inner.commit(txn.clone().with_id(id)).await {
                Err(error) if may_be_repeated(&error) => {
                    unknown |= error.class() == Class::Indeterminate;
                    if !unknown {
                        // Certainly nothing happened: a new id takes the store at its word.
                        id = txn.id.unwrap_or_else(own);
                    }
                    self.pause().await;
                },
                Ok(answer @ Commit::CompareFailed { .. }) if unknown => {
                    return self.rule_out(id, Ok(answer)).await;
                },
                Err(error) if unknown && *error.kind() == Kind::ReadOnly => {
                    return self.rule_out(id, Err(error)).await;
                },
                answer => return answer,
            }
        }
        Err(Error::new(Kind::Timeout, "settle a transaction"))
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        let first = repeat(self.clock.as_deref(), || {
            self.inner.watch(range.clone(), after)
        })
        .await?;
        let inner = Arc::clone(&self.inner);
        let resuming = Resuming {
            inner,
            range,
            after,
            stream: Some(first),
            clock: self.clock.clone(),
        };
        Ok(Box::pin(stream::unfold(resuming, Resuming::next)))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        repeat(self.clock.as_deref(), || self.inner.outcome(id)).await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        repeat(self.clock.as_deref(), || self.inner.compact(through)).await
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        repeat(self.clock.as_deref(), || self.inner.seal(seal)).await
    }

    async fn unseal(&self) -> Result<(), Error> {
        repeat(self.clock.as_deref(), || self.inner.unseal()).await
    }
}

/// A watch that goes on after the last item when it was cut.
struct Resuming {
    inner: Arc<dyn Store>,
    range: Range,
    after: Cursor,
    stream: Option<WatchStream>,
    clock: Option<Arc<dyn Clock>>,
}

impl Resuming {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        loop {
            let item = self.stream.as_mut()?.next().await?;
            match &item {
                WatchItem::Events { at, .. } | WatchItem::Progress(at) => self.after = *at,
                WatchItem::Stalled(_) => {},
                WatchItem::End(EndReason::Overflow) => {
                    let again = || self.inner.watch(self.range.clone(), self.after);
                    match repeat(self.clock.as_deref(), again).await {
                        Ok(stream) => {
                            self.stream = Some(stream);
                            continue;
                        },
                        Err(error) => return Some(self.end(&error)),
                    }
                },
                WatchItem::End(_) => self.stream = None,
            }
            return Some((item, self));
        }
    }

    /// What the watch would have said, had it not been cut before.
    fn end(mut self, error: &Error) -> (WatchItem, Self) {
        self.stream = None;
        let reason = if let Kind::Compacted { compacted } = error.kind() {
            EndReason::Compacted(*compacted)
        } else if *error.kind() == Kind::IdentityChanged {
            EndReason::IdentityChanged
        } else {
            EndReason::Closed
        };
        (WatchItem::End(reason), self)
    }
}
