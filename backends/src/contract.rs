//! What every store is asked: the suite, alone and behind faults, and the model beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpl_core::store::conformance::{Runtime, Settling, run_all};
use cpl_core::store::{Faults, FaultyStore, Store};

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
