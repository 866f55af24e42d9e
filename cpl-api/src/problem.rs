//! Errors on the wire: RFC 9457 with canonical codes. The code is authoritative; the HTTP status
//! follows from it.

use std::collections::BTreeMap;

use cpl_core::error::FieldError;
use serde::{Deserialize, Serialize};

/// The canonical codes, after `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The client went away.
    Cancelled,
    /// The request is wrong; change it.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// This caller may not.
    PermissionDenied,
    /// Too much; wait, then try again.
    ResourceExhausted,
    /// The state does not allow it, or is not the one that was named.
    FailedPrecondition,
    /// Somebody else was faster; start again.
    Aborted,
    /// The place in history is forgotten.
    OutOfRange,
    /// Not offered here.
    Unimplemented,
    /// A bug.
    Internal,
    /// Not now; try again.
    Unavailable,
    /// What is stored is not readable.
    DataLoss,
    /// It is not known who calls.
    Unauthenticated,
    /// Nothing better is known, or a code that this program does not know.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// What the `cpl` command exits with: 1 failed, 2 wrong request, 3 not found, 4 not allowed,
    /// 5 conflict, 6 unavailable or too late, 130 interrupted.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Cancelled => 130,
            Self::Unknown | Self::Unimplemented | Self::Internal | Self::DataLoss => 1,
            Self::InvalidArgument | Self::OutOfRange => 2,
            Self::NotFound => 3,
            Self::PermissionDenied | Self::Unauthenticated => 4,
            Self::AlreadyExists | Self::FailedPrecondition | Self::Aborted => 5,
            Self::DeadlineExceeded | Self::ResourceExhausted | Self::Unavailable => 6,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::DeadlineExceeded | Self::ResourceExhausted | Self::Unavailable
        )
    }

    /// The code of an HTTP status, for answers whose body is not a problem document.
    pub const fn of_status(status: u16) -> Self {
        match status {
            400 | 413 | 415 | 422 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            408 | 504 => Self::DeadlineExceeded,
            409 => Self::Aborted,
            410 => Self::OutOfRange,
            412 | 428 => Self::FailedPrecondition,
            425 | 502 | 503 => Self::Unavailable,
            429 => Self::ResourceExhausted,
            499 => Self::Cancelled,
            500 => Self::Internal,
            501 => Self::Unimplemented,
            _ => Self::Unknown,
        }
    }
}

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:cpl:error:<REASON>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// The request id.
    pub instance: String,
    /// The canonical code.
    pub code: Code,
    /// Stable, `UPPER_SNAKE`.
    pub reason: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The values that `detail` mentions, for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}
