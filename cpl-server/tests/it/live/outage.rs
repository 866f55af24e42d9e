//! Servers and agents that go away: traffic goes on, and what is reported is what runs.

use std::time::Duration;

use super::fleet::Fleet;
use super::traffic::Traffic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_runs_on_without_the_server_and_nothing_is_reloaded_when_it_returns() {
    let mut fleet = Fleet::start(44, 1).await;
    let app = fleet.serve("app-1", 1).await;
    let web = fleet.web(&[app]);
    fleet.apply(&[web, fleet.node(1, &["web"])]).await;
    fleet.converged().await;
    let (before, version) = (fleet.processes(1), fleet.cpl.version().await);
    let traffic = Traffic::start(&fleet.addresses());

    fleet.cpl.restart(Duration::from_secs(6)).await;
    fleet.until(1, "converged").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.processes(1), before, "same processes, no reload");
    assert_eq!(fleet.cpl.version().await, version);
    let (requests, failures) = traffic.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    assert!(requests > 100, "{requests}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_before_the_reload_reports_what_runs_and_converges_once() {
    let mut fleet = Fleet::start(45, 2).await;
    let app = fleet.serve("app-1", 1).await;
    let web = fleet.web(&[app]);
    fleet
        .apply(&[
            web.clone(),
            fleet.node(1, &["web"]),
            fleet.node(2, &["web"]),
        ])
        .await;
    fleet.converged().await;
    let before = fleet.processes(1);
    let old = fleet.status(1).await["current_config_version"]
        .as_u64()
        .unwrap();
    let traffic = Traffic::start(&fleet.addresses());

    // The new file is written and being checked when the agent dies.
    fleet.slow_checks(1, true);
    let mut changed = web;
    changed["spec"]["algorithm"] = "leastconn".into();
    let answer = fleet.apply(&[changed]).await;
    let new = answer["config_version"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet.kill_agent(1);
    assert_eq!(
        fleet.processes(1),
        before,
        "HAProxy goes on without its agent"
    );
    fleet.until(2, "converged").await;
    fleet.until(1, "silent").await;
    let told = fleet.command(&["why", "node-1"]).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("AGENT_SILENT"), "{told}");
    assert_eq!(
        fleet.status(1).await["current_config_version"],
        old,
        "what really runs"
    );

    fleet.slow_checks(1, false);
    fleet.start_agent(1);
    fleet.until(1, "converged").await;
    let after = fleet.processes(1);
    assert_eq!(after.master, before.master);
    assert_eq!(
        after.reloads,
        before.reloads + 1,
        "it converged in one reload"
    );
    assert!(
        fleet.status(1).await["current_config_version"]
            .as_u64()
            .unwrap()
            >= new
    );
    let (requests, failures) = traffic.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests} requests");
    fleet.stop().await;
}
