//! A client that settles every unknown outcome, so that the suite can run behind faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use crate::ids::TxnId;
use crate::store::{
    Class, Commit, Cursor, EndReason, Entry, Error, Key, Kind, Limits, ListRequest, Outcome, Page,
    Range, Read, Revision, Store, Txn, WatchItem, WatchStream,
};

/// Most attempts at one call; far more than faults of any sensible rate need.
const ATTEMPTS: usize = 1_000;

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
}

impl Settling {
    /// Over `inner`, whose faults must not be permanent.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let ids = AtomicU64::new(0);
        Arc::new(Self { inner, ids })
    }

    /// A compare that was false after an attempt whose outcome is unknown: that attempt may still
    /// arrive, when the compare holds again, so it has to be ruled out first.
    async fn rule_out(&self, id: TxnId, answer: Commit) -> Result<Commit, Error> {
        match self.outcome(id).await? {
            Outcome::Void => Ok(answer),
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

/// Repeats a call that failed in a way that allows it.
async fn repeat<T, F>(mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match call().await {
            Err(error) if may_be_repeated(&error) => last = Some(error),
            answer => return answer,
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Timeout, "repeat a call")))
}

fn may_be_repeated(error: &Error) -> bool {
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
        repeat(|| self.inner.head()).await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        repeat(|| self.inner.get(key)).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        repeat(|| self.inner.list(request.clone())).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let own = || TxnId(u128::MAX - u128::from(self.ids.fetch_add(1, Ordering::Relaxed)));
        let id = txn.id.unwrap_or_else(own);
        let txn = txn.with_id(id);
        let mut unknown = false;
        for _ in 0..ATTEMPTS {
            match self.inner.commit(txn.clone()).await {
                Err(error) if may_be_repeated(&error) => {
                    unknown |= error.class() == Class::Indeterminate;
                },
                Ok(answer @ Commit::CompareFailed { .. }) if unknown => {
                    return self.rule_out(id, answer).await;
                },
                answer => return answer,
            }
        }
        Err(Error::new(Kind::Timeout, "settle a transaction"))
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        let first = repeat(|| self.inner.watch(range.clone(), after)).await?;
        let inner = Arc::clone(&self.inner);
        let resuming = Resuming {
            inner,
            range,
            after,
            stream: Some(first),
        };
        Ok(Box::pin(stream::unfold(resuming, Resuming::next)))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        repeat(|| self.inner.outcome(id)).await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        repeat(|| self.inner.compact(through)).await
    }
}

/// A watch that goes on after the last item when it was cut.
struct Resuming {
    inner: Arc<dyn Store>,
    range: Range,
    after: Cursor,
    stream: Option<WatchStream>,
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
                    match repeat(again).await {
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
