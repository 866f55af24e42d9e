//! The error of the core: what the caller can do about it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::store;

/// One thing that is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FieldError {
    /// Where: a JSON pointer into the request, for example `/spec/port`.
    pub pointer: String,
    /// What: stable, `UPPER_SNAKE`.
    pub code: String,
    /// What would be right, for people.
    pub detail: String,
}

impl FieldError {
    /// One error.
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code: code.to_owned(),
            detail: detail.into(),
        }
    }

    /// The same error of a field that lies below `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.pointer = format!("{prefix}{}", self.pointer);
        self
    }
}

/// What the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The request is wrong; change it. All field errors are listed.
    Invalid,
    /// The object does not exist.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The state does not allow it, or it is not the state that the caller named: read again, decide
    /// again.
    FailedPrecondition,
    /// Somebody else was faster or owns it: start the read-modify-write again.
    Aborted,
    /// A queue or quota is full: wait, then try again.
    Exhausted,
    /// The place in history is forgotten: list anew.
    OutOfRange,
    /// Not possible now; nothing happened: try again.
    Unavailable,
    /// It may have happened. Repeat with the same idempotency key to learn it.
    Indeterminate,
    /// What is stored cannot be understood; a person has to look.
    Corrupt,
    /// A bug in CPL.
    Internal,
}

/// An error of the core. `Display` completes "failed to …" and does not print its source.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    reason: &'static str,
    detail: String,
    fields: Vec<FieldError>,
    metadata: BTreeMap<&'static str, String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error; `reason` is stable and `UPPER_SNAKE`, `detail` is for people.
    pub fn new(kind: Kind, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            detail: detail.into(),
            fields: Vec::new(),
            metadata: BTreeMap::new(),
            source: None,
        }
    }

    /// A request with these field errors.
    pub fn invalid(fields: Vec<FieldError>) -> Self {
        let count = fields.len();
        let plural = if count == 1 { "field is" } else { "fields are" };
        let mut error = Self::new(
            Kind::Invalid,
            "FIELD_INVALID",
            format!("{count} {plural} not valid"),
        );
        error.fields = fields;
        error
    }

    /// A missing object.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(
            Kind::NotFound,
            "NOT_FOUND",
            format!("there is no {what} named {name}"),
        )
        .with("name", name)
    }

    /// A store's error, met while doing `context`.
    pub fn store(context: &str, error: store::Error) -> Self {
        let (kind, reason) = match error.class() {
            store::Class::NotApplied => (Kind::Unavailable, not_applied(error.kind())),
            store::Class::Indeterminate => (Kind::Indeterminate, "OUTCOME_UNKNOWN"),
            store::Class::Corrupt => (Kind::Corrupt, "STORE_CORRUPT"),
            store::Class::Rejected => rejected(error.kind()),
        };
        let mut mapped = Self::new(kind, reason, format!("{context}: {}", error.kind()));
        mapped.source = Some(Box::new(error));
        mapped
    }

    /// A stored value that cannot be read.
    pub fn corrupt(key: &store::Key, source: serde_json::Error) -> Self {
        let mut error = Self::new(
            Kind::Corrupt,
            "CORRUPT_VALUE",
            format!("the value of {key} is not readable"),
        );
        error.source = Some(Box::new(source));
        error
    }

    /// The same error with one more value for programs.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata.insert(name, value.into());
        self
    }

    /// What the caller can do.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable reason.
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    /// The field errors of an invalid request.
    pub fn fields(&self) -> &[FieldError] {
        &self.fields
    }

    /// Values for programs.
    pub const fn metadata(&self) -> &BTreeMap<&'static str, String> {
        &self.metadata
    }
}

/// The reason of a write that certainly did not happen and may be sent again.
pub(crate) fn not_applied(kind: &store::Kind) -> &'static str {
    if *kind == store::Kind::ReadOnly {
        "STORE_READ_ONLY"
    } else {
        "STORE_UNAVAILABLE"
    }
}

fn rejected(kind: &store::Kind) -> (Kind, &'static str) {
    match kind {
        store::Kind::Compacted { .. } => (Kind::OutOfRange, "REVISION_COMPACTED"),
        store::Kind::FutureRevision { .. } => (Kind::OutOfRange, "REVISION_AHEAD"),
        store::Kind::IdentityChanged => (Kind::OutOfRange, "STORE_CHANGED"),
        store::Kind::Invalid => (Kind::Invalid, "REQUEST_INVALID"),
        store::Kind::LimitExceeded { .. } => (Kind::Invalid, "LIMIT_EXCEEDED"),
        store::Kind::TxnIdReused
        | store::Kind::TxnVoid
        | store::Kind::Unauthorized
        | store::Kind::ReadOnly
        | store::Kind::NotConnected
        | store::Kind::Overloaded
        | store::Kind::Timeout
        | store::Kind::ConnectionLost
        | store::Kind::CommitUnknown
        | store::Kind::Corrupt => (Kind::Internal, "STORE_REJECTED"),
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
