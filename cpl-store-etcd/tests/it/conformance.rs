//! The store keeps the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cpl_backends::{Etcd, compare};
use cpl_core::store::conformance::{self, Settling};
use cpl_core::store::{Faults, FaultyStore, Store};
use cpl_host::Host;

use crate::{open, runtime};

/// A new prefix for each store.
struct Fresh {
    backend: Etcd,
    count: AtomicU32,
}

impl Fresh {
    fn start() -> Self {
        Self {
            backend: Etcd::start(),
            count: AtomicU32::new(0),
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        open(&self.backend.url(&format!("s{n}"))).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_keeps_the_contract() {
    let fresh = Fresh::start();
    let report = conformance::run_all(&runtime(), async || fresh.open().await).await;
    assert_eq!(report, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_keeps_the_contract_behind_faults() {
    let fresh = Fresh::start();
    let report = conformance::run_all(&runtime(), async || {
        let faulty = FaultyStore::new(fresh.open().await, Host::new().clock, Faults::MANY, 11);
        Settling::new(Arc::new(faulty)) as Arc<dyn Store>
    })
    .await;
    assert_eq!(report, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_answers_as_the_model_does() {
    let fresh = Fresh::start();
    for seed in 0..12 {
        compare(fresh.open().await, Host::new().clock, seed, 150).await;
    }
}
