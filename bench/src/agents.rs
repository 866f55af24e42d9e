//! Agents that cost little: a connection each, requests written and answers read by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

/// The node that agent `n` is of.
pub(crate) fn node_name(n: usize) -> String {
    format!("node-{n:05}")
}

/// The token of agent `n`.
pub(crate) fn token(n: usize) -> String {
    format!("cpl_{n:016x}_{n:064x}")
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    tcp: TcpStream,
    address: Arc<str>,
    buffer: Vec<u8>,
}

/// An answer: its status and its body.
pub(crate) type Answer = (u16, Vec<u8>);

impl Connection {
    pub(crate) async fn open(address: &Arc<str>) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(&**address).await?;
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            address: Arc::clone(address),
            buffer: Vec::new(),
        })
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> std::io::Result<()> {
        let address = &self.address;
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.tcp.write_all(text.as_bytes()).await
    }

    /// Reads one answer with a length.
    pub(crate) async fn receive(&mut self) -> std::io::Result<Answer> {
        let mut chunk = [0_u8; 4096];
        self.buffer.clear();
        let mut head: Option<(usize, usize, u16)> = None;
        loop {
            let read = self.tcp.read(&mut chunk).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
            if head.is_none()
                && let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n")
            {
                let text = String::from_utf8_lossy(&self.buffer[..end]);
                let status = text[9..12].parse().unwrap();
                let length = text
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                head = Some((end + 4, length.map_or(0, |n| n.parse().unwrap()), status));
            }
            if let Some((start, length, status)) = head
                && self.buffer.len() >= start + length
            {
                // What is parked holds no buffer.
                let buffer = std::mem::take(&mut self.buffer);
                return Ok((status, buffer[start..start + length].to_vec()));
            }
        }
    }

    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        self.send(method, path, token, body).await?;
        self.receive().await
    }

    /// Reads whatever comes next of a stream.
    pub(crate) async fn next(&mut self, chunk: &mut [u8]) -> usize {
        self.tcp.read(chunk).await.unwrap()
    }
}

/// What all agents of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) address: Arc<str>,
    pub(crate) base: Instant,
    /// Agents that have sent a poll which was not answered.
    pub(crate) parked: AtomicUsize,
    /// Bodies of this round, and when the last one came.
    pub(crate) bodies: AtomicUsize,
    pub(crate) last_body_us: AtomicU64,
    /// Answers that were no configuration and no "same".
    pub(crate) refused: AtomicUsize,
    /// Most times that one agent was refused.
    pub(crate) most_refused: AtomicUsize,
    pub(crate) wait_ms: u64,
    /// Told of every body.
    pub(crate) arrived: Notify,
    /// Whether agents that have no connection may ask for one.
    pub(crate) gate: watch::Sender<bool>,
}

impl Run {
    pub(crate) fn new(address: &str, wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            address: address.into(),
            base: Instant::now(),
            parked: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            last_body_us: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            most_refused: AtomicUsize::new(0),
            wait_ms: u64::try_from(wait.as_millis()).unwrap(),
            arrived: Notify::new(),
            gate: watch::Sender::new(true),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_micros()).unwrap()
    }
}

/// One agent, with what it keeps while it is away.
#[derive(Debug)]
pub(crate) struct Agent {
    n: usize,
    incarnation: u64,
    sequence: u64,
    /// Version and digest of what it has.
    has: Option<(u64, String)>,
    refused: usize,
}

impl Agent {
    pub(crate) const fn new(n: usize) -> Self {
        Self {
            n,
            incarnation: 0,
            sequence: 0,
            has: None,
            refused: 0,
        }
    }

    /// Registers, unless it has before, and polls until the connection breaks; then it comes back with
    /// what it has.
    pub(crate) async fn run(&mut self, run: &Run) {
        let mut gate = run.gate.subscribe();
        loop {
            if !*gate.borrow_and_update() {
                let open = gate.wait_for(|open| *open).await.map(|open| *open);
                open.expect("the run outlives its agents");
                // As the peers' clients connect: 256 every 5 ms.
                tokio::time::sleep(Duration::from_millis(self.n as u64 / 256 * 5)).await;
            }
            if let Ok(mut connection) = Connection::open(&run.address).await {
                let ended = self.follow(run, &mut connection).await;
                drop(ended);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn follow(&mut self, run: &Run, connection: &mut Connection) -> std::io::Result<()> {
        let (token, node) = (token(self.n), node_name(self.n));
        while self.incarnation == 0 {
            let body = json!({"process": format!("{:032x}", self.n), "protocol": [1, 1], "software": "0",
                              "driver": "bench", "carries_traffic": false});
            let path = format!("/v1/agents/{node}:register");
            let (status, body) = connection
                .call("POST", &path, &token, &body.to_string())
                .await?;
            if status == 200 {
                let answer: Value = serde_json::from_slice(&body)?;
                self.incarnation = answer["agent_incarnation"].as_u64().unwrap();
            } else {
                self.was_refused(run);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let path = format!("/v1/agents/{node}:sync");
        loop {
            let body = self.poll(run.wait_ms);
            connection.send("POST", &path, &token, &body).await?;
            run.parked.fetch_add(1, Ordering::SeqCst);
            let received = connection.receive().await;
            run.parked.fetch_sub(1, Ordering::SeqCst);
            let (status, body) = received?;
            if status == 200 {
                self.take(run, &body);
            } else {
                self.was_refused(run);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn poll(&mut self, wait_ms: u64) -> String {
        self.sequence += 1;
        let (incarnation, sequence) = (self.incarnation, self.sequence);
        let start = format!(
            "{{\"agent_incarnation\":{incarnation},\"sequence\":{sequence},\"wait_ms\":{wait_ms}"
        );
        match &self.has {
            None => format!("{start},\"data_plane\":{{\"state\":\"UNKNOWN\"}}}}"),
            Some((version, digest)) => format!(
                "{start},\"incarnation\":1,\"received\":{version},\"received_digest\":\"{digest}\",\
                 \"accepted\":{version},\"data_plane\":{{\"state\":\"HEALTHY\",\"running_version\":{version},\
                 \"health\":[]}}}}"
            ),
        }
    }

    /// Reads what matters without understanding the rest.
    fn take(&mut self, run: &Run, body: &[u8]) {
        let text = std::str::from_utf8(body).unwrap();
        let version = after(text, "\"version\":").and_then(|rest| {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..digits].parse().ok()
        });
        let digest = after(text, "\"digest\":\"").and_then(|rest| rest.get(..64));
        match (version, digest, &mut self.has) {
            (Some(version), Some(digest), _) => {
                self.has = Some((version, digest.to_owned()));
                run.last_body_us.fetch_max(run.now_us(), Ordering::SeqCst);
                run.bodies.fetch_add(1, Ordering::SeqCst);
                run.arrived.notify_one();
            },
            (Some(version), None, Some(has)) => has.0 = version,
            _ => {},
        }
    }

    fn was_refused(&mut self, run: &Run) {
        self.refused += 1;
        run.refused.fetch_add(1, Ordering::SeqCst);
        run.most_refused.fetch_max(self.refused, Ordering::SeqCst);
    }
}

fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let at = text.find(what)?;
    text.get(at + what.len()..)
}
