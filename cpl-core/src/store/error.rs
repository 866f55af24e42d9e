//! What went wrong, and what that says about the write.

use std::error::Error as StdError;
use std::fmt::{Display, Formatter};

use crate::version::Revision;

/// What an error says about the write that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Certainly nothing happened, and the same request can never be accepted.
    Rejected,
    /// Certainly nothing happened; the same request may be sent again.
    NotApplied,
    /// It may have happened, or may still happen. Settle it by [`Store::outcome`](super::Store::outcome)
    /// or repeat it with the same id.
    Indeterminate,
    /// The store refuses to continue; a person has to look.
    Corrupt,
}

/// The kinds of store errors; each has one [`Class`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The request breaks a rule of the contract.
    Invalid,
    /// The request is above a limit.
    LimitExceeded {
        /// Which limit.
        what: &'static str,
        /// Its value.
        limit: usize,
        /// What the request asked for.
        got: usize,
    },
    /// Compaction has passed the revision that was asked for.
    Compacted {
        /// Everything up to here is forgotten.
        compacted: Revision,
    },
    /// The revision is above the newest one.
    FutureRevision {
        /// The newest one.
        head: Revision,
    },
    /// The cursor is of another store, of another incarnation, or of a copy.
    IdentityChanged,
    /// The transaction id is known with another body.
    TxnIdReused,
    /// The transaction id was recorded as void before it arrived.
    TxnVoid,
    /// The backend refused this client.
    Unauthorized,
    /// The store takes no writes now, for example because its disk is full.
    ReadOnly,
    /// There is no connection, and the request was not sent.
    NotConnected,
    /// The store has too much to do and did not start on the request.
    Overloaded,
    /// The reply did not arrive in time.
    Timeout,
    /// The connection broke while the request was under way.
    ConnectionLost,
    /// The backend itself does not know whether it committed.
    CommitUnknown,
    /// What is stored cannot be read, or an invariant of the store is broken.
    Corrupt,
}

impl Kind {
    /// What this kind says about the write.
    pub const fn class(&self) -> Class {
        match self {
            Self::Invalid
            | Self::LimitExceeded { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::IdentityChanged
            | Self::TxnIdReused
            | Self::TxnVoid
            | Self::Unauthorized => Class::Rejected,
            Self::ReadOnly | Self::NotConnected | Self::Overloaded => Class::NotApplied,
            Self::Timeout | Self::ConnectionLost | Self::CommitUnknown => Class::Indeterminate,
            Self::Corrupt => Class::Corrupt,
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid => f.write_str("invalid request"),
            Self::LimitExceeded { what, limit, got } => {
                write!(f, "{what} of {got} is above the limit of {limit}")
            },
            Self::Compacted { compacted } => {
                write!(f, "everything up to revision {compacted} is compacted")
            },
            Self::FutureRevision { head } => {
                write!(f, "the revision is above the newest one, {head}")
            },
            Self::IdentityChanged => {
                f.write_str("the cursor is of another store, incarnation or copy")
            },
            Self::TxnIdReused => f.write_str("the transaction id was used for another transaction"),
            Self::TxnVoid => f.write_str("the transaction id was ruled out before it arrived"),
            Self::Unauthorized => f.write_str("the store refused this client"),
            Self::ReadOnly => f.write_str("the store takes no writes now"),
            Self::NotConnected => f.write_str("not connected to the store"),
            Self::Overloaded => f.write_str("the store is overloaded"),
            Self::Timeout => f.write_str("the store did not answer in time"),
            Self::ConnectionLost => f.write_str("the connection to the store broke"),
            Self::CommitUnknown => f.write_str("it is not known whether the store committed"),
            Self::Corrupt => f.write_str("the store is corrupt"),
        }
    }
}

/// An error of a store. `Display` completes "failed to …" and does not print its source.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` while doing `context` ("commit a transaction").
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The refusal of a write to a store that is sealed.
    pub fn sealed() -> Self {
        let context = "write to the store: it is sealed, since it was moved or is being moved; use the store that it \
                       was moved to, or take the seal off with `cpl store unseal`";
        Self::new(Kind::ReadOnly, context)
    }

    /// The refusal of a seal, by a store that has another one or is not complete.
    pub fn sealed_by_another() -> Self {
        let context =
            "seal the store: it was sealed by another move already, or is not complete itself";
        Self::new(Kind::Invalid, context)
    }

    /// The refusal to open a store that is not complete.
    pub fn not_complete(place: &str) -> Self {
        let context = format!(
            "open the store {place}: it is not complete, a move to it is under way or has failed; remove what is \
             there and move again"
        );
        Self::new(Kind::Invalid, context)
    }

    /// Which kind it is.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What was being done.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// What it says about the write.
    pub const fn class(&self) -> Class {
        self.kind.class()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.context, self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
