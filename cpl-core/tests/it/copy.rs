//! Moving a store: whatever goes wrong, either the copy is complete and the source is sealed, or the source goes on.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cpl_core::ids::{SealId, StoreId};
use cpl_core::store::conformance::Settling;
use cpl_core::store::copy::{
    Comparison, Content, Means, NotCopied, Opened, Progress, Source as _, compare, copy, next_life,
};
use cpl_core::store::{
    Faults, FaultyStore, Key, Kind, ListRequest, MemoryStore, Range, Store, Txn,
};
use cpl_host::Host;
use futures::FutureExt as _;

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn memory(id: u128) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreId(id), Host::new().clock))
}

fn faulty(seed: u64) -> (Arc<dyn Store>, Arc<dyn Store>) {
    let inner = memory(seed.into());
    let faulty = FaultyStore::new(Arc::clone(&inner), Host::new().clock, Faults::MANY, seed);
    (inner, Arc::new(faulty))
}

async fn put(store: &dyn Store, name: &str, value: &str) {
    let put = Txn::new().put(key(name), value.to_owned());
    store.commit(put).await.unwrap();
}

async fn takes_writes(store: &dyn Store) -> bool {
    match store.commit(Txn::new().put(key("last"), "")).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(*error.kind(), Kind::ReadOnly);
            false
        },
    }
}

fn leave_out(key: &Key) -> bool {
    key.to_string().starts_with("session/")
}

async fn copied(
    from: &Arc<dyn Store>,
    to: &Arc<dyn Store>,
    tell: &mut (dyn FnMut(Progress) + Send),
    stop: impl Future<Output = ()> + Send,
) -> Result<Content, NotCopied> {
    let Host { clock, ids, .. } = Host::new();
    let means = Means {
        clock: &*clock,
        ids: &*ids,
        leave_out,
    };
    copy(&Opened(Arc::clone(from)), to, means, tell, stop).await
}

async fn compared(one: &Arc<dyn Store>, other: &Arc<dyn Store>) -> Comparison {
    let (one, other) = (Opened(Arc::clone(one)), Opened(Arc::clone(other)));
    compare(&one, &other, leave_out).await.unwrap()
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let page = store.list(ListRequest::first(Range::all())).await.unwrap();
    let keys = page.entries.iter().map(|entry| entry.key.to_string());
    keys.collect()
}

#[tokio::test]
async fn a_copy_has_all_but_what_is_left_out() {
    let (from, to) = (memory(1), memory(2));
    for n in 0..1_500 {
        put(&*from, &format!("k{n:04}"), "v").await;
    }
    put(&*from, "session/a", "held").await;
    let (identity, ..) = Opened(Arc::clone(&from)).entries().await.unwrap();
    assert_eq!(next_life(identity).store, StoreId(1));
    let mut told = Vec::new();
    let content = copied(&from, &to, &mut |p| told.push(p), std::future::pending()).await;
    let content = content.unwrap();
    assert_eq!(content.entries, 1_500);
    assert!(told.contains(&Progress::Sealed) && told.contains(&Progress::Equal(content)));
    assert!(!takes_writes(&*from).await && takes_writes(&*to).await);
    assert!(!keys(&*to).await.contains(&"session/a".to_owned()));
    let different = compared(&from, &to).await;
    assert_eq!(
        (different.different, different.named),
        (1, vec![key("last")])
    );
}

/// Clients write what they can until they are refused; all that was acknowledged is in the copy, and nothing else.
async fn races(seed: u64) {
    let (real, from) = faulty(seed);
    let (copy, to) = faulty(seed + 1_000);
    let written = Arc::new(AtomicU64::new(0));
    // One for all, as its ids are its own.
    let settling = Settling::new(Arc::clone(&from));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let store = Arc::clone(&settling);
            let written = Arc::clone(&written);
            tokio::spawn(async move {
                for n in 0_u64.. {
                    let name = format!("c{client}/{}", n % 40);
                    let txn = if n % 5 == 4 {
                        Txn::new().delete(key(&name))
                    } else {
                        Txn::new().put(key(&name), n.to_string())
                    };
                    match store.commit(txn).await {
                        Ok(_) => drop(written.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => return assert_eq!(*error.kind(), Kind::ReadOnly),
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    while written.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    let content = copied(&from, &to, &mut |_| {}, std::future::pending()).await;
    let content = content.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    for client in clients {
        client.await.unwrap();
    }
    let compared = compared(&real, &copy).await;
    assert_eq!(
        (compared.different, compared.content),
        (0, content),
        "seed {seed}"
    );
    assert!(!takes_writes(&*real).await && takes_writes(&*copy).await);
}

#[tokio::test]
async fn whatever_is_written_meanwhile_is_in_the_copy() {
    for seed in 0..3 {
        races(seed).await;
    }
}

#[tokio::test]
async fn a_copy_that_is_stopped_leaves_the_source_as_it_was() {
    for at_the_seal in [false, true] {
        let (from, to) = (memory(1), memory(2));
        put(&*from, "a", "1").await;
        let (tell_stop, stop) = tokio::sync::oneshot::channel();
        let mut tell_stop = Some(tell_stop);
        if !at_the_seal {
            tell_stop.take().unwrap().send(()).unwrap();
        }
        let mut tell = |progress| {
            if progress == Progress::Sealed
                && let Some(stop) = tell_stop.take()
            {
                stop.send(()).unwrap();
            }
        };
        // Reading takes a moment, so that there is one in which it can be stopped.
        let slow: Arc<dyn Store> = Arc::new(FaultyStore::new(
            Arc::clone(&from),
            Host::new().clock,
            Faults {
                slow_request: 1_000,
                delay: std::time::Duration::from_millis(50),
                ..Faults::default()
            },
            1,
        ));
        let stopping = async {
            stop.await.unwrap();
        };
        let stopped = copied(&slow, &to, &mut tell, stopping).await.unwrap_err();
        assert!(!stopped.sealed, "{stopped:?}");
        assert!(stopped.to_string().contains("stopped"), "{stopped}");
        assert!(takes_writes(&*from).await);
    }
}

#[tokio::test]
async fn a_store_that_another_move_has_sealed_stays_sealed() {
    let (from, to) = (memory(1), memory(2));
    put(&*from, "a", "1").await;
    from.seal(SealId(9)).await.unwrap();
    let refused = copied(&from, &to, &mut |_| {}, std::future::pending()).await;
    let refused = refused.unwrap_err();
    assert!(!refused.sealed && *refused.error.kind() == Kind::Invalid);
    assert!(!takes_writes(&*from).await, "it is the other's seal");
}

#[tokio::test]
async fn a_copy_that_takes_no_writes_leaves_the_source_as_it_was() {
    let (from, to) = (memory(1), memory(2));
    put(&*from, "a", "1").await;
    to.seal(SealId(1)).await.unwrap();
    let refused = copied(&from, &to, &mut |_| {}, std::future::pending()).await;
    let refused = refused.unwrap_err();
    assert_eq!(*refused.error.kind(), Kind::ReadOnly);
    assert!(!refused.sealed && takes_writes(&*from).await);
}

#[tokio::test]
async fn somebody_who_writes_to_the_copy_is_noticed() {
    let (from, to) = (memory(1), memory(2));
    put(&*from, "a", "1").await;
    let intruder = Arc::clone(&to);
    let mut sealed = false;
    let mut tell = |progress| {
        if sealed {
            let put = Txn::new().put(key("intruder"), "");
            intruder.commit(put).now_or_never().unwrap().unwrap();
        }
        sealed = progress == Progress::Sealed;
    };
    let refused = copied(&from, &to, &mut tell, std::future::pending()).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.to_string().contains("the first is intruder"),
        "{refused}"
    );
    assert!(!refused.sealed && takes_writes(&*from).await);
}
