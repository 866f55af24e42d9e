//! Watching changes, and TLS.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cpl_api::client::ControlPlaneClient;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::object::WatchEvent;
use cpl_api::routes::{Collection, ListQuery};
use cpl_api::token::BearerToken;
use cpl_api::watch::Watch;
use cpl_host::Host;
use cpl_server::cli::serve_config::TlsFiles;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Harness, manifests, node, serve_with, targetgroup};

type Client = ControlPlaneClient<HttpControlPlaneTransport>;

fn client(url: String, token: &str, ca: Option<std::path::PathBuf>) -> Client {
    let Host { clock, ids, .. } = Host::new();
    let config = HttpConfig {
        ca_file: ca,
        ..HttpConfig::new(url)
    };
    let transport = HttpControlPlaneTransport::new(&config, Arc::clone(&clock)).unwrap();
    let token: BearerToken = token.parse().unwrap();
    ControlPlaneClient::new(Arc::new(transport), clock, ids).with_token(token)
}

/// The next objects that come or go, as many as are asked for.
async fn changes(watch: &mut Watch<HttpControlPlaneTransport>, most: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < most {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next());
        let next = next
            .await
            .expect("a change arrives")
            .expect("the watch goes on")
            .unwrap();
        match next.event {
            WatchEvent::Put { object } => {
                seen.push(format!(
                    "{} {}",
                    object.metadata.name, object.metadata.generation
                ));
            },
            WatchEvent::Delete { name, .. } => seen.push(format!("{name} gone")),
            WatchEvent::Bookmark => {},
        }
    }
    seen
}

#[tokio::test]
async fn a_watch_from_a_list_misses_nothing_and_resumes_after_a_restart_of_the_server() {
    let mut cpl = Harness::start().await;
    let apply = async |cpl: &Harness, name: &str, port: u16| {
        let body = manifests(&[targetgroup(name, port, &[])]);
        assert_eq!(cpl.post("/v1/apply", &body, &[]).await.0, 200);
    };
    apply(&cpl, "a", 80).await;
    let client = client(cpl.server.url(), &cpl.token, None);
    let listed = client
        .list_all(Collection::Targetgroups, &ListQuery::default())
        .await
        .unwrap();
    apply(&cpl, "b", 81).await;
    apply(&cpl, "a", 82).await;
    let mut watch = client.watch(Some(Collection::Targetgroups), Some(listed.cursor));
    assert_eq!(changes(&mut watch, 2).await, ["b 1", "a 2"]);
    let seen = watch.cursor().unwrap().to_owned();
    drop(watch);

    cpl.restart(Duration::ZERO).await;
    apply(&cpl, "a", 83).await;
    let mut watch = client.watch(Some(Collection::Targetgroups), Some(seen));
    assert_eq!(changes(&mut watch, 1).await, ["a 3"]);
}

/// The cursor that the server tells next, whatever with.
async fn cursor(watch: &mut Watch<HttpControlPlaneTransport>, limit: Duration) -> String {
    let next = tokio::time::timeout(limit, watch.next()).await;
    next.expect("something is told")
        .expect("the watch goes on")
        .unwrap();
    watch.cursor().unwrap().to_owned()
}

#[tokio::test]
async fn the_cursor_of_a_quiet_watcher_follows_what_does_not_concern_it() {
    let cpl = Harness::start().await;
    let client = client(cpl.server.url(), &cpl.token, None);
    let mut watch = client.watch(Some(Collection::Targetgroups), None);
    let first = cursor(&mut watch, Duration::from_secs(10)).await;
    let body = manifests(&[node("node-1", "127.0.0.1", &[])]);
    assert_eq!(cpl.post("/v1/apply", &body, &[]).await.0, 200);
    // Told when nothing was said for 15 s.
    let later = cursor(&mut watch, Duration::from_secs(25)).await;
    assert_ne!(later, first);
    drop(watch);

    let body = manifests(&[targetgroup("a", 80, &[])]);
    assert_eq!(cpl.post("/v1/apply", &body, &[]).await.0, 200);
    let mut watch = client.watch(Some(Collection::Targetgroups), Some(later));
    assert_eq!(changes(&mut watch, 1).await, ["a 1"]);
}

/// Far more than a watcher may lag behind, and more bytes than the connection takes unread.
const BURST: u16 = 300;

#[tokio::test]
async fn a_watcher_that_does_not_read_for_a_while_misses_no_object() {
    let cpl = Harness::start().await;
    let client = client(cpl.server.url(), &cpl.token, None);
    let mut watch = client.watch(Some(Collection::Targetgroups), None);
    cursor(&mut watch, Duration::from_secs(10)).await;
    let ids: Vec<String> = (0..400).map(|n| format!("endpoint-{n}")).collect();
    let endpoints: Vec<(&str, u16)> = ids.iter().map(String::as_str).zip(9_000..).collect();
    for n in 1..=BURST {
        let large = targetgroup("a", n, &endpoints);
        let body = manifests(&[large, targetgroup(&format!("b-{n}"), 1_000 + n, &[])]);
        assert_eq!(cpl.post("/v1/apply", &body, &[]).await.0, 200, "{n}");
    }
    let last = format!("b-{BURST} 1");
    let mut told = BTreeSet::new();
    while !told.contains(&last) {
        told.extend(changes(&mut watch, 1).await);
    }
    let missed: Vec<u16> = (1..=BURST)
        .filter(|n| !told.contains(&format!("b-{n} 1")))
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[tokio::test]
async fn a_cursor_of_another_store_is_gone() {
    let cpl = Harness::start().await;
    let other = format!("/v1/watch?from={}.1.0.0", "0".repeat(32));
    let (status, problem) = cpl.get(&other).await;
    assert_eq!(
        (status, &problem["reason"]),
        (410, &serde_json::json!("STORE_CHANGED"))
    );
}

#[tokio::test]
async fn tls_is_served_and_a_wrong_authority_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = write("cert.pem", made.cert.pem());
    let key = write("key.pem", made.signing_key.serialize_pem());
    let wrong = write("other.pem", other.cert.pem());
    let tls = TlsFiles {
        cert: cert.clone(),
        key,
    };
    let server = serve_with(dir.path(), 0, Some(tls)).await;
    assert!(server.url().starts_with("https://"));
    let token = std::fs::read_to_string(&server.admin_token).unwrap();

    let trusted_cert = CertificateDer::from_pem_file(&cert).unwrap();
    let trusting = client(server.url(), token.trim(), Some(cert));
    let listed = trusting
        .list_all(Collection::Nodes, &ListQuery::default())
        .await
        .unwrap();
    assert!(listed.items.is_empty());
    let mut over_http2 = http2_over_tls(&server.url(), &trusted_cert).await;
    assert_eq!(
        answered(&mut over_http2, &server.url()).await,
        StatusCode::OK
    );
    let distrusting = client(server.url(), token.trim(), Some(wrong));
    assert!(distrusting.healthz().await.is_err());
    server.stop().await;
}

type Http2 = http2::SendRequest<Empty<Bytes>>;

/// A connection of HTTP/2, to be shared by several requests.
async fn http2_over<I: Read + Write + Send + Unpin + 'static>(stream: I) -> Http2 {
    let (shared, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    shared
}

/// One that the TLS handshake agrees on.
async fn http2_over_tls(url: &str, cert: &CertificateDer<'static>) -> Http2 {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(url.trim_start_matches("https://"))
        .await
        .unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    http2_over(TokioIo::new(stream)).await
}

async fn answered(shared: &mut Http2, url: &str) -> StatusCode {
    let request = Request::get(format!("{url}/healthz"))
        .body(Empty::new())
        .unwrap();
    shared.send_request(request).await.unwrap().status()
}

#[tokio::test]
async fn many_watches_share_one_connection_of_http2() {
    let cpl = Harness::start().await;
    let url = cpl.server.url();
    let tcp = TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .unwrap();
    let mut shared = http2_over(TokioIo::new(tcp)).await;
    let mut bodies = Vec::new();
    for _ in 0..50 {
        let request = Request::get(format!("{url}/v1/watch?collection=targetgroups"))
            .header("authorization", format!("Bearer {}", cpl.token))
            .body(Empty::new())
            .unwrap();
        let response = shared.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        bodies.push(response.into_body());
    }
    let body = manifests(&[targetgroup("web", 8080, &[])]);
    assert_eq!(cpl.post("/v1/apply", &body, &[]).await.0, 200);
    for mut body in bodies {
        let mut text = String::new();
        while !text.contains("\"web\"") {
            let next = tokio::time::timeout(Duration::from_secs(10), body.frame());
            let frame = next.await.expect("a change arrives").unwrap().unwrap();
            text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
        }
    }
    assert_eq!(answered(&mut shared, &url).await, StatusCode::OK);
    cpl.server.stop().await;
}
