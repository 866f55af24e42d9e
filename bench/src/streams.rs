//! Watchers of the HTTP stream of changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::agents::Connection;
use crate::fleet::Served;
use crate::latency::{Latency, rounded};
use crate::{output, process};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the store is made.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Changes of a second.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
}

pub(crate) async fn run(arguments: &Arguments) {
    let server = Served::start(&arguments.dir, 1);
    let address: Arc<str> = server.address.as_str().into();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let total = (arguments.secs * f64::from(arguments.rate)).round() as usize;
    let base = Instant::now();
    // When each change was asked for; its number is the weight that it sets.
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..total).map(|_| AtomicU64::new(0)).collect());
    let ready = Arc::new(AtomicUsize::new(0));
    let mut watching = Vec::new();
    for _ in 0..arguments.watchers {
        let (address, token) = (Arc::clone(&address), server.token.clone());
        let (sent, ready) = (Arc::clone(&sent), Arc::clone(&ready));
        watching.push(tokio::spawn(watch(address, token, sent, ready, base)));
        // Within the rate that one token may have.
        tokio::time::sleep(Duration::from_millis(6)).await;
    }
    while ready.load(Ordering::SeqCst) < arguments.watchers {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = process::cpu_seconds(server.pid());
    let mut control = Connection::open(&address).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / arguments.rate);
    for n in 0..total {
        tick.tick().await;
        let endpoint =
            json!({"id": "endpoint-0", "ip": "10.0.0.1", "port": 10_000 + n, "weight": 1});
        let body = json!({"upsert": [endpoint]}).to_string();
        sent[n].store(
            u64::try_from(base.elapsed().as_nanos()).unwrap(),
            Ordering::SeqCst,
        );
        let path = "/v1/targetgroups/web/endpoints:change";
        let (status, answer) = control
            .call("POST", path, &server.token, &body)
            .await
            .unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
    let mut latency = Latency::default();
    for one in watching {
        latency.merge(one.await.unwrap());
    }
    let cpu = process::cpu_seconds(server.pid()) - cpu;
    let share = latency.len() as f64 / (total * arguments.watchers) as f64;
    output::case(
        "fleet.streams",
        &json!({"watchers": arguments.watchers, "rate": arguments.rate}),
        &json!({"delay_p50_ms": latency.ms(0.5), "delay_p99_ms": latency.ms(0.99), "delivered_share": rounded(share),
                "server_cpu_us_per_event": rounded(cpu * 1e6 / latency.len().max(1) as f64)}),
    );
}

/// Notes how late each change arrives, until the last one has; a change that a later one hid is not counted.
async fn watch(
    address: Arc<str>,
    token: String,
    sent: Arc<Vec<AtomicU64>>,
    ready: Arc<AtomicUsize>,
    base: Instant,
) -> Latency {
    const MARK: &[u8] = b"\"endpoint-0\",\"ip\":\"10.0.0.1\",\"port\":1";
    let mut connection = Connection::open(&address).await.unwrap();
    connection
        .send("GET", "/v1/watch?collection=targetgroups", &token, "")
        .await
        .unwrap();
    ready.fetch_add(1, Ordering::SeqCst);
    let (mut latency, mut newest, mut text) = (Latency::default(), 0, Vec::new());
    let mut chunk = vec![0_u8; 8_192];
    while newest < sent.len() {
        let read = connection.next(&mut chunk).await;
        assert!(read > 0, "the stream ended");
        text.extend_from_slice(&chunk[..read]);
        while let Some(at) = text.windows(MARK.len()).position(|part| part == MARK)
            && let Some(digits) = text.get(at + MARK.len()..at + MARK.len() + 4)
        {
            let n: Option<usize> = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            text.drain(..at + MARK.len());
            if let Some(n) = n.filter(|n| *n >= newest && *n < sent.len()) {
                let asked = Duration::from_nanos(sent[n].load(Ordering::SeqCst));
                latency.push(base.elapsed().saturating_sub(asked));
                newest = n + 1;
            }
        }
        let keep = text.len().saturating_sub(MARK.len() + 4);
        text.drain(..keep);
    }
    latency
}
