//! What the faulty store does to calls, and that a careful client cannot tell.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use cpl_core::store::{
    Class, Commit, EndReason, Faults, FaultyStore, Key, MemoryStore, Range, Store, StoreId, Txn,
    WatchItem,
};
use cpl_host::Host;
use futures::StreamExt as _;

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(StoreId(1), Host::new().clock))
}

fn key(n: usize) -> Key {
    Key::new(format!("k{n:04}")).unwrap()
}

/// What is said of 500 writes and what is true, by what the store below holds at the end.
async fn fates(faults: Faults, seed: u64) -> Vec<(&'static str, bool)> {
    let below = memory();
    let store = FaultyStore::new(
        Arc::clone(&below) as Arc<dyn Store>,
        Host::new().clock,
        faults,
        seed,
    );
    let mut said = Vec::new();
    for n in 0..500 {
        said.push(match store.commit(Txn::new().put(key(n), "v")).await {
            Ok(Commit::Applied { .. }) => "applied",
            Ok(Commit::CompareFailed { .. }) => "compare failed",
            Err(error) if error.class() == Class::NotApplied => "not applied",
            Err(error) if error.class() == Class::Indeterminate => "unknown",
            Err(error) => panic!("{error:?}"),
        });
    }
    let mut fates = Vec::new();
    for (n, said) in said.into_iter().enumerate() {
        fates.push((said, below.get(&key(n)).await.unwrap().value.is_some()));
    }
    fates
}

#[tokio::test]
async fn all_four_outcomes_occur_and_no_other() {
    let faults = Faults {
        late_request: 0,
        ..Faults::MANY
    };
    let seen: BTreeSet<_> = fates(faults, 7).await.into_iter().collect();
    let four = [
        ("applied", true),
        ("not applied", false),
        ("unknown", false),
        ("unknown", true),
    ];
    assert_eq!(seen, BTreeSet::from(four));
}

#[tokio::test]
async fn a_late_request_arrives_after_its_caller_gave_up() {
    let faults = Faults {
        late_request: 300,
        ..Faults::NONE
    };
    let fates = fates(faults, 7).await;
    let late = fates
        .iter()
        .filter(|fate| **fate == ("unknown", true))
        .count();
    assert!(late > 50, "{late} of 500");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let first = fates(Faults::MANY, 7).await;
    assert_eq!(first, fates(Faults::MANY, 7).await);
    assert_ne!(first, fates(Faults::MANY, 8).await);
}

#[tokio::test]
async fn a_watch_that_was_cut_goes_on_after_its_last_item() {
    let faults = Faults {
        cut_watch: 300,
        ..Faults::NONE
    };
    let store = FaultyStore::new(memory(), Host::new().clock, faults, 7);
    let mut seen = store.head().await.unwrap();
    for n in 0..100 {
        store.commit(Txn::new().put(key(n), "v")).await.unwrap();
    }
    let head = store.head().await.unwrap();
    let mut revisions = Vec::new();
    let mut cuts = 0;
    while seen != head {
        let mut watch = store.watch(Range::all(), seen).await.unwrap();
        while seen != head {
            match watch.next().await.unwrap() {
                WatchItem::Events { at, .. } => {
                    revisions.push(at.revision.0);
                    seen = at;
                },
                WatchItem::End(reason) => {
                    assert_eq!(reason, EndReason::Overflow);
                    assert_eq!(watch.next().await, None);
                    cuts += 1;
                    break;
                },
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(revisions, (1..=100).collect::<Vec<_>>());
    assert!(cuts > 10, "{cuts}");
}
