//! The commands against a server of a few lines.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use cpl_api::PROBLEM_JSON;
use cpl_api::client::ControlPlaneClient;
use cpl_api::memory::MemoryTransport;
use cpl_api::transport::{
    ConnectFailure, ControlPlaneTransport, Request, Response, TransportError,
};
use cpl_core::clock::{Clock, Monotonic, Timestamp};
use cpl_host::SystemIds;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::args::{Cli, Command, is_documented};
use super::context::{Given, run as run_context};
use super::contexts::ContextFolder;
use super::failure::Exit;
use super::output::{Output, Talk, tests::captured, tests::manner};
use super::run::remote_call;
use super::session::Session;
use super::{completion, explain, markdown, store};

/// Time that passes only by sleeping.
#[derive(Debug, Default)]
struct SleepClock(Arc<Mutex<Duration>>);

impl Clock for SleepClock {
    fn wall(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(*self.0.lock().unwrap())
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        let now = Arc::clone(&self.0);
        Box::pin(async move {
            let mut now = now.lock().unwrap();
            *now = until.0.max(*now);
        })
    }
}

/// What the server answers to a route like `GET /v1/nodes`; the last answer of a route repeats.
type Answers = Vec<(&'static str, Reply)>;

/// What comes back of one request.
#[derive(Clone, Debug)]
enum Reply {
    Says(Response),
    Lost(TransportError),
}

fn answer(status: u16, kind: &str, body: String) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, kind.parse().unwrap());
    Reply::Says(Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: body.into(),
    })
}

fn ok(body: &Value) -> Reply {
    answer(200, "application/json", body.to_string())
}

fn problem(status: u16, code: &str, reason: &str, errors: &Value) -> Reply {
    let body = json!({"type": format!("urn:cpl:error:{reason}"), "title": "t", "status": status,
        "detail": "it is not as it should be", "instance": "r-1", "code": code, "reason": reason,
        "retryable": false, "errors": errors});
    answer(status, PROBLEM_JSON, body.to_string())
}

fn list(items: &[Value]) -> Reply {
    ok(&json!({"items": items, "cursor": "c-1"}))
}

/// How a command ended.
struct Ran {
    exit: u8,
    data: String,
    talk: String,
    asked: Vec<Request>,
}

impl Ran {
    fn targets(&self) -> Vec<String> {
        let asked = self.asked.iter();
        asked
            .map(|request| format!("{} {}", request.method, request.target))
            .collect()
    }

    fn body(&self, index: usize) -> Value {
        serde_json::from_slice(&self.asked[index].body).unwrap()
    }
}

fn run(answers: Answers, words: &[&str]) -> Ran {
    run_as(answers, words, None)
}

fn run_as(answers: Answers, words: &[&str], person: Option<&str>) -> Ran {
    let cli = Cli::try_parse_from(["cpl"].iter().chain(words)).unwrap();
    let manner = super::output::Manner {
        headers: !cli.global.no_headers,
        talk: if cli.global.quiet {
            Talk::Quiet
        } else {
            Talk::Lines
        },
        ..manner(cli.global.output)
    };
    let (mut out, data, talk) = captured(manner, person);
    let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
    let exit = {
        let mut session = session(answers, &asked, &mut out);
        let command = async {
            match &cli.command {
                Command::Remote(remote) => remote_call(remote, &mut session).await,
                Command::Store(store::StoreCommand::Export(args)) => {
                    store::export(args.file.as_deref(), &mut session).await
                },
                other => panic!("{other:?} talks to no server"),
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(command)
    };
    let exit = exit.unwrap_or_else(|failure| {
        out.fail(&failure);
        failure.exit()
    });
    let asked = asked.lock().unwrap().clone();
    Ran {
        exit: exit.code(),
        data: data.read(),
        talk: talk.read(),
        asked,
    }
}

fn session<'a>(
    answers: Answers,
    asked: &Arc<Mutex<Vec<Request>>>,
    out: &'a mut Output,
) -> Session<'a> {
    let asked = Arc::clone(asked);
    let answers = Mutex::new(answers);
    let transport: Arc<dyn ControlPlaneTransport> =
        Arc::new(MemoryTransport::new(move |request| {
            let path = request.target.split('?').next().unwrap_or_default();
            let route = format!("{} {path}", request.method);
            asked.lock().unwrap().push(request);
            let mut answers = answers.lock().unwrap();
            let at = answers.iter().position(|(of, _)| *of == route);
            let at = at.unwrap_or_else(|| panic!("nothing is prepared for {route}"));
            let last = answers.iter().filter(|(of, _)| *of == route).count() == 1;
            let answer = if last {
                answers[at].1.clone()
            } else {
                answers.remove(at).1
            };
            let answer = match answer {
                Reply::Says(response) => Ok(response),
                Reply::Lost(error) => Err(error),
            };
            async move { answer }
        }));
    let clock: Arc<dyn Clock> = Arc::new(SleepClock::default());
    let client = ControlPlaneClient::new(transport, Arc::clone(&clock), Arc::new(SystemIds));
    Session { client, clock, out }
}

fn metadata(name: &str, generation: u64) -> Value {
    json!({"name": name, "uid": format!("{generation:032x}"), "generation": generation,
        "config_version": 12, "etag": format!("u-{generation}"), "labels": {"team": "edge"},
        "created_at": "2026-11-25T08:00:00Z", "modified_at": "2026-11-25T09:00:00Z",
        "modified_by": "alice"})
}

fn web() -> Value {
    json!({"kind": "TargetGroup", "metadata": metadata("web", 3),
        "spec": {"protocol": "tcp", "port": 443, "algorithm": "roundrobin",
            "health_check": {"kind": "tcp", "interval": "5s", "timeout": "2s", "rise": 2, "fall": 3},
            "deregistration_delay": "5m", "idle_timeout": "10m", "version": 3,
            "last_modified_by": "alice", "last_modified_at": "2026-11-25T09:00:00Z"},
        "endpoints": [
            {"id": "ep-1", "ip": "10.0.0.1", "port": 8443, "weight": 10, "status": "UP"},
            {"id": "ep-2", "ip": "10.0.0.2", "port": 8443, "weight": 1, "status": "DRAIN"}],
        "status": {"nodes": 3, "nodes_converged": 2, "endpoints": 2, "endpoints_healthy": 1}})
}

fn node(name: &str, convergence: &str, driver: &str, carries: bool) -> Value {
    let health = json!([
        {"targetgroup": "web", "endpoint": "ep-1", "health": "healthy", "receives_new": true,
            "connections": 1},
        {"targetgroup": "web", "endpoint": "ep-2", "health": "unhealthy",
            "reason": "Target.Timeout", "receives_new": false, "connections": 0}]);
    json!({"kind": "Node", "metadata": metadata(name, 1),
        "spec": {"assigned_targetgroups": ["web"], "drained": convergence == "converged"},
        "status": {"current_config_version": 11, "desired_config_version": 12,
            "convergence": convergence, "alive": true, "last_heartbeat": "2026-11-25T09:00:05Z",
            "data_plane_state": if carries { "HEALTHY" } else { "NONE" }, "driver": driver,
            "carries_traffic": carries, "health": health,
            "holds": [{"kind": "TargetGroup", "name": "web", "generation": 3, "running": 2,
                "stage": "preflight", "code": "PORT_IN_USE", "field": "/spec/port",
                "message": "port 443 is taken by nginx"}]}})
}

fn changed(operation: &str, version: Option<u64>) -> Value {
    json!({"config_version": version, "affected_nodes": ["node-1", "node-2"],
        "objects": [{"kind": "TargetGroup", "name": "web", "operation": operation,
            "generation": 4, "etag": "u-4"}]})
}

fn rollout(nodes: &[(&str, &str)]) -> Value {
    let complete = nodes
        .iter()
        .all(|(_, convergence)| *convergence == "converged");
    let nodes = nodes.iter().map(|(name, convergence)| {
        let current = if *convergence == "converged" { 12 } else { 11 };
        json!({"node": name, "desired": 12, "current": current, "convergence": convergence,
            "reason": if *convergence == "held" { "port 443 is taken" } else { "" }})
    });
    json!({"config_version": 12, "complete": complete, "nodes": nodes.collect::<Vec<_>>()})
}

/// A file of manifests in a folder that lives as long as the test.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

const WEB: &str = "\
kind: TargetGroup
metadata: {name: web, labels: {team: edge}}
spec: {protocol: tcp, port: 443}
";

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_exit_status_stands_in_the_help() {
    for exit in [
        Exit::Success,
        Exit::Differs,
        Exit::Failed,
        Exit::Invalid,
        Exit::NotFound,
        Exit::Auth,
        Exit::Conflict,
        Exit::Unavailable,
        Exit::OtherState,
        Exit::Interrupted,
    ] {
        assert!(is_documented(exit), "{exit:?}");
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    let said = markdown::reference(&Cli::command());
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        said == written,
        "run `cpl help-markdown > docs/reference/cli.md`"
    );
}

#[test]
fn target_groups_are_listed_with_what_is_healthy_and_converged() {
    let ran = run(
        vec![("GET /v1/targetgroups", list(&[web()]))],
        &["get", "tg"],
    );
    assert_eq!(ran.exit, 0);
    assert_eq!(
        ran.data,
        "NAME   PROTOCOL   PORT   ENDPOINTS   NODES   VERSION\n\
         web    tcp        443    1/2         2/3     12\n"
    );
}

#[test]
fn nodes_without_traffic_never_look_as_if_they_had_some() {
    let nodes = [
        node("node-1", "converged", "haproxy", true),
        node("node-2", "held", "render", false),
    ];
    let ran = run(vec![("GET /v1/nodes", list(&nodes))], &["node", "list"]);
    assert_eq!(
        ran.data,
        "NAME     CONVERGENCE           CURRENT/DESIRED   DATA PLANE                  HEARTBEAT\n\
         node-1   converged (drained)   11/12             healthy (haproxy)           2026-11-25T09:00:05Z\n\
         node-2   held                  11/12             none (render: no traffic)   2026-11-25T09:00:05Z\n"
    );
}

#[test]
fn lists_are_chosen_from_by_label_and_tenant_and_follow_their_pages() {
    let first = ok(&json!({"items": [web()], "cursor": "c", "next_page_token": "p2"}));
    let answers = vec![
        ("GET /v1/targetgroups", first),
        ("GET /v1/targetgroups", list(&[])),
    ];
    let ran = run(answers, &["get", "tg", "-l", "team=edge", "-o", "name"]);
    assert_eq!(ran.data, "targetgroup/web\n");
    assert_eq!(
        ran.targets(),
        [
            "GET /v1/targetgroups?label=team%3Dedge",
            "GET /v1/targetgroups?page_token=p2&label=team%3Dedge"
        ]
    );
}

#[test]
fn an_empty_list_is_said_and_not_printed() {
    let ran = run(vec![("GET /v1/nodes", list(&[]))], &["get", "nodes"]);
    assert_eq!((ran.exit, ran.data.as_str()), (0, ""));
    assert_eq!(ran.talk, "there is no such node\n");
}

#[test]
fn programs_get_the_object_of_the_api() {
    let answers = || vec![("GET /v1/targetgroups/web", ok(&web()))];
    let json = run(answers(), &["get", "tg/web", "-o", "json"]).data;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), web());
    let yaml = run(answers(), &["get", "tg/web", "-o", "yaml"]).data;
    assert_eq!(serde_yaml_ng::from_str::<Value>(&yaml).unwrap(), web());
}

#[test]
fn objects_of_two_kinds_are_two_tables() {
    let answers = || {
        vec![
            ("GET /v1/targetgroups/web", ok(&web())),
            (
                "GET /v1/nodes/node-1",
                ok(&node("node-1", "held", "haproxy", true)),
            ),
        ]
    };
    let ran = run(answers(), &["get", "tg/web", "node/node-1", "--no-headers"]);
    assert_eq!(ran.data.lines().count(), 3);
    let ran = run(answers(), &["get", "tg/web", "node/node-1", "-o", "name"]);
    assert_eq!(ran.data, "targetgroup/web\nnode/node-1\n");
}

#[test]
fn what_is_not_there_exits_with_3_and_names_the_request() {
    let missing = problem(404, "NOT_FOUND", "NOT_FOUND", &json!([]));
    let ran = run(
        vec![("GET /v1/targetgroups/web", missing)],
        &["get", "tg", "web"],
    );
    assert_eq!((ran.exit, ran.data.as_str()), (3, ""));
    assert_eq!(
        ran.talk,
        "error: it is not as it should be (NOT_FOUND)\n  request id: r-1\n  \
         more: cpl explain NOT_FOUND\n"
    );
}

#[test]
fn a_server_that_is_not_there_exits_with_6() {
    let refused = || TransportError::Connect {
        failure: ConnectFailure::Refused,
        message: String::new(),
    };
    let ran = run(
        vec![("GET /v1/nodes", Reply::Lost(refused()))],
        &["get", "nodes"],
    );
    assert_eq!(ran.exit, 6);
    assert_eq!(
        ran.talk,
        "error: failed to connect to the server: nothing listens there\n"
    );
}

#[test]
fn a_lost_answer_to_a_write_is_not_called_a_failure_to_write() {
    let lost = || TransportError::Closed {
        message: "reset".to_owned(),
    };
    let ran = run(
        vec![("POST /v1/nodes/node-1:drain", Reply::Lost(lost()))],
        &["node", "drain", "node-1"],
    );
    assert_eq!(ran.exit, 6);
    assert!(
        ran.talk.contains("it may have happened all the same"),
        "{}",
        ran.talk
    );
}

#[test]
fn applying_tells_what_changed_for_whom() {
    let (_folder, path) = file(WEB);
    let answers = vec![("POST /v1/apply", ok(&changed("updated", Some(13))))];
    let ran = run(answers, &["apply", "-f", &path]);
    assert_eq!(
        ran.data,
        "OBJECT            CHANGE    GENERATION\nTargetGroup/web   updated   4\n"
    );
    assert_eq!(
        ran.talk,
        "version 13: 2 nodes run something else: node-1, node-2\n"
    );
    assert_eq!(ran.body(0)["manifests"][0]["metadata"]["name"], "web");
}

#[test]
fn a_dry_run_says_so_and_carries_its_etag() {
    let (_folder, path) = file(WEB);
    let mut answer = changed("updated", None);
    answer["dry_run"] = true.into();
    let words = ["apply", "-f", &path, "--dry-run", "--if-match", "u-3"];
    let ran = run(vec![("POST /v1/apply", ok(&answer))], &words);
    assert_eq!(ran.targets(), ["POST /v1/apply?dry_run=true"]);
    assert_eq!(ran.asked[0].headers.get(IF_MATCH).unwrap(), "\"u-3\"");
    assert!(ran.talk.starts_with("dry run, nothing was written"));
}

#[test]
fn fields_that_are_wrong_are_told_with_file_and_document() {
    let (_folder, path) = file(&format!("{WEB}---\n{}", WEB.replace("web", "api")));
    let errors = json!([{"pointer": "/manifests/1/spec/port", "code": "FIELD_OUT_OF_RANGE",
        "detail": "expected 1 to 65535, got 0"}]);
    let refused = problem(400, "INVALID_ARGUMENT", "FIELD_INVALID", &errors);
    let ran = run(vec![("POST /v1/apply", refused)], &["apply", "-f", &path]);
    assert_eq!(ran.exit, 2);
    let line = format!(
        "  {path} document 2 (TargetGroup/api) /spec/port: FIELD_OUT_OF_RANGE: expected 1 to 65535, \
         got 0"
    );
    assert_eq!(ran.talk.lines().nth(1), Some(line.as_str()));
    assert_eq!(ran.talk.lines().nth(2), Some("  request id: r-1"));
}

#[test]
fn an_etag_belongs_to_one_manifest() {
    let (_folder, path) = file(&format!("{WEB}---\n{}", WEB.replace("web", "api")));
    let ran = run(Vec::new(), &["apply", "-f", &path, "--if-match", "u-3"]);
    assert_eq!(ran.exit, 2);
    assert!(ran.asked.is_empty());
}

#[test]
fn applying_waits_until_every_node_runs_it() {
    let (_folder, path) = file(WEB);
    let answers = vec![
        ("POST /v1/apply", ok(&changed("updated", Some(12)))),
        (
            "GET /v1/targetgroups/web/rollout",
            ok(&rollout(&[("node-1", "pending")])),
        ),
        (
            "GET /v1/targetgroups/web/rollout",
            ok(&rollout(&[("node-1", "converged")])),
        ),
    ];
    let ran = run(answers, &["apply", "-f", &path, "--wait"]);
    assert_eq!(ran.exit, 0);
    assert!(
        ran.talk.ends_with("TargetGroup/web: every node runs it\n"),
        "{}",
        ran.talk
    );
}

#[test]
fn waiting_ends_with_7_when_it_is_stuck_and_with_6_when_it_is_late() {
    let wait = |nodes: &[(&str, &str)]| {
        let answers = vec![("GET /v1/targetgroups/web/rollout", ok(&rollout(nodes)))];
        run(answers, &["wait", "tg/web", "--timeout", "3s"])
    };
    let stuck = wait(&[("node-1", "converged"), ("node-2", "held")]);
    assert_eq!(stuck.exit, 7);
    assert_eq!(
        stuck.talk,
        "error: TargetGroup/web: it is refused by node-2 (held: port 443 is taken)\n"
    );
    let late = wait(&[("node-1", "silent")]);
    assert_eq!(late.exit, 6);
    assert_eq!(
        late.talk,
        "TargetGroup/web: 0 of 1 nodes; waiting for node-1 (silent)\n\
         error: TargetGroup/web: not in time; 0 of 1 nodes; waiting for node-1 (silent)\n"
    );
}

#[test]
fn waiting_forgives_a_server_that_restarts_but_not_one_that_was_never_there() {
    let down = || problem(503, "UNAVAILABLE", "STORE_UNAVAILABLE", &json!([]));
    let answers = vec![
        (
            "GET /v1/nodes/node-1/rollout",
            ok(&rollout(&[("node-1", "pending")])),
        ),
        ("GET /v1/nodes/node-1/rollout", down()),
        (
            "GET /v1/nodes/node-1/rollout",
            ok(&rollout(&[("node-1", "converged")])),
        ),
    ];
    assert_eq!(run(answers, &["wait", "node/node-1"]).exit, 0);
    let never = run(
        vec![("GET /v1/nodes/node-1/rollout", down())],
        &["wait", "node/node-1"],
    );
    assert_eq!((never.exit, never.asked.len()), (6, 1));
}

#[test]
fn waiting_for_deletion_ends_when_it_is_gone_or_another_one() {
    let gone = problem(404, "NOT_FOUND", "NOT_FOUND", &json!([]));
    let path = "GET /v1/targetgroups/web";
    let ran = run(
        vec![(path, ok(&web())), (path, gone)],
        &["wait", "tg", "web", "--for", "deleted"],
    );
    assert_eq!(ran.exit, 0);
    let mut other = web();
    other["metadata"]["uid"] = "f".repeat(32).into();
    let ran = run(
        vec![(path, ok(&web())), (path, ok(&other))],
        &["wait", "tg/web", "--for", "deleted"],
    );
    assert_eq!(ran.exit, 0);
}

#[test]
fn deleting_asks_people_and_demands_consent_of_programs() {
    let answers = || {
        vec![(
            "DELETE /v1/targetgroups/web",
            ok(&changed("deleted", Some(13))),
        )]
    };
    let unasked = run(answers(), &["delete", "tg", "web"]);
    assert_eq!((unasked.exit, unasked.asked.len()), (2, 0));
    let refused = run_as(answers(), &["delete", "tg", "web"], Some("n\n"));
    assert_eq!((refused.exit, refused.asked.len()), (1, 0));
    let agreed = run_as(answers(), &["delete", "tg", "web"], Some("y\n"));
    assert_eq!(agreed.exit, 0);
    let cascade = run(answers(), &["delete", "tg/web", "--cascade", "--yes"]);
    assert_eq!(
        cascade.targets(),
        ["DELETE /v1/targetgroups/web?cascade=true"]
    );
}

#[test]
fn deleting_what_manifests_name_begins_with_what_refers_to_others() {
    let (_folder, path) = file(&format!(
        "{WEB}---\nkind: Node\nmetadata: {{name: node-1}}\n"
    ));
    let answers = vec![
        (
            "DELETE /v1/targetgroups/web",
            ok(&changed("deleted", Some(14))),
        ),
        ("DELETE /v1/nodes/node-1", ok(&changed("deleted", Some(13)))),
    ];
    let ran = run(answers, &["delete", "-f", &path, "--yes"]);
    assert_eq!(
        ran.targets(),
        ["DELETE /v1/nodes/node-1", "DELETE /v1/targetgroups/web"]
    );
}

#[test]
fn a_manifest_that_says_the_same_does_not_differ() {
    let (_folder, path) = file(WEB);
    let ran = run(
        vec![("POST /v1/apply", ok(&changed("unchanged", None)))],
        &["diff", "-f", &path],
    );
    assert_eq!((ran.exit, ran.data.as_str()), (0, ""));
    assert_eq!(ran.targets(), ["POST /v1/apply?dry_run=true"]);
}

#[test]
fn defaults_and_fields_of_the_server_are_no_differences() {
    let (_folder, path) = file(&WEB.replace("443", "444"));
    let answers = vec![
        ("POST /v1/apply", ok(&changed("updated", None))),
        ("GET /v1/targetgroups/web", ok(&web())),
    ];
    let ran = run(answers, &["diff", "-f", &path]);
    assert_eq!(ran.exit, 1);
    let changed: Vec<_> = ran
        .data
        .lines()
        .skip(2)
        .filter(|line| line.starts_with(['+', '-']))
        .collect();
    assert_eq!(changed, ["-  port: 443", "+  port: 444"]);
}

#[test]
fn a_diff_that_fails_never_exits_with_1() {
    let (_folder, path) = file(WEB);
    let bug = || problem(500, "INTERNAL", "STORE_REJECTED", &json!([]));
    let ran = run(vec![("POST /v1/apply", bug())], &["diff", "-f", &path]);
    assert_eq!(ran.exit, 2);
}

#[test]
fn two_generations_are_compared_as_text() {
    let diff = json!({"from": {"spec": {"port": 80}}, "to": {"spec": {"port": 81}},
        "differences": [{"pointer": "/spec/port", "from": 80, "to": 81}]});
    let ran = run(
        vec![("GET /v1/targetgroups/web:diff", ok(&diff))],
        &["diff", "tg", "web", "--from", "2", "--to", "3"],
    );
    assert_eq!(ran.exit, 1);
    assert_eq!(
        ran.data,
        "--- TargetGroup/web generation 2\n+++ TargetGroup/web generation 3\n@@ -1,2 +1,2 @@\n \
         spec:\n-  port: 80\n+  port: 81\n"
    );
    assert_eq!(ran.targets(), ["GET /v1/targetgroups/web:diff?from=2&to=3"]);
}

fn change(generation: u64, added: &[&str]) -> Value {
    json!({"id": format!("change-{generation}-x"), "operation": "ADD_ENDPOINT",
        "target_version": generation, "config_version": generation + 9, "endpoints_added": added,
        "endpoints_removed": ["ep-9"], "endpoints_changed": [], "modified_by": "alice",
        "timestamp": "2026-11-25T09:00:00Z", "request_id": "r"})
}

#[test]
fn history_shows_the_endpoints_that_came_and_went() {
    let changes = [change(3, &["ep-1"]), change(2, &["a", "b", "c"])];
    let ran = run(
        vec![("GET /v1/targetgroups/web/history", list(&changes))],
        &["history", "tg/web"],
    );
    assert_eq!(
        ran.data,
        "GENERATION   VERSION   OPERATION      ENDPOINTS     BY      WHEN\n\
         3            12        ADD_ENDPOINT   +ep-1 -ep-9   alice   2026-11-25T09:00:00Z\n\
         2            11        ADD_ENDPOINT   +3 -1         alice   2026-11-25T09:00:00Z\n"
    );
}

#[test]
fn rolling_back_names_the_generation() {
    let answers = vec![(
        "POST /v1/targetgroups/web:rollback",
        ok(&changed("updated", Some(13))),
    )];
    let ran = run(answers, &["rollback", "tg", "web", "--to-generation", "2"]);
    assert_eq!(ran.body(0), json!({"to_generation": 2}));
}

#[test]
fn the_status_of_a_rollout_is_shown_however_it_ends() {
    let status = |nodes: &[(&str, &str)], words: &[&str]| {
        let answers = vec![("GET /v1/targetgroups/web/rollout", ok(&rollout(nodes)))];
        run(
            answers,
            &[&["rollout", "status", "tg", "web"], words].concat(),
        )
    };
    assert_eq!(status(&[("node-1", "converged")], &[]).exit, 0);
    let coming = [("node-1", "converged"), ("node-2", "pending")];
    assert_eq!(status(&coming, &[]).exit, 0);
    let late = status(&coming, &["--watch", "--timeout", "2s"]);
    assert_eq!(late.exit, 6);
    assert!(late.data.contains("node-2   pending"), "{}", late.data);
    let stuck = status(&[("node-1", "converged"), ("node-2", "held")], &["--watch"]);
    assert_eq!(stuck.exit, 7);
    assert_eq!(
        stuck.data,
        "NODE     STATE       CURRENT/DESIRED   REASON\n\
         node-1   converged   12/12             -\n\
         node-2   held        11/12             port 443 is taken\n"
    );
}

#[test]
fn why_tells_the_cause_the_field_and_the_remedy() {
    let why = json!({"node": "node-2", "convergence": "held", "summary": "it refuses one object",
        "findings": [{"code": "OBJECT_HELD", "object": "TargetGroup/web", "field": "/spec/port",
            "message": "port 443 is taken by nginx", "remedy": "free the port, then retry"}]});
    for name in ["node-2", "node/node-2"] {
        let ran = run(vec![("GET /v1/nodes/node-2:why", ok(&why))], &["why", name]);
        assert_eq!(
            ran.data,
            "node-2 is held: it refuses one object\n\n  OBJECT_HELD TargetGroup/web /spec/port\n    \
             port 443 is taken by nginx\n    what helps: free the port, then retry\n"
        );
    }
}

fn secret() -> Value {
    json!({"id": "ab", "name": "node-1", "scope": {"scope": "join", "node": "node-1"},
        "created_at": 0, "expires_at": 3_600_000, "secret": "cpl_ab_s3cr3t"})
}

#[test]
fn a_fresh_token_is_the_only_data_or_goes_to_a_private_file() {
    let answers = || vec![("POST /v1/nodes/node-1:join", ok(&secret()))];
    let ran = run(answers(), &["node", "join", "node-1", "--ttl", "10m"]);
    assert_eq!(ran.data, "cpl_ab_s3cr3t\n");
    assert_eq!(ran.body(0), json!({"ttl_s": 600}));
    assert!(ran.talk.contains("valid until 1970-01-01T01:00:00Z"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let ran = run(
        answers(),
        &[
            "node",
            "join",
            "node-1",
            "--token-out",
            &path.display().to_string(),
        ],
    );
    assert_eq!(ran.data, "");
    assert!(!ran.talk.contains("s3cr3t"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "cpl_ab_s3cr3t\n");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_log_is_read_downwards() {
    let entry = |at: u64, event: &str| json!({"at": at, "event": event, "message": "m"});
    let log = [entry(2_000, "held"), entry(1_000, "registered")];
    let ran = run(
        vec![("GET /v1/nodes/node-1/log", list(&log))],
        &["node", "log", "node-1"],
    );
    assert_eq!(
        ran.data,
        "WHEN                   EVENT        MESSAGE\n\
         1970-01-01T00:00:01Z   registered   m\n1970-01-01T00:00:02Z   held         m\n"
    );
}

#[test]
fn removing_a_node_asks_first() {
    let answers = vec![("DELETE /v1/nodes/node-1", ok(&changed("deleted", Some(13))))];
    assert_eq!(run(answers.clone(), &["node", "remove", "node-1"]).exit, 2);
    assert_eq!(run(answers, &["node", "remove", "node-1", "--yes"]).exit, 0);
}

const CHANGE: &str = "POST /v1/targetgroups/web/endpoints:change";

#[test]
fn setting_one_field_of_an_endpoint_keeps_the_others() {
    let answers = vec![
        ("GET /v1/targetgroups/web", ok(&web())),
        (CHANGE, ok(&changed("updated", Some(13)))),
    ];
    let words = [
        "endpoint", "set", "tg/web", "--id", "ep-1", "--status", "drain",
    ];
    let ran = run(answers, &words);
    assert_eq!(ran.exit, 0);
    assert_eq!(
        ran.body(1)["upsert"],
        json!([{"id": "ep-1", "ip": "10.0.0.1", "port": 8443, "weight": 10, "status": "DRAIN"}])
    );
    assert_eq!(ran.asked[1].headers.get(IF_MATCH).unwrap(), "\"u-3\"");
}

#[test]
fn setting_an_endpoint_begins_anew_when_somebody_was_faster() {
    let faster = problem(412, "FAILED_PRECONDITION", "ETAG_MISMATCH", &json!([]));
    let answers = vec![
        ("GET /v1/targetgroups/web", ok(&web())),
        (CHANGE, faster),
        (CHANGE, ok(&changed("updated", Some(13)))),
    ];
    let ran = run(
        answers,
        &["endpoint", "set", "web", "--id", "ep-1", "--weight", "5"],
    );
    assert_eq!((ran.exit, ran.asked.len()), (0, 4));
}

#[test]
fn a_new_endpoint_needs_its_address_and_files_set_many() {
    let answers = || {
        vec![
            ("GET /v1/targetgroups/web", ok(&web())),
            (CHANGE, ok(&changed("updated", Some(13)))),
        ]
    };
    let ran = run(
        answers(),
        &["endpoint", "set", "web", "--id", "ep-3", "--weight", "5"],
    );
    assert_eq!(ran.exit, 2);
    assert_eq!(
        ran.talk,
        "error: ep-3 is new in web: give its ip and port\n"
    );
    let (_folder, path) = file("- {id: ep-1, weight: 0}\n- {id: ep-2, weight: 2}\n");
    let ran = run(answers(), &["endpoint", "set", "web", "-f", &path]);
    let upsert = &ran.body(1)["upsert"];
    assert_eq!(
        (&upsert[0]["weight"], &upsert[1]["ip"]),
        (&json!(0), &json!("10.0.0.2"))
    );
}

#[test]
fn endpoints_are_listed_with_what_nodes_find() {
    let nodes = [
        node("node-1", "converged", "haproxy", true),
        node("node-2", "converged", "haproxy", true),
    ];
    let answers = vec![
        ("GET /v1/targetgroups/web", ok(&web())),
        ("GET /v1/nodes", list(&nodes)),
    ];
    let ran = run(answers, &["endpoint", "list", "web"]);
    assert_eq!(
        ran.data,
        "ID     IP         PORT   WEIGHT   STATUS   HEALTH\n\
         ep-1   10.0.0.1   8443   10       UP       2/2 healthy\n\
         ep-2   10.0.0.2   8443   1        DRAIN    0/2 healthy\n"
    );
}

#[test]
fn removing_endpoints_is_one_change() {
    let answers = vec![(CHANGE, ok(&changed("updated", Some(13))))];
    let ran = run(
        answers,
        &["endpoint", "remove", "web", "ep-1", "ep-2", "--yes"],
    );
    assert_eq!(
        ran.body(0),
        json!({"upsert": [], "remove": ["ep-1", "ep-2"]})
    );
}

#[test]
fn a_description_has_everything_in_one_place() {
    let answers = vec![
        ("GET /v1/targetgroups/web", ok(&web())),
        (
            "GET /v1/targetgroups/web/history",
            list(&[change(3, &["ep-1"])]),
        ),
        (
            "GET /v1/nodes",
            list(&[node("node-1", "held", "haproxy", true)]),
        ),
    ];
    let ran = run(answers, &["describe", "tg", "web"]);
    for part in [
        "Name:       TargetGroup/web\n",
        "Version:    12 (generation 3)\n",
        "Spec:\n  algorithm: roundrobin\n",
        "Status:\n  2 of 3 nodes run the newest generation\n",
        "  ep-2   10.0.0.2   8443   1        DRAIN    0/1 healthy\n",
        "Not healthy:\n  ep-2 on node-1: unhealthy (Target.Timeout)\n",
        "Last changes:\n  GENERATION",
    ] {
        assert!(ran.data.contains(part), "{part:?} is not in\n{}", ran.data);
    }
    assert!(ran.targets()[1].ends_with("?page_size=5"));
}

#[test]
fn a_description_of_a_node_shows_what_it_holds() {
    let answers = vec![
        (
            "GET /v1/nodes/node-1",
            ok(&node("node-1", "held", "render", false)),
        ),
        ("GET /v1/nodes/node-1/history", list(&[])),
    ];
    let ran = run(answers, &["describe", "node/node-1"]);
    for part in [
        "  held: version 11, wanted 12\n  data plane: none (render: no traffic)\n",
        "  TargetGroup/web/spec/port   3         2         preflight   PORT_IN_USE   port 443",
    ] {
        assert!(ran.data.contains(part), "{part:?} is not in\n{}", ran.data);
    }
}

#[test]
fn tokens_are_made_for_a_scope_and_listed_without_secrets() {
    let answers = vec![("POST /v1/tokens", ok(&secret()))];
    let words = [
        "token", "create", "--name", "ci", "--scope", "write", "--ttl", "24h",
    ];
    let ran = run(answers, &words);
    assert_eq!(
        ran.body(0),
        json!({"name": "ci", "scope": {"scope": "write"}, "ttl_s": 86_400})
    );
    let ran = run(
        vec![("GET /v1/tokens", list(&[secret()]))],
        &["token", "list"],
    );
    assert_eq!(
        ran.data,
        "ID   NAME     SCOPE         CREATED                EXPIRES\n\
         ab   node-1   join node-1   1970-01-01T00:00:00Z   1970-01-01T01:00:00Z\n"
    );
    let parse = |words: &[&str]| Cli::try_parse_from([&["cpl", "token", "create"], words].concat());
    assert!(parse(&["--name", "x", "--scope", "join"]).is_err());
}

#[test]
fn audit_and_tasks_are_tables() {
    let record = json!({"at": 0, "actor": "alice", "action": "apply", "objects": ["TargetGroup/web"],
        "request_id": "r-1", "config_version": 12});
    let ran = run(
        vec![("GET /v1/audit", list(&[record]))],
        &["audit", "--limit", "1"],
    );
    assert!(
        ran.data
            .ends_with("alice   apply    TargetGroup/web   12        r-1\n"),
        "{}",
        ran.data
    );
    assert_eq!(ran.targets(), ["GET /v1/audit?page_size=1"]);
    let task = json!({"id": "t-1", "node_id": "node-1", "target_config_version": 12,
        "related_change_id": "c", "reason": "web changed", "created_at": "2026-11-25T09:00:00Z", "lease_until": "2026-11-25T09:01:00Z", "attempt": 1});
    let ran = run(
        vec![("GET /v1/tasks/config_update", list(&[task]))],
        &["task", "list"],
    );
    assert!(
        ran.data.contains("t-1   node-1   12        web changed"),
        "{}",
        ran.data
    );
}

fn events(events: &[Value]) -> Reply {
    let body = events
        .iter()
        .enumerate()
        .map(|(index, event)| format!("id: c-{index}\ndata: {event}\n\n"));
    answer(200, "text/event-stream", body.collect())
}

#[test]
fn a_watch_prints_events_and_ends_with_what_ended_it() {
    let put = json!({"type": "put", "object": web()});
    let delete = json!({"type": "delete", "kind": "TargetGroup", "name": "web"});
    let bookmark = json!({"type": "bookmark"});
    let answers = || {
        vec![
            (
                "GET /v1/watch",
                events(&[bookmark.clone(), put.clone(), delete.clone()]),
            ),
            (
                "GET /v1/watch",
                problem(410, "OUT_OF_RANGE", "REVISION_COMPACTED", &json!([])),
            ),
        ]
    };
    let ran = run(answers(), &["watch", "tg"]);
    assert_eq!(ran.exit, 2);
    assert_eq!(
        ran.data,
        "TargetGroup/web  version 12, generation 3 by alice, nodes 2/3, healthy 1/2\n\
         TargetGroup/web  deleted\n"
    );
    let ran = run(answers(), &["watch", "-o", "json"]);
    let lines: Vec<Value> = ran
        .data
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [put, delete]);
}

#[test]
fn a_watched_list_keeps_its_columns() {
    let mut other = web();
    other["metadata"]["labels"] = json!({});
    let answers = vec![
        ("GET /v1/targetgroups", list(&[web()])),
        (
            "GET /v1/watch",
            events(&[
                json!({"type": "put", "object": other}),
                json!({"type": "put", "object": web()}),
            ]),
        ),
        (
            "GET /v1/watch",
            problem(410, "OUT_OF_RANGE", "REVISION_COMPACTED", &json!([])),
        ),
    ];
    let ran = run(answers, &["get", "tg", "-w", "-l", "team=edge"]);
    let lines: Vec<_> = ran.data.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.data);
    assert_eq!(lines[1], lines[2]);
    assert_eq!(
        ran.targets()[1],
        "GET /v1/watch?collection=targetgroups&from=c-1"
    );
}

#[test]
fn an_export_is_whole_and_private_or_not_there() {
    let export = || answer(200, "application/jsonl", "{}\n{}\n".to_owned());
    let ran = run(
        vec![("GET /v1/store:export", export())],
        &["store", "export"],
    );
    assert_eq!(ran.data, "{}\n{}\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let words = ["store", "export", "--file", &path.display().to_string()];
    let ran = run(vec![("GET /v1/store:export", export())], &words);
    assert_eq!(ran.exit, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n{}\n");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn contexts_are_made_chosen_and_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let folder = ContextFolder::at(home.path());
    let context = |words: &[&str], given: Given| {
        let cli = Cli::try_parse_from([&["cpl", "context"], words].concat()).unwrap();
        let Command::Context(command) = cli.command else {
            panic!("no context")
        };
        let (mut out, data, _) = captured(manner(cli.global.output), None);
        let exit = run_context(&command, given, &folder, &mut out);
        (
            exit.unwrap_or_else(|failure| failure.exit()).code(),
            data.read(),
        )
    };
    let at = |server: &str| Given {
        server: Some(server.to_owned()),
        ..Given::default()
    };
    assert_eq!(context(&["set", "dev"], Given::default()).0, 2);
    assert_eq!(context(&["set", "dev"], at("http://dev")).0, 0);
    assert_eq!(context(&["set", "prod"], at("https://prod")).0, 0);
    assert_eq!(context(&["use", "stage"], Given::default()).0, 3);
    assert_eq!(context(&["use", "prod"], Given::default()).0, 0);
    assert_eq!(
        context(&["list"], Given::default()).1,
        "CURRENT   NAME   SERVER         TOKEN\n-         dev    http://dev     -\n\
         *         prod   https://prod   -\n"
    );
    assert_eq!(context(&["remove", "prod"], Given::default()).0, 2);
    assert_eq!(context(&["remove", "prod", "--yes"], Given::default()).0, 0);
    assert_eq!(context(&["show"], Given::default()).0, 3);
}

#[test]
fn reasons_are_explained_and_completions_are_made() {
    let (mut out, data, _) = captured(manner(super::output::Format::Table), None);
    let ask = |reason: &str| explain::ExplainArgs {
        reason: Some(reason.to_owned()),
    };
    assert_eq!(
        explain::run(&ask("object_in_use"), &mut out),
        Ok(Exit::Success)
    );
    assert!(data.read().starts_with("OBJECT_IN_USE\n  cause:  "));
    let failure = explain::run(&ask("OBJECT_IN_USED"), &mut out).unwrap_err();
    assert_eq!(failure.lines()[1], "  do you mean OBJECT_IN_USE?");
    let script = completion::script(clap_complete::Shell::Bash, Cli::command());
    assert!(script.contains("rollout"));
}
