//! One request over one connection: the line between what the client says and how it travels.

use std::fmt::{Debug, Display, Formatter, Write as _};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};

/// Most bytes of an ordinary answer: a page of the largest list is about half of it.
pub const RESPONSE_BYTES: usize = 4 << 20;
/// Most bytes of an answer that carries a node's whole configuration.
pub const CONFIGURATION_BYTES: usize = 16 << 20;

/// One request. The transport adds the server, the connection and nothing else.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded, beginning with `/`.
    pub target: String,
    /// The headers; secrets are marked as sensitive, so that `Debug` does not show them.
    pub headers: HeaderMap,
    /// The body; empty when there is none.
    pub body: Bytes,
    /// How long to wait for the head of the response, for its whole body once the head is there, and
    /// for each next part of a stream.
    pub timeout: Duration,
    /// Most bytes of the response's body; not for streams.
    pub max_response_bytes: usize,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The parts of a response's body as they arrive.
pub type ByteStream = BoxStream<'static, Result<Bytes, TransportError>>;

/// A response whose body has not ended, perhaps never will.
pub struct StreamResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: ByteStream,
}

impl Debug for StreamResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamResponse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// Carries requests to a control plane.
///
/// It neither retries nor judges: every status is an `Ok`. Dropping a future gives the request up; it
/// may have been delivered.
#[async_trait]
pub trait ControlPlaneTransport: Send + Sync + Debug {
    /// Sends a request and waits for the whole response.
    async fn send(&self, request: Request) -> Result<Response, TransportError>;

    /// Sends a request and hands the response over as soon as its head is there.
    async fn stream(&self, request: Request) -> Result<StreamResponse, TransportError>;
}

/// Why no connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectFailure {
    /// Nothing listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// Something else; it is in the message.
    Other,
}

/// Why the server's certificate, or the talk about it, was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsFailure {
    /// The certificate is expired or not yet valid.
    Expired,
    /// Nobody that we trust vouches for it.
    UnknownCa,
    /// It is somebody else's certificate.
    NameMismatch,
    /// Something else; it is in the message.
    Other,
}

/// What was waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    /// The connection, TLS included.
    Connect,
    /// The head of the response.
    Response,
    /// The body of the response, or the next part of a stream.
    Body,
}

/// No answer of a control plane was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The server's name has no address.
    Dns {
        /// What the resolver says.
        message: String,
    },
    /// No connection came to be.
    Connect {
        /// Why.
        failure: ConnectFailure,
        /// What the operating system says.
        message: String,
    },
    /// The server could not prove who it is.
    Tls {
        /// Why.
        failure: TlsFailure,
        /// What the TLS library says.
        message: String,
    },
    /// It took too long.
    Timeout(
        /// What was waited for.
        Wait,
    ),
    /// The connection ended before the answer did.
    Closed {
        /// How.
        message: String,
    },
    /// The answer is larger than this client takes.
    TooLarge {
        /// The most that it takes, in bytes.
        limit: usize,
    },
    /// The answer is a control plane's, but not in a form that this client understands.
    Decode {
        /// What is wrong with it.
        message: String,
    },
    /// Something answered that is no control plane: a proxy, a portal, another service.
    NotCpl {
        /// The status that it gave.
        status: u16,
        /// The type of its answer; empty when it named none.
        content_type: String,
    },
}

impl TransportError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Timeout(_)
            | Self::Closed { .. }
            | Self::NotCpl { .. } => true,
            Self::Tls { .. } | Self::TooLarge { .. } | Self::Decode { .. } => false,
        }
    }

    /// Whether the control plane may have received the request, and acted on it.
    pub const fn maybe_delivered(&self) -> bool {
        match self {
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout(Wait::Connect) => false,
            Self::Timeout(Wait::Response | Wait::Body)
            | Self::Closed { .. }
            | Self::TooLarge { .. }
            | Self::Decode { .. }
            | Self::NotCpl { .. } => true,
        }
    }
}

impl std::error::Error for TransportError {}

impl Display for TransportError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns { message } => write!(f, "find the server's address: {message}"),
            Self::Connect { failure, message } => match failure {
                ConnectFailure::Refused => {
                    f.write_str("connect to the server: nothing listens there")
                },
                ConnectFailure::Unreachable => {
                    f.write_str("connect to the server: there is no route to it")
                },
                ConnectFailure::Other => write!(f, "connect to the server: {message}"),
            },
            Self::Tls { failure, message } => match failure {
                TlsFailure::Expired => {
                    f.write_str("trust the server: its certificate is not valid at this time")
                },
                TlsFailure::UnknownCa => f.write_str(
                    "trust the server: its certificate is signed by nobody that is trusted here",
                ),
                TlsFailure::NameMismatch => {
                    f.write_str("trust the server: its certificate is for another name")
                },
                TlsFailure::Other => write!(f, "set up TLS with the server: {message}"),
            },
            Self::Timeout(wait) => f.write_str(match wait {
                Wait::Connect => "connect to the server in time",
                Wait::Response => "get an answer in time",
                Wait::Body => "get the whole answer in time",
            }),
            Self::Closed { message } => write!(f, "keep the connection: {message}"),
            Self::TooLarge { limit } => {
                write!(f, "take an answer of more than {limit} bytes")
            },
            Self::Decode { message } => write!(f, "understand the answer: {message}"),
            Self::NotCpl {
                status,
                content_type,
            } => write!(
                f,
                "reach a control plane: something else answered with status {status} and content \
                 type `{content_type}`"
            ),
        }
    }
}

/// Percent-encodes everything that has, or may have, a meaning in a path or query.
pub(crate) fn encode(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _infallible = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_left_was_not_delivered() {
        let message = String::new;
        for error in [
            TransportError::Dns { message: message() },
            TransportError::Connect {
                failure: ConnectFailure::Refused,
                message: message(),
            },
            TransportError::Timeout(Wait::Connect),
        ] {
            assert!(error.is_retryable() && !error.maybe_delivered(), "{error}");
        }
    }

    #[test]
    fn an_answer_of_something_else_may_hide_a_delivery() {
        let error = TransportError::NotCpl {
            status: 200,
            content_type: "text/html".to_owned(),
        };
        assert!(error.is_retryable() && error.maybe_delivered());
    }

    #[test]
    fn bad_certificates_do_not_heal_by_waiting() {
        let error = TransportError::Tls {
            failure: TlsFailure::UnknownCa,
            message: String::new(),
        };
        assert!(!error.is_retryable() && !error.maybe_delivered());
    }
}
