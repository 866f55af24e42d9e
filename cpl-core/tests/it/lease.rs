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
use cpl_core::lease::{
    Membership, Place, SessionTimes, Sessions, Shard, begin, hold, reap, release, take_shard,
};
use cpl_core::store::{
    Commit, Cursor, Entry, Error, Key, Limits, ListRequest, MemoryStore, Outcome, Page, Range,
    Read, Revision, Store, Txn, WatchStream,
};
use cpl_core::txn::{Fence, FencedTxn, Guard, Held, KeyKind, Settled, commit};
use cpl_core::version::Epoch;
use cpl_host::Host;
use futures::future::{Either, select};

const NOTE: KeyKind<Held> = KeyKind::new("/cpl/v1/notes/{name}");

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

fn place<'a>(host: &'a Host, store: &'a dyn Store, times: &'a SessionTimes) -> Place<'a> {
    Place {
        store,
        clock: &*host.clock,
        ids: &*host.ids,
        times,
    }
}

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

    fn place(&self) -> Place<'_> {
        place(&self.host, &self.store, &SHORT)
    }

    async fn begin(&self, replica: u128) -> Membership {
        begin(self.place(), ReplicaId(replica)).await.unwrap()
    }

    async fn take(&self, membership: &Membership) -> Result<Shard, cpl_core::error::Error> {
        take_shard(self.place(), membership).await
    }

    /// A process that has the shard, and does not renew its session.
    async fn first(&self) -> (Membership, Shard) {
        let first = self.begin(1).await;
        let shard = self.take(&first).await.unwrap();
        (first, shard)
    }

    /// Holds a session while something else is awaited.
    async fn holding<T>(&self, membership: &Membership, what: impl Future<Output = T>) -> T {
        let (held, what) = (pin!(self.hold(membership)), pin!(what));
        match select(held, what).await {
            Either::Left((lost, _)) => panic!("{lost}"),
            Either::Right((done, _)) => done,
        }
    }

    async fn hold(&self, membership: &Membership) -> String {
        hold(self.place(), membership).await.to_string()
    }

    async fn release(&self, membership: &Membership, shard: Option<&Shard>) {
        let own = (membership, shard);
        release(self.place(), own, SHORT.ttl).await.unwrap();
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
async fn while_a_holder_renews_the_others_stand_by_and_have_sessions() {
    let replicas = Replicas::new();
    let (first, shard) = replicas.first().await;
    let second = replicas.begin(2).await;
    let taking = replicas.holding(&second, replicas.take(&second));
    let waited = tokio::time::timeout(Duration::from_secs(4), replicas.holding(&first, taking));
    assert!(
        waited.await.is_err(),
        "nobody took over and nothing was lost"
    );
    assert!(replicas.may_write(&shard, "shard").await);
    assert!(replicas.may_write(&second.session, "session").await);
}

#[tokio::test]
async fn a_holder_that_is_gone_is_succeeded_and_cannot_write_when_it_wakes_up() {
    let replicas = Replicas::new();
    let (first, shard) = replicas.first().await;
    let start = replicas.host.clock.monotonic();
    let second = replicas.begin(2).await;
    let taken = replicas.holding(&second, replicas.take(&second));
    let taken = taken.await.unwrap();
    let waited = replicas.host.clock.monotonic().since(start);
    assert!(waited >= SHORT.ttl + SHORT.skew, "{waited:?}");
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    assert_eq!(taken.owner().epoch, Epoch(2));
    for (fence, may) in [
        (&shard as &(dyn Fence + Sync), false),
        (&first.session, false),
        (&taken, true),
    ] {
        assert_eq!(replicas.may_write(fence, "note").await, may);
    }
    assert!(!first.lasts(replicas.host.clock.monotonic()));
    let told = replicas.hold(&first).await;
    assert!(told.contains("paused for longer"), "{told}");
    let again = replicas.take(&first).await.unwrap_err();
    assert_eq!(again.reason(), "SESSION_LOST");
}

#[tokio::test]
async fn a_session_that_was_ended_is_lost_at_the_next_renewal() {
    let replicas = Replicas::new();
    let at_once = SessionTimes {
        ttl: Duration::from_millis(1),
        skew: Duration::ZERO,
        ..SHORT
    };
    // It says that it lasts almost no time, as one whose clock is far too fast would see it: the epoch
    // decides, not the time.
    let mut taken = Vec::new();
    for replica in [1, 2].map(ReplicaId) {
        let hasty = place(&replicas.host, &replicas.store, &at_once);
        let own = begin(hasty, replica).await.unwrap();
        taken.push((take_shard(hasty, &own).await.unwrap(), own));
    }
    let patient = SessionTimes::default();
    let patient = place(&replicas.host, &replicas.store, &patient);
    let lost = hold(patient, &taken[0].1).await;
    let told = lost.to_string();
    assert!(told.contains("another replica has ended it"), "{told}");
    assert!(replicas.may_write(&taken[1].1.session, "note").await);
}

#[tokio::test]
async fn what_is_released_is_taken_at_once() {
    let replicas = Replicas::new();
    let (first, shard) = replicas.first().await;
    replicas.release(&first, Some(&shard)).await;
    assert!(!replicas.may_write(&shard, "shard").await);
    assert!(!replicas.may_write(&first.session, "session").await);
    let clock = Arc::clone(&replicas.host.clock);
    let start = clock.monotonic();
    let second = replicas.begin(2).await;
    assert!(second.session.owner().epoch > first.session.owner().epoch);
    replicas.take(&second).await.unwrap();
    assert!(clock.monotonic().since(start) < SHORT.ttl);
    // Twice does nothing, least of all to the successor.
    replicas.release(&first, Some(&shard)).await;
    assert!(replicas.may_write(&second.session, "note").await);
}

#[tokio::test]
async fn a_renewal_that_comes_late_does_not_keep_what_is_released() {
    let replicas = Replicas::new();
    for shard in [true, false] {
        let own = replicas.begin(1).await;
        let shard = if shard {
            Some(replicas.take(&own).await.unwrap())
        } else {
            None
        };
        replicas.store.late.store(true, Ordering::SeqCst);
        replicas.release(&own, shard.as_ref()).await;
        assert!(!replicas.store.late.load(Ordering::SeqCst));
        let session = replicas.store.get(own.session.key()).await.unwrap();
        assert_eq!(session.value, None);
    }
}

/// The owner of the shard ends the sessions of those who are gone, and of nobody else.
#[tokio::test]
async fn sessions_that_nobody_renews_are_ended() {
    let replicas = Replicas::new();
    let clock = &replicas.host.clock;
    let (first, shard) = replicas.first().await;
    let (gone, there) = (replicas.begin(2).await, replicas.begin(3).await);
    let start = clock.monotonic();
    let mut known = Sessions::default();
    let reaping = async {
        loop {
            let living = reap(replicas.place(), &shard, &mut known).await.unwrap();
            if living.has_ended(gone.session.owner().epoch) {
                return living;
            }
            clock.sleep(Duration::from_millis(50)).await;
        }
    };
    let living = replicas
        .holding(&first, replicas.holding(&there, reaping))
        .await;
    assert!(clock.monotonic().since(start) >= SHORT.ttl + SHORT.skew);
    let own = |membership: &Membership| membership.session.owner().epoch;
    assert_eq!(living.epochs, [own(&first), own(&there)]);
    assert!(!replicas.may_write(&gone.session, "gone").await);
    assert!(replicas.may_write(&there.session, "there").await);
    let told = replicas.hold(&gone).await;
    assert!(told.contains("paused for longer"), "{told}");
}

#[tokio::test]
async fn on_a_store_of_one_process_a_new_session_ends_the_one_before() {
    let host = Host::new();
    let store = MemoryStore::new(StoreId(1), Arc::clone(&host.clock));
    let Host { clock, ids, .. } = &host;
    let mut before: Option<(Membership, Shard)> = None;
    for replica in [1, 2, 3].map(ReplicaId) {
        let times = SessionTimes::default();
        let alone = place(&host, &store, &times);
        let own = begin(alone, replica).await.unwrap();
        let start = clock.monotonic();
        let shard = take_shard(alone, &own).await.unwrap();
        assert!(clock.monotonic().since(start) < Duration::from_secs(1));
        for fence in before.iter().flat_map(|(own, shard)| {
            [
                &own.session as &(dyn Fence + Sync),
                shard as &(dyn Fence + Sync),
            ]
        }) {
            let mut txn = FencedTxn::new(TxnId::fresh(&**ids), fence);
            txn.put(NOTE.key(&["note"]), Guard::ABSENT, &1);
            let settled = commit(&store, &**clock, &**ids, txn, clock.monotonic());
            assert!(matches!(settled.await.unwrap(), Settled::Lost { .. }));
        }
        before = Some((own, shard));
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found() {
    let replicas = Replicas::new();
    let (first, shard) = replicas.first().await;
    let again = replicas.take(&first).await.unwrap();
    assert_eq!(again, shard);
    assert!(replicas.may_write(&again, "shard").await);
}
