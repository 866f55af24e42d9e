//! The store keeps the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cpl_core::store::conformance::{self, Runtime, Settling};
use cpl_core::store::{Faults, FaultyStore, Store};
use cpl_host::Host;

use crate::cluster::Cluster;

fn runtime() -> Runtime {
    let Host { clock, spawner, .. } = Host::new();
    Runtime { clock, spawner }
}

/// A new prefix for each store.
struct Fresh {
    cluster: Cluster,
    count: AtomicU32,
}

impl Fresh {
    fn start() -> Self {
        let (cluster, count) = (Cluster::start(), AtomicU32::new(0));
        Self { cluster, count }
    }

    async fn open(&self) -> Arc<dyn Store> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        self.cluster.open(&format!("s{n}")).await
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
