//! A client that never stops, mixes new and kept connections, and retries nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
/// Requests on one kept connection.
const KEPT: usize = 40;
/// A failure says more than a number; this many are remembered.
const REMEMBERED: usize = 20;

#[derive(Default)]
struct Count {
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

pub(super) struct Traffic {
    count: Arc<Count>,
    workers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Two workers per address: one that connects anew for each request, one that keeps connections.
    pub(super) fn start(addresses: &[SocketAddr]) -> Self {
        let count = Arc::new(Count::default());
        let mut workers = Vec::new();
        for address in addresses {
            for kept in [1, KEPT] {
                let (address, count) = (*address, Arc::clone(&count));
                workers.push(tokio::spawn(async move {
                    while !count.stop.load(Ordering::Relaxed) {
                        if let Err(error) = connection(address, kept, &count).await {
                            let mut failures = count.failures.lock().unwrap();
                            if failures.len() < REMEMBERED {
                                failures.push(format!("{address}: {error}"));
                            }
                        }
                    }
                }));
            }
        }
        Self { count, workers }
    }

    pub(super) fn requests(&self) -> u64 {
        self.count.requests.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.count.failures.lock().unwrap().clone()
    }

    /// Ends and returns how many requests were answered and which were not.
    pub(super) async fn stop(self) -> (u64, Vec<String>) {
        self.count.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let failures = self.count.failures.lock().unwrap().clone();
        (self.count.requests.load(Ordering::Relaxed), failures)
    }
}

async fn connection(address: SocketAddr, kept: usize, count: &Count) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    for _ in 0..kept {
        stream.write_all(REQUEST).await?;
        answer(&mut stream).await?;
        count.requests.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads one whole answer; anything but 200 with its whole body is a failure.
async fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::Error::other(
                "the connection ended before the answer",
            ));
        }
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(std::io::Error::other(
                head.lines().next().unwrap_or_default().to_owned(),
            ));
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}
