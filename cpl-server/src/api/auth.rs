//! Who calls. Every route but health and version needs a token.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cpl_api::problem::Code;
use cpl_core::access::Caller;

use super::app::App;
use super::error::{Answer, ApiError};

/// The bucket of callers without a token; no token has this id.
const NOBODY: &str = "";

/// Finds the caller by their token and counts the request.
pub(super) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(AUTHORIZATION).cloned();
    match identify(&app, header).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        },
        Err(error) => error.into_response(),
    }
}

async fn identify(app: &App, header: Option<HeaderValue>) -> Answer<Caller> {
    // All callers without a token share one bucket: guessing is slow, and costs others nothing.
    let unknown = |reason, detail| {
        app.limits.admit(NOBODY)?;
        Err(ApiError::new(Code::Unauthenticated, reason, detail))
    };
    let Some(header) = header else {
        return unknown("TOKEN_MISSING", "send `Authorization: Bearer TOKEN`");
    };
    let token = header
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(token) = token else {
        return unknown("TOKEN_MALFORMED", "expected `Authorization: Bearer TOKEN`");
    };
    match app.plane.tokens.find(token.trim()).await? {
        Some(caller) => {
            app.limits.admit(&caller.token)?;
            Ok(caller)
        },
        None => unknown("TOKEN_UNKNOWN", "this token is not known, or has ended"),
    }
}
