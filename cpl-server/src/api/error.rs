//! The one place where errors become HTTP statuses.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cpl_api::problem::{Code, Problem};
use cpl_core::error::{Error, FieldError, Kind};

/// An error on its way out. The request id is added at the edge.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    problem: Box<Problem>,
}

impl ApiError {
    /// An error with the status that its code has by itself.
    pub fn new(code: Code, reason: &str, detail: impl Into<String>) -> Self {
        let status = status_of(code, reason);
        let problem = Problem {
            kind: format!("urn:cpl:error:{reason}"),
            title: title_of(reason),
            status: status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            code,
            reason: reason.to_owned(),
            retryable: code.retryable(),
            retry_after_ms: code.retryable().then_some(1_000),
            errors: Vec::new(),
            metadata: BTreeMap::new(),
        };
        Self {
            status,
            problem: Box::new(problem),
        }
    }

    /// A request with these field errors.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Error::invalid(errors).into()
    }

    /// The field errors.
    pub fn fields_mut(&mut self) -> &mut Vec<FieldError> {
        &mut self.problem.errors
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::FailedPrecondition => Code::FailedPrecondition,
            Kind::Aborted => Code::Aborted,
            Kind::Exhausted => Code::ResourceExhausted,
            Kind::OutOfRange => Code::OutOfRange,
            Kind::Unavailable => Code::Unavailable,
            Kind::Indeterminate => Code::DeadlineExceeded,
            Kind::Corrupt => Code::DataLoss,
            Kind::Internal => Code::Internal,
        };
        if matches!(error.kind(), Kind::Corrupt | Kind::Internal) {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "a request failed");
        }
        let mut api = Self::new(code, error.reason(), error.to_string());
        api.problem.errors = error.fields().to_vec();
        let metadata = error.metadata().iter();
        api.problem.metadata = metadata
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        api
    }
}

fn status_of(code: Code, reason: &str) -> StatusCode {
    match (code, reason) {
        (_, "BODY_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        (_, "MEDIA_TYPE") => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (_, "METHOD_NOT_ALLOWED") => StatusCode::METHOD_NOT_ALLOWED,
        (_, "IDEMPOTENCY_KEY_REUSED") => StatusCode::UNPROCESSABLE_ENTITY,
        (_, "ETAG_MISMATCH") => StatusCode::PRECONDITION_FAILED,
        (_, "REVISION_COMPACTED" | "STORE_CHANGED") => StatusCode::GONE,
        (Code::InvalidArgument | Code::OutOfRange, _) => StatusCode::BAD_REQUEST,
        (Code::FailedPrecondition, _) => StatusCode::BAD_REQUEST,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::AlreadyExists | Code::Aborted, _) => StatusCode::CONFLICT,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Unimplemented, _) => StatusCode::NOT_IMPLEMENTED,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss, _) => {
            StatusCode::INTERNAL_SERVER_ERROR
        },
    }
}

/// `ETAG_MISMATCH` as `Etag mismatch`.
fn title_of(reason: &str) -> String {
    let words = reason.to_lowercase().replace('_', " ");
    let mut letters = words.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().collect::<String>() + letters.as_str(),
        None => words,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, problem } = self;
        let mut response = status.into_response();
        let headers = response.headers_mut();
        if let Some(wait) = problem.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000)));
        }
        if problem.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// The response of a handler.
pub type Answer<T> = Result<T, ApiError>;

/// The answer to something that was made.
pub(super) fn created<T: serde::Serialize>(made: &T) -> Response {
    (StatusCode::CREATED, axum::Json(made)).into_response()
}
