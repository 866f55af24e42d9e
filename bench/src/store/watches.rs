//! Watches of one prefix.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpl_core::store::{Event, Key, Range, Store, Txn, WatchItem};
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{VALUE, open};
use crate::latency::{Latency, rounded};
use crate::{output, process};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is made.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Writes of a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

pub(super) async fn run(arguments: &Arguments) {
    let dir = tempfile::tempdir_in(&arguments.dir).unwrap();
    let store = open(dir.path());
    let base = Instant::now();
    let total = (arguments.secs * f64::from(arguments.rate)).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let total = total as usize;
    let head = store.head().await.unwrap();
    let (ready, mut all_ready) = mpsc::channel::<()>(arguments.watchers);
    let mut watching = Vec::new();
    for _ in 0..arguments.watchers {
        let (store, ready) = (Arc::clone(&store), ready.clone());
        watching.push(tokio::spawn(async move {
            let range = Range::prefix("/w/").unwrap();
            let mut items = store.watch(range, head).await.unwrap();
            ready.send(()).await.unwrap();
            let mut latency = Latency::default();
            while latency.len() < total {
                let Some(WatchItem::Events { events, .. }) = items.next().await else {
                    panic!("the watch ended");
                };
                let now = base.elapsed();
                for event in events {
                    let Event::Put { entry, .. } = event else {
                        continue;
                    };
                    let sent = u64::from_be_bytes(entry.value[..8].try_into().unwrap());
                    latency.push(now.saturating_sub(Duration::from_nanos(sent)));
                }
            }
            (latency, base.elapsed())
        }));
    }
    for _ in 0..arguments.watchers {
        all_ready.recv().await.unwrap();
    }
    let cpu = process::cpu_seconds(std::process::id());
    let mut tick = tokio::time::interval(Duration::from_secs(1) / arguments.rate);
    let started = base.elapsed();
    for n in 0..total {
        tick.tick().await;
        let mut value = vec![7_u8; VALUE];
        let now = u64::try_from(base.elapsed().as_nanos()).unwrap();
        value[..8].copy_from_slice(&now.to_be_bytes());
        let key = Key::new(format!("/w/{}", n % 64)).unwrap();
        store.commit(Txn::new().put(key, value)).await.unwrap();
    }
    let (mut latency, mut last) = (Latency::default(), started);
    for one in watching {
        let (seen, ended) = one.await.unwrap();
        latency.merge(seen);
        last = last.max(ended);
    }
    let secs = last.saturating_sub(started).as_secs_f64();
    let cpu = process::cpu_seconds(std::process::id()) - cpu;
    let events = latency.len() as f64;
    output::case(
        "store.watch",
        &json!({"watchers": arguments.watchers, "rate": arguments.rate}),
        &json!({"events_per_s": rounded(events / secs), "p50_ms": latency.ms(0.5),
                "p99_ms": latency.ms(0.99), "cpu_us_per_event": rounded(cpu * 1e6 / events)}),
    );
}
