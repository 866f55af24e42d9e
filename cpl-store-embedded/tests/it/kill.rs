//! A process that writes is killed, again and again; nothing that it was told is lost.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cpl_core::store::{Commit, Key, Revision, Store, Txn, TxnId};
use cpl_store_embedded::Config;
use futures::future::join_all;
use tempfile::TempDir;

use crate::world::{create, entries, try_open};

const FILE: &str = "CPL_TEST_KILLED_STORE";
const ROUND: &str = "CPL_TEST_KILLED_ROUND";
const ROUNDS: u64 = 10;
const CLIENTS: usize = 8;

/// Checkpoints all the time, so that kills land in them too.
const CONFIG: Config = Config {
    log_revisions: 40,
    log_bytes: 64 << 20,
    queue: 1_024,
    outcome_records: 2_000_000,
    writer: cpl_store_embedded::Writer::Thread,
};

/// Both halves of a transaction must be there, or none.
fn txn(round: u64, client: usize, n: usize) -> Txn {
    let name = |half: &str| Key::new(format!("{client}/{}/{half}", n % 5)).unwrap();
    let value = format!("{round}-{client}-{n}");
    let id = TxnId(u128::from(round) << 96 | (client as u128) << 64 | n as u128);
    Txn::new()
        .with_id(id)
        .put(name("left"), value.clone())
        .put(name("right"), value)
}

/// What the child does: writes, and says on its standard output what it was told, until it is killed.
#[test]
fn child() {
    let (Ok(path), Ok(round)) = (std::env::var(FILE), std::env::var(ROUND)) else {
        // Run as a test of its own it has nothing to do.
        return;
    };
    let round = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let store = try_open(Path::new(&path), CONFIG).unwrap();
    let clients = (0..CLIENTS).map(async |client| {
        for n in 0.. {
            let Commit::Applied { at, .. } = store.commit(txn(round, client, n)).await.unwrap()
            else {
                panic!("nothing was compared");
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "ack {client} {n} {}", at.revision).unwrap();
            out.flush().unwrap();
        }
    });
    runtime.block_on(join_all(clients));
}

fn spawn(path: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads acknowledgements until there are enough, kills the child, and takes what was still said.
fn acknowledged(mut child: Child, enough: usize) -> Vec<(usize, usize, u64)> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The last line may be torn.
        if let ["ack", client, n, revision] = words[..]
            && let Ok(revision) = revision.parse()
        {
            acknowledged.push((client.parse().unwrap(), n.parse().unwrap(), revision));
        }
        if acknowledged.len() == enough {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acknowledged
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kills() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    create(&path);
    let mut head = Revision(0);
    for round in 0..ROUNDS {
        let enough = 20 + usize::try_from(round).unwrap() * 37;
        let acknowledged = acknowledged(spawn(&path, round), enough);
        assert!(acknowledged.len() >= enough, "the child ended by itself");

        let store = try_open(&path, CONFIG).unwrap();
        let newest = acknowledged
            .iter()
            .map(|(.., revision)| *revision)
            .max()
            .unwrap();
        let found = store.head().await.unwrap().revision;
        assert!(
            found.0 >= newest && found > head,
            "round {round}: {found} after {newest}"
        );
        head = found;
        for (client, n, revision) in &acknowledged {
            let again = store.commit(txn(round, *client, *n)).await.unwrap();
            let Commit::Applied { at, replayed: true } = again else {
                panic!("round {round}: {client}/{n} was acknowledged and is unknown");
            };
            assert_eq!(at.revision.0, *revision, "round {round}: {client}/{n}");
        }
        let mut halves: BTreeMap<String, Vec<(Revision, String)>> = BTreeMap::new();
        for entry in entries(&store).await {
            let name = entry.key.to_string();
            let pair = name.rsplit_once('/').unwrap().0.to_owned();
            let value = String::from_utf8_lossy(&entry.value).into_owned();
            halves
                .entry(pair)
                .or_default()
                .push((entry.meta.mod_revision, value));
        }
        for (pair, halves) in halves {
            assert!(
                halves.len() == 2 && halves[0] == halves[1],
                "{pair}: {halves:?}"
            );
        }
    }
}
