//! The server itself: health, version, metrics, and its store as a whole.

use axum::Json as JsonAnswer;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use cpl_api::agent::PROTOCOL;
use cpl_api::server::{About, Health, SealRequest, SealResponse};
use cpl_core::access::Need;
use cpl_core::delivery::Standing;
use cpl_core::error::{Error, Kind};
use cpl_core::store;

use super::app::App;
use super::body::{Query, Text};
use super::error::Answer;
use super::metrics::Reading;
use super::status::{self, word};
use super::who::Who;

/// All that are counted.
const ALL: [Standing; 5] = [
    Standing::Converged,
    Standing::Pending,
    Standing::Held,
    Standing::Silent,
    Standing::NeverSeen,
];

/// `GET /healthz`: the process lives.
pub(super) async fn healthz() -> JsonAnswer<Health> {
    JsonAnswer(Health {
        status: "ok".to_owned(),
    })
}

/// `GET /readyz`: it can serve what is newest, and nothing is known that keeps it from writing.
pub(super) async fn readyz(State(app): State<App>) -> Answer<JsonAnswer<Health>> {
    app.leads()?;
    app.fresh().await?;
    if let Some(refusal) = app.plane.store.refusal() {
        return Err(Error::store("take writes", refusal).into());
    }
    Ok(JsonAnswer(Health {
        status: "ok".to_owned(),
    }))
}

/// `GET /version`.
pub(super) async fn version(State(app): State<App>) -> JsonAnswer<About> {
    let (identity, global_version) = app
        .plane
        .cache
        .read(|snapshot| (snapshot.at.identity, snapshot.index.version()));
    JsonAnswer(About {
        software: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: (PROTOCOL, PROTOCOL),
        identity,
        global_version,
    })
}

/// `GET /metrics`, for Prometheus; needs a token like everything else.
pub(super) async fn metrics(State(app): State<App>, who: Who) -> Answer<Response> {
    who.must(Need::Read)?;
    let lens = status::Lens::of(&app);
    let reading = app.plane.cache.read(|snapshot| {
        let standings = lens.standings(snapshot);
        let count = |wanted: &Standing| standings.iter().filter(|s| *s == wanted).count();
        Reading {
            takes_writes: app.plane.store.refusal().is_none(),
            agents_waiting: app.plane.deliveries.waiting(),
            version: snapshot.index.version().0,
            objects: snapshot.index.objects().len(),
            nodes: ALL
                .iter()
                .map(|standing| (word(*standing), count(standing)))
                .collect(),
        }
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut response = app.metrics.text(&reading).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// `GET /v1/store:export`: everything at one revision, one JSON value per line.
pub(super) async fn export(State(app): State<App>, query: Query, who: Who) -> Answer<Response> {
    who.must(Need::Admin)?;
    query.finish()?;
    let text = crate::wiring::export(&*app.plane.store).await;
    let text = text.map_err(|error| Error::store("export the store", error))?;
    let mut response = Body::from(text).into_response();
    let kind = HeaderValue::from_static(cpl_api::routes::JSON_LINES);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `POST /v1/store:seal`: nobody writes any more.
pub(super) async fn seal(
    State(app): State<App>,
    query: Query,
    who: Who,
    body: Text,
) -> Answer<JsonAnswer<SealResponse>> {
    who.must(Need::Admin)?;
    query.finish()?;
    let SealRequest { seal } = body.read_required()?;
    let sealed = app.plane.store.seal(seal).await;
    let at = sealed.map_err(|error| match error.kind() {
        store::Kind::Invalid => {
            Error::new(Kind::FailedPrecondition, "STORE_SEALED", error.context())
        },
        _ => Error::store("seal the store", error),
    })?;
    tracing::warn!(actor = who.caller.name, %seal, revision = %at.revision, "the store was sealed");
    Ok(JsonAnswer(SealResponse {
        revision: at.revision,
    }))
}

/// `POST /v1/store:unseal`: writes are taken again.
pub(super) async fn unseal(
    State(app): State<App>,
    query: Query,
    who: Who,
) -> Answer<JsonAnswer<SealResponse>> {
    who.must(Need::Admin)?;
    query.finish()?;
    let failed = |error| Error::store("unseal the store", error);
    app.plane.store.unseal().await.map_err(failed)?;
    let at = app.plane.store.head().await.map_err(failed)?;
    tracing::warn!(
        actor = who.caller.name,
        "the seal of the store was taken off"
    );
    Ok(JsonAnswer(SealResponse {
        revision: at.revision,
    }))
}
