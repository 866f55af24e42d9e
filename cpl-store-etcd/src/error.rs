//! What etcd's errors say about a write.

use std::error::Error as StdError;
use std::io;

use cpl_core::store::{Error, Kind};
use etcd_client::Error as EtcdError;

/// tonic's codes (gRPC's status codes), which `etcd-client` does not export.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// What an answer that is an error means, beyond its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Compacted,
    FutureRevision,
    /// The token is too old, or the users changed: a new one helps.
    Token,
    /// The answer is larger than the client takes.
    TooLarge,
    Other,
}

/// The reason of an error, by etcd's own texts (`api/v3rpc/rpctypes/error.go`): one code has many.
pub(crate) fn reason(error: &EtcdError) -> Reason {
    let EtcdError::GRpcStatus(status) = error else {
        return Reason::Other;
    };
    let says = |text: &str| status.message().contains(text);
    if says("required revision has been compacted") {
        Reason::Compacted
    } else if says("required revision is a future revision") {
        Reason::FutureRevision
    } else if says("revision of auth store is old") || says("invalid auth token") {
        Reason::Token
    } else if says("decoded message length too large") {
        Reason::TooLarge
    } else {
        Reason::Other
    }
}

/// The kind of an error of a request. What etcd says before it proposes anything is certain; everything else may have
/// been applied, or may still be (`etcdserver: request timed out`, `leader changed`).
pub(crate) fn translate(context: &'static str, error: EtcdError) -> Error {
    let kind = kind(&error);
    Error::new(kind, context).with_source(error)
}

fn kind(error: &EtcdError) -> Kind {
    let EtcdError::GRpcStatus(status) = error else {
        return match error {
            EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) => Kind::Invalid,
            _ if refused(error) => Kind::NotConnected,
            _ => Kind::ConnectionLost,
        };
    };
    let says = |text: &str| status.message().contains(text);
    match status.code() as i32 {
        UNAUTHENTICATED | PERMISSION_DENIED => Kind::Unauthorized,
        RESOURCE_EXHAUSTED if says("database space exceeded") => Kind::ReadOnly,
        RESOURCE_EXHAUSTED if says("too many requests") => Kind::Overloaded,
        INVALID_ARGUMENT if says("user name is empty") || says("authentication failed") => {
            Kind::Unauthorized
        },
        // Old tokens are refused before anything is proposed.
        INVALID_ARGUMENT if says("revision of auth store is old") => Kind::NotConnected,
        // The same codes come from this side when an answer is too large, perhaps after the commit.
        INVALID_ARGUMENT | FAILED_PRECONDITION | OUT_OF_RANGE if says("etcdserver:") => {
            Kind::Invalid
        },
        _ if refused(status) => Kind::NotConnected,
        _ if says("etcdserver:") => Kind::CommitUnknown,
        _ => Kind::ConnectionLost,
    }
}

/// Whether no connection could be made, so that nothing was sent.
fn refused(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}
