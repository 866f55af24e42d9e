//! Changes under traffic: not one request fails, and only the nodes that must change do.
//!
//! The client retries nothing. HAProxy is configured with `retries 3` and `option redispatch 1`: it may
//! try a connection that an endpoint does not take again, at another endpoint, and repeats no request.

use std::time::Duration;

use cpl_backends::{Etcd, Postgres};
use serde_json::{Value, json};

use super::fleet::{Fleet, free_port};
use super::traffic::Traffic;
use crate::harness::Harness;

/// Requests of one run, at least.
const REQUESTS: u64 = 50_000;

/// Makes a change, waits until the affected nodes run it, and checks that they are these and that no
/// other node was touched. Traffic goes on for a moment afterwards.
async fn change(fleet: &Fleet, what: &str, path: &str, body: Value, affected: &[u8]) {
    let before = desired(fleet).await;
    let (status, answer) = fleet.cpl.post(path, &body, &[]).await;
    assert_eq!(status, 200, "{what}: {answer}");
    let version = answer["config_version"].as_u64().unwrap();
    let names: Vec<String> = affected
        .iter()
        .map(|number| format!("node-{number}"))
        .collect();
    assert_eq!(answer["affected_nodes"], json!(names), "{what}");
    fleet.converged().await;
    for (index, (old_desired, old_current)) in before.into_iter().enumerate() {
        let number = u8::try_from(index).unwrap() + 1;
        let (desired, current) = versions(fleet, number).await;
        if affected.contains(&number) {
            assert_eq!(
                desired, version,
                "{what}: node-{number} must reach the change"
            );
            assert!(
                current >= version,
                "{what}: node-{number} has reached the change"
            );
        } else {
            let old = (old_desired, old_current);
            assert_eq!(
                (desired, current),
                old,
                "{what}: node-{number} is not affected"
            );
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn desired(fleet: &Fleet) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for number in 1..=3 {
        all.push(versions(fleet, number).await);
    }
    all
}

async fn versions(fleet: &Fleet, number: u8) -> (u64, u64) {
    let status = fleet.status(number).await;
    let version = |name: &str| status[name].as_u64().unwrap();
    (
        version("desired_config_version"),
        version("current_config_version"),
    )
}

/// An endpoint with one field changed.
fn with(endpoint: &Value, field: &str, value: impl Into<Value>) -> Value {
    let mut changed = endpoint.clone();
    changed[field] = value.into();
    changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_everything_changes() {
    no_request_fails(Fleet::start(41, 3).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_on_etcd() {
    let etcd = Etcd::start();
    let cpl = Harness::start_on(&etcd.url("cpl")).await;
    no_request_fails(Fleet::start_for(cpl, 51, 3).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_on_postgres() {
    let postgres = Postgres::start();
    let cpl = Harness::start_on(&postgres.url("cpl")).await;
    no_request_fails(Fleet::start_for(cpl, 52, 3).await).await;
}

async fn no_request_fails(mut fleet: Fleet) {
    let mut apps = Vec::new();
    for (name, number) in [("app-1", 1), ("app-2", 2), ("app-3", 3), ("app-4", 4)] {
        apps.push(fleet.serve(name, number).await);
    }
    let first = [fleet.web(&apps[..3])];
    fleet.apply(&first).await;
    fleet
        .apply(&[1, 2, 3].map(|number| fleet.node(number, &["web"])))
        .await;
    fleet.converged().await;
    let traffic = Traffic::start(&fleet.addresses());

    let endpoints = "/v1/targetgroups/web/endpoints:change";
    let all = [1, 2, 3];
    for (what, body) in [
        ("add an endpoint", json!({"upsert": [apps[3]]})),
        (
            "change weights",
            json!({"upsert": [with(&apps[0], "weight", 5), with(&apps[1], "weight", 10)]}),
        ),
        (
            "drain one",
            json!({"upsert": [with(&apps[2], "status", "DRAIN")]}),
        ),
        ("remove one", json!({"remove": ["app-3"]})),
    ] {
        change(&fleet, what, endpoints, body, &all).await;
    }

    let extra_port = free_port(fleet.address(1).ip());
    let extra = json!({"manifests": [
        {"kind": "TargetGroup", "metadata": {"name": "extra"},
         "spec": {"protocol": "http", "port": extra_port}, "endpoints": [apps[0]]},
        fleet.node(1, &["web", "extra"]),
    ]});
    change(
        &fleet,
        "add a target group to one node",
        "/v1/apply",
        extra,
        &[1],
    )
    .await;
    let gone = json!({"manifests": [fleet.node(1, &["web"])]});
    change(&fleet, "take it from the node", "/v1/apply", gone, &[1]).await;
    let unused = fleet.command(&["delete", "tg", "extra", "--yes"]).await;
    assert!(unused.status.success(), "{unused:?}");
    fleet.converged().await;
    let back = json!({"to_generation": 1});
    change(
        &fleet,
        "roll back",
        "/v1/targetgroups/web:rollback",
        back,
        &all,
    )
    .await;

    while traffic.requests() < REQUESTS && traffic.failures().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (requests, failures) = traffic.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    assert!(requests >= REQUESTS);
    fleet.stop().await;
}
