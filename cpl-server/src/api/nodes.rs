//! Nodes: drain, retry, join, log, what they must run, tasks.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::response::Response;
use cpl_api::object::{ListResponse, NodeLogEntry};
use cpl_api::server::ConfigUpdateTask;
use cpl_api::token::JoinRequest;
use cpl_core::access::{Need, NewToken, Scope};
use cpl_core::delivery::{Delivered, LogEntry, log_key};
use cpl_core::error::Error;
use cpl_core::spec::{Draft, Edit, Kinds, Manifest, Parts, View};
use cpl_core::task::{CONFIG_UPDATE, ConfigUpdate};
use cpl_lb::kinds::{SPEC, drained, retried};
use cpl_lb::plan::NODE;

use super::app::{App, Change};
use super::body::{Query, name, page_token};
use super::changes::Call;
use super::error::{Answer, created};
use super::tokens;
use super::who::Who;

/// The segment of nodes in paths.
pub(super) const COLLECTION: &str = "nodes";
/// How long a join token lives when nothing is said, and at most.
const JOIN_TTL_S: u64 = 3_600;
const LONGEST_JOIN_TTL_S: u64 = 86_400;

/// `POST /v1/nodes/{name}:drain|:undrain|:retry`.
pub(super) async fn verb(app: &App, node: &str, verb: &str, call: Call) -> Answer<Response> {
    let Call {
        who,
        mut query,
        etag,
        body,
    } = call;
    who.must(Need::Write)?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let (action, operation) = match verb {
        "drain" => ("drain", "DRAIN"),
        "undrain" => ("undrain", "UNDRAIN"),
        _ => ("retry", "RETRY"),
    };
    let node = node.to_owned();
    let edit: Edit = Box::new(move |_: &Kinds, view: &View<'_>| {
        let now = view
            .get(NODE, &node)
            .ok_or_else(|| Error::not_found(NODE, &node))?;
        let parts = match action {
            "drain" => drained(now, true),
            "undrain" => drained(now, false),
            _ => retried(now),
        };
        let (name, if_match) = (node.clone(), etag.clone());
        let manifest = Manifest {
            kind: NODE,
            name,
            tenant: None,
            labels: None,
            parts,
        };
        Ok(vec![Draft::Put {
            manifest,
            if_match,
            operation: Some(operation),
        }])
    });
    app.change(Change {
        who,
        action,
        body: Some(body),
        dry_run,
        edit,
    })
    .await
}

/// `POST /v1/nodes/{name}:join`: makes the node when it does not exist, and a token for its agent.
pub(super) async fn join(app: &App, node: &str, call: Call) -> Answer<Response> {
    let Call {
        who,
        query,
        etag: _,
        body,
    } = call;
    // Whoever can hand out a node's identity can read everything that the node is sent.
    who.must(Need::Admin)?;
    query.finish()?;
    let request: JoinRequest = body.read()?;
    let name = node.to_owned();
    let edit: Edit = Box::new(move |_: &Kinds, view: &View<'_>| {
        if view.get(NODE, &name).is_some() {
            return Ok(Vec::new());
        }
        let spec = serde_json::to_value(cpl_lb::spec::NodeSpec::default()).unwrap_or_default();
        let (name, parts) = (name.clone(), Parts::from([(SPEC, spec)]));
        Ok(vec![Draft::put(Manifest {
            kind: NODE,
            name,
            tenant: None,
            labels: None,
            parts,
        })])
    });
    let change = Change {
        who: who.clone(),
        action: "join",
        body: None,
        dry_run: false,
        edit,
    };
    app.change(change).await?;
    let ttl = request
        .ttl_s
        .unwrap_or(JOIN_TTL_S)
        .clamp(1, LONGEST_JOIN_TTL_S);
    let new = NewToken {
        name: format!("join-{node}"),
        scope: Scope::Join {
            node: node.to_owned(),
        },
        ttl: Some(Duration::from_secs(ttl)),
        actor: who.caller.name,
        request_id: who.request_id,
    };
    let (secret, id, record) = app.plane.tokens.create(&new).await?;
    Ok(created(&tokens::created(&id, &record, &secret)))
}

/// What else goes when a node was removed: its tokens, and what is remembered of its agent.
pub(super) async fn forget(app: &App, node: &str, actor: &str, request_id: &str) {
    app.plane.deliveries.forget(node);
    let mine = |scope: &Scope| match scope {
        Scope::Join { node: of } | Scope::Agent { node: of } => of == node,
        Scope::Admin | Scope::Write | Scope::Read => false,
    };
    let mut page = None;
    loop {
        let listed = app.plane.tokens.list(1_000, page.take()).await;
        let (tokens, next) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(node, %error, "failed to end the tokens of a removed node");
                return;
            },
        };
        for (number, (id, _)) in tokens.iter().filter(|(_, t)| mine(&t.scope)).enumerate() {
            let request = format!("{request_id}-{number}");
            if let Err(error) = app.plane.tokens.revoke(id, actor, &request).await {
                tracing::warn!(node, token = id, %error, "failed to end a token of a removed node");
            }
        }
        match next {
            Some(token) => page = Some(token),
            None => return,
        }
    }
}

/// `GET /v1/nodes/{name}/log`, newest first.
pub(super) async fn log(
    State(app): State<App>,
    Path(segment): Path<String>,
    mut query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<NodeLogEntry>>> {
    who.must(Need::Read)?;
    let (size, place) = query.page()?;
    query.finish()?;
    let node = name(&segment)?;
    app.fresh().await?;
    let skip: usize = place.and_then(|place| place.parse().ok()).unwrap_or(0);
    let found = app.plane.cache.read(|snapshot| {
        snapshot.index.get(NODE, &node)?;
        let entry = snapshot.entries.get(log_key(&node).key());
        let log: Vec<LogEntry> = entry
            .and_then(|entry| serde_json::from_slice(&entry.value).ok())
            .unwrap_or_default();
        Some((log, snapshot.at.to_string()))
    });
    let (log, cursor) = found.ok_or_else(|| Error::not_found(NODE, &node))?;
    let line = |entry: &LogEntry| NodeLogEntry {
        at: entry.at,
        event: entry.event.clone(),
        message: entry.message.clone(),
    };
    let items: Vec<NodeLogEntry> = log.iter().rev().skip(skip).take(size).map(line).collect();
    let seen = skip + items.len();
    let next_page_token = (seen < log.len()).then(|| page_token(&seen.to_string()));
    Ok(JsonAnswer(ListResponse {
        items,
        next_page_token,
        cursor,
    }))
}

/// `GET /v1/nodes/{name}/configuration`: what the node must run now.
pub(super) async fn configuration(
    State(app): State<App>,
    Path(segment): Path<String>,
    query: Query,
    who: Who,
) -> Answer<JsonAnswer<Delivered>> {
    who.must(Need::Read)?;
    query.finish()?;
    app.fresh().await?;
    Ok(JsonAnswer(
        app.plane.deliveries.configuration(&name(&segment)?)?,
    ))
}

/// `GET /v1/tasks/config_update`.
pub(super) async fn tasks(
    State(app): State<App>,
    mut query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<ConfigUpdateTask>>> {
    who.must(Need::Read)?;
    let (size, after) = query.page()?;
    query.finish()?;
    app.fresh().await?;
    let listed = app.plane.cache.read(|snapshot| {
        let all = snapshot.entries.iter().filter_map(|(key, entry)| {
            let id = (*CONFIG_UPDATE.parts(key)?.first()?).to_owned();
            let task: ConfigUpdate = serde_json::from_slice(&entry.value).ok()?;
            Some((id, task))
        });
        let mut items: Vec<ConfigUpdateTask> = all
            .filter(|(id, _)| after.as_ref().is_none_or(|after| id > after))
            .take(size + 1)
            .map(|(id, task)| ConfigUpdateTask {
                id,
                node_id: task.node_id,
                target_config_version: task.target_config_version,
                related_change_id: task.related_change_id,
                reason: task.reason,
                created_at: task.created_at,
                lease_until: task.lease_until.rfc3339(),
                attempt: task.attempt,
            })
            .collect();
        let more = items.len() > size;
        items.truncate(size);
        let next_page_token = items
            .last()
            .filter(|_| more)
            .map(|task| page_token(&task.id));
        ListResponse {
            items,
            next_page_token,
            cursor: snapshot.at.to_string(),
        }
    });
    Ok(JsonAnswer(listed))
}
