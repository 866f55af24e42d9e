//! A process that writes is killed, again and again; nothing that it was told is lost, and nothing
//! that it was shown was not yet durable.
//!
//! `CPL_KILL_ROUNDS` sets how often, `CPL_KILL_SEED` when. See `docs/internals/crash-campaigns.md`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cpl_core::store::{
    Commit, Entry, Event, Key, Outcome, Range, Revision, Store, Txn, TxnId, WatchItem,
};
use cpl_host::Host;
use cpl_store_embedded::{BackendError, Config, EmbeddedStore, StorageBackend};
use futures::StreamExt as _;
use futures::future::join_all;
use redb::backends::FileBackend;
use tempfile::TempDir;

use crate::output::figures;
use crate::platter::Chance;
use crate::world::{create, entries, try_open};

const DIR: &str = "CPL_TEST_KILLED_STORE";
const ROUND: &str = "CPL_TEST_KILLED_ROUND";
const CLIENTS: usize = 8;
/// Longest time that a child may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Most looks for a moment to kill in.
const LOOKS: usize = 5_000;
/// Where kills must have hit.
const PHASES: [&str; 5] = [
    "opening",
    "before a commit",
    "during a commit: writing",
    "during a commit: syncing",
    "after a commit, before it was told",
];

/// Checkpoints all the time, so that kills land in them too.
const CONFIG: Config = Config {
    log_revisions: 40,
    log_bytes: 64 << 20,
    checkpoint_bytes: 10_000,
    checkpoint_rows: 7,
    queue: 1_024,
    outcome_records: 2_000_000,
    writer: cpl_store_embedded::Writer::Thread,
};

/// What the disk was asked to do last, as a byte in a file that outlives the process.
#[derive(Debug)]
struct Observed {
    file: FileBackend,
    phase: File,
}

impl Observed {
    fn on(dir: &Path) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(dir.join("store.redb")).unwrap();
        let file = FileBackend::new(file).unwrap();
        let phase = options.open(dir.join("phase")).unwrap();
        Self { file, phase }
    }

    fn note(&self, phase: u8) {
        self.phase.write_all_at(&[phase], 0).unwrap();
    }
}

impl StorageBackend for Observed {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.note(b'w');
        self.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.note(b's');
        let synced = self.file.sync_data();
        self.note(b'd');
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.note(b'w');
        self.file.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
}

const fn id(round: u64, client: u64, n: u64) -> TxnId {
    TxnId((round as u128) << 96 | (client as u128) << 64 | n as u128)
}

/// Both halves of a transaction must be there, or none.
fn txn(round: u64, client: u64, n: u64) -> Txn {
    let name = |half: &str| Key::new(format!("{client}/{}/{half}", n % 5)).unwrap();
    let value = format!("{round}-{client}-{n}");
    Txn::new()
        .with_id(id(round, client, n))
        .put(name("left"), value.clone())
        .put(name("right"), value)
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Writes, and says what it was told.
async fn write(store: Arc<EmbeddedStore>, round: u64, client: u64) {
    for n in 0.. {
        let Commit::Applied { at, .. } = store.commit(txn(round, client, n)).await.unwrap() else {
            panic!("nothing was compared");
        };
        say(format_args!("ack {client} {n} {}", at.revision));
    }
}

/// Watches, and says what it was shown.
async fn watch(store: Arc<EmbeddedStore>) {
    let start = store.head().await.unwrap();
    let mut watch = store.watch(Range::all(), start).await.unwrap();
    while let Some(item) = watch.next().await {
        let WatchItem::Events { at, events } = item else {
            continue;
        };
        let [Event::Put { entry, .. }, _] = &events[..] else {
            panic!("a part of a transaction: {events:?}");
        };
        let value = String::from_utf8_lossy(&entry.value).replace('-', " ");
        say(format_args!("saw {value} {}", at.revision));
    }
}

/// What the child does: writes and watches, and says on its standard output what it was told and
/// shown, until it is killed.
#[test]
fn child() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else {
        // Run as a test of its own it has nothing to do.
        return;
    };
    let round = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let disk = Observed::on(Path::new(&dir));
    let host = Host::new();
    let opened = EmbeddedStore::open_on(disk, CONFIG, Arc::clone(&host.clock), &*host.ids);
    let store = Arc::new(opened.unwrap());
    // The test harness has begun a line.
    say(format_args!("\nopen"));
    runtime.block_on(async {
        let watching = tokio::spawn(watch(Arc::clone(&store)));
        let writing = (0..CLIENTS as u64).map(|client| write(Arc::clone(&store), round, client));
        join_all(writing.map(tokio::spawn)).await;
        watching.await.unwrap();
    });
}

fn spawn(dir: &Path, round: u64) -> (Child, Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "campaign::child",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    (child, told)
}

/// What a child was told and shown before it was killed.
#[derive(Debug, Default)]
struct Said {
    open: bool,
    /// Round, client, number, revision.
    acknowledged: Vec<[u64; 4]>,
    seen: Vec<[u64; 4]>,
}

impl Said {
    /// The last line may be torn, and the test harness says things of its own.
    fn hear(&mut self, round: u64, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().skip(1).map_while(|w| w.parse().ok()).collect();
        match (words.first(), &numbers[..]) {
            (Some(&"open"), []) => self.open = true,
            (Some(&"ack"), [client, n, at]) => self.acknowledged.push([round, *client, *n, *at]),
            (Some(&"saw"), [round, client, n, at]) => self.seen.push([*round, *client, *n, *at]),
            _ => {},
        }
    }

    fn newest(&self) -> u64 {
        let all = self.acknowledged.iter().chain(&self.seen);
        all.map(|[.., at]| *at).max().unwrap_or(0)
    }
}

/// Lets a child work, kills it at a moment of chance, and takes what it still said.
fn killed(dir: &Path, round: u64, chance: &mut Chance) -> Said {
    let (mut child, lines) = spawn(dir, round);
    let mut said = Said::default();
    // Every tenth is killed while it opens the store.
    let enough = if chance.below(10) == 0 {
        None
    } else {
        Some(chance.below(120))
    };
    while enough.is_some_and(|enough| said.acknowledged.len() <= enough) {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => said.hear(round, &line),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("round {round}: the child ended by itself")
            },
            Err(RecvTimeoutError::Timeout) => panic!("round {round}: the child does nothing"),
        }
    }
    let most = if enough.is_none() { 20_000 } else { 3_000 };
    std::thread::sleep(Duration::from_micros(chance.next() % most));
    // Some kills wait for a moment that is short.
    if let Some(phase) = [None, Some(b'w'), Some(b's')][chance.below(3)] {
        let mut looks = 0..LOOKS;
        while enough.is_some() && looks.next().is_some() && last_phase(dir) != phase {}
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while let Ok(line) = lines.recv_timeout(SILENCE) {
        said.hear(round, &line);
    }
    said
}

/// What the disk was asked last.
fn last_phase(dir: &Path) -> u8 {
    std::fs::read(dir.join("phase")).unwrap()[0]
}

/// What was under way when the child was killed.
fn under_way(dir: &Path, said: &Said, found: Revision) -> &'static str {
    match (said.open, last_phase(dir)) {
        (false, _) => "opening",
        (true, b'w') => "during a commit: writing",
        (true, b's') => "during a commit: syncing",
        (true, _) if found.0 > said.newest() => "after a commit, before it was told",
        (true, _) => "before a commit",
    }
}

async fn check(store: &EmbeddedStore, round: u64, said: &Said) {
    for (what, [of, client, n, at]) in (said.acknowledged.iter().map(|told| ("acknowledged", told)))
        .chain(said.seen.iter().map(|told| ("shown", told)))
    {
        let outcome = store.outcome(id(*of, *client, *n)).await.unwrap();
        let expected = Outcome::Applied(Revision(*at));
        assert_eq!(outcome, expected, "round {round}: {client}/{n} was {what}");
    }
    let mut pairs: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in entries(store).await {
        let name = entry.key.to_string();
        let pair = name.rsplit_once('/').unwrap().0.to_owned();
        pairs.entry(pair).or_default().push(entry);
    }
    for (pair, halves) in pairs {
        let whole = halves.len() == 2
            && halves[0].value == halves[1].value
            && halves[0].meta.mod_revision == halves[1].meta.mod_revision;
        assert!(whole, "round {round}: {pair} is torn: {halves:?}");
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn nothing_acknowledged_or_shown_is_lost_to_kills() {
    let (rounds, seed) = (setting("CPL_KILL_ROUNDS", 50), setting("CPL_KILL_SEED", 1));
    let dir = TempDir::new().unwrap();
    create(&dir.path().join("store.redb"));
    std::fs::write(dir.path().join("phase"), b"d").unwrap();
    let mut chance = Chance(seed);
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut head, mut told) = (Revision(0), 0);
    let mut round = 0;
    while round < rounds || (histogram.len() < PHASES.len() && round < 4 * rounds) {
        let said = killed(dir.path(), round, &mut chance);
        let store = try_open(&dir.path().join("store.redb"), CONFIG).unwrap();
        let found = store.head().await.unwrap().revision;
        assert!(
            found >= head && found.0 >= said.newest(),
            "round {round}: {found} after {head}"
        );
        *histogram
            .entry(under_way(dir.path(), &said, found))
            .or_default() += 1;
        check(&store, round, &said).await;
        told += said.acknowledged.len() + said.seen.len();
        head = found;
        round += 1;
    }
    figures(format_args!(
        "{round} kills, seed {seed}: {told} acknowledgements and events kept; under way: {histogram:#?}"
    ));
    for phase in PHASES {
        let hit = histogram.contains_key(phase);
        assert!(hit, "no kill hit {phase:?}: {histogram:#?}");
    }
}
