//! Servers on a store that they share: one leads, another goes on.

use std::sync::Arc;
use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use cpl_core::txn::Fence;

use crate::harness::{Harness, SESSION, manifests, targetgroup};

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
