//! Compare-and-put.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpl_core::store::{Commit, Expect, IdGen, Range, Revision, Store, Txn, TxnId};
use cpl_host::Host;
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::json;

use super::{VALUE, fill, key, named, open};
use crate::latency::{Latency, rounded};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is made; should be on the disk that is meant.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Callers, each with one transaction at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    callers: Vec<u64>,
    /// Keys that are there.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Watchers of everything, that are awake.
    #[arg(long, default_value_t = 0)]
    watchers: usize,
    /// Pause of a caller after each answer, in milliseconds: a commit on a machine that was at rest.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// A store on etcd or PostgreSQL instead of a file: its URL, up to the name of the prefix or schema, of which each
    /// number of callers has one of its own.
    #[arg(long)]
    store: Option<String>,
    /// Every transaction has an id, so that it can be repeated and settled.
    #[arg(long)]
    ids: bool,
}

pub(super) async fn run(arguments: &Arguments) {
    for callers in &arguments.callers {
        let dir = tempfile::tempdir_in(&arguments.dir).unwrap();
        let file = arguments.store.is_none().then(|| open(dir.path()));
        let store: Arc<dyn Store> = match (&file, &arguments.store) {
            (Some(file), _) => Arc::clone(file) as Arc<dyn Store>,
            (None, url) => named(&format!("{}{callers}", url.as_deref().unwrap_or_default())).await,
        };
        let filled = fill(&*store, arguments.keys).await;
        let head = store.head().await.unwrap();
        let watching: Vec<_> = (0..arguments.watchers)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let mut items = store.watch(Range::all(), head).await.unwrap();
                    while items.next().await.is_some() {}
                })
            })
            .collect();
        let started = Instant::now();
        let until = started + Duration::from_secs_f64(arguments.secs);
        let all = (0..*callers).map(|caller| {
            let (store, keys) = (Arc::clone(&store), arguments.keys / callers);
            let pause = Duration::from_millis(arguments.pause_ms);
            let first = caller * keys;
            let own = usize::try_from(first).unwrap()..usize::try_from(first + keys).unwrap();
            let known = filled[own].to_vec();
            let ids = arguments.ids.then(|| Host::new().ids);
            tokio::spawn(async move { call(&*store, (first, known), ids, until, pause).await })
        });
        let mut latency = Latency::default();
        for one in join_all(all).await {
            latency.merge(one.unwrap());
        }
        let secs = started.elapsed().as_secs_f64();
        watching.iter().for_each(tokio::task::JoinHandle::abort);
        let scheme = arguments
            .store
            .as_deref()
            .and_then(|url| url.split(':').next());
        output::case(
            "store.cas_txn",
            &json!({"callers": callers, "keys": arguments.keys, "watchers": arguments.watchers,
                    "value": VALUE, "pause_ms": arguments.pause_ms, "ids": arguments.ids,
                    "store": scheme.unwrap_or("embedded")}),
            &json!({"txn_per_s": rounded(latency.len() as f64 / secs), "p50_ms": latency.ms(0.5),
                    "p99_ms": latency.ms(0.99)}),
        );
        drop(store);
        if let Some(file) = file {
            file.close().await;
        }
    }
}

/// One caller, which knows the revisions of keys of its own.
async fn call(
    store: &dyn Store,
    (first, mut known): (u64, Vec<Revision>),
    ids: Option<Arc<dyn IdGen>>,
    until: Instant,
    pause: Duration,
) -> Latency {
    let mut latency = Latency::default();
    let mut random = 0x9e37_79b9_u64 ^ first;
    while Instant::now() < until {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = usize::try_from(random % known.len() as u64).unwrap();
        let key = key(first + at as u64);
        let txn = Txn {
            id: ids.as_deref().map(TxnId::fresh),
            ..Txn::new()
        };
        let txn = txn
            .expect(key.clone(), Expect::ModRevision(known[at]))
            .put(key, vec![7_u8; VALUE]);
        let asked = Instant::now();
        let Commit::Applied { at: applied, .. } = store.commit(txn).await.unwrap() else {
            panic!("nobody else writes this key");
        };
        latency.push(asked.elapsed());
        known[at] = applied.revision;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    latency
}
