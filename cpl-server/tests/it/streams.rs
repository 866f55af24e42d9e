//! Watching changes, and TLS.

use std::sync::Arc;
use std::time::Duration;

use cpl_api::client::ControlPlaneClient;
use cpl_api::http::{HttpConfig, HttpControlPlaneTransport};
use cpl_api::object::WatchEvent;
use cpl_api::routes::{Collection, ListQuery};
use cpl_api::token::BearerToken;
use cpl_api::watch::Watch;
use cpl_host::Host;
use cpl_server::cli::serve_config::TlsFiles;

use crate::harness::{Harness, manifests, serve_with, targetgroup};

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

    let trusting = client(server.url(), token.trim(), Some(cert));
    let listed = trusting
        .list_all(Collection::Nodes, &ListQuery::default())
        .await
        .unwrap();
    assert!(listed.items.is_empty());
    let distrusting = client(server.url(), token.trim(), Some(wrong));
    assert!(distrusting.healthz().await.is_err());
    server.stop().await;
}
