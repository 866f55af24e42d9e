//! What somebody changes in the store, past CPL, is shown and does not run.

use std::time::Duration;

use bytes::Bytes;
use cpl_core::store::{Key, Txn};
use serde_json::{Value, json};

use crate::harness::{Harness, manifests, node, targetgroup};

const ENDPOINTS: &str = "/cpl/v1/targetgroups/web/endpoints";

/// A target group that a node serves.
async fn start() -> Harness {
    let cpl = Harness::start().await;
    let web = targetgroup("web", 8_080, &[("ep-1", 9_001)]);
    let body = manifests(&[web, node("node-1", "127.0.0.9", &["web"])]);
    let (status, answer) = cpl.post("/v1/apply", &body, &[]).await;
    assert_eq!(status, 200, "{answer}");
    cpl
}

/// As an operator with a client of the store would.
async fn put(cpl: &Harness, key: &str, value: impl Into<Bytes>) {
    let key = Key::new(key.to_owned()).unwrap();
    let store = &cpl.server.plane.store;
    store
        .commit(Txn::new().put(key, value.into()))
        .await
        .unwrap();
}

async fn stored(cpl: &Harness, key: &str) -> Value {
    let key = Key::new(key.to_owned()).unwrap();
    let read = cpl.server.plane.store.get(&key).await.unwrap();
    serde_json::from_slice(&read.value.unwrap().value).unwrap()
}

async fn web(cpl: &Harness) -> Value {
    let (status, web) = cpl.get("/v1/targetgroups/web").await;
    assert_eq!(status, 200, "{web}");
    web
}

async fn configuration(cpl: &Harness) -> Value {
    let (status, found) = cpl.get("/v1/nodes/node-1/configuration").await;
    assert_eq!(status, 200, "{found}");
    found
}

async fn refused(cpl: &Harness, path: &str, body: &Value) -> String {
    let (status, answer) = cpl.post(path, body, &[]).await;
    assert!(status >= 400, "{answer}");
    answer["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_change_past_cpl_is_shown_and_not_rendered_until_it_is_adopted() {
    let mut cpl = start().await;
    let (before, was) = (web(&cpl).await, configuration(&cpl).await);
    let mut endpoints = stored(&cpl, ENDPOINTS).await;
    endpoints[0]["weight"] = 77.into();
    put(&cpl, ENDPOINTS, endpoints.to_string()).await;

    // The same also for a server that finds it at its start, and knows what was there from history only.
    for _ in 0..2 {
        let shown = web(&cpl).await;
        assert_eq!(
            shown["foreign"]["differences"],
            json!([{"pointer": "/endpoints/ep-1/weight", "from": 1, "to": 77}])
        );
        assert_eq!(shown["endpoints"], before["endpoints"]);
        assert_eq!(configuration(&cpl).await, was);
        cpl.restart(Duration::ZERO).await;
    }
    let (_, listed) = cpl.get("/v1/targetgroups").await;
    assert!(!listed["items"][0]["foreign"].is_null());

    let body = manifests(&[targetgroup("web", 8_081, &[])]);
    assert_eq!(refused(&cpl, "/v1/apply", &body).await, "OBJECT_FOREIGN");
    assert_eq!(cpl.version().await, 1);
    // Others can be changed, and the node follows them.
    let body = manifests(&[
        targetgroup("other", 8_090, &[]),
        node("node-1", "127.0.0.9", &["web", "other"]),
    ]);
    let (status, answer) = cpl.post("/v1/apply", &body, &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert!(configuration(&cpl).await.to_string().contains("other"));

    let (status, answer) = cpl
        .post("/v1/targetgroups/web:adopt", &json!({}), &[])
        .await;
    assert_eq!(status, 200, "{answer}");
    let adopted = web(&cpl).await;
    assert!(adopted["foreign"].is_null(), "{adopted}");
    assert_eq!(adopted["endpoints"][0]["weight"], 77);
    assert_eq!(adopted["metadata"]["generation"], 2);
    let (_, history) = cpl.get("/v1/targetgroups/web/history").await;
    assert_eq!(history["items"][0]["operation"], "ADOPT");
    assert!(
        configuration(&cpl)
            .await
            .to_string()
            .contains("\"weight\":77")
    );
    let again = refused(&cpl, "/v1/targetgroups/web:adopt", &json!({})).await;
    assert_eq!(again, "OBJECT_NOT_FOREIGN");
    cpl.server.stop().await;
}

#[tokio::test]
async fn what_is_no_manifest_cannot_be_adopted_and_is_reverted() {
    let cpl = start().await;
    let before = web(&cpl).await;
    for found in [
        "{ not json",
        r#"[{"id": "ep-1", "ip": "nowhere", "port": 1}]"#,
    ] {
        let was = configuration(&cpl).await;
        put(&cpl, ENDPOINTS, found).await;
        let shown = web(&cpl).await;
        assert!(!shown["foreign"].is_null(), "{shown}");
        assert_eq!(shown["endpoints"], before["endpoints"]);
        assert_eq!(configuration(&cpl).await, was);
        let adopt = refused(&cpl, "/v1/targetgroups/web:adopt", &json!({})).await;
        assert_eq!(adopt, "FIELD_INVALID");
        let (status, answer) = cpl
            .post("/v1/targetgroups/web:revert", &json!({}), &[])
            .await;
        assert_eq!(status, 200, "{answer}");
        assert!(web(&cpl).await["foreign"].is_null());
        let endpoints = stored(&cpl, ENDPOINTS).await;
        assert_eq!(endpoints, before["endpoints"]);
    }
    cpl.server.stop().await;
}

#[tokio::test]
async fn a_node_that_was_changed_past_cpl_runs_what_it_ran_and_follows_the_rest() {
    const SPEC: &str = "/cpl/v1/nodes/node-1/spec";
    let cpl = start().await;
    let was = configuration(&cpl).await;
    let mut spec = stored(&cpl, SPEC).await;
    spec["assigned_targetgroups"] = json!([]);
    put(&cpl, SPEC, spec.to_string()).await;
    assert_eq!(configuration(&cpl).await, was);

    let body = json!({"upsert": [{"id": "ep-2", "ip": "127.0.0.1", "port": 9_002}]});
    let path = "/v1/targetgroups/web/endpoints:change";
    let (status, answer) = cpl.post(path, &body, &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert!(configuration(&cpl).await.to_string().contains("ep-2"));
    // Its planner writes the version into what is there, and changes nothing else in it.
    for _ in 0..100 {
        if stored(&cpl, SPEC).await["desired_config_version"] == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = stored(&cpl, SPEC).await;
    assert_eq!(found["desired_config_version"], 2);
    assert_eq!(found["assigned_targetgroups"], json!([]));
    let (_, node) = cpl.get("/v1/nodes/node-1").await;
    assert_eq!(node["status"]["desired_config_version"], 2);
    assert!(!node["foreign"].is_null());
    cpl.server.stop().await;
}
