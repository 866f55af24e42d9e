//! Changes of endpoints without a word about the rest.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use cpl_core::access::Need;
use cpl_core::error::{Error, FieldError};
use cpl_core::fields::Fields;
use cpl_core::spec::{Draft, Edit, Kinds, Manifest, Parts, View};
use cpl_lb::kinds::ENDPOINTS;
use cpl_lb::plan::{TARGET_GROUP, endpoints as endpoints_of};
use cpl_lb::spec::{Endpoint, MOST_ENDPOINTS, read_endpoints};

use super::app::{App, Change};
use super::body::{Json, Query, if_match, name};
use super::error::{Answer, ApiError};
use super::who::Who;

/// A call of a verb, with everything that came along.
pub(super) struct Call {
    pub(super) who: Who,
    pub(super) query: Query,
    pub(super) etag: Option<String>,
    pub(super) body: Json,
}

/// `POST /v1/targetgroups/{name}/endpoints:change`.
pub(super) async fn endpoints(
    State(app): State<App>,
    Path(segment): Path<String>,
    mut query: Query,
    headers: HeaderMap,
    (who, body): (Who, Json),
) -> Answer<Response> {
    who.must(Need::Write)?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let (object, etag) = (name(&segment)?, if_match(&headers)?);
    let (upsert, remove) = read_change(&body)?;
    let edit: Edit = Box::new(move |_: &Kinds, view: &View<'_>| {
        let now = view.get(TARGET_GROUP, &object);
        let now = now.ok_or_else(|| Error::not_found(TARGET_GROUP, &object))?;
        let changed = merge(endpoints_of(now), &upsert, &remove)?;
        let parts = Parts::from([(ENDPOINTS, serde_json::to_value(changed).unwrap_or_default())]);
        let (name, if_match) = (object.clone(), etag.clone());
        let manifest = Manifest {
            kind: TARGET_GROUP,
            name,
            tenant: None,
            labels: None,
            parts,
        };
        Ok(vec![Draft::Put {
            manifest,
            if_match,
            operation: None,
        }])
    });
    app.change(Change {
        who,
        action: "change_endpoints",
        body: Some(body),
        dry_run,
        edit,
    })
    .await
}

fn read_change(body: &Json) -> Answer<(Vec<Endpoint>, Vec<String>)> {
    let mut fields = Fields::of(&body.value, "");
    let upsert = read_endpoints(&mut fields, "upsert").unwrap_or_default();
    let remove = fields
        .values("remove", MOST_ENDPOINTS, cpl_core::fields::name)
        .unwrap_or_default();
    let errors = fields.finish();
    if errors.is_empty() {
        Ok((upsert, remove))
    } else {
        Err(ApiError::invalid(errors))
    }
}

/// The endpoints after a change: by id, in order of ids.
fn merge(
    mut now: Vec<Endpoint>,
    upsert: &[Endpoint],
    remove: &[String],
) -> Result<Vec<Endpoint>, Error> {
    let mut errors = Vec::new();
    for (index, id) in remove.iter().enumerate() {
        let before = now.len();
        now.retain(|endpoint| endpoint.id != *id);
        if now.len() == before {
            let detail = format!("there is no endpoint {id}");
            errors.push(FieldError::new(
                format!("/remove/{index}"),
                "REFERENCE_UNKNOWN",
                detail,
            ));
        }
    }
    now.retain(|endpoint| upsert.iter().all(|new| new.id != endpoint.id));
    for (index, new) in upsert.iter().enumerate() {
        if let Some(other) = now.iter().find(|e| (e.ip, e.port) == (new.ip, new.port)) {
            let detail = format!(
                "{} port {} is endpoint {} already",
                new.ip, new.port, other.id
            );
            errors.push(FieldError::new(
                format!("/upsert/{index}"),
                "FIELD_DUPLICATE",
                detail,
            ));
        }
    }
    now.extend(upsert.iter().cloned());
    if now.len() > MOST_ENDPOINTS {
        let detail = format!("a target group has at most {MOST_ENDPOINTS} endpoints");
        errors.push(FieldError::new("/upsert", "FIELD_TOO_LONG", detail));
    }
    now.sort_by(|a, b| a.id.cmp(&b.id));
    if errors.is_empty() {
        Ok(now)
    } else {
        Err(Error::invalid(errors))
    }
}
