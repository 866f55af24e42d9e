//! Objects of every kind: list, get, apply, delete, roll back.

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use cpl_api::object::{ListResponse, Object};
use cpl_api::problem::Code;
use cpl_core::access::Need;
use cpl_core::ids::ObjectRef;
use cpl_core::spec::{self, Draft, Edit, read_manifests};
use serde_json::Value;

use super::app::{App, Change};
use super::body::{Json, Query, if_match, name, page_token};
use super::error::{Answer, ApiError};
use super::who::Who;
use super::{changes, history, nodes, status};

/// `GET /v1/{collection}`. Each page shows the state of its own moment; a watch from the cursor of the
/// first page misses nothing of what came later.
pub(super) async fn list(
    State(app): State<App>,
    Path(collection): Path<String>,
    mut query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<Object>>> {
    who.must(Need::Read)?;
    let kind = app.kind(&collection)?.name();
    let (size, after) = query.page()?;
    let tenant = query.take("tenant");
    let labels = query
        .take_all("label")
        .iter()
        .map(|label| read_label(label))
        .collect::<Answer<Vec<_>>>()?;
    query.finish()?;
    app.fresh().await?;
    let lens = status::Lens::of(&app);
    let listed = app.plane.cache.read(|snapshot| {
        let start = (kind, after.clone().unwrap_or_default());
        let wanted = snapshot
            .index
            .objects()
            .range(start..)
            .take_while(|((k, _), _)| *k == kind)
            .filter(|((_, name), _)| after.as_ref() != Some(name))
            .filter(|(_, object)| {
                let meta = &object.meta;
                tenant.is_none() || tenant == meta.tenant
            })
            .filter(|(_, object)| {
                labels
                    .iter()
                    .all(|(key, value)| object.meta.labels.get(key) == Some(value))
            });
        let mut items: Vec<Object> = wanted
            .take(size + 1)
            .map(|(_, object)| lens.object(snapshot, object))
            .collect();
        let more = items.len() > size;
        items.truncate(size);
        let last = items
            .last()
            .filter(|_| more)
            .map(|object| page_token(&object.metadata.name));
        ListResponse {
            items,
            next_page_token: last,
            cursor: snapshot.at.to_string(),
        }
    });
    Ok(JsonAnswer(listed))
}

fn read_label(text: &str) -> Answer<(String, String)> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        let detail = format!("a label is KEY=VALUE, not {text:?}");
        ApiError::new(Code::InvalidArgument, "QUERY_INVALID", detail)
    })?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `GET /v1/{collection}/{name}`, `:diff`, and `:why`.
pub(super) async fn get_verb(
    State(app): State<App>,
    Path((collection, segment)): Path<(String, String)>,
    query: Query,
    who: Who,
) -> Answer<Response> {
    who.must(Need::Read)?;
    let kind = app.kind(&collection)?.name();
    match segment.split_once(':') {
        None => {
            query.finish()?;
            get(&app, kind, &name(&segment)?).await
        },
        Some((object, "diff")) => history::diff(&app, kind, &name(object)?, query).await,
        Some((object, "why")) if collection == nodes::COLLECTION => {
            query.finish()?;
            status::why(&app, &name(object)?).await
        },
        Some((_, verb)) => Err(unknown_verb(verb)),
    }
}

fn unknown_verb(verb: &str) -> ApiError {
    let detail = format!("there is no verb {verb:?} here");
    ApiError::new(Code::NotFound, "VERB_UNKNOWN", detail)
}

async fn get(app: &App, kind: &'static str, name: &str) -> Answer<Response> {
    app.fresh().await?;
    let lens = status::Lens::of(app);
    let found = app.plane.cache.read(|snapshot| {
        snapshot
            .index
            .get(kind, name)
            .map(|object| lens.object(snapshot, object))
    });
    let object = found.ok_or_else(|| cpl_core::error::Error::not_found(kind, name))?;
    let etag = HeaderValue::from_str(&format!("\"{}\"", object.metadata.etag));
    let mut response = JsonAnswer(object).into_response();
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// `POST /v1/apply`.
pub(super) async fn apply(
    State(app): State<App>,
    mut query: Query,
    headers: HeaderMap,
    who: Who,
    body: Json,
) -> Answer<Response> {
    who.must(Need::Write)?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let etag = if_match(&headers)?;
    let request = only_manifests(&body.value)?;
    let manifests = read_manifests(&app.plane.kinds, request, "/manifests")?;
    if etag.is_some() && manifests.len() != 1 {
        let detail = "If-Match speaks of one object, so it needs exactly one manifest";
        return Err(ApiError::new(
            Code::InvalidArgument,
            "ETAG_AMBIGUOUS",
            detail,
        ));
    }
    let drafts: Vec<Draft> = manifests
        .into_iter()
        .map(|manifest| Draft::Put {
            manifest,
            if_match: etag.clone(),
            operation: None,
        })
        .collect();
    let edit: Edit = Box::new(move |_, _| Ok(drafts.clone()));
    app.change(Change {
        who,
        action: "apply",
        body: Some(body),
        dry_run,
        edit,
    })
    .await
}

/// The list of manifests in a request, which has nothing else.
fn only_manifests(value: &Value) -> Answer<&Vec<Value>> {
    let mut fields = cpl_core::fields::Fields::of(value, "");
    let manifests = fields.required("manifests", |value| {
        let wrong = || cpl_core::fields::Wrong::new("FIELD_TYPE", "expected a list of manifests");
        value.as_array().ok_or_else(wrong)
    });
    let errors = fields.finish();
    match manifests {
        Some(manifests) if errors.is_empty() => Ok(manifests),
        Some(_) | None => Err(ApiError::invalid(errors)),
    }
}

/// `DELETE /v1/{collection}/{name}`.
pub(super) async fn delete(
    State(app): State<App>,
    Path((collection, segment)): Path<(String, String)>,
    mut query: Query,
    headers: HeaderMap,
    (who, body): (Who, Json),
) -> Answer<Response> {
    who.must(Need::Write)?;
    let kind = app.kind(&collection)?.name();
    let object = ObjectRef {
        kind: kind.to_owned(),
        name: name(&segment)?,
    };
    let (cascade, dry_run) = (query.flag("cascade")?, query.flag("dry_run")?);
    query.finish()?;
    let etag = if_match(&headers)?;
    let deleted = object.clone();
    let edit: Edit =
        Box::new(move |kinds, view| spec::delete(kinds, view, &deleted, etag.clone(), cascade));
    let request_id = who.request_id.clone();
    let actor = who.caller.name.clone();
    let change = Change {
        who,
        action: "delete",
        body: Some(body),
        dry_run,
        edit,
    };
    let response = app.change(change).await?;
    if collection == nodes::COLLECTION && !dry_run {
        nodes::forget(&app, &object.name, &actor, &request_id).await;
    }
    Ok(response)
}

/// `POST /v1/{collection}/{name}:verb`.
pub(super) async fn post_verb(
    State(app): State<App>,
    Path((collection, segment)): Path<(String, String)>,
    query: Query,
    headers: HeaderMap,
    (who, body): (Who, Json),
) -> Answer<Response> {
    let kind = app.kind(&collection)?.name();
    let (object, verb) = segment.split_once(':').ok_or_else(|| {
        let detail = format!(
            "{} is not possible here; write with POST /v1/apply",
            Method::POST
        );
        ApiError::new(Code::InvalidArgument, "METHOD_NOT_ALLOWED", detail)
    })?;
    let object = name(object)?;
    let call = changes::Call {
        who,
        query,
        etag: if_match(&headers)?,
        body,
    };
    match (collection.as_str(), verb) {
        (_, "rollback") => history::rollback(&app, kind, &object, call).await,
        (_, "adopt") => resolve(&app, kind, object, (spec::ADOPT, "adopt"), call).await,
        (_, "revert") => resolve(&app, kind, object, (spec::REVERT, "revert"), call).await,
        (nodes::COLLECTION, "drain" | "undrain" | "retry") => {
            nodes::verb(&app, &object, verb, call).await
        },
        (nodes::COLLECTION, "join") => nodes::join(&app, &object, call).await,
        (_, verb) => Err(unknown_verb(verb)),
    }
}

/// `POST /v1/{collection}/{name}:adopt` and `:revert`: a new version of what is in the store, or of what was.
async fn resolve(
    app: &App,
    kind: &'static str,
    name: String,
    (operation, action): (&'static str, &'static str),
    call: changes::Call,
) -> Answer<Response> {
    let changes::Call {
        who,
        mut query,
        etag,
        body,
    } = call;
    who.must(Need::Write)?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let object = ObjectRef {
        kind: kind.to_owned(),
        name,
    };
    let edit: Edit =
        Box::new(move |kinds, view| spec::resolve(kinds, view, &object, operation, etag.clone()));
    app.change(Change {
        who,
        action,
        body: Some(body),
        dry_run,
        edit,
    })
    .await
}
