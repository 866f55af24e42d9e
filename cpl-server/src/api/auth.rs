//! Who calls. Every route but health and version needs a token.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cpl_api::problem::Code;
use cpl_core::access::{Caller, Need, allows};

use super::app::App;
use super::edge::RequestId;
use super::error::{Answer, ApiError};

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
    let unknown = |reason, detail| Err(ApiError::new(Code::Unauthenticated, reason, detail));
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

/// Who calls, and what their request is called.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) caller: Caller,
    pub(super) request_id: String,
}

impl Who {
    /// Refuses a caller whose token is too small.
    pub(super) fn must(&self, need: Need<'_>) -> Answer<()> {
        if allows(&self.caller.scope, need) {
            return Ok(());
        }
        let wanted = match need {
            Need::Read => "read".to_owned(),
            Need::Write => "write".to_owned(),
            Need::Admin => "admin".to_owned(),
            Need::Register(node) => format!("join, or agent, for {node}"),
            Need::Speak(node) => format!("agent for {node}"),
        };
        let detail = format!("this needs a token with the scope {wanted}");
        Err(ApiError::new(
            Code::PermissionDenied,
            "SCOPE_TOO_SMALL",
            detail,
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let id = parts.extensions.get::<RequestId>().cloned();
        match (caller, id) {
            (Some(caller), Some(RequestId(request_id))) => Ok(Self { caller, request_id }),
            _ => {
                let detail = "this route is not behind authentication";
                Err(ApiError::new(Code::Internal, "INVARIANT", detail))
            },
        }
    }
}
