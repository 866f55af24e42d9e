//! What every store is asked: the suite, alone and behind faults, and the model beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpl_core::store::conformance::{Runtime, Settling, run_all};
use cpl_core::store::{
    Class, Commit, Error, Faults, FaultyStore, Identity, Incarnation, Key, Kind, OpenMode, SealId,
    Store, StoreId, Txn,
};

use crate::Opening;
use crate::differential::compare;

/// Seeds and steps beside the model.
const SEEDS: u64 = 12;
const STEPS: usize = 150;

/// Runs everything; `open` is given a number and opens an empty store of that number.
///
/// # Panics
/// When the store breaks the contract, with all cases that say so.
pub async fn contract(runtime: &Runtime, open: impl Fn(usize) -> Opening + Sync) {
    let count = AtomicUsize::new(0);
    let fresh = async || open(count.fetch_add(1, Ordering::Relaxed)).await.unwrap();
    assert_eq!(run_all(runtime, &fresh).await, Ok(()));
    for seed in 0..SEEDS {
        compare(fresh().await, Arc::clone(&runtime.clock), seed, STEPS).await;
    }
}

/// Runs the suite behind lost requests, lost replies and delays.
///
/// # Panics
/// When a careful client can tell the difference, with all cases that say so.
pub async fn contract_behind_faults(runtime: &Runtime, open: impl Fn(usize) -> Opening + Sync) {
    let count = AtomicUsize::new(0);
    let report = run_all(runtime, async || {
        let store = open(count.fetch_add(1, Ordering::Relaxed)).await.unwrap();
        let faulty = FaultyStore::new(store, Arc::clone(&runtime.clock), Faults::MANY, 11);
        Settling::new(Arc::new(faulty)) as Arc<dyn Store>
    });
    assert_eq!(report.await, Ok(()));
}

/// Opens one place in every mode, from several processes, before and after it is complete and sealed.
///
/// # Panics
/// When a mode allows what it should not, or a seal of one process does not bind another.
pub async fn moving(open: impl Fn(OpenMode) -> Opening + Sync) {
    let identity = Identity {
        store: StoreId(7),
        incarnation: Incarnation(5),
    };
    let refused = async |mode, what: &str| {
        let error = open(mode).await.expect_err("it is refused");
        assert_eq!(*error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(OpenMode::Existing, "there is none").await;
    let making = open(OpenMode::New(identity)).await.unwrap();
    assert_eq!(making.head().await.unwrap().identity, identity);
    put(&*making).await.unwrap();
    refused(OpenMode::Existing, "it is not complete").await;
    refused(OpenMode::ExistingOrNew, "it is not complete").await;
    let sealed = making.seal(SealId(1)).await.unwrap_err();
    assert_eq!(*sealed.kind(), Kind::Invalid);
    making.unseal().await.unwrap();
    put(&*making).await.unwrap();
    refused(OpenMode::New(identity), "already").await;

    let one = open(OpenMode::Existing).await.unwrap();
    let other = open(OpenMode::ExistingOrNew).await.unwrap();
    assert_eq!(other.head().await.unwrap().identity, identity);
    put(&*other).await.unwrap();
    one.seal(SealId(1)).await.unwrap();
    let late = open(OpenMode::ExistingOrNew).await.unwrap();
    for store in [&one, &other, &late, &making] {
        let error = put(&**store).await.unwrap_err();
        assert_eq!(*error.kind(), Kind::ReadOnly, "{error}");
        assert!(error.to_string().contains("it is sealed"), "{error}");
        let refusal = store.refusal().expect("it is known by now");
        assert!(refusal.to_string().contains("it is sealed"), "{refusal}");
    }
    let another = other.seal(SealId(2)).await.unwrap_err();
    assert_eq!(*another.kind(), Kind::Invalid);
    late.unseal().await.unwrap();
    for store in [&one, &other, &late, &making] {
        put(&**store).await.unwrap();
        assert!(store.refusal().is_none(), "it takes writes");
    }
}

/// Writes, once more when certainly nothing happened: a process may have to learn that a seal was taken off.
async fn put(store: &dyn Store) -> Result<(), Error> {
    let txn = || Txn::new().put(Key::new("k").unwrap(), "v");
    let answer = match store.commit(txn()).await {
        Err(error) if *error.kind() != Kind::ReadOnly && error.class() == Class::NotApplied => {
            store.commit(txn()).await?
        },
        answer => answer?,
    };
    assert!(matches!(answer, Commit::Applied { .. }), "{answer:?}");
    Ok(())
}
