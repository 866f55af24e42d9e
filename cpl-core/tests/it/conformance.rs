//! The in-memory store keeps the contract, and the suite notices stores that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cpl_core::store::conformance::mutant::{Defect, Mutant};
use cpl_core::store::conformance::{self, Case, Coverage, Failure, Runtime, Settling};
use cpl_core::store::{
    Clock, Faults, FaultyStore, MemoryStore, Monotonic, Store, StoreId, Timestamp,
};
use cpl_host::Host;
use futures::future::{BoxFuture, join_all};

fn runtime() -> Runtime {
    let Host { clock, spawner, .. } = Host::new();
    Runtime { clock, spawner }
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreId(1), Host::new().clock))
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let report = conformance::run_all(&runtime(), async || memory()).await;
    assert_eq!(report, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_contract_for_many_threads() {
    let report = conformance::run_all(&runtime(), async || memory()).await;
    assert_eq!(report, Ok(()));
}

/// Gives up a hundred times sooner, for stores that are expected to keep a case waiting.
#[derive(Debug)]
struct Hurried(Arc<dyn Clock>);

impl Clock for Hurried {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn monotonic(&self) -> Monotonic {
        self.0.monotonic()
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        let left = until.since(self.0.monotonic());
        self.0.sleep(left / 100)
    }
}

fn hurried() -> Runtime {
    let Runtime { clock, spawner } = runtime();
    Runtime {
        clock: Arc::new(Hurried(clock)),
        spawner,
    }
}

fn mutant(defect: Defect) -> Arc<dyn Store> {
    if !defect.needs_faults() {
        return Arc::new(Mutant::new(memory(), defect));
    }
    let faulty = FaultyStore::new(memory(), Host::new().clock, Faults::MANY, 7);
    Settling::new(Arc::new(Mutant::new(Arc::new(faulty), defect)))
}

/// The cases that notice a defect.
async fn noticed(defect: Defect) -> BTreeSet<&'static str> {
    match conformance::run_all(&hurried(), async || mutant(defect)).await {
        Ok(()) => BTreeSet::new(),
        Err(failures) => failures.iter().map(Failure::case).collect(),
    }
}

#[tokio::test]
async fn every_defect_fails_a_case_and_every_case_fails_for_a_defect() {
    let mut by_defect = BTreeMap::new();
    for defect in Defect::ALL {
        by_defect.insert(*defect, noticed(*defect).await);
    }
    let unnoticed: Vec<_> = by_defect.iter().filter(|(_, c)| c.is_empty()).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
    // What is in the way of the defects breaks nothing by itself: a defect fails a few cases only.
    let few = by_defect
        .iter()
        .filter(|(_, cases)| cases.len() < 3)
        .count();
    assert!(few > 10, "{by_defect:#?}");
    let failing: BTreeSet<_> = by_defect.values().flatten().copied().collect();
    let never: Vec<_> = conformance::cases()
        .iter()
        .map(Case::name)
        .filter(|name| !failing.contains(name))
        .collect();
    assert!(never.is_empty(), "cases that no defect fails: {never:#?}");
}

/// Runs the suite without faults and then behind those of some seeds, and looks at all that was met.
#[tokio::test]
async fn no_cell_of_the_coverage_is_dark() {
    let coverage = Coverage::default();
    let runtime = runtime();
    let plain = conformance::run_all(&runtime, async || coverage.observe(memory()));
    assert_eq!(plain.await, Ok(()));
    let behind_faults = (0..20).map(async |seed| {
        let report = conformance::run_all(&runtime, async || {
            let clock = Arc::clone(&runtime.clock);
            let faulty = Arc::new(FaultyStore::new(memory(), clock, Faults::MANY, seed));
            Settling::new(coverage.observe(faulty)) as Arc<dyn Store>
        });
        assert_eq!(report.await, Ok(()), "seed {seed}");
    });
    join_all(behind_faults).await;
    assert!(coverage.dark().is_empty(), "{coverage}");
    assert!(
        coverage.unexpected().is_empty(),
        "{:?}",
        coverage.unexpected()
    );
}
