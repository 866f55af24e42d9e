use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cpl_core::clock::Timestamp;
use cpl_core::ids::StoreId;
use cpl_core::reconcile::{Controller, Outcome, run};
use cpl_core::spec::{Catalog, Kinds};
use cpl_core::store::{Cache, Key, MemoryStore, Range, Snapshot};
use cpl_host::Host;
use futures::future::{Either, select};

const KEYS: usize = 10_000;

/// Has many keys and nothing to do about any.
#[derive(Default)]
struct AtRest(AtomicUsize);

#[async_trait]
impl Controller for AtRest {
    type Key = usize;
    type Plan = ();

    fn name(&self) -> &'static str {
        "at-rest"
    }

    fn interests(&self, _snapshot: &Snapshot<Catalog>, _changed: &[Key]) -> Vec<usize> {
        Vec::new()
    }

    fn all(&self, _snapshot: &Snapshot<Catalog>) -> Vec<usize> {
        (0..KEYS).collect()
    }

    fn plan(&self, _: &Snapshot<Catalog>, _: &usize, _: Timestamp) -> Option<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }

    async fn carry_out(&self, _plans: Vec<(usize, ())>) -> Vec<Outcome> {
        unreachable!("nothing is planned")
    }
}

#[tokio::test]
async fn a_pass_over_everything_gives_way_between_batches() {
    let host = Host::new();
    let store = Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&host.clock)));
    let catalog = Catalog::new(Kinds::new(Vec::new()));
    let cache = Cache::load(store, Arc::clone(&host.clock), Range::all(), catalog);
    let cache = cache.await.unwrap();
    let controller = Arc::new(AtRest::default());
    let running = pin!(run(
        Arc::clone(&controller),
        cache,
        Arc::clone(&host.clock),
        Arc::clone(&host.ids),
    ));
    // Somebody else, on the same thread: runs between any two batches.
    let other = pin!(async {
        let mut most = 0;
        while controller.0.load(Ordering::SeqCst) < KEYS {
            let before = controller.0.load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            most = most.max(controller.0.load(Ordering::SeqCst) - before);
        }
        most
    });
    let Either::Right((most, _)) = select(running, other).await else {
        panic!("a controller runs until it is dropped");
    };
    assert_eq!(most, controller.batch());
}
