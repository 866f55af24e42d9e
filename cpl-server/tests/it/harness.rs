//! A server on a free port with its data in a temporary folder.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::transport::{ControlPlaneTransport, RESPONSE_BYTES, Request, Response};
use cpl_core::lease::SessionTimes;
use cpl_host::Host;
use cpl_server::cli::serve_config::{LogFormat, ServeConfig, StoreUrl, TlsFiles};
use cpl_server::plane::PlaneConfig;
use cpl_server::serve::Server;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

pub(crate) struct Harness {
    pub(crate) server: Server,
    pub(crate) transport: Arc<HttpControlPlaneTransport>,
    pub(crate) token: String,
    pub(crate) dir: tempfile::TempDir,
}

/// Serves what is in a folder.
async fn serve(dir: &Path, port: u16) -> Server {
    serve_with(dir, port, None).await
}

/// Serves what is in a folder, with TLS when that is wanted.
pub(crate) async fn serve_with(dir: &Path, port: u16, tls: Option<TlsFiles>) -> Server {
    let config = ServeConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        tls,
        ..config(dir, StoreUrl::Embedded(dir.join("cpl.redb")))
    };
    Server::start(&config, PLANE, Host::new()).await.unwrap()
}

const PLANE: PlaneConfig = PlaneConfig {
    agent_wait: Duration::from_secs(2),
    agent_grace: Duration::from_secs(4),
    session: SESSION,
};

/// Sessions that lapse sooner than people would want.
pub(crate) const SESSION: SessionTimes = SessionTimes {
    renew: Duration::from_millis(500),
    ttl: Duration::from_secs(2),
    skew: Duration::from_millis(500),
};

fn config(dir: &Path, store: StoreUrl) -> ServeConfig {
    ServeConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        store,
        store_password: None,
        session: SESSION,
        data_dir: dir.to_owned(),
        tls: None,
        log_format: LogFormat::Text,
        log: "info".to_owned(),
    }
}

/// One request by hand.
pub(crate) struct Raw<'a> {
    pub(crate) method: Method,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Vec<u8>,
    pub(crate) token: Option<&'a str>,
}

impl Harness {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(dir: tempfile::TempDir) -> Self {
        let server = serve(dir.path(), 0).await;
        Self::of(server, dir)
    }

    /// Serves a store that others may serve, too; returns when this one leads.
    pub(crate) async fn start_on(store: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), store.parse().unwrap());
        let server = Server::start(&config, PLANE, Host::new()).await.unwrap();
        Self::of(server, dir)
    }

    fn of(server: Server, dir: tempfile::TempDir) -> Self {
        let token = fs::read_to_string(&server.admin_token)
            .unwrap()
            .trim()
            .to_owned();
        let http = HttpConfig::new(server.url());
        let clock = Host::new().clock;
        let transport = Arc::new(HttpControlPlaneTransport::new(&http, clock).unwrap());
        Self {
            server,
            transport,
            token,
            dir,
        }
    }

    /// Stops the server, waits, and starts it again on the same port with the same data.
    pub(crate) async fn restart(&mut self, away: Duration) {
        let port = self.server.address.port();
        let placeholder = tempfile::tempdir().unwrap();
        let stopped = std::mem::replace(&mut self.server, serve(placeholder.path(), 0).await);
        stopped.stop().await;
        tokio::time::sleep(away).await;
        self.server = serve(self.dir.path(), port).await;
    }

    pub(crate) async fn raw(&self, raw: Raw<'_>) -> Response {
        let mut headers = HeaderMap::new();
        for (name, value) in raw.headers {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        if let Some(token) = raw.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            headers.insert("authorization", value);
        }
        let request = Request {
            method: raw.method,
            target: raw.target.to_owned(),
            headers,
            body: Bytes::from(raw.body),
            timeout: Duration::from_secs(20),
            max_response_bytes: RESPONSE_BYTES,
        };
        self.transport.send(request).await.unwrap()
    }

    /// Sends a body as an administrator and returns status and JSON.
    pub(crate) async fn post(
        &self,
        target: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let raw = Raw {
            method: Method::POST,
            target,
            headers: &all,
            body: serde_json::to_vec(body).unwrap(),
            token: Some(&self.token),
        };
        let response = self.raw(raw).await;
        let body = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        (response.status.as_u16(), body)
    }

    pub(crate) async fn get(&self, target: &str) -> (u16, Value) {
        let token = Some(self.token.as_str());
        let raw = Raw {
            method: Method::GET,
            target,
            headers: &[],
            body: Vec::new(),
            token,
        };
        let response = self.raw(raw).await;
        let body = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        (response.status.as_u16(), body)
    }

    pub(crate) async fn version(&self) -> u64 {
        self.get("/version").await.1["global_version"]
            .as_u64()
            .unwrap()
    }
}

/// A target group with these endpoints, as `(id, port)`.
pub(crate) fn targetgroup(name: &str, port: u16, endpoints: &[(&str, u16)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(id, port)| json!({"id": id, "ip": "127.0.0.1", "port": port}))
        .collect();
    json!({
        "kind": "TargetGroup",
        "metadata": {"name": name},
        "spec": {"protocol": "tcp", "port": port},
        "endpoints": endpoints,
    })
}

/// A node that serves these target groups.
pub(crate) fn node(name: &str, address: &str, targetgroups: &[&str]) -> Value {
    json!({
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"listen_addresses": [address], "assigned_targetgroups": targetgroups},
    })
}

pub(crate) fn manifests(manifests: &[Value]) -> Value {
    json!({"manifests": manifests})
}
