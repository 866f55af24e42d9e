//! Taking ownership, keeping it, and losing it.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cpl_core::ids::{ReplicaId, SealId, StoreId, TxnId};
use cpl_core::lease::{Ownership, SessionTimes, claim, hold, release};
use cpl_core::store::{
    Commit, Cursor, Entry, Error, Key, Limits, ListRequest, MemoryStore, Outcome, Page, Range,
    Read, Revision, Store, Txn, WatchStream,
};
use cpl_core::txn::{Fence, FencedTxn, Guard, Held, KeyKind, Settled, commit};
use cpl_core::version::Epoch;
use cpl_host::Host;
use futures::future::select;

const NOTE: KeyKind<Held> = KeyKind::new("/cpl/v1/notes/{name}");

#[tokio::test]
async fn a_predecessor_can_no_longer_write_once_its_shard_is_taken() {
    let host = Host::new();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&host.clock)));
    let times = SessionTimes::default();
    let take = |replica| {
        claim(
            &*store,
            &*host.clock,
            &*host.ids,
            ReplicaId(replica),
            &times,
        )
    };
    let old = take(1).await.unwrap();
    let new = take(2).await.unwrap();
    assert_eq!(
        (old.shard.owner().epoch, new.shard.owner().epoch),
        (Epoch(1), Epoch(2))
    );

    for (name, fence, may) in [
        ("old shard", &old.shard as &dyn Fence, false),
        ("old session", &old.session, false),
        ("new shard", &new.shard, true),
        ("new session", &new.session, true),
    ] {
        let mut txn = FencedTxn::new(TxnId::fresh(&*host.ids), fence);
        txn.put(NOTE.key(&[name]), Guard::ABSENT, &1);
        let deadline = host.clock.monotonic();
        let settled = commit(&*store, &*host.clock, &*host.ids, txn, deadline)
            .await
            .unwrap();
        assert_eq!(matches!(settled, Settled::Applied(_)), may, "{name}");
    }
}

/// A store that several processes share, in memory.
#[derive(Debug)]
struct Shared {
    inner: MemoryStore,
    /// A renewal that was under way arrives once the record of renewals has been read.
    late: AtomicBool,
}

#[async_trait]
impl Store for Shared {
    fn limits(&self) -> Limits {
        Limits::portable(false)
    }

    async fn head(&self) -> Result<Cursor, Error> {
        self.inner.head().await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let read = self.inner.get(key).await;
        if key.to_string().contains("session_renewals") && self.late.swap(false, Ordering::SeqCst) {
            self.inner.commit(Txn::new().put(key.clone(), "{}")).await?;
        }
        read
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        self.inner.list(request).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.inner.commit(txn).await
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.inner.watch(range, after).await
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        self.inner.outcome(id).await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        self.inner.compact(through).await
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        self.inner.seal(seal).await
    }

    async fn unseal(&self) -> Result<(), Error> {
        self.inner.unseal().await
    }
}

const SHORT: SessionTimes = SessionTimes {
    renew: Duration::from_millis(300),
    ttl: Duration::from_secs(1),
    skew: Duration::from_millis(200),
};

struct Replicas {
    host: Host,
    store: Shared,
}

impl Replicas {
    fn new() -> Self {
        let host = Host::new();
        let store = Shared {
            inner: MemoryStore::new(StoreId(1), Arc::clone(&host.clock)),
            late: AtomicBool::new(false),
        };
        Self { host, store }
    }

    async fn claim(&self, replica: u128) -> Ownership {
        let Host { clock, ids, .. } = &self.host;
        claim(&self.store, &**clock, &**ids, ReplicaId(replica), &SHORT)
            .await
            .unwrap()
    }

    async fn hold(&self, ownership: &Ownership) -> String {
        let Host { clock, ids, .. } = &self.host;
        let lost = hold(&self.store, &**clock, &**ids, ownership, &SHORT).await;
        lost.to_string()
    }

    async fn may_write(&self, fence: &(dyn Fence + Sync), name: &str) -> bool {
        let Host { clock, ids, .. } = &self.host;
        let mut txn = FencedTxn::new(TxnId::fresh(&**ids), fence);
        txn.put(NOTE.key(&[name]), Guard::ABSENT, &1);
        let settled = commit(&self.store, &**clock, &**ids, txn, clock.monotonic());
        matches!(settled.await.unwrap(), Settled::Applied(_))
    }
}

#[tokio::test]
async fn while_a_holder_renews_the_others_stand_by() {
    let replicas = Replicas::new();
    let first = replicas.claim(1).await;
    let second = pin!(replicas.claim(2));
    let holding = pin!(replicas.hold(&first));
    let waited = select(second, holding);
    let waited = tokio::time::timeout(Duration::from_secs(4), waited).await;
    assert!(waited.is_err(), "nobody took over and nothing was lost");
    assert!(replicas.may_write(&first.shard, "first").await);
}

#[tokio::test]
async fn a_holder_that_is_gone_is_succeeded_and_cannot_write_when_it_wakes_up() {
    let replicas = Replicas::new();
    let first = replicas.claim(1).await;
    let start = replicas.host.clock.monotonic();
    let second = replicas.claim(2).await;
    let waited = replicas.host.clock.monotonic().since(start);
    assert!(waited >= SHORT.ttl + SHORT.skew, "{waited:?}");
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    assert_eq!(second.shard.owner().epoch, Epoch(2));
    for (fence, may) in [
        (&first.shard as &(dyn Fence + Sync), false),
        (&first.session, false),
        (&second.shard, true),
    ] {
        assert_eq!(replicas.may_write(fence, "note").await, may);
    }
    let now = || replicas.host.clock.monotonic();
    assert!(!first.lasts(now()) && second.lasts(now()));
    let told = replicas.hold(&first).await;
    assert!(told.contains("paused for longer"), "{told}");
}

#[tokio::test]
async fn a_session_that_was_taken_over_is_lost_at_the_next_renewal() {
    let replicas = Replicas::new();
    let Host { clock, ids, .. } = &replicas.host;
    let at_once = SessionTimes {
        ttl: Duration::from_millis(1),
        skew: Duration::ZERO,
        ..SHORT
    };
    // It says that it lasts almost no time, as one whose clock is far too fast would see it: the epoch
    // decides, not the time.
    let [first, second] = [1, 2].map(ReplicaId);
    let first = claim(&replicas.store, &**clock, &**ids, first, &at_once)
        .await
        .unwrap();
    let second = claim(&replicas.store, &**clock, &**ids, second, &at_once)
        .await
        .unwrap();
    let patient = SessionTimes::default();
    let lost = hold(&replicas.store, &**clock, &**ids, &first, &patient).await;
    let told = lost.to_string();
    assert!(told.contains("another replica took over"), "{told}");
    assert!(replicas.may_write(&second.session, "note").await);
}

#[tokio::test]
async fn what_is_released_is_taken_at_once() {
    let replicas = Replicas::new();
    let first = replicas.claim(1).await;
    let Host { clock, ids, .. } = &replicas.host;
    let patience = Duration::from_secs(1);
    release(&replicas.store, &**clock, &**ids, &first, patience)
        .await
        .unwrap();
    assert!(!replicas.may_write(&first.shard, "first").await);
    let start = clock.monotonic();
    replicas.claim(2).await;
    assert!(clock.monotonic().since(start) < SHORT.ttl);
    // Twice does nothing, least of all to the successor.
    release(&replicas.store, &**clock, &**ids, &first, patience)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_renewal_that_comes_late_does_not_keep_what_is_released() {
    let replicas = Replicas::new();
    let first = replicas.claim(1).await;
    let Host { clock, ids, .. } = &replicas.host;
    replicas.store.late.store(true, Ordering::SeqCst);
    release(&replicas.store, &**clock, &**ids, &first, SHORT.ttl)
        .await
        .unwrap();
    assert!(!replicas.store.late.load(Ordering::SeqCst));
    let session = replicas.store.get(first.session.key()).await.unwrap();
    assert_eq!(session.value, None);
}
