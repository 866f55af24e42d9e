//! Servers on a store that they share.

use std::sync::Arc;
use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use cpl_core::agent::Arrival;
use cpl_core::delivery::{Facts, SyncCall};
use cpl_core::lease::SessionTimes;
use cpl_core::txn::Fence;
use cpl_core::version::AgentIncarnation;
use cpl_host::Host;

use crate::harness::{Harness, SESSION, manifests, node, targetgroup};
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

/// Waits until a server has the shard; says how long that took.
async fn has_the_shard(cpl: &Harness, limit: Duration) -> Duration {
    let clock = Host::new().clock;
    let started = clock.monotonic();
    while cpl.server.plane.shard().is_none() {
        let waited = clock.monotonic().since(started);
        assert!(waited < limit, "no shard after {waited:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    clock.monotonic().since(started)
}

/// All serve at once, one has the shard, and another takes it when that one gives up or dies.
async fn all_serve_and_one_has_the_shard(url: &str) {
    let first = Harness::start_on(url).await;
    has_the_shard(&first, Duration::from_secs(1)).await;
    let second = Harness::start_on(url).await;
    apply(&first, "a").await;
    apply(&second, "b").await;
    apply(&first, "c").await;
    for cpl in [&first, &second] {
        assert_eq!(names(cpl).await, ["a", "b", "c"]);
        assert_eq!(cpl.version().await, 3);
    }
    tokio::time::sleep(SESSION.ttl * 3).await;
    assert!(
        second.server.plane.shard().is_none(),
        "the first renews its session"
    );

    let plane = Arc::clone(&first.server.plane);
    first.server.stop().await;
    let session = plane.store.get(plane.membership.session.key()).await;
    assert_eq!(session.unwrap().value, None, "it is given up");
    has_the_shard(&second, Duration::from_secs(3)).await;
    let third = Harness::start_on(url).await;
    apply(&third, "d").await;

    // As if it had died: nothing runs any more, and nothing was given up.
    second.server.plane.stop().await;
    has_the_shard(&third, SESSION.ttl + SESSION.skew + Duration::from_secs(3)).await;
    let epoch = |cpl: &Harness| cpl.server.plane.shard().unwrap().owner().epoch;
    assert!(epoch(&third) > epoch(&second));
    apply(&third, "e").await;
    assert_eq!(names(&third).await, ["a", "b", "c", "d", "e"]);
    third.server.stop().await;
}

/// A word of an agent to one of the servers.
async fn speaks(cpl: &Harness, incarnation: AgentIncarnation, sequence: u64) {
    let call = SyncCall {
        node: "n1".to_owned(),
        agent_incarnation: incarnation,
        sequence,
        facts: Facts::default(),
        wait: Duration::ZERO,
    };
    cpl.server.plane.deliveries.sync(call).await.unwrap();
}

async fn convergence(cpl: &Harness) -> String {
    let (_, node) = cpl.get("/v1/nodes/n1").await;
    node["status"]["convergence"].as_str().unwrap().to_owned()
}

/// An agent may go from one server to another and back; it is silent when nobody hears it, and not because its
/// server is gone.
async fn an_agent_is_silent_only_when_nobody_hears_it(url: &str) {
    let (first, second) = (Harness::start_on(url).await, Harness::start_on(url).await);
    has_the_shard(&first, Duration::from_secs(1)).await;
    let body = manifests(&[node("n1", "127.0.0.1", &[])]);
    assert_eq!(first.post("/v1/apply", &body, &[]).await.0, 200);
    let arrival = Arrival {
        process: "p".to_owned(),
        driver: "render".to_owned(),
        carries_traffic: false,
        software: "0".to_owned(),
    };
    let registered = second.server.plane.registry.register("n1", &arrival).await;
    let incarnation = registered.unwrap().agent_incarnation;
    assert_eq!(convergence(&first).await, "never_seen");
    let mut sequence = 0;
    // Both have heard it; for longer than a grace the second one alone does.
    for cpl in [&first, &second, &first, &second] {
        sequence += 1;
        speaks(cpl, incarnation, sequence).await;
    }
    let clock = Host::new().clock;
    let started = clock.monotonic();
    let since = |started| clock.monotonic().since(started);
    let grace = first.server.plane.registry.grace();
    while since(started) < grace + Duration::from_secs(2) {
        sequence += 1;
        speaks(&second, incarnation, sequence).await;
        for cpl in [&first, &second] {
            assert_ne!(convergence(cpl).await, "silent");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // As if it had died; the agent goes to nobody else.
    second.server.plane.stop().await;
    let died = clock.monotonic();
    while convergence(&first).await != "silent" {
        assert!(since(died) < Duration::from_secs(20), "nobody notices");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        since(died) >= SESSION.ttl + grace,
        "it had a full grace: {:?}",
        since(died)
    );
    // It comes back.
    speaks(&first, incarnation, sequence + 1).await;
    assert_ne!(convergence(&first).await, "silent");
    let (_, log) = first.get("/v1/nodes/n1/log").await;
    let told = log["items"].to_string();
    assert_eq!(
        told.matches("after its replica had gone").count(),
        1,
        "{told}"
    );
    first.server.stop().await;
}

#[tokio::test]
async fn an_agent_is_silent_only_when_nobody_hears_it_on_etcd() {
    let etcd = Etcd::start();
    Box::pin(an_agent_is_silent_only_when_nobody_hears_it(
        &etcd.url("cpl"),
    ))
    .await;
}

#[tokio::test]
async fn an_agent_is_silent_only_when_nobody_hears_it_on_postgres() {
    let postgres = Postgres::start();
    Box::pin(an_agent_is_silent_only_when_nobody_hears_it(
        &postgres.url("cpl"),
    ))
    .await;
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

    second.ready().await;
    first.freeze().await;
    let buffered = tokio::spawn(async move { applied(&client, "buffered").await });
    // Longer than its session lasts for others.
    tokio::time::sleep(TTL * 3).await;
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
async fn all_serve_on_etcd() {
    let etcd = Etcd::start();
    Box::pin(all_serve_and_one_has_the_shard(&etcd.url("cpl"))).await;
}

#[tokio::test]
async fn all_serve_on_postgres() {
    let postgres = Postgres::start();
    Box::pin(all_serve_and_one_has_the_shard(&postgres.url("cpl"))).await;
}

/// With sessions as they are when nothing is said: how soon another replica goes on.
async fn another_goes_on_in_time(url: &str) {
    let ttl = SessionTimes::default().ttl;
    let dir = tempfile::tempdir().unwrap();
    let mut serves: Vec<Serve> = ["one", "two", "three"]
        .iter()
        .map(|name| Serve::on(&dir.path().join(name), url, ttl))
        .collect();
    for serve in &mut serves {
        serve.start();
        serve.ready().await;
    }
    let has = |serve: &Serve| {
        let log = std::fs::read_to_string(serve.log()).unwrap();
        log.matches("this replica has the shard").count()
    };
    let taken = async |serves: &[Serve], limit: Duration| {
        let clock = Host::new().clock;
        let started = clock.monotonic();
        while !serves.iter().any(|serve| has(serve) > 0) {
            let waited = clock.monotonic().since(started);
            assert!(waited < limit, "nobody goes on after {waited:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        clock.monotonic().since(started)
    };
    taken(&serves[..1], Duration::from_secs(3)).await;
    let ended = serves[0].terminate().await;
    let handed_over = taken(&serves[1..], Duration::from_secs(3)).await;
    assert!(
        ended + handed_over < Duration::from_secs(3),
        "{ended:?}, {handed_over:?}"
    );
    if has(&serves[1]) == 0 {
        serves.swap(1, 2);
    }
    serves[1].kill();
    let taken_over = taken(&serves[2..], Duration::from_secs(20)).await;
    assert!(taken_over > ttl, "its session had to lapse: {taken_over:?}");
    let client = serves[2].client();
    assert_eq!(applied(&client, "after").await, Some(200));
}

#[tokio::test]
async fn another_goes_on_in_time_on_etcd() {
    let etcd = Etcd::start();
    Box::pin(another_goes_on_in_time(&etcd.url("cpl"))).await;
}

#[tokio::test]
async fn another_goes_on_in_time_on_postgres() {
    let postgres = Postgres::start();
    Box::pin(another_goes_on_in_time(&postgres.url("cpl"))).await;
}
