//! The client against a control plane of a few lines.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cpl_core::clock::{Clock, Monotonic, Timestamp};
use cpl_core::ids::IdGen;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, IF_MATCH};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::client::{ControlPlaneClient, WriteOptions};
use crate::error::ControlPlaneError;
use crate::memory::MemoryTransport;
use crate::object::{ApplyRequest, WatchEvent};
use crate::problem::Code;
use crate::routes::{Cascade, Collection, ListQuery};
use crate::token::BearerToken;
use crate::transport::{Request, Response, StreamResponse, TransportError};
use crate::watch::LAST_EVENT_ID;
use crate::{IDEMPOTENCY_KEY, PROBLEM_JSON, REQUEST_ID};

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

#[derive(Debug, Default)]
struct CountingIds(Mutex<u128>);

impl IdGen for CountingIds {
    fn fresh(&self) -> u128 {
        let mut last = self.0.lock().unwrap();
        *last += 1;
        *last
    }
}

type Answer = Result<Response, TransportError>;

fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: body.into(),
    }
}

fn problem(status: u16, code: Code) -> Response {
    let body = json!({"type": "urn:cpl:error:X", "title": "t", "status": status, "detail": "d",
        "instance": "", "code": code, "reason": "X", "retryable": code.retryable()});
    answer(status, PROBLEM_JSON, body.to_string())
}

fn changed() -> Response {
    let body = json!({"config_version": 3, "objects": [], "affected_nodes": []});
    answer(200, "application/json", body.to_string())
}

fn closed() -> Answer {
    Err(TransportError::Closed {
        message: "reset".to_owned(),
    })
}

type Log = Arc<Mutex<Vec<Request>>>;

/// A client whose control plane gives these answers in turn, and what it was asked.
fn scripted(answers: Vec<Answer>) -> (ControlPlaneClient<MemoryTransport>, Log) {
    let log = Log::default();
    let asked = Arc::clone(&log);
    let answers = Mutex::new(answers.into_iter());
    let transport = MemoryTransport::new(move |request| {
        asked.lock().unwrap().push(request);
        let answer = answers.lock().unwrap().next().expect("no more answers");
        async move { answer }
    });
    (client(transport), log)
}

fn client(transport: MemoryTransport) -> ControlPlaneClient<MemoryTransport> {
    ControlPlaneClient::new(
        Arc::new(transport),
        Arc::new(SleepClock::default()),
        Arc::new(CountingIds::default()),
    )
    .with_token(token())
}

fn token() -> BearerToken {
    let text = format!("cpl_{}_{}", "1d".repeat(8), "5ec7".repeat(16));
    text.parse().unwrap()
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.headers.get(name).unwrap().to_str().unwrap()
}

#[tokio::test]
async fn all_tries_of_a_write_have_one_key_and_different_writes_have_different_ones() {
    let (client, log) = scripted(vec![
        closed(),
        Ok(problem(503, Code::Unavailable)),
        Ok(changed()),
        Ok(changed()),
    ]);
    let apply = ApplyRequest { manifests: vec![] };
    for _ in 0..2 {
        client
            .apply(&apply, &WriteOptions::default())
            .await
            .unwrap();
    }
    let log = log.lock().unwrap();
    let keys: Vec<_> = log.iter().map(|r| header(r, IDEMPOTENCY_KEY)).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3]);
    assert_eq!(header(&log[0], REQUEST_ID), header(&log[2], REQUEST_ID));
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let (client, log) = scripted(vec![Ok(problem(409, Code::Aborted))]);
    let error = client.get(Collection::Nodes, "n").await.unwrap_err();
    assert_eq!(error.code(), Code::Aborted);
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_portal_is_never_taken_for_an_answer() {
    let html = || answer(404, "text/html", "<html>");
    let (client, log) = scripted((0..5).map(|_| Ok(html())).collect());
    let error = client.get(Collection::Nodes, "n").await.unwrap_err();
    assert!(matches!(
        error,
        ControlPlaneError::Transport(TransportError::NotCpl { status: 404, .. })
    ));
    assert_eq!(log.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn options_and_names_are_sent_as_they_must_be() {
    let (client, log) = scripted(vec![Ok(changed())]);
    let options = WriteOptions {
        dry_run: true,
        if_match: Some("u-1".to_owned()),
        idempotency_key: Some("mine".to_owned()),
    };
    client
        .delete(Collection::Targetgroups, "a/b?c", Cascade::Yes, &options)
        .await
        .unwrap();
    let log = log.lock().unwrap();
    let request = &log[0];
    assert_eq!(
        request.target,
        "/v1/targetgroups/a%2Fb%3Fc?cascade=true&dry_run=true"
    );
    assert_eq!(header(request, IF_MATCH.as_str()), "\"u-1\"");
    assert_eq!(header(request, IDEMPOTENCY_KEY), "mine");
    assert_eq!(
        header(request, AUTHORIZATION.as_str()),
        format!("Bearer {}", token().reveal())
    );
    assert!(!format!("{request:?}").contains("5ec7"));
}

#[tokio::test]
async fn all_pages_of_a_list_are_joined() {
    let page = |next: Option<&str>| {
        let body = json!({"items": [], "next_page_token": next, "cursor": "c"});
        answer(200, "application/json", body.to_string())
    };
    let (client, log) = scripted(vec![Ok(page(Some("p&2"))), Ok(page(None))]);
    let query = ListQuery {
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        ..ListQuery::default()
    };
    client
        .list_all(Collection::Targetgroups, &query)
        .await
        .unwrap();
    let log = log.lock().unwrap();
    assert_eq!(log[0].target, "/v1/targetgroups?label=env%3Dprod");
    assert_eq!(
        log[1].target,
        "/v1/targetgroups?page_token=p%262&label=env%3Dprod"
    );
}

const BOOKMARK: &str = "data: {\"type\":\"bookmark\"}\n\n";

#[tokio::test]
async fn a_watch_resumes_after_the_last_event_and_ends_when_history_is_forgotten() {
    let log = Log::default();
    let asked = Arc::clone(&log);
    let transport = MemoryTransport::streaming(move |request| {
        let round = {
            let mut asked = asked.lock().unwrap();
            asked.push(request);
            asked.len()
        };
        async move {
            let (answer, parts) = match round {
                1 => (
                    answer(200, "text/event-stream", ""),
                    vec![Ok(format!(": hi\n\nid: c1\n{BOOKMARK}").into()), {
                        Err(TransportError::Closed {
                            message: String::new(),
                        })
                    }],
                ),
                2 => (
                    answer(200, "text/event-stream", ""),
                    vec![Ok(format!(
                        "id: c2\ndata: {{\"type\":\"of the future\"}}\n\nid: c3\n{BOOKMARK}"
                    )
                    .into())],
                ),
                _ => {
                    let gone = problem(410, Code::OutOfRange);
                    let body = gone.body.clone();
                    (gone, vec![Ok(body)])
                },
            };
            let Response {
                status, headers, ..
            } = answer;
            Ok(StreamResponse {
                status,
                headers,
                body: futures::stream::iter(parts).boxed(),
            })
        }
    });
    let mut watch = client(transport).watch(Some(Collection::Nodes), None);
    for cursor in ["c1", "c3"] {
        let seen = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (seen.cursor.as_str(), seen.event),
            (cursor, WatchEvent::Bookmark)
        );
    }
    let error = watch.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    assert!(watch.next().await.is_none());
    let log = log.lock().unwrap();
    assert_eq!(log[0].target, "/v1/watch?collection=nodes");
    assert_eq!(log[1].target, "/v1/watch?collection=nodes&from=c1");
    assert_eq!(header(&log[2], LAST_EVENT_ID), "c3");
}
