//! A store beside the model: the same questions, the same answers, up to the numbers of revisions.

use std::sync::Arc;

use cpl_core::store::{
    Clock, Commit, Cursor, Error, Event, Expect, Key, KeyMeta, Kind, ListRequest, MemoryStore,
    Outcome, Range, Revision, Store, StoreId, Txn, TxnId, WatchItem,
};
use futures::StreamExt;

use crate::dice::Dice;

/// Few keys and few ids, so that they meet.
const KEYS: u64 = 8;
const IDS: u64 = 12;

/// What a step does, before anybody knows a revision.
#[derive(Clone, Debug)]
enum Step {
    Commit {
        id: Option<u64>,
        compares: Vec<(u64, Expected)>,
        writes: Vec<(u64, Option<u8>)>,
    },
    Outcome(u64),
    Get(u64),
    List(u64),
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Absent,
    AsItIs,
    Stale,
}

/// What is the same for both: answers without revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Applied { replayed: bool },
    Failed(Vec<(Key, Option<u64>)>),
    Settled(bool),
    Entries(Vec<(Key, Vec<u8>, u64)>),
    Refused(Kind),
}

/// A store, and what happened to it last at each key.
#[derive(Debug)]
struct Side {
    store: Arc<dyn Store>,
    start: Cursor,
}

/// Takes the same steps with a store that is empty and with the model, and compares all answers and then all events.
///
/// # Panics
/// At the first difference, with the seed.
pub(crate) async fn compare(store: Arc<dyn Store>, clock: Arc<dyn Clock>, seed: u64, steps: usize) {
    let model: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreId(1), clock));
    let (model, real) = (Side::new(model).await, Side::new(store).await);
    let mut dice = Dice(seed);
    for n in 0..steps {
        let step = draw(&mut dice);
        let (expected, got) = (model.take(&step).await, real.take(&step).await);
        assert_eq!(got, expected, "seed {seed}, step {n}: {step:?}");
    }
    assert_eq!(real.events().await, model.events().await, "seed {seed}");
}

fn draw(dice: &mut Dice) -> Step {
    match dice.below(10) {
        0 => Step::Outcome(dice.below(IDS)),
        1 => Step::Get(dice.below(KEYS)),
        2 => Step::List(1 + dice.below(KEYS)),
        _ => Step::Commit {
            id: (dice.below(3) == 0).then(|| dice.below(IDS)),
            compares: keys(dice, 3)
                .into_iter()
                .map(|key| {
                    let expected = [
                        Expected::Absent,
                        Expected::AsItIs,
                        Expected::AsItIs,
                        Expected::Stale,
                    ];
                    (key, expected[usize::try_from(dice.below(4)).unwrap()])
                })
                .collect(),
            writes: keys(dice, 4)
                .into_iter()
                .map(|key| {
                    let value = (dice.below(3) > 0).then(|| u8::try_from(dice.below(4)).unwrap());
                    (key, value)
                })
                .collect(),
        },
    }
}

/// Some keys, none twice.
fn keys(dice: &mut Dice, below: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = (0..dice.below(below)).map(|_| dice.below(KEYS)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn key(n: u64) -> Key {
    Key::new(format!("k{n}")).unwrap()
}

fn id(n: u64) -> TxnId {
    TxnId(u128::from(n))
}

impl Side {
    async fn new(store: Arc<dyn Store>) -> Self {
        let start = store.head().await.unwrap();
        Self { store, start }
    }

    async fn take(&self, step: &Step) -> Answer {
        let answer = match step {
            Step::Outcome(n) => self
                .store
                .outcome(id(*n))
                .await
                .map(|outcome| Answer::Settled(matches!(outcome, Outcome::Applied(_)))),
            Step::Get(n) => self
                .store
                .get(&key(*n))
                .await
                .map(|read| entries(read.value)),
            Step::List(limit) => self.list(*limit).await,
            Step::Commit { .. } => self.commit(step).await,
        };
        answer.unwrap_or_else(|error| Answer::Refused(error.kind().clone()))
    }

    async fn list(&self, limit: u64) -> Result<Answer, Error> {
        let mut request = ListRequest {
            limit: usize::try_from(limit).unwrap(),
            ..ListRequest::first(Range::all())
        };
        let mut found = Vec::new();
        loop {
            let page = self.store.list(request.clone()).await?;
            found.extend(page.entries);
            request.page = page.next;
            if request.page.is_none() {
                return Ok(entries(found));
            }
        }
    }

    async fn commit(&self, step: &Step) -> Result<Answer, Error> {
        let Step::Commit {
            id: named,
            compares,
            writes,
        } = step
        else {
            unreachable!("it is a commit");
        };
        let mut txn = Txn::new();
        if let Some(n) = named {
            txn = txn.with_id(id(*n));
        }
        for (n, expected) in compares {
            txn = txn.expect(key(*n), self.expect(*n, *expected).await?);
        }
        for (n, value) in writes {
            txn = match value {
                Some(value) => txn.put(key(*n), vec![*value]),
                None => txn.delete(key(*n)),
            };
        }
        Ok(match self.store.commit(txn).await? {
            Commit::Applied { replayed, .. } => Answer::Applied { replayed },
            Commit::CompareFailed { mut failed, .. } => {
                failed.sort_by(|one, other| one.0.cmp(&other.0));
                let version = |meta: KeyMeta| meta.version;
                Answer::Failed(
                    failed
                        .into_iter()
                        .map(|(key, meta)| (key, meta.map(version)))
                        .collect(),
                )
            },
        })
    }

    async fn expect(&self, n: u64, expected: Expected) -> Result<Expect, Error> {
        let there = self.store.get(&key(n)).await?.value.map(|entry| entry.meta);
        Ok(match (expected, there) {
            (Expected::AsItIs, Some(meta)) => Expect::ModRevision(meta.mod_revision),
            (Expected::Stale, Some(meta)) => Expect::ModRevision(Revision(meta.mod_revision.0 - 1)),
            // No put ever was revision 0, though etcd says so of what is not there; nor can one be the last one.
            (Expected::Stale, None) if n.is_multiple_of(2) => Expect::ModRevision(Revision(0)),
            (Expected::Stale, None) => Expect::ModRevision(Revision(u64::MAX)),
            (Expected::Absent, _) | (Expected::AsItIs, None) => Expect::Absent,
        })
    }

    /// Every event since the start, a list for each revision: the key, its value and version if it was set, and whether
    /// it was there before.
    async fn events(&self) -> Vec<Vec<(Key, Option<(Vec<u8>, u64)>)>> {
        let fence = key(KEYS);
        self.store
            .commit(Txn::new().put(fence.clone(), ""))
            .await
            .unwrap();
        let mut watch = self.store.watch(Range::all(), self.start).await.unwrap();
        let mut told = Vec::new();
        loop {
            match watch.next().await.unwrap() {
                WatchItem::Events { events, .. } => {
                    let last = events.iter().any(|event| *event.key() == fence);
                    told.push(events.into_iter().map(plain).collect());
                    if last {
                        return told;
                    }
                },
                WatchItem::Progress(_) | WatchItem::Stalled(_) => {},
                WatchItem::End(reason) => panic!("the watch ended: {reason:?}"),
            }
        }
    }
}

fn entries(found: impl IntoIterator<Item = cpl_core::store::Entry>) -> Answer {
    let plain = found
        .into_iter()
        .map(|entry| (entry.key, entry.value.to_vec(), entry.meta.version));
    Answer::Entries(plain.collect())
}

fn plain(event: Event) -> (Key, Option<(Vec<u8>, u64)>) {
    match event {
        Event::Put { entry } => {
            let value = (entry.value.to_vec(), entry.meta.version);
            (entry.key, Some(value))
        },
        Event::Delete { key } => (key, None),
    }
}
