//! What was: the history of objects, differences, rolling back, the audit.

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use cpl_api::object::{
    AuditRecord, Change as WireChange, DiffResponse, Difference, ListResponse, RollbackRequest,
};
use cpl_core::access::Need;
use cpl_core::error::{Error, Kind};
use cpl_core::spec::{
    ChangeRecord, Draft, Edit, Kinds, Manifest, Parts, View, differences, history_range,
    read_change,
};
use cpl_core::store::{Entry, ListRequest, Range};
use cpl_core::txn::{self, AUDIT};
use cpl_core::version::Generation;
use serde_json::Value;

use super::app::{App, Change};
use super::body::{Query, name, page_token};
use super::changes::Call;
use super::error::{Answer, ApiError};
use super::who::Who;

/// `GET /v1/{collection}/{name}/history`, newest first.
pub(super) async fn list(
    State(app): State<App>,
    Path((collection, segment)): Path<(String, String)>,
    mut query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<WireChange>>> {
    who.must(Need::Read)?;
    let kind = app.kind(&collection)?.name();
    let (size, before) = query.page()?;
    query.finish()?;
    let (changes, cursor) = changes_of(&app, kind, &name(&segment)?).await?;
    let older = changes
        .iter()
        .rev()
        .filter(|(id, _)| before.as_ref().is_none_or(|b| id < b));
    let items: Vec<WireChange> = older
        .clone()
        .take(size)
        .map(|(id, record)| wire(id, record))
        .collect();
    let more = older.clone().count() > size;
    let next_page_token = items
        .last()
        .filter(|_| more)
        .map(|change| page_token(&change.id));
    Ok(JsonAnswer(ListResponse {
        items,
        next_page_token,
        cursor,
    }))
}

fn wire(id: &str, record: &ChangeRecord) -> WireChange {
    WireChange {
        id: id.to_owned(),
        operation: record.operation.clone(),
        target_version: record.target_version,
        config_version: record.config_version,
        endpoints_added: record.endpoints_added.clone(),
        endpoints_removed: record.endpoints_removed.clone(),
        endpoints_changed: record.endpoints_changed.clone(),
        modified_by: record.modified_by.clone(),
        timestamp: record.timestamp.clone(),
        request_id: record.request_id.clone(),
    }
}

type Changes = Vec<(String, ChangeRecord)>;

/// All kept changes of an object, oldest first; `NotFound` when there never was one.
async fn changes_of(app: &App, kind: &'static str, name: &str) -> Answer<(Changes, String)> {
    let Some(kind) = app.plane.kinds.named(kind) else {
        return Err(Error::not_found("kind", kind).into());
    };
    let (entries, cursor) = all(app, history_range(kind, name)).await?;
    let changes: Changes = entries
        .iter()
        .map(|entry| read_change(kind, entry))
        .collect::<Result<_, _>>()?;
    if changes.is_empty() {
        return Err(Error::not_found(kind.name(), name).into());
    }
    Ok((changes, cursor))
}

/// Everything in a range that retention keeps small.
pub(super) async fn all(app: &App, range: Range) -> Answer<(Vec<Entry>, String)> {
    let mut entries = Vec::new();
    let mut request = ListRequest::first(range.clone());
    loop {
        let page = app.plane.store.list(request).await;
        let page = page.map_err(|error| Error::store("list records", error))?;
        entries.extend(page.entries);
        match page.next {
            Some(token) => {
                request = ListRequest {
                    page: Some(token),
                    ..ListRequest::first(range.clone())
                };
            },
            None => return Ok((entries, page.at.to_string())),
        }
    }
}

fn content(record: &ChangeRecord) -> Value {
    let content = record.content.clone().unwrap_or_default();
    Value::Object(content.into_iter().collect())
}

/// The record of one generation. A name that was deleted and made again counts anew: the newest life
/// that has the generation is meant.
fn at<'a>(changes: &'a Changes, wanted: Generation, name: &str) -> Result<&'a ChangeRecord, Error> {
    let uid = changes.last().map(|(_, record)| record.uid);
    let mut records = changes.iter().rev().map(|(_, record)| record);
    let fits = |record: &&ChangeRecord| {
        Some(record.uid) == uid && record.content.is_some() && record.target_version == wanted
    };
    records.find(fits).ok_or_else(|| {
        let detail = format!("{name} has no generation {wanted} in its history");
        Error::new(Kind::NotFound, "GENERATION_UNKNOWN", detail)
    })
}

/// `GET /v1/{collection}/{name}:diff?from=&to=`; absent ends are the generation before the present one,
/// and the present one.
pub(super) async fn diff(
    app: &App,
    kind: &'static str,
    name: &str,
    mut query: Query,
) -> Answer<Response> {
    let (from, to) = (query.number("from")?, query.number("to")?);
    query.finish()?;
    let (changes, _) = changes_of(app, kind, name).await?;
    let newest = changes
        .last()
        .map_or(Generation(0), |(_, record)| record.target_version);
    let to = to.map_or(newest, Generation);
    let from = from.map_or_else(|| Generation(to.0.saturating_sub(1)), Generation);
    let before = if from == Generation(0) {
        Value::Null
    } else {
        content(at(&changes, from, name)?)
    };
    let after = content(at(&changes, to, name)?);
    let differences = differences(&before, &after)
        .into_iter()
        .map(|(pointer, from, to)| Difference { pointer, from, to })
        .collect();
    Ok(JsonAnswer(DiffResponse {
        from: before,
        to: after,
        differences,
    })
    .into_response())
}

/// `POST /v1/{collection}/{name}:rollback`: a new version with old content, judged by what exists now.
pub(super) async fn rollback(
    app: &App,
    kind: &'static str,
    name: &str,
    call: Call,
) -> Answer<Response> {
    let Call {
        who,
        mut query,
        etag,
        body,
    } = call;
    who.must(Need::Write)?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let request: RollbackRequest = body.read_required().or_else(|error| match body.value {
        Value::Null => Ok(RollbackRequest {
            to_generation: None,
        }),
        _ => Err(error),
    })?;
    let (changes, _) = changes_of(app, kind, name).await?;
    let newest = changes
        .last()
        .map_or(Generation(0), |(_, record)| record.target_version);
    let wanted = request
        .to_generation
        .unwrap_or(Generation(newest.0.saturating_sub(1)));
    let old = at(&changes, wanted, name)?;
    let parts = parts_of(app, kind, old)?;
    let name = name.to_owned();
    let edit: Edit = Box::new(move |_: &Kinds, view: &View<'_>| {
        if view.get(kind, &name).is_none() {
            return Err(Error::not_found(kind, &name));
        }
        let (name, parts) = (name.clone(), parts.clone());
        let manifest = Manifest {
            kind,
            name,
            tenant: None,
            labels: None,
            parts,
        };
        let if_match = etag.clone();
        Ok(vec![Draft::Put {
            manifest,
            if_match,
            operation: Some("ROLLBACK"),
        }])
    });
    app.change(Change {
        who,
        action: "rollback",
        body: Some(body),
        dry_run,
        edit,
    })
    .await
}

fn parts_of(app: &App, kind: &'static str, record: &ChangeRecord) -> Answer<Parts> {
    let known = app
        .plane
        .kinds
        .named(kind)
        .map(cpl_core::spec::Kind::parts)
        .unwrap_or_default();
    let content = record.content.clone().unwrap_or_default();
    let mut parts = Parts::new();
    for (name, value) in content {
        let Some(part) = known.iter().find(|part| **part == name) else {
            let detail = format!("the old content has a part {name} that is not known any more");
            return Err(Error::new(Kind::FailedPrecondition, "PART_UNKNOWN", detail).into());
        };
        parts.insert(*part, value);
    }
    Ok(parts)
}

/// `GET /v1/audit`, newest first.
pub(super) async fn audit(
    State(app): State<App>,
    mut query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<AuditRecord>>> {
    who.must(Need::Admin)?;
    let (size, before) = query.page()?;
    query.finish()?;
    let (entries, cursor) = all(&app, AUDIT.range(&[])).await?;
    let id = |entry: &Entry| entry.key.as_str().unwrap_or_default().to_owned();
    let older: Vec<&Entry> = entries
        .iter()
        .rev()
        .filter(|entry| before.as_ref().is_none_or(|before| id(entry) < *before))
        .take(size + 1)
        .collect();
    let more = older.len() > size;
    let shown = &older[..older.len().min(size)];
    let items = shown
        .iter()
        .map(|entry| read_audit(entry))
        .collect::<Answer<Vec<_>>>()?;
    let next_page_token = shown
        .last()
        .filter(|_| more)
        .map(|entry| page_token(&id(entry)));
    Ok(JsonAnswer(ListResponse {
        items,
        next_page_token,
        cursor,
    }))
}

fn read_audit(entry: &Entry) -> Answer<AuditRecord> {
    let record: txn::AuditRecord = serde_json::from_slice(&entry.value)
        .map_err(|error| ApiError::from(Error::corrupt(&entry.key, error)))?;
    Ok(AuditRecord {
        at: record.at,
        actor: record.actor,
        action: record.action,
        objects: record.objects,
        request_id: record.request_id,
        config_version: record.config_version,
    })
}
