//! What a call to a control plane can end with instead of its answer.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::problem::{Code, Problem};
use crate::transport::{Response, TransportError};
use crate::{PROBLEM_JSON, REQUEST_ID};

/// A call to a control plane did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneError {
    /// It answered, and said why not.
    Problem(Box<Problem>),
    /// No answer of it was received.
    Transport(TransportError),
}

impl ControlPlaneError {
    /// The canonical code; of a transport error the one that comes nearest.
    pub fn code(&self) -> Code {
        match self {
            Self::Problem(problem) => problem.code,
            Self::Transport(error) => match error {
                TransportError::Timeout(_) => Code::DeadlineExceeded,
                TransportError::Dns { .. }
                | TransportError::Connect { .. }
                | TransportError::Tls { .. }
                | TransportError::Closed { .. }
                | TransportError::NotCpl { .. } => Code::Unavailable,
                TransportError::TooLarge { .. } | TransportError::Decode { .. } => Code::Internal,
            },
        }
    }

    /// The stable reason, when a control plane gave one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.reason),
            Self::Transport(_) => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.retryable,
            Self::Transport(error) => error.is_retryable(),
        }
    }

    /// How long the control plane asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after_ms.map(Duration::from_millis),
            Self::Transport(_) => None,
        }
    }
}

impl From<TransportError> for ControlPlaneError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl std::error::Error for ControlPlaneError {}

impl Display for ControlPlaneError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Problem(problem) => {
                write!(f, "{}: {}", problem.title, problem.detail)?;
                for error in &problem.errors {
                    write!(f, "; {}: {}", error.pointer, error.detail)?;
                }
                Ok(())
            },
            Self::Transport(error) => Display::fmt(error, f),
        }
    }
}

/// Whether a response is a control plane's success, and if not, what it is.
///
/// A success must name `content_type`; a redirection, or a 404 without a problem document, comes from
/// something else, which must never be taken for "there is no such thing".
pub(crate) fn judge(response: &Response, content_type: &str) -> Result<(), ControlPlaneError> {
    let given = media_type(response);
    if response.status.is_success() && given == content_type {
        return Ok(());
    }
    if !response.status.is_success() && given == PROBLEM_JSON {
        return Err(read_problem(response));
    }
    if response.status.as_u16() < 400 || response.status == StatusCode::NOT_FOUND {
        return Err(not_cpl(response).into());
    }
    Err(ControlPlaneError::Problem(Box::new(guess(response))))
}

fn media_type(response: &Response) -> String {
    header(response, CONTENT_TYPE.as_str())
        .and_then(|value| value.split(';').next())
        .map(|kind| kind.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.get(name)?.to_str().ok()
}

fn not_cpl(response: &Response) -> TransportError {
    TransportError::NotCpl {
        status: response.status.as_u16(),
        content_type: media_type(response),
    }
}

fn read_problem(response: &Response) -> ControlPlaneError {
    match serde_json::from_slice::<Problem>(&response.body) {
        Ok(mut problem) => {
            if problem.retry_after_ms.is_none() {
                problem.retry_after_ms = retry_after_header(response);
            }
            ControlPlaneError::Problem(Box::new(problem))
        },
        Err(_) if response.status == StatusCode::NOT_FOUND => not_cpl(response).into(),
        Err(_) => ControlPlaneError::Problem(Box::new(guess(response))),
    }
}

fn retry_after_header(response: &Response) -> Option<u64> {
    let seconds: u64 = header(response, RETRY_AFTER.as_str())?
        .trim()
        .parse()
        .ok()?;
    seconds.checked_mul(1_000)
}

/// A problem document for an answer that has none, from its status alone.
fn guess(response: &Response) -> Problem {
    let status = response.status.as_u16();
    let code = Code::of_status(status);
    Problem {
        kind: format!("urn:cpl:error:HTTP_{status}"),
        title: response
            .status
            .canonical_reason()
            .unwrap_or("unknown status")
            .to_lowercase(),
        status,
        detail: format!("the answer has status {status} and no problem document"),
        instance: header(response, REQUEST_ID).unwrap_or_default().to_owned(),
        code,
        reason: format!("HTTP_{status}"),
        retryable: code.retryable(),
        retry_after_ms: retry_after_header(response),
        errors: Vec::new(),
        metadata: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn response(status: u16, content_type: &'static str, body: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.into(),
        }
    }

    fn check(status: u16, content_type: &'static str, body: &'static str) -> ControlPlaneError {
        judge(&response(status, content_type, body), "application/json").unwrap_err()
    }

    const PROBLEM: &str = r#"{"type":"urn:cpl:error:X","title":"t","status":404,"detail":"d",
        "instance":"r","code":"NOT_FOUND","reason":"X","retryable":false}"#;

    #[test]
    fn a_page_of_a_proxy_is_no_answer() {
        for status in [200, 204, 302, 404] {
            assert!(
                matches!(
                    check(status, "text/html", "<html>"),
                    ControlPlaneError::Transport(TransportError::NotCpl { .. })
                ),
                "{status}"
            );
        }
    }

    #[test]
    fn not_found_needs_a_problem_document() {
        assert_eq!(check(404, PROBLEM_JSON, PROBLEM).code(), Code::NotFound);
        for (kind, body) in [(PROBLEM_JSON, "{}"), ("application/json", "{}")] {
            assert!(matches!(
                check(404, kind, body),
                ControlPlaneError::Transport(TransportError::NotCpl { .. })
            ));
        }
    }

    #[test]
    fn other_statuses_without_a_document_are_guessed_from_the_status() {
        let error = check(503, "text/plain", "no");
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.is_retryable());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(check(401, "", "").code(), Code::Unauthenticated);
        assert!(!check(401, "", "").is_retryable());
    }

    #[test]
    fn parameters_of_the_content_type_do_not_matter() {
        let good = response(200, "application/json; charset=utf-8", "{}");
        assert_eq!(judge(&good, "application/json"), Ok(()));
    }
}
