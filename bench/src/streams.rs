//! Watchers of the HTTP stream of changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

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
    /// Connections of HTTP/2 that the watchers share; without it each has one of HTTP/1.1.
    #[arg(long)]
    connections: Option<usize>,
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
    let mut shared = Vec::new();
    for _ in 0..arguments.connections.unwrap_or_default() {
        shared.push(share(&address).await);
    }
    let mut watching = Vec::new();
    for n in 0..arguments.watchers {
        let (address, token) = (Arc::clone(&address), server.token.clone());
        let ready = Arc::clone(&ready);
        let arrivals = Arrivals::new(base, Arc::clone(&sent));
        watching.push(match shared.get(n % shared.len().max(1)) {
            Some(shared) => tokio::spawn(watch_shared(
                shared.clone(),
                address,
                token,
                arrivals,
                ready,
            )),
            None => tokio::spawn(watch(address, token, arrivals, ready)),
        });
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
        &json!({"watchers": arguments.watchers, "rate": arguments.rate, "connections": arguments.connections.unwrap_or(arguments.watchers)}),
        &json!({"delay_p50_ms": latency.ms(0.5), "delay_p99_ms": latency.ms(0.99), "delivered_share": rounded(share),
                "server_cpu_us_per_event": rounded(cpu * 1e6 / latency.len().max(1) as f64)}),
    );
}

const PATH: &str = "/v1/watch?collection=targetgroups";

type Shared = http2::SendRequest<Empty<Bytes>>;

async fn share(address: &str) -> Shared {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (shared, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
        .await
        .unwrap();
    tokio::spawn(async move { connection.await.unwrap() });
    shared
}

async fn watch_shared(
    mut shared: Shared,
    address: Arc<str>,
    token: String,
    mut arrivals: Arrivals,
    ready: Arc<AtomicUsize>,
) -> Latency {
    let request = Request::get(format!("http://{address}{PATH}"))
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::new())
        .unwrap();
    let response = shared.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    ready.fetch_add(1, Ordering::SeqCst);
    let mut body = response.into_body();
    while !arrivals.complete() {
        let frame = body.frame().await.expect("the stream ended").unwrap();
        arrivals.read(frame.data_ref().unwrap());
    }
    arrivals.latency
}

async fn watch(
    address: Arc<str>,
    token: String,
    mut arrivals: Arrivals,
    ready: Arc<AtomicUsize>,
) -> Latency {
    let mut connection = Connection::open(&address).await.unwrap();
    connection.send("GET", PATH, &token, "").await.unwrap();
    ready.fetch_add(1, Ordering::SeqCst);
    let mut chunk = vec![0_u8; 8_192];
    while !arrivals.complete() {
        let read = connection.next(&mut chunk).await;
        assert!(read > 0, "the stream ended");
        arrivals.read(&chunk[..read]);
    }
    arrivals.latency
}

/// How late each change arrives at one watcher; a change that a later one hid is not counted.
struct Arrivals {
    base: Instant,
    sent: Arc<Vec<AtomicU64>>,
    /// The number of the change that is waited for.
    next: usize,
    text: Vec<u8>,
    latency: Latency,
}

impl Arrivals {
    fn new(base: Instant, sent: Arc<Vec<AtomicU64>>) -> Self {
        Self {
            base,
            sent,
            next: 0,
            text: Vec::new(),
            latency: Latency::default(),
        }
    }

    fn complete(&self) -> bool {
        self.next >= self.sent.len()
    }

    fn read(&mut self, chunk: &[u8]) {
        const MARK: &[u8] = b"\"endpoint-0\",\"ip\":\"10.0.0.1\",\"port\":1";
        let text = &mut self.text;
        text.extend_from_slice(chunk);
        while let Some(at) = text.windows(MARK.len()).position(|part| part == MARK)
            && let Some(digits) = text.get(at + MARK.len()..at + MARK.len() + 4)
        {
            let n: Option<usize> = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            text.drain(..at + MARK.len());
            if let Some(n) = n.filter(|n| *n >= self.next && *n < self.sent.len()) {
                let asked = Duration::from_nanos(self.sent[n].load(Ordering::SeqCst));
                self.latency.push(self.base.elapsed().saturating_sub(asked));
                self.next = n + 1;
            }
        }
        let keep = text.len().saturating_sub(MARK.len() + 4);
        text.drain(..keep);
    }
}
