//! Behaviour through the public face; the contract itself is tested by the conformance suite.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cpl_core::store::conformance::{self, Runtime, Settling};
use cpl_core::store::{
    Class, Clock, Commit, EndReason, Error, Faults, FaultyStore, Identity, Incarnation, Key, Kind,
    ListRequest, MemoryStore, Monotonic, Outcome, Range, Revision, SealId, Store, StoreId, Summary,
    Timestamp, Txn, TxnId, WatchItem, export,
};
use cpl_host::Host;
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use tempfile::TempDir;

use super::*;

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    (dir, path)
}

fn open_with(path: &Path, config: Config) -> Result<EmbeddedStore, Error> {
    let host = Host::new();
    EmbeddedStore::open_or_create(path, config, Arc::clone(&host.clock), &*host.ids)
}

fn open(path: &Path) -> EmbeddedStore {
    open_with(path, Config::default()).unwrap()
}

fn refused(path: &Path) -> Error {
    let host = Host::new();
    EmbeddedStore::open(path, Config::default(), host.clock, &*host.ids).unwrap_err()
}

fn key(text: impl Into<String>) -> Key {
    Key::new(text.into()).unwrap()
}

async fn put(store: &EmbeddedStore, name: &str, value: &str) -> Revision {
    let txn = Txn::new().put(key(name), value.to_owned());
    let Commit::Applied { at, .. } = store.commit(txn).await.unwrap() else {
        panic!("nothing was compared");
    };
    at.revision
}

async fn all(store: &dyn Store) -> Vec<String> {
    let mut request = ListRequest::first(Range::all());
    let mut found = Vec::new();
    loop {
        let page = store.list(request.clone()).await.unwrap();
        found.extend(page.entries.iter().map(|entry| {
            let value = String::from_utf8_lossy(&entry.value);
            format!("{}={value}@{:?}", entry.key, entry.meta)
        }));
        request.page = page.next;
        if request.page.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let (_dir, path) = place();
    let store = open(&path);
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    let cursor = store.head().await.unwrap();
    put(&store, "b", "3").await;
    let before = all(&store).await;
    drop(store);

    let store = open(&path);
    assert_eq!(all(&store).await, before);
    let mut watch = store.watch(Range::all(), cursor).await.unwrap();
    let Some(WatchItem::Events { at, events }) = watch.next().await else {
        panic!("an event was logged after the cursor");
    };
    assert_eq!((at.revision, events.len()), (Revision(3), 1));
    assert_eq!(put(&store, "c", "4").await, Revision(4));
}

#[tokio::test]
async fn checkpoints_keep_what_is_live_and_forget_the_rest() {
    let (_dir, path) = place();
    let config = Config {
        log_revisions: 10,
        checkpoint_bytes: 0,
        ..Config::default()
    };
    let store = open_with(&path, config).unwrap();
    let first = store.head().await.unwrap();
    let id = TxnId(7);
    let named = Txn::new().put(key("named"), "x").with_id(id);
    store.commit(named.clone()).await.unwrap();
    for round in 0..100 {
        put(&store, &format!("k{}", round % 7), &round.to_string()).await;
    }
    let gone = Txn::new().delete(key("k3"));
    store.commit(gone).await.unwrap();
    store.compact(Revision(102)).await.unwrap();
    let before = all(&store).await;
    store.close().await;
    drop(store);

    let store = open(&path);
    assert_eq!(all(&store).await, before);
    let refused = store.watch(Range::all(), first).await.err().unwrap();
    let compacted = Revision(102);
    assert_eq!(*refused.kind(), Kind::Compacted { compacted });
    let again = store.commit(named).await.unwrap();
    assert!(matches!(again, Commit::Applied { at, replayed: true } if at.revision == Revision(1)));
    assert_eq!(store.outcome(TxnId(8)).await.unwrap(), Outcome::Void);
}

#[tokio::test]
async fn a_second_opening_is_refused_while_the_first_one_lasts() {
    let (_dir, path) = place();
    let store = open(&path);
    let error = refused(&path);
    assert_eq!(error.class(), Class::NotApplied);
    assert!(error.to_string().contains("another process"), "{error}");
    store.close().await;
    drop(open(&path));
}

#[tokio::test]
async fn cursors_of_a_copy_that_went_its_own_way_are_refused() {
    let (dir, path) = place();
    drop(open(&path));
    let copy = dir.path().join("copy.redb");
    std::fs::copy(&path, &copy).unwrap();
    let (original, copy) = (open(&path), open(&copy));
    put(&original, "a", "1").await;
    put(&copy, "a", "2").await;
    let cursor = original.head().await.unwrap();
    let error = copy.watch(Range::all(), cursor).await.err().unwrap();
    assert_eq!(*error.kind(), Kind::IdentityChanged);
}

#[test]
fn what_is_no_store_is_refused_by_name() {
    let (dir, path) = place();
    let check = |path: &Path, kind: &Kind, says: &str| {
        let error = refused(path);
        let text = error.to_string();
        assert!(error.kind() == kind && text.contains(says), "{error:?}");
    };
    check(&path, &Kind::Invalid, "no such file");
    check(dir.path(), &Kind::Invalid, "directory");
    std::fs::write(&path, b"").unwrap();
    check(&path, &Kind::Invalid, "empty");
    std::fs::write(&path, b"{\"this\": \"is not a database\"}").unwrap();
    check(&path, &Kind::Invalid, "not a redb database");
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    check(&path, &Kind::Invalid, "not one of this store");
}

#[test]
fn a_store_is_created_once_and_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, path) = place();
    EmbeddedStore::create(&path, &*Host::new().ids).unwrap();
    let again = EmbeddedStore::create(&path, &*Host::new().ids).unwrap_err();
    assert_eq!(*again.kind(), Kind::Invalid);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn there_is_one_place_that_begins_writes() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut places = Vec::new();
    for file in std::fs::read_dir(sources).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let found = text.matches(concat!("begin_", "write(")).count();
        places.extend(std::iter::repeat_n(path, found));
    }
    let names: Vec<_> = places.iter().filter_map(|path| path.file_name()).collect();
    assert_eq!(names, ["disk.rs"]);
}

/// A wall clock that stands where it is put.
#[derive(Debug)]
struct Standing(AtomicU64);

impl Clock for Standing {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::default()
    }

    fn sleep_until(&self, _until: Monotonic) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn an_id_is_remembered_for_its_time_and_no_longer() {
    let (_dir, path) = place();
    let clock = Arc::new(Standing(AtomicU64::new(0)));
    let reopen = || {
        let clock: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        EmbeddedStore::open_or_create(&path, Config::default(), clock, &*Host::new().ids).unwrap()
    };
    let hours = |n: u64| clock.0.store(n * 3_600_000, Ordering::Relaxed);
    let txn = || Txn::new().put(key("k"), "v").with_id(TxnId(1));
    let store = reopen();
    let told = async |store: &EmbeddedStore| match store.commit(txn()).await.unwrap() {
        Commit::Applied { at, replayed } => (at.revision.0, replayed),
        Commit::CompareFailed { .. } => panic!("nothing was compared"),
    };
    assert_eq!(told(&store).await, (1, false));
    store.compact(Revision(1)).await.unwrap();
    hours(23);
    assert_eq!(told(&store).await, (1, true));
    drop(store);
    let store = reopen();
    assert_eq!(told(&store).await, (1, true));
    hours(24);
    assert_eq!(told(&store).await, (2, false));
    hours(47);
    drop(store);
    assert_eq!(told(&reopen()).await, (2, true));
}

#[tokio::test]
async fn the_log_stays_within_its_measure() {
    let (_dir, path) = place();
    let config = Config {
        log_bytes: 100_000,
        checkpoint_bytes: 100_000,
        ..Config::default()
    };
    let store = open_with(&path, config).unwrap();
    let start = store.head().await.unwrap();
    for n in 0..200 {
        put(&store, &format!("k{}", n % 3), &"v".repeat(10_000)).await;
    }
    let error = store.watch(Range::all(), start).await.err().unwrap();
    let Kind::Compacted { compacted } = *error.kind() else {
        panic!("{error:?}");
    };
    assert!((185..=195).contains(&compacted.0), "{compacted}");
    store.close().await;
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 2_000_000, "the file has {size} bytes");
}

#[tokio::test]
async fn rulings_alone_do_not_fill_the_log() {
    let (_dir, path) = place();
    let config = Config {
        checkpoint_bytes: 1_000,
        ..Config::default()
    };
    let store = open_with(&path, config).unwrap();
    for id in 0..200 {
        assert_eq!(store.outcome(TxnId(id)).await.unwrap(), Outcome::Void);
    }
    store.close().await;
    drop(store);
    let left = disk::Disk::open(&path).unwrap().load().unwrap().records;
    assert!(
        left.len() < 50,
        "{} records are left in the log",
        left.len()
    );
    let store = open(&path);
    for id in 0..200 {
        assert_eq!(store.outcome(TxnId(id)).await.unwrap(), Outcome::Void);
    }
}

#[tokio::test]
async fn what_does_not_fit_the_queue_is_refused_and_did_not_happen() {
    let (_dir, path) = place();
    let config = Config {
        queue: 2,
        ..Config::default()
    };
    let store = open_with(&path, config).unwrap();
    let names: Vec<String> = (0..100).map(|n| format!("k{n:03}")).collect();
    let writes = names
        .iter()
        .map(|name| store.commit(Txn::new().put(key(name), "v")));
    for (name, result) in names.iter().zip(join_all(writes).await) {
        let there = store.get(&key(name)).await.unwrap().value.is_some();
        match result {
            Ok(_) => assert!(there, "{name} was acknowledged"),
            Err(error) => assert!(
                *error.kind() == Kind::Overloaded && !there,
                "{name}: {error:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_closed_store_has_told_everything_and_refuses_more() {
    for writer in [Writer::Thread, Writer::Inline] {
        let (_dir, path) = place();
        let config = Config {
            writer,
            ..Config::default()
        };
        let store = open_with(&path, config).unwrap();
        let start = store.head().await.unwrap();
        let mut watch = store.watch(Range::all(), start).await.unwrap();
        put(&store, "k", "v").await;
        store.close().await;
        store.close().await;
        assert!(matches!(watch.next().await, Some(WatchItem::Events { .. })));
        assert_eq!(watch.next().await, Some(WatchItem::End(EndReason::Closed)));
        assert_eq!(watch.next().await, None);
        let refused = [
            store.get(&key("k")).await.unwrap_err(),
            store.commit(Txn::new()).await.unwrap_err(),
            store.outcome(TxnId(1)).await.unwrap_err(),
        ];
        assert!(
            refused
                .iter()
                .all(|error| *error.kind() == Kind::NotConnected),
            "{refused:?}"
        );
        drop(open(&path));
    }
}

#[test]
fn a_file_of_another_format_is_refused_by_its_number() {
    let (_dir, path) = place();
    let draft = disk::Draft::new(&path, 1).unwrap();
    let label = format::Label {
        format: 3,
        store: StoreId(1),
        incarnation: Incarnation(1),
        seal: None,
    };
    draft.disk.initialise(&label, &format::Mark::EMPTY).unwrap();
    draft.publish().unwrap();
    let error = refused(&path);
    assert_eq!(*error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("format 3"), "{error}");
}

async fn exported(store: &dyn Store) -> Vec<u8> {
    let mut text = Vec::new();
    export(store, &mut text).await.unwrap();
    text
}

fn imported(text: &[u8], path: &Path) -> Result<Summary, Error> {
    import(&mut &*text, path, &*Host::new().ids)
}

#[tokio::test]
async fn an_imported_export_is_the_same_store_in_its_next_life() {
    let (dir, path) = place();
    let store = open(&path);
    put(&store, "text", "v").await;
    put(&store, "text", "\"quoted\"\n").await;
    let raw = Txn::new().put(
        Key::new([0xff, 0].as_slice()).unwrap(),
        [0, 0xfe].as_slice(),
    );
    store.commit(raw).await.unwrap();
    let seen = store.head().await.unwrap();

    let copy = dir.path().join("imported.redb");
    let summary = imported(&exported(&store).await, &copy).unwrap();
    assert_eq!((summary.entries, summary.revision), (2, Revision(4)));
    let copy = open(&copy);
    assert_eq!(all(&copy).await, all(&store).await);
    let identity = copy.identity();
    assert_eq!(identity.store, seen.identity.store);
    assert_eq!(identity.incarnation.0, seen.identity.incarnation.0 + 1);
    let error = copy.watch(Range::all(), seen).await.err().unwrap();
    assert_eq!(*error.kind(), Kind::IdentityChanged);
    assert_eq!(put(&copy, "next", "").await, Revision(5));
}

#[tokio::test]
async fn a_changed_export_is_refused_and_leaves_no_file() {
    let (dir, path) = place();
    let store = MemoryStore::new(StoreId(9), Host::new().clock);
    for name in ["a", "b"] {
        store.commit(Txn::new().put(key(name), "v")).await.unwrap();
    }
    let good = exported(&store).await;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(imported(&bad, &path).is_err(), "byte {at} changed");
        assert!(imported(&good[..at], &path).is_err(), "cut at {at}");
    }
    let twice = [good.clone(), good.clone()].concat();
    assert!(imported(&twice, &path).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    imported(&good, &path).unwrap();
    assert!(imported(&good, &path).is_err(), "the file exists");
}

#[tokio::test]
async fn a_backup_is_the_store_as_it_was() {
    let (dir, path) = place();
    let ids = Host::new().ids;
    let store = open(&path);
    let start = store.head().await.unwrap();
    for n in 0..20 {
        put(&store, &format!("k{n}"), "v").await;
    }
    store.compact(Revision(5)).await.unwrap();
    let (then, backed_up) = (all(&store).await, store.head().await.unwrap());
    let copy = dir.path().join("backup.redb");
    store.backup(&copy, &*ids).await.unwrap();
    put(&store, "later", "v").await;
    let later = store.head().await.unwrap();

    let copy = open(&copy);
    assert_eq!(all(&copy).await, then);
    assert_eq!(copy.identity(), store.identity());
    copy.watch(Range::all(), backed_up).await.map(drop).unwrap();
    let kind = async |cursor| {
        copy.watch(Range::all(), cursor)
            .await
            .err()
            .unwrap()
            .kind()
            .clone()
    };
    assert_eq!(kind(later).await, Kind::IdentityChanged);
    let compacted = Revision(5);
    assert_eq!(kind(start).await, Kind::Compacted { compacted });
    assert!(store.backup(&path, &*ids).await.is_err(), "the file exists");
}

#[tokio::test]
async fn a_file_that_is_filled_or_sealed_is_so_when_it_is_opened_again() {
    let (_dir, path) = place();
    let host = Host::new();
    let identity = Identity {
        store: StoreId(7),
        incarnation: Incarnation(5),
    };
    let new = |path: &Path| {
        let clock = Arc::clone(&host.clock);
        EmbeddedStore::open_new(path, identity, Config::default(), clock, &*host.ids)
    };
    let sealed = async |store: &EmbeddedStore| {
        let txn = Txn::new().put(key("a"), "2");
        let refused = store.commit(txn).await.unwrap_err();
        assert!(refused.to_string().contains("it is sealed"), "{refused}");
        assert!(
            store
                .refusal()
                .unwrap()
                .to_string()
                .contains("it is sealed")
        );
    };
    let making = new(&path).unwrap();
    put(&making, "a", "1").await;
    assert!(making.seal(SealId(1)).await.is_err());
    drop(making);
    let unfinished = refused(&path).to_string();
    assert!(unfinished.contains("it is not complete"), "{unfinished}");
    std::fs::remove_file(&path).unwrap();

    let making = new(&path).unwrap();
    put(&making, "a", "1").await;
    making.unseal().await.unwrap();
    drop(making);
    assert!(new(&path).is_err(), "the file exists");
    let store = open(&path);
    assert_eq!(store.identity(), identity);
    put(&store, "b", "1").await;
    store.seal(SealId(1)).await.unwrap();
    sealed(&store).await;
    drop(store);
    let store = open(&path);
    sealed(&store).await;
    assert!(store.seal(SealId(2)).await.is_err());
    store.unseal().await.unwrap();
    put(&store, "a", "2").await;
    assert!(store.refusal().is_none());
}

/// Runs the suite on the store alone, or behind faults with a client that settles what is unknown.
async fn conforms(config: Config, faults: Option<u64>) {
    let Host {
        clock,
        ids,
        spawner,
    } = Host::new();
    let runtime = Runtime { clock, spawner };
    let dir = TempDir::new().unwrap();
    let factory = async || {
        let path = dir.path().join(format!("{:x}.redb", ids.fresh()));
        let store: Arc<dyn Store> = Arc::new(open_with(&path, config).unwrap());
        let Some(seed) = faults else { return store };
        let clock = Arc::clone(&runtime.clock);
        let faulty = FaultyStore::new(store, clock, Faults::MANY, seed);
        Settling::new(Arc::new(faulty)) as Arc<dyn Store>
    };
    let report = conformance::run_all(&runtime, factory).await;
    assert_eq!(report, Ok(()), "faults: {faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contract_is_kept_by_the_thread() {
    conforms(Config::default(), None).await;
}

#[tokio::test]
async fn the_contract_is_kept_inline() {
    let config = Config {
        writer: Writer::Inline,
        ..Config::default()
    };
    conforms(config, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_contract_is_kept_behind_faults() {
    for seed in 0..3 {
        conforms(Config::default(), Some(seed)).await;
    }
}
