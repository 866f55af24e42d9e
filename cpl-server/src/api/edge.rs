//! What every request goes through: an id, limits, a span, a measurement, and the body of errors.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cpl_api::problem::{Code, Problem};
use cpl_api::{PROBLEM_JSON, REQUEST_ID};
use futures::FutureExt;
use tracing::Instrument;

use super::app::App;
use super::error::ApiError;
use super::who::RequestId;

/// Longest request id that a client may bring.
const REQUEST_ID_LENGTH: usize = 64;
/// Gives each request its id and span, measures it, and writes the body of errors.
pub(super) async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request_id(&app, &request);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unknown".to_owned());
    let method = request.method().clone();
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", %method, route, id);
    let start = app.plane.host.clock.monotonic();
    let response = next.run(request).instrument(span.clone()).await;
    let took = app.plane.host.clock.monotonic().since(start);
    let status = response.status().as_u16();
    app.metrics.answered(&method, &route, status, took);
    span.in_scope(|| tracing::debug!(status, ?took, "answered"));
    finish(response, &id)
}

/// Refuses what reached this process while it was frozen: another one may lead by now.
pub(super) async fn tenure(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.leads() {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn request_id(app: &App, request: &Request) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_LENGTH && id.chars().all(plain) => {
            id.to_owned()
        },
        Some(_) | None => format!("{:032x}", app.plane.host.ids.fresh()),
    }
}

/// Writes the problem of an error response, now that the request id is known.
fn finish(mut response: Response, id: &str) -> Response {
    if let Some(mut problem) = response.extensions_mut().remove::<Box<Problem>>() {
        id.clone_into(&mut problem.instance);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response = Response::from_parts(parts, Body::from(body));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A panic in a handler is a bug; the caller hears of it in the usual form and the server goes on.
pub(super) async fn catch_panics(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a handler panicked; this is a bug");
            let detail = "this is a bug in the server; its log says more";
            finish(
                ApiError::new(Code::Internal, "PANIC", detail).into_response(),
                "unknown",
            )
        },
    }
}

/// There is nothing at this path.
pub(super) async fn unknown_path(request: Request) -> ApiError {
    let detail = format!("there is nothing at {}", request.uri().path());
    ApiError::new(Code::NotFound, "PATH_UNKNOWN", detail)
}

/// The path is right and the method is not.
pub(super) async fn wrong_method(request: Request) -> ApiError {
    let detail = format!(
        "{} is not possible at {}",
        request.method(),
        request.uri().path()
    );
    ApiError::new(Code::InvalidArgument, "METHOD_NOT_ALLOWED", detail)
}
