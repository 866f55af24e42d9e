//! Upstream servers and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An upstream server. It says its name to everybody who connects; to a request it says the name in an
/// answer; and it keeps each connection until the other side ends it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn tcp(name: &'static str, address: SocketAddr) -> Self {
        Self::start(address, move |stream| greet(stream, name)).await
    }

    pub(crate) async fn http(name: &'static str, address: SocketAddr) -> Self {
        Self::start(address, move |stream| answer(stream, name)).await
    }

    async fn start<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn greet(mut stream: TcpStream, name: &'static str) {
    let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

async fn answer(mut stream: TcpStream, name: &'static str) {
    let mut request = [0; 4096];
    while let Ok(1..) = stream.read(&mut request).await {
        let length = name.len();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Connects and waits for the name of whoever serves.
pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let mut name = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok((stream, String::from_utf8_lossy(&name).into_owned())),
            byte => name.push(byte),
        }
    }
}

/// Sends one request on a connection of its own and returns the body of the answer.
pub(crate) async fn request(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}

/// What clients got.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) served: BTreeMap<String, u64>,
    pub(crate) failed: Vec<String>,
}

/// Clients that connect again and again until they are told to stop.
#[derive(Debug)]
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, tally) = (Arc::default(), Arc::default());
        let client = || tokio::spawn(client(address, Arc::clone(&stop), Arc::clone(&tally)));
        let tasks = (0..4).map(|_| client()).collect();
        Self { stop, tally, tasks }
    }

    /// How many each has served since the count began.
    pub(crate) fn served(&self) -> BTreeMap<String, u64> {
        self.tally.lock().unwrap().served.clone()
    }

    /// Begins to count again.
    pub(crate) fn count_again(&self) {
        self.tally.lock().unwrap().served.clear();
    }

    pub(crate) async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut self.tally.lock().unwrap())
    }
}

async fn client(address: SocketAddr, stop: Arc<AtomicBool>, tally: Arc<Mutex<Tally>>) {
    while !stop.load(Ordering::Relaxed) {
        let got = connect(address).await;
        {
            let mut tally = tally.lock().unwrap();
            match got {
                Ok((_, name)) => *tally.served.entry(name).or_default() += 1,
                Err(error) => tally.failed.push(error.to_string()),
            }
        }
        // Each connection leaves its port unusable for a minute, twice.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
