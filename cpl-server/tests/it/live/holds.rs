//! What a node cannot run it holds: with object and field named, and everything else going on.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::fleet::{Fleet, free_port};
use super::traffic::Traffic;

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A target group whose check only HAProxy can judge.
fn checked(port: u16, expression: &str, app: &Value) -> Value {
    json!({
        "kind": "TargetGroup",
        "metadata": {"name": "checked"},
        "spec": {"protocol": "tcp", "port": port, "health_check": {
            "kind": "http", "interval": "1s", "expect_body": expression,
        }},
        "endpoints": [app],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_haproxy_finds_wrong_is_held_and_explained() {
    let mut fleet = Fleet::start(42, 1).await;
    let app = fleet.serve("app-1", 1).await;
    let other = fleet.serve("app-2", 2).await;
    let port = free_port(fleet.address(1).ip());
    let web = fleet.web(std::slice::from_ref(&app));
    fleet
        .apply(&[
            web,
            checked(port, "app", &app),
            fleet.node(1, &["web", "checked"]),
        ])
        .await;
    fleet.converged().await;
    let traffic = Traffic::start(&fleet.addresses());
    let before = fleet.processes(1);

    let bad = fleet.apply(&[checked(port, "app(", &app)]).await;
    fleet.until(1, "held").await;
    let status = fleet.status(1).await;
    let hold = &status["holds"][0];
    assert_eq!(
        (&hold["kind"], &hold["name"]),
        (&json!("TargetGroup"), &json!("checked"))
    );
    assert_eq!(hold["field"], "/spec/health_check/expect_body");
    assert_eq!(
        (&hold["generation"], &hold["running"]),
        (&json!(2), &json!(1))
    );
    assert!(status["current_config_version"].as_u64() < bad["config_version"].as_u64());
    assert_eq!(fleet.processes(1), before, "HAProxy was not touched");

    let why = fleet.command(&["why", "node-1"]).await;
    let told = text(&why);
    for word in [
        "TargetGroup/checked",
        "/spec/health_check/expect_body",
        "OBJECT_HELD",
    ] {
        assert!(told.contains(word), "{word} is missing in:\n{told}");
    }

    // Something else still arrives, though what was accepted stands still.
    let change = json!({"upsert": [other]});
    let (_, answer) = fleet
        .cpl
        .post("/v1/targetgroups/web/endpoints:change", &change, &[])
        .await;
    assert_eq!(answer["affected_nodes"], json!(["node-1"]));
    let rollout = async || fleet.cpl.get("/v1/targetgroups/web/rollout").await.1;
    for _ in 0..200 {
        if rollout().await["complete"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rollout().await["complete"], true);
    assert_eq!(fleet.status(1).await["convergence"], "held");

    // The next good generation ends the hold by itself.
    let good = fleet.apply(&[checked(port, "app-[0-9]", &app)]).await;
    fleet.converged().await;
    let status = fleet.status(1).await;
    assert!(status["current_config_version"].as_u64() >= good["config_version"].as_u64());
    assert!(status["holds"].is_null());
    let told = text(&fleet.command(&["why", "node-1"]).await);
    assert!(told.contains("nothing is wrong"), "{told}");
    let (requests, failures) = traffic.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    assert!(requests > 100, "{requests}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_process_has_is_held_until_asked_again() {
    let mut fleet = Fleet::start(43, 1).await;
    let app = fleet.serve("app-1", 1).await;
    let ip = fleet.address(1).ip();
    let web = fleet.web(std::slice::from_ref(&app));
    fleet.apply(&[web, fleet.node(1, &["web"])]).await;
    fleet.converged().await;
    let traffic = Traffic::start(&fleet.addresses());
    let before = fleet.processes(1);

    let foreign = TcpListener::bind((ip, 0)).unwrap();
    let port = foreign.local_addr().unwrap().port();
    let taken = json!({
        "kind": "TargetGroup",
        "metadata": {"name": "taken"},
        "spec": {"protocol": "tcp", "port": port},
        "endpoints": [app],
    });
    fleet
        .apply(&[taken, fleet.node(1, &["web", "taken"])])
        .await;
    fleet.until(1, "held").await;
    let hold = fleet.status(1).await["holds"][0].clone();
    assert_eq!(
        (&hold["name"], &hold["code"]),
        (&json!("taken"), &json!("ADDRESS_IN_USE"))
    );
    assert_eq!(hold["field"], "/spec/port");
    assert_eq!(fleet.processes(1), before, "HAProxy was not touched");

    drop(foreign);
    let retry = fleet.command(&["node", "retry", "node-1"]).await;
    assert!(retry.status.success(), "{retry:?}");
    fleet.converged().await;
    std::net::TcpStream::connect((ip, port)).unwrap();
    let (requests, failures) = traffic.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    fleet.stop().await;
}
