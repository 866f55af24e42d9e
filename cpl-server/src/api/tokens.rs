//! Tokens.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::{Path, State};
use axum::response::Response;
use cpl_api::object::ListResponse;
use cpl_api::token::{CreateToken, CreatedToken, Scope as WireScope, TokenView};
use cpl_core::access::{Need, NewToken, Scope, Secret, TokenRecord};
use cpl_core::error::{Error, FieldError};
use cpl_core::fields::check_name;

use super::app::App;
use super::body::{Json, Query};
use super::error::{Answer, ApiError};
use super::who::Who;

/// How long a join token lives at most.
const JOIN_TTL_S: u64 = 3_600;

fn scope(wire: &WireScope) -> Scope {
    match wire {
        WireScope::Admin => Scope::Admin,
        WireScope::Write => Scope::Write,
        WireScope::Read => Scope::Read,
        WireScope::Join { node } => Scope::Join { node: node.clone() },
        WireScope::Agent { node } => Scope::Agent { node: node.clone() },
    }
}

fn view(id: &str, record: &TokenRecord) -> TokenView {
    let scope = match &record.scope {
        Scope::Admin => WireScope::Admin,
        Scope::Write => WireScope::Write,
        Scope::Read => WireScope::Read,
        Scope::Join { node } => WireScope::Join { node: node.clone() },
        Scope::Agent { node } => WireScope::Agent { node: node.clone() },
    };
    TokenView {
        id: id.to_owned(),
        name: record.name.clone(),
        scope,
        created_at: record.created_at,
        expires_at: record.expires_at,
    }
}

/// The one answer that holds a secret.
pub(super) fn created(id: &str, record: &TokenRecord, secret: &Secret) -> CreatedToken {
    CreatedToken {
        token: view(id, record),
        secret: secret.reveal().to_owned(),
    }
}

/// `GET /v1/tokens`.
pub(super) async fn list(
    State(app): State<App>,
    query: Query,
    who: Who,
) -> Answer<JsonAnswer<ListResponse<TokenView>>> {
    who.must(Need::Admin)?;
    let mut query = query;
    let (size, after) = query.page()?;
    query.finish()?;
    let (entries, cursor) = super::history::all(&app, cpl_core::access::TOKEN.range(&[])).await?;
    let mut items = Vec::new();
    for entry in &entries {
        let record: TokenRecord = serde_json::from_slice(&entry.value)
            .map_err(|error| ApiError::from(Error::corrupt(&entry.key, error)))?;
        let id = entry
            .key
            .as_str()
            .and_then(|key| key.rsplit('/').next())
            .unwrap_or_default();
        if after.as_ref().is_none_or(|after| id > after.as_str()) {
            items.push(view(id, &record));
        }
    }
    let more = items.len() > size;
    items.truncate(size);
    let next_page_token = items
        .last()
        .filter(|_| more)
        .map(|t| super::body::page_token(&t.id));
    Ok(JsonAnswer(ListResponse {
        items,
        next_page_token,
        cursor,
    }))
}

/// `POST /v1/tokens`.
pub(super) async fn create(State(app): State<App>, who: Who, body: Json) -> Answer<Response> {
    who.must(Need::Admin)?;
    let request: CreateToken = body.read_required()?;
    if check_name(&request.name).is_err() {
        let detail = "expected 1 to 63 lower-case letters, digits or '-'";
        let error = FieldError::new("/name", "NAME_INVALID", detail);
        return Err(ApiError::invalid(vec![error]));
    }
    let scope = scope(&request.scope);
    let longest = matches!(scope, Scope::Join { .. }).then_some(JOIN_TTL_S);
    let ttl = match (request.ttl_s, longest) {
        (Some(wanted), Some(longest)) => Some(wanted.min(longest)),
        (wanted, longest) => wanted.or(longest),
    };
    let new = NewToken {
        name: request.name,
        scope,
        ttl: ttl.map(Duration::from_secs),
        actor: who.caller.name,
        request_id: who.request_id,
    };
    let (secret, id, record) = app.plane.tokens.create(&new).await?;
    Ok(super::error::created(&created(&id, &record, &secret)))
}

/// `DELETE /v1/tokens/{id}`.
pub(super) async fn revoke(
    State(app): State<App>,
    Path(id): Path<String>,
    who: Who,
) -> Answer<JsonAnswer<TokenView>> {
    who.must(Need::Admin)?;
    let was = app.plane.tokens.get(&id).await?;
    app.plane
        .tokens
        .revoke(&id, &who.caller.name, &who.request_id)
        .await?;
    Ok(JsonAnswer(view(&id, &was)))
}
