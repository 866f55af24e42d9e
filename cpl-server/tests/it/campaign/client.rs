//! A client that changes one thing after the other, and repeats what it got no answer to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::check::Told;
use crate::harness::{manifests, targetgroup};
use crate::live::process::Client;

/// Between two changes, and before something is sent again.
const PAUSE: Duration = Duration::from_millis(15);
/// Most attempts at one change: longer than any restart takes.
const ATTEMPTS: u32 = 2_000;

/// What all clients of a campaign share.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) client: Client,
    /// Requests that are sent and not answered.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// Set when clients finish what they are at and stop.
    pub(super) stop: watch::Receiver<bool>,
}

/// One client with objects of its own.
#[derive(Debug)]
pub(super) struct Changer {
    pub(super) stream: Stream,
    pub(super) number: u16,
    /// Changes so far.
    pub(super) count: u64,
    pub(super) etag: String,
}

/// What a change asks for.
struct Wanted {
    object: String,
    method: Method,
    path: String,
    body: Value,
    if_match: Option<String>,
}

impl Changer {
    pub(super) fn new(stream: Stream, number: u16) -> Self {
        let etag = String::new();
        Self {
            stream,
            number,
            count: 0,
            etag,
        }
    }

    /// The target group that nodes serve, with a weight that says which change was the last.
    pub(super) fn web(&self) -> Value {
        self.web_at(self.count)
    }

    fn web_at(&self, count: u64) -> Value {
        let weight = 1 + count % 200;
        let mut web = targetgroup(&self.name(), 9_000 + self.number, &[("ep-1", 9_100)]);
        web["endpoints"][0]["weight"] = weight.into();
        web
    }

    pub(super) fn name(&self) -> String {
        format!("web-{}", self.number)
    }

    /// The target group that comes and goes.
    pub(super) fn extra(&self) -> String {
        format!("extra-{}", self.number)
    }

    /// What was last said of the target group that nodes serve.
    pub(super) fn web_told(&self) -> Value {
        let of_web = (0..=self.count).rev().find(|n| matches!(n % 4, 1 | 2));
        self.web_at(of_web.unwrap_or(0))
    }

    /// Changes until it is told to stop; every change ends with its answer.
    pub(super) async fn run(mut self) -> (Self, Vec<Told>) {
        let mut told = Vec::new();
        while !*self.stream.stop.borrow() {
            self.count += 1;
            let wanted = self.wanted();
            told.push(self.change(&wanted).await);
            tokio::time::sleep(PAUSE).await;
        }
        (self, told)
    }

    /// In turn: a conditional update, an update of endpoints, a creation, a deletion.
    fn wanted(&self) -> Wanted {
        let (web, extra) = (self.name(), self.extra());
        let post = |object: &str, path: &str, body| Wanted {
            object: object.to_owned(),
            method: Method::POST,
            path: path.to_owned(),
            body,
            if_match: None,
        };
        match self.count % 4 {
            1 => Wanted {
                if_match: Some(self.etag.clone()).filter(|etag| !etag.is_empty()),
                ..post(&web, "/v1/apply", manifests(&[self.web()]))
            },
            2 => {
                let path = format!("/v1/targetgroups/{web}/endpoints:change");
                let endpoint = &self.web()["endpoints"][0];
                post(&web, &path, json!({ "upsert": [endpoint] }))
            },
            3 => {
                let group = targetgroup(&extra, 9_500 + self.number, &[]);
                post(&extra, "/v1/apply", manifests(&[group]))
            },
            _ => Wanted {
                method: Method::DELETE,
                ..post(&extra, &format!("/v1/targetgroups/{extra}"), Value::Null)
            },
        }
    }

    /// Sends it until it is answered, under one idempotency key, each time under a request id of its own.
    async fn change(&mut self, wanted: &Wanted) -> Told {
        let change = format!("client-{}-{}", self.number, self.count);
        let body = match &wanted.body {
            Value::Null => Bytes::new(),
            body => serde_json::to_vec(body).unwrap().into(),
        };
        for attempts in 1..=ATTEMPTS {
            let request = format!("{change}.{attempts}");
            let mut headers = vec![("idempotency-key", &*change), ("x-request-id", &*request)];
            headers.extend(wanted.if_match.as_deref().map(|etag| ("if-match", etag)));
            self.stream.in_flight.fetch_add(1, Ordering::SeqCst);
            let sent = self.stream.client.send_whole(
                wanted.method.clone(),
                &wanted.path,
                &headers,
                body.clone(),
            );
            let answer = sent.await;
            self.stream.in_flight.fetch_sub(1, Ordering::SeqCst);
            match answer {
                Some((200, headers, answer)) => {
                    let object = &answer["objects"][0];
                    if wanted.object == self.name() {
                        self.etag =
                            format!("\"{}\"", object["etag"].as_str().unwrap().trim_matches('"'));
                    }
                    let version = answer["config_version"].as_u64();
                    return Told {
                        change,
                        object: wanted.object.clone(),
                        version: version.unwrap_or_else(|| panic!("nothing changed: {answer}")),
                        attempts,
                        replayed: headers.contains_key("idempotency-replayed"),
                    };
                },
                None | Some((429 | 503 | 504, ..)) => tokio::time::sleep(PAUSE).await,
                Some((status, _, answer)) => panic!("{request}: {status} {answer}"),
            }
        }
        panic!("{change} was never answered");
    }
}
