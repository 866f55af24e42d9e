//! Bad input gets a clear answer and changes nothing; good input gets a version and a history.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, Raw, manifests, node, targetgroup};

/// What is sent with which headers, and the status and reason that come back.
type Case<'a> = (&'a str, Vec<u8>, &'a [(&'a str, &'a str)], u16, &'a str);

fn pointers(problem: &Value) -> Vec<(&str, &str)> {
    let errors = problem["errors"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    errors
        .iter()
        .map(|error| {
            (
                error["pointer"].as_str().unwrap(),
                error["code"].as_str().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn every_field_error_is_told_at_once_and_nothing_is_written() {
    let cpl = Harness::start().await;
    let bad = json!({"manifests": [
        {"kind": "TargetGroup", "metadata": {"name": "Web", "colour": "red"},
         "spec": {"protocol": "udp", "port": 70_000, "health_check": {"interval": "soon"}, "x": 1},
         "endpoints": [{"ip": "300.1.1.1", "port": 0, "weight": 257, "status": "UPP"}]},
        {"kind": "Pod", "metadata": {"name": "a"}, "spec": {}},
    ]});
    let (status, problem) = cpl.post("/v1/apply", &bad, &[]).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("INVALID_ARGUMENT"))
    );
    let expected = [
        ("/manifests/0/metadata/name", "NAME_INVALID"),
        ("/manifests/0/metadata/colour", "FIELD_UNKNOWN"),
        ("/manifests/0/spec/protocol", "FIELD_INVALID"),
        ("/manifests/0/spec/port", "FIELD_OUT_OF_RANGE"),
        ("/manifests/0/spec/health_check/interval", "FIELD_INVALID"),
        ("/manifests/0/spec/x", "FIELD_UNKNOWN"),
        ("/manifests/0/endpoints/0/ip", "FIELD_INVALID"),
        ("/manifests/0/endpoints/0/port", "FIELD_OUT_OF_RANGE"),
        ("/manifests/0/endpoints/0/weight", "FIELD_OUT_OF_RANGE"),
        ("/manifests/0/endpoints/0/status", "FIELD_INVALID"),
        ("/manifests/1/kind", "KIND_UNKNOWN"),
    ];
    let found = pointers(&problem);
    for wanted in expected {
        assert!(
            found.contains(&wanted),
            "{wanted:?} is missing in {found:?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
    assert_eq!(cpl.version().await, 0);
}

#[tokio::test]
async fn what_only_other_objects_show_to_be_wrong_is_found_too() {
    let cpl = Harness::start().await;
    let both = manifests(&[
        targetgroup("web", 80, &[]),
        targetgroup("api", 80, &[]),
        node("node-1", "127.0.0.11", &["web", "api", "gone"]),
    ]);
    let (status, problem) = cpl.post("/v1/apply", &both, &[]).await;
    assert_eq!(status, 400);
    let found = pointers(&problem);
    assert!(found.contains(&("/manifests/2/spec/assigned_targetgroups/1", "PORT_CONFLICT")));
    assert!(found.contains(&(
        "/manifests/2/spec/assigned_targetgroups/2",
        "REFERENCE_UNKNOWN"
    )));
    assert_eq!(cpl.version().await, 0);
}

#[tokio::test]
async fn bodies_that_are_no_request_get_the_right_code() {
    let cpl = Harness::start().await;
    let json_type = ("content-type", "application/json");
    let deep = format!("{{\"manifests\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let cases: [Case<'_>; 6] = [
        (
            "huge",
            vec![b' '; (1 << 20) + 1],
            &[json_type],
            413,
            "BODY_TOO_LARGE",
        ),
        (
            "deep",
            deep.into_bytes(),
            &[json_type],
            400,
            "BODY_TOO_DEEP",
        ),
        (
            "not UTF-8",
            vec![b'{', 0xff, b'}'],
            &[json_type],
            400,
            "BODY_NOT_UTF8",
        ),
        (
            "not JSON",
            b"{".to_vec(),
            &[json_type],
            400,
            "BODY_NOT_JSON",
        ),
        ("no type", b"{}".to_vec(), &[], 415, "MEDIA_TYPE"),
        (
            "unknown field",
            br#"{"manifest":[]}"#.to_vec(),
            &[json_type],
            400,
            "FIELD_INVALID",
        ),
    ];
    for (what, body, headers, status, reason) in cases {
        let token = Some(cpl.token.as_str());
        let raw = Raw {
            method: Method::POST,
            target: "/v1/apply",
            headers,
            body,
            token,
        };
        let response = cpl.raw(raw).await;
        let problem: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status.as_u16(), status, "{what}: {problem}");
        assert_eq!(problem["reason"], reason, "{what}");
        assert_eq!(
            response.headers["content-type"], "application/problem+json",
            "{what}"
        );
        assert_eq!(
            response.headers["x-request-id"],
            problem["instance"].as_str().unwrap()
        );
    }
    assert_eq!(cpl.version().await, 0);
}

#[tokio::test]
async fn a_misspelt_query_does_not_write() {
    let cpl = Harness::start().await;
    let web = manifests(&[targetgroup("web", 80, &[])]);
    let (status, problem) = cpl.post("/v1/apply?dryrun=true", &web, &[]).await;
    assert_eq!((status, &problem["reason"]), (400, &json!("QUERY_UNKNOWN")));
    let (status, answer) = cpl.post("/v1/apply?dry_run=true", &web, &[]).await;
    assert_eq!((status, &answer["dry_run"]), (200, &json!(true)));
    assert_eq!(answer["objects"][0]["operation"], "created");
    assert_eq!(cpl.version().await, 0);
}

#[tokio::test]
async fn callers_without_the_right_token_get_nothing() {
    let cpl = Harness::start().await;
    let send = async |token: Option<&str>, method: Method, target: &str| {
        let headers = &[("content-type", "application/json")];
        let body = serde_json::to_vec(&manifests(&[targetgroup("web", 80, &[])])).unwrap();
        let response = cpl
            .raw(Raw {
                method,
                target,
                headers,
                body,
                token,
            })
            .await;
        let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        (
            response.status.as_u16(),
            problem["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let wrong = format!("cpl_{}_{}", "0".repeat(16), "0".repeat(64));
    let apply = "/v1/apply";
    assert_eq!(
        send(None, Method::POST, apply).await,
        (401, "TOKEN_MISSING".to_owned())
    );
    assert_eq!(
        send(Some("x"), Method::POST, apply).await,
        (401, "TOKEN_UNKNOWN".to_owned())
    );
    assert_eq!(
        send(Some(&wrong), Method::POST, apply).await,
        (401, "TOKEN_UNKNOWN".to_owned())
    );
    let make = json!({"name": "reader", "scope": {"scope": "read"}});
    let (status, made) = cpl.post("/v1/tokens", &make, &[]).await;
    assert_eq!(status, 201);
    let reader = made["secret"].as_str().unwrap();
    let small = (403, "SCOPE_TOO_SMALL".to_owned());
    assert_eq!(send(Some(reader), Method::POST, apply).await, small);
    assert_eq!(
        send(Some(reader), Method::POST, "/v1/agents/node-1:sync").await,
        small
    );
    assert_eq!(
        send(Some(reader), Method::GET, "/v1/targetgroups").await.0,
        200
    );
    assert_eq!(send(Some(reader), Method::GET, "/v1/tokens").await, small);
    assert_eq!(cpl.version().await, 0);
}

#[tokio::test]
async fn a_stale_if_match_changes_nothing() {
    let cpl = Harness::start().await;
    let web = |port| manifests(&[targetgroup("web", port, &[])]);
    let (_, first) = cpl.post("/v1/apply", &web(80), &[]).await;
    let etag = format!("\"{}\"", first["objects"][0]["etag"].as_str().unwrap());
    let fresh = [("if-match", etag.as_str())];
    assert_eq!(cpl.post("/v1/apply", &web(81), &fresh).await.0, 200);
    let (status, problem) = cpl.post("/v1/apply", &web(82), &fresh).await;
    assert_eq!((status, &problem["reason"]), (412, &json!("ETAG_MISMATCH")));
    assert_eq!(cpl.version().await, 2);
    assert_eq!(cpl.get("/v1/targetgroups/web").await.1["spec"]["port"], 81);
}

#[tokio::test]
async fn an_idempotency_key_answers_the_same_request_once_and_refuses_another() {
    let cpl = Harness::start().await;
    let key = [("idempotency-key", "k-1")];
    let web = |port| manifests(&[targetgroup("web", port, &[])]);
    let (status, first) = cpl.post("/v1/apply", &web(80), &key).await;
    assert_eq!((status, &first["config_version"]), (200, &json!(1)));
    cpl.post("/v1/apply", &web(90), &[]).await;
    assert_eq!(cpl.post("/v1/apply", &web(80), &key).await, (200, first));
    let (status, problem) = cpl.post("/v1/apply", &web(81), &key).await;
    assert_eq!(
        (status, &problem["reason"]),
        (422, &json!("IDEMPOTENCY_KEY_REUSED"))
    );
    assert_eq!(cpl.version().await, 2);
    assert_eq!(cpl.get("/v1/targetgroups/web").await.1["spec"]["port"], 90);
}

#[tokio::test]
async fn five_changes_have_a_history_differences_and_a_way_back() {
    let cpl = Harness::start().await;
    let apply = async |value: Value| cpl.post("/v1/apply", &manifests(&[value]), &[]).await;
    apply(targetgroup("web", 80, &[("ep-1", 1)])).await;
    let change = "/v1/targetgroups/web/endpoints:change";
    let add = json!({"upsert": [{"id": "ep-2", "ip": "127.0.0.1", "port": 2}]});
    assert_eq!(cpl.post(change, &add, &[]).await.0, 200);
    let weight = json!({"upsert": [{"id": "ep-2", "ip": "127.0.0.1", "port": 2, "weight": 9}]});
    assert_eq!(cpl.post(change, &weight, &[]).await.0, 200);
    assert_eq!(
        cpl.post(change, &json!({"remove": ["ep-1"]}), &[]).await.0,
        200
    );
    let mut spec = targetgroup("web", 81, &[]);
    spec.as_object_mut().unwrap().remove("endpoints");
    assert_eq!(apply(spec).await.1["config_version"], 5);

    let (_, history) = cpl.get("/v1/targetgroups/web/history").await;
    let operations: Vec<&str> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["operation"].as_str().unwrap())
        .collect();
    let expected = [
        "UPDATE",
        "REMOVE_ENDPOINT",
        "UPDATE_ENDPOINT",
        "ADD_ENDPOINT",
        "CREATE",
    ];
    assert_eq!(operations, expected);
    let added = &history["items"][3];
    assert_eq!(added["endpoints_added"], json!(["ep-2"]));
    assert_eq!(
        (&added["target_version"], &added["config_version"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(added["modified_by"], "admin");
    assert!(
        added["id"]
            .as_str()
            .unwrap()
            .starts_with("change-000000000002-")
    );

    let (_, diff) = cpl.get("/v1/targetgroups/web:diff?from=2&to=4").await;
    let places: Vec<&str> = diff["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/endpoints/ep-1", "/endpoints/ep-2/weight"]);

    let back = json!({"to_generation": 2});
    let (status, answer) = cpl.post("/v1/targetgroups/web:rollback", &back, &[]).await;
    assert_eq!((status, &answer["config_version"]), (200, &json!(6)));
    let (_, web) = cpl.get("/v1/targetgroups/web").await;
    assert_eq!(
        (&web["metadata"]["generation"], &web["spec"]["port"]),
        (&json!(6), &json!(80))
    );
    assert_eq!(
        (&web["spec"]["version"], &web["endpoints"][1]["weight"]),
        (&json!(6), &json!(1))
    );
    let (_, history) = cpl.get("/v1/targetgroups/web/history?page_size=1").await;
    assert_eq!(history["items"][0]["operation"], "ROLLBACK");
    let (_, audit) = cpl.get("/v1/audit").await;
    assert_eq!(audit["items"][0]["config_version"], 6);
}

#[tokio::test]
async fn what_is_in_use_is_deleted_only_with_those_that_use_it() {
    let cpl = Harness::start().await;
    let both = [
        targetgroup("web", 80, &[]),
        node("node-1", "127.0.0.11", &["web"]),
    ];
    cpl.post("/v1/apply", &manifests(&both), &[]).await;
    let delete = async |target: &str| {
        let token = Some(cpl.token.as_str());
        let raw = Raw {
            method: Method::DELETE,
            target,
            headers: &[],
            body: Vec::new(),
            token,
        };
        let response = cpl.raw(raw).await;
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        (response.status.as_u16(), body)
    };
    let (status, problem) = delete("/v1/targetgroups/web").await;
    assert_eq!((status, &problem["reason"]), (409, &json!("OBJECT_IN_USE")));
    assert_eq!(problem["metadata"]["referrers"], "Node/node-1");
    let (status, answer) = delete("/v1/targetgroups/web?cascade=true").await;
    assert_eq!((status, &answer["config_version"]), (200, &json!(2)));
    assert_eq!(answer["affected_nodes"], json!(["node-1"]));
    let (_, node) = cpl.get("/v1/nodes/node-1").await;
    assert_eq!(node["spec"]["assigned_targetgroups"], json!([]));
}

#[tokio::test]
async fn versions_go_on_after_a_restart() {
    let cpl = Harness::start().await;
    cpl.post("/v1/apply", &manifests(&[targetgroup("web", 80, &[])]), &[])
        .await;
    let Harness {
        server, dir, token, ..
    } = cpl;
    server.stop().await;
    let cpl = Harness::start_in(dir).await;
    assert_eq!(cpl.token, token, "the administrator's token stays");
    assert_eq!(cpl.version().await, 1);
    let (_, answer) = cpl
        .post("/v1/apply", &manifests(&[targetgroup("web", 81, &[])]), &[])
        .await;
    assert_eq!(answer["config_version"], 2);
}

#[tokio::test]
async fn health_needs_no_token_and_metrics_do() {
    let cpl = Harness::start().await;
    let get = async |target: &str, token: Option<&str>| {
        let raw = Raw {
            method: Method::GET,
            target,
            headers: &[],
            body: Vec::new(),
            token,
        };
        let response = cpl.raw(raw).await;
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        (response.status.as_u16(), text)
    };
    for open in ["/healthz", "/readyz", "/version"] {
        assert_eq!(get(open, None).await.0, 200, "{open}");
    }
    assert_eq!(get("/metrics", None).await.0, 401);
    let web = manifests(&[targetgroup("web", 80, &[])]);
    assert_eq!(cpl.post("/v1/apply", &web, &[]).await.0, 200);
    let (status, text) = get("/metrics", Some(&cpl.token)).await;
    assert_eq!(status, 200);
    assert!(text.contains("cpl_global_version 1"), "{text}");
    assert!(
        text.contains("route=\"/v1/apply\",status=\"200\""),
        "{text}"
    );
}
