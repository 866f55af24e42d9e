//! `cpl serve` as a process of its own, which can be killed, and requests to it that may fail.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::transport::{ControlPlaneTransport, RESPONSE_BYTES, Request};
use cpl_host::Host;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::fleet::free_port;

/// How long a server may take to answer after it was started.
const START: Duration = Duration::from_secs(20);

/// A server's folder, store and port, which outlive its processes.
#[derive(Debug)]
pub(crate) struct Serve {
    dir: PathBuf,
    /// More of its command line.
    store: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Serve {
    /// A server that keeps its data in `dir`, on a free port; not started.
    pub(crate) fn new(dir: &Path) -> Self {
        let port = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self {
            dir: dir.to_owned(),
            store: Vec::new(),
            port,
            child: None,
        }
    }

    /// A server that keeps its state elsewhere, where others must wait for its session.
    pub(crate) fn on(dir: &Path, store: &str, ttl: Duration) -> Self {
        let mut serve = Self::new(dir);
        serve.move_to(store, ttl);
        serve
    }

    /// The same server on another store, once it is started anew.
    pub(crate) fn move_to(&mut self, store: &str, ttl: Duration) {
        let ttl = format!("{}ms", ttl.as_millis());
        let arguments = ["--store", store, "--session-ttl", &ttl];
        self.store = arguments.map(str::to_owned).to_vec();
    }

    /// Runs `cpl` as its administrator.
    pub(crate) fn cpl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cpl"));
        command
            .args(["--server", &self.url(), "--token-file"])
            .arg(self.dir.join("admin.token"))
            .args(arguments)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts a process and does not wait for it. Its log is appended to `serve.log` beside the folder.
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cpl"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(&self.store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Freezes it, and waits until all of its threads stand still: until then they go on for a moment.
    pub(crate) async fn freeze(&self) {
        self.signal("-STOP");
        let pid = self.child.as_ref().unwrap().id();
        let stands = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let stats = threads.map(|thread| thread.unwrap().path().join("stat"));
            let mut stats = stats.map(|path| std::fs::read_to_string(path).unwrap_or_default());
            // The state stands behind the name, which is in brackets.
            stats.all(|stat| {
                stat.rsplit(')')
                    .next()
                    .unwrap_or_default()
                    .starts_with(" T")
            })
        };
        while !stands() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until the process has ended by itself; says with which status.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let wait = tokio::task::spawn_blocking(move || child.wait().unwrap().code());
        let ended = tokio::time::timeout(START, wait).await;
        ended.expect("it ends in time").unwrap()
    }

    /// Waits until it answers that it is ready; says how long that took.
    pub(crate) async fn ready(&self) -> Duration {
        let clock = Host::new().clock;
        let started = clock.monotonic();
        let elapsed = || clock.monotonic().since(started);
        let client = Client::new(vec![self.url()], None);
        loop {
            if let Some((200, _)) = client.get("/readyz").await {
                return elapsed();
            }
            if elapsed() > START {
                let log = std::fs::read_to_string(self.log()).unwrap();
                panic!("the server is not ready after {START:?}:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and waits until the process has ended; says how long that took.
    pub(crate) async fn terminate(&mut self) -> Duration {
        let clock = Host::new().clock;
        let started = clock.monotonic();
        self.signal("-TERM");
        assert_eq!(self.ended().await, Some(0));
        clock.monotonic().since(started)
    }

    /// An administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&[self])
    }

    /// A client of several servers of one store, with this one's token.
    pub(crate) fn client_of(&self, servers: &[&Self]) -> Client {
        let token = std::fs::read_to_string(self.dir.join("admin.token")).unwrap();
        let urls = servers.iter().map(|serve| serve.url()).collect();
        Client::new(urls, Some(token.trim()))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Requests whose answer may not come.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    transport: Arc<HttpControlPlaneTransport>,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(urls: Vec<String>, token: Option<&str>) -> Self {
        let http = HttpConfig {
            servers: urls,
            ..HttpConfig::new(String::new())
        };
        let transport = HttpControlPlaneTransport::new(&http, Host::new().clock).unwrap();
        Self {
            transport: Arc::new(transport),
            token: token.map(str::to_owned),
        }
    }

    /// Status and body, or nothing when there was no answer.
    pub(crate) async fn get(&self, target: &str) -> Option<(u16, Value)> {
        self.send(Method::GET, target, &[], Bytes::new()).await
    }

    pub(crate) async fn post(
        &self,
        target: &str,
        body: &Value,
        headers: &[(&'static str, &str)],
    ) -> Option<(u16, Value)> {
        let body = serde_json::to_vec(body).unwrap();
        self.send(Method::POST, target, headers, body.into()).await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        more: &[(&'static str, &str)],
        body: Bytes,
    ) -> Option<(u16, Value)> {
        let (status, _, body) = self.send_whole(method, target, more, body).await?;
        Some((status, body))
    }

    /// With the headers of the answer.
    pub(crate) async fn send_whole(
        &self,
        method: Method,
        target: &str,
        more: &[(&'static str, &str)],
        body: Bytes,
    ) -> Option<(u16, HeaderMap, Value)> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in more {
            let value = HeaderValue::from_str(value).unwrap();
            headers.insert(HeaderName::from_static(name), value);
        }
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            headers.insert("authorization", value);
        }
        let request = Request {
            method,
            target: target.to_owned(),
            headers,
            body,
            timeout: Duration::from_secs(15),
            max_response_bytes: RESPONSE_BYTES,
        };
        let response = self.transport.send(request).await.ok()?;
        let body = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        Some((response.status.as_u16(), response.headers, body))
    }
}
