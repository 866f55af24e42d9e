//! A disk that fails under a running store, by seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpl_core::store::{
    Class, Clock, Commit, Cursor, Entry, Error, Key, Kind, Monotonic, Outcome, Range, Revision,
    Store, Timestamp, Txn, TxnId, WatchItem, WatchStream,
};
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore, Writer};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use crate::output::figures;
use crate::platter::{Chance, Op, Plan, Platter};
use crate::world::entries;

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }

    fn sleep_until(&self, _until: Monotonic) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// What a client knows of a transaction that put two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Acknowledged(Revision),
    Nothing,
    Unknown,
}

/// What happened in the lives of all seeds.
type Histogram = BTreeMap<String, usize>;

/// One store through several lives on one disk.
struct Story {
    seed: u64,
    chance: Chance,
    platter: Platter,
    clock: Arc<Hand>,
    known: Vec<Known>,
    /// What watches have delivered: which transaction, at which revision.
    watched: BTreeMap<Revision, usize>,
}

fn key(n: usize, half: &str) -> Key {
    Key::new(format!("{n:04}/{half}")).unwrap()
}

const fn id(n: usize) -> TxnId {
    TxnId(n as u128 + 1)
}

fn txn(n: usize) -> Txn {
    let value = n.to_string().repeat(1 + n % 700);
    let put = Txn::new().with_id(id(n)).put(key(n, "left"), value.clone());
    put.put(key(n, "right"), value)
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            chance: Chance(seed),
            platter: Platter::default(),
            clock: Arc::default(),
            known: Vec::new(),
            watched: BTreeMap::new(),
        }
    }

    fn open(&self) -> Result<EmbeddedStore, Error> {
        let config = Config {
            writer: Writer::Inline,
            log_revisions: 10,
            checkpoint_bytes: 1_000,
            checkpoint_rows: 3,
            ..Config::default()
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        EmbeddedStore::open_on(self.platter.clone(), config, clock, &*Host::new().ids)
    }

    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        match self.chance.below(4) {
            0 => plan.sync_fails = Some(1 + self.chance.next() % 60),
            1 => plan.room = Some(self.platter.sectors_used() + self.chance.below(600)),
            _ => plan.dies_after = Some(self.chance.next() % 250),
        }
        plan
    }

    /// Writes until something goes wrong, or long enough.
    async fn write(&mut self, store: &EmbeddedStore, count: usize) -> Result<(), String> {
        let start = store.head().await.unwrap();
        let mut watch = store.watch(Range::all(), start).await.unwrap();
        for _ in 0..count {
            let n = self.known.len();
            let known = match store.commit(txn(n)).await {
                Ok(Commit::Applied { at, .. }) => Known::Acknowledged(at.revision),
                Ok(Commit::CompareFailed { .. }) => return Err("nothing was compared".to_owned()),
                Err(error) if error.class() == Class::NotApplied => Known::Nothing,
                Err(error) if error.class() == Class::Indeterminate => Known::Unknown,
                Err(error) => return Err(format!("{n}: {error} ({:?})", error.kind())),
            };
            self.known.push(known);
            self.watched.extend(delivered(&mut watch)?);
            let readable = store.get(&key(n, "left")).await.unwrap().value.is_some();
            if readable != matches!(known, Known::Acknowledged(_)) {
                return Err(format!("{n} is {known:?} and readable: {readable}"));
            }
        }
        Ok(())
    }

    /// Whether the store is what its clients and watchers know it to be; settles what they do not know.
    async fn check(&mut self, store: &EmbeddedStore) -> Result<(), String> {
        let found: BTreeMap<Key, Entry> = entries(store)
            .await
            .into_iter()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        for (n, known) in self.known.iter_mut().enumerate() {
            let half = |half| found.get(&key(n, half)).map(|e| e.meta.mod_revision);
            let (left, right) = (half("left"), half("right"));
            if left != right {
                return Err(format!("{n} is torn: {left:?}, {right:?}"));
            }
            let fits = match known {
                Known::Acknowledged(at) => left == Some(*at),
                Known::Nothing => left.is_none(),
                Known::Unknown => true,
            };
            if !fits {
                return Err(format!("{n} is {known:?} and found at {left:?}"));
            }
            let settled = match store
                .outcome(id(n))
                .await
                .map_err(|e| format!("{n}: {e}"))?
            {
                Outcome::Applied(at) => Known::Acknowledged(at),
                Outcome::Void => Known::Nothing,
            };
            if settled != left.map_or(Known::Nothing, Known::Acknowledged) {
                return Err(format!(
                    "{n} is found at {left:?} and settled as {settled:?}"
                ));
            }
            *known = settled;
        }
        for (at, n) in &self.watched {
            if self.known[*n] != Known::Acknowledged(*at) {
                let known = self.known[*n];
                return Err(format!("a watch told {n} at {at}, and it is {known:?}"));
            }
        }
        Ok(())
    }

    /// One life: opens, writes, meets its fault, and what comes after it is looked at.
    async fn live(&mut self, lies: bool, hits: &mut Histogram) -> Result<(), String> {
        let mut hit = |what: String| *hits.entry(what).or_default() += 1;
        let mut plan = self.plan();
        plan.lies = lies;
        self.platter.plan(plan.clone());
        let writes = 15 + self.chance.below(50);
        match self.open() {
            Ok(store) => {
                self.write(&store, writes).await?;
                if plan.room.is_some() && self.platter.was_full() {
                    hit("disk full".to_owned());
                    self.check_recovery(&store).await?;
                    hit("wrote again with room".to_owned());
                }
            },
            Err(_) if self.platter.died_in().is_some() || self.platter.was_full() => {
                hit("failed while opening".to_owned());
            },
            Err(_) if plan.sync_fails.is_some() => hit("failed while opening".to_owned()),
            Err(error) => return Err(format!("opening: {error} ({:?})", error.kind())),
        }
        if plan.sync_fails.is_some() {
            hit("sync failed".to_owned());
        }
        match self.platter.died_in() {
            Some(Op::Write) => hit("died in a write".to_owned()),
            Some(Op::Sync) => hit("died in a sync".to_owned()),
            Some(Op::Resize) => hit("died in a resize".to_owned()),
            None => {},
        }
        if plan.sync_fails.is_none() && self.chance.below(3) == 0 {
            self.platter.after_a_kill();
            hit("killed".to_owned());
        } else {
            let torn = self.platter.after_a_crash(&mut self.chance);
            hit("lost power".to_owned());
            if torn {
                hit("lost power, and some of the last writes".to_owned());
            }
        }
        let store = self.open();
        let store = store.map_err(|e| format!("after a crash: {e} ({:?})", e.kind()))?;
        self.check(&store).await
    }

    /// The same store goes on once there is room.
    async fn check_recovery(&mut self, store: &EmbeddedStore) -> Result<(), String> {
        let kind = store.refusal().map(|error| error.kind().clone());
        if kind != Some(Kind::ReadOnly) {
            return Err(format!("on a full disk it says {kind:?}"));
        }
        self.platter.make_room();
        self.clock.0.fetch_add(60_000, Ordering::SeqCst);
        self.check(store).await?;
        self.write(store, 5).await?;
        let last = self.known[self.known.len() - 5..].to_vec();
        if store.refusal().is_some() || last.iter().any(|k| !matches!(k, Known::Acknowledged(_))) {
            return Err(format!("there is room, and it does not write: {last:?}"));
        }
        self.check(store).await
    }

    async fn run(&mut self, lies: bool, hits: &mut Histogram) -> Result<(), String> {
        let seed = self.seed;
        // A store that is being made has no name yet: a crash leaves nothing that anybody opens.
        self.open().unwrap().close().await;
        for life in 0..4 {
            let lived = self.live(lies, hits).await;
            lived.map_err(|what| format!("seed {seed}, life {life}: {what}"))?;
        }
        Ok(())
    }
}

/// What a watch has to tell by now: transactions by revision.
fn delivered(watch: &mut WatchStream) -> Result<BTreeMap<Revision, usize>, String> {
    let mut told = BTreeMap::new();
    while let Some(item) = watch.next().now_or_never() {
        match item {
            Some(WatchItem::Events { at, events }) => {
                let name = events[0].key().to_string();
                told.insert(at.revision, name[..4].parse().unwrap());
                if events.len() != 2 {
                    return Err(format!("a watch told a part of {name}"));
                }
            },
            Some(WatchItem::Progress(Cursor { .. }) | WatchItem::Stalled(_)) => {},
            Some(WatchItem::End(reason)) => return Err(format!("a watch ended: {reason:?}")),
            None => return Ok(told),
        }
    }
    Ok(told)
}

#[tokio::test]
async fn no_fault_of_the_disk_loses_or_tears_what_was_acknowledged() {
    let seeds = std::env::var("CPL_FAULT_SEEDS").map_or(40, |seeds| seeds.parse().unwrap());
    let mut hits = Histogram::new();
    for seed in 0..seeds {
        Story::new(seed).run(false, &mut hits).await.unwrap();
    }
    let wanted = [
        "died in a sync",
        "died in a write",
        "disk full",
        "failed while opening",
        "killed",
        "lost power",
        "lost power, and some of the last writes",
        "sync failed",
        "wrote again with room",
    ];
    figures(format_args!("{seeds} seeds: {hits:#?}"));
    let missed: Vec<_> = wanted
        .iter()
        .filter(|what| !hits.contains_key(**what))
        .collect();
    assert!(missed.is_empty(), "never: {missed:?}, hits: {hits:#?}");
}

/// What the other test would see if an acknowledgement did not wait for the disk.
#[tokio::test]
async fn a_disk_that_lies_about_syncing_is_found_out() {
    let mut found = 0;
    for seed in 0..20 {
        found += usize::from(
            Story::new(seed)
                .run(true, &mut Histogram::new())
                .await
                .is_err(),
        );
    }
    assert!(found > 10, "{found} of 20");
}
