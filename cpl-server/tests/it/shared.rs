//! Servers on a store that they share: one leads, another goes on.

use std::sync::Arc;
use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use cpl_core::txn::Fence;

use crate::harness::{Harness, SESSION, manifests, targetgroup};
use crate::live::process::{Client, Serve};

/// The names of what is there.
async fn names(cpl: &Harness) -> Vec<String> {
    let (status, listed) = cpl.get("/v1/targetgroups").await;
    assert_eq!(status, 200, "{listed}");
    let items = listed["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn apply(cpl: &Harness, name: &str) {
    let body = manifests(&[targetgroup(name, 8_080, &[])]);
    let (status, answer) = cpl.post("/v1/apply", &body, &[]).await;
    assert_eq!(status, 200, "{answer}");
}

async fn within(limit: Duration, starting: impl Future<Output = Harness>) -> Harness {
    let started = tokio::time::timeout(limit, starting).await;
    started.expect("it leads in time")
}

/// What the one before has written the next one has, whether the one before gave up or died.
async fn one_leads_and_another_goes_on(url: &str) {
    let first = Harness::start_on(url).await;
    apply(&first, "a").await;

    let mut waiting = Box::pin(Harness::start_on(url));
    let early = tokio::time::timeout(SESSION.ttl * 3, &mut waiting).await;
    assert!(
        early.is_err(),
        "the first leads as long as it renews its session"
    );
    let plane = Arc::clone(&first.server.plane);
    first.server.stop().await;
    let session = plane.store.get(plane.ownership.session.key()).await;
    assert_eq!(session.unwrap().value, None, "it is given up");
    let second = within(SESSION.ttl * 5, waiting).await;
    assert_eq!(names(&second).await, ["a"]);
    apply(&second, "b").await;

    // As if it had died: nothing runs any more, and nothing was given up.
    second.server.plane.stop().await;
    let third = within(SESSION.ttl * 5, Box::pin(Harness::start_on(url))).await;
    assert_eq!(names(&third).await, ["a", "b"]);
    let epoch = |cpl: &Harness| cpl.server.plane.ownership.shard.owner().epoch;
    assert!(epoch(&third) > epoch(&second));
    apply(&third, "c").await;
    assert_eq!(third.version().await, 3);
    third.server.stop().await;
}

/// How long sessions last here.
const TTL: Duration = Duration::from_secs(2);

async fn applied(client: &Client, name: &str) -> Option<u16> {
    let body = manifests(&[targetgroup(name, 8_080, &[])]);
    Some(client.post("/v1/apply", &body, &[]).await?.0)
}

/// A process that is frozen for longer than its session lasts has lost it, and what was sent to it meanwhile
/// is not done.
async fn a_frozen_one_cannot_write_when_it_wakes_up(url: &str) {
    let dir = tempfile::tempdir().unwrap();
    let serve = |name: &str| Serve::on(&dir.path().join(name), url, TTL);
    let (mut first, mut second) = (serve("first"), serve("second"));
    first.start();
    first.ready().await;
    let client = first.client();
    assert_eq!(applied(&client, "before").await, Some(200));
    second.start();

    first.freeze().await;
    let buffered = tokio::spawn(async move { applied(&client, "buffered").await });
    second.ready().await;
    let client = second.client();
    assert_eq!(applied(&client, "after").await, Some(200));
    assert!(!buffered.is_finished(), "the frozen one has not answered");
    first.thaw();
    let answer = buffered.await.unwrap();
    assert_ne!(answer, Some(200), "what was sent to it is not done");
    assert_eq!(first.ended().await, Some(1));
    let log = std::fs::read_to_string(first.log()).unwrap();
    assert!(log.contains("SESSION_LOST"), "{log}");
    let (_, listed) = client.get("/v1/targetgroups").await.unwrap();
    let found = listed["items"].as_array().unwrap().iter();
    let found: Vec<_> = found.map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(found, ["after", "before"]);
}

#[tokio::test]
async fn a_frozen_one_cannot_write_on_etcd() {
    let etcd = Etcd::start();
    Box::pin(a_frozen_one_cannot_write_when_it_wakes_up(&etcd.url("cpl"))).await;
}

#[tokio::test]
async fn a_frozen_one_cannot_write_on_postgres() {
    let postgres = Postgres::start();
    Box::pin(a_frozen_one_cannot_write_when_it_wakes_up(
        &postgres.url("cpl"),
    ))
    .await;
}

/// One file is for one process, also while that one is frozen: nobody takes over, and nothing is lost.
#[tokio::test]
async fn a_frozen_one_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Serve::new(&dir.path().join("first"));
    first.start();
    first.ready().await;
    let client = first.client();
    let store = format!("embedded:{}", dir.path().join("first/cpl.redb").display());
    first.freeze().await;
    let buffered = tokio::spawn(async move { applied(&client, "buffered").await });
    let mut second = Serve::on(&dir.path().join("second"), &store, TTL);
    second.start();
    assert_eq!(second.ended().await, Some(1));
    let log = std::fs::read_to_string(second.log()).unwrap();
    assert!(log.contains("another process has it open"), "{log}");
    first.thaw();
    assert_eq!(buffered.await.unwrap(), Some(200));
}

#[tokio::test]
async fn one_leads_on_etcd() {
    let etcd = Etcd::start();
    Box::pin(one_leads_and_another_goes_on(&etcd.url("cpl"))).await;
}

#[tokio::test]
async fn one_leads_on_postgres() {
    let postgres = Postgres::start();
    Box::pin(one_leads_and_another_goes_on(&postgres.url("cpl"))).await;
}
