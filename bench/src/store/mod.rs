//! The embedded store, in this process.

mod commits;
mod watches;

use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use cpl_core::store::{Commit, Key, Revision, Store, Txn};
use cpl_host::Host;
use cpl_server::wiring;
use cpl_store_embedded::{Config, EmbeddedStore};

/// Bytes of a value, as the peers write them.
const VALUE: usize = 256;
/// Puts of one transaction while a store is filled.
const FILL: usize = 100;

/// What is measured of a store.
#[derive(Debug, Subcommand)]
pub(crate) enum Case {
    /// Compare-and-put of random keys by callers that each wait for their answer.
    Commits(commits::Arguments),
    /// Writes at a fixed rate, seen by watchers of one prefix.
    Watches(watches::Arguments),
}

pub(crate) async fn run(case: Case) {
    match case {
        Case::Commits(arguments) => commits::run(&arguments).await,
        Case::Watches(arguments) => watches::run(&arguments).await,
    }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    let Host { clock, ids, .. } = Host::new();
    let path = dir.join("bench.redb");
    let store = EmbeddedStore::open_or_create(path, Config::default(), clock, &*ids);
    Arc::new(store.unwrap())
}

fn key(n: u64) -> Key {
    Key::new(format!("/cpl/spec/{n:014}")).unwrap()
}

/// A store by its URL.
async fn named(url: &str) -> Arc<dyn Store> {
    let url = url.parse().unwrap();
    wiring::open(&url, None, &Host::new()).await.unwrap()
}

/// Writes all keys; returns the revision of each.
async fn fill(store: &dyn Store, keys: u64) -> Vec<Revision> {
    let mut revisions = Vec::new();
    let value = vec![7_u8; VALUE];
    let all: Vec<u64> = (0..keys).collect();
    for part in all.chunks(FILL) {
        let txn = part
            .iter()
            .fold(Txn::new(), |txn, n| txn.put(key(*n), value.clone()));
        let Commit::Applied { at, .. } = store.commit(txn).await.unwrap() else {
            panic!("nothing is compared");
        };
        revisions.extend(part.iter().map(|_| at.revision));
    }
    revisions
}
