//! Who calls, and what they may do.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use cpl_api::problem::Code;
use cpl_core::access::{Caller, Need, allows};

use super::error::{Answer, ApiError};

/// The name of a request: in logs, in answers, in the audit.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

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
