//! What both ends of the wire agree on: paths, request and response types, error codes.
//!
//! Everything here is a promise: fields are only added, unknown enum values and fields in responses
//! are tolerated by clients, unknown fields in requests are refused by the server.
//!
//! [`client::ControlPlaneClient`] speaks it over any [`transport::ControlPlaneTransport`]:
//! [`http::HttpControlPlaneTransport`] in production, [`memory::MemoryTransport`] in tests.

pub mod agent;
pub mod backoff;
pub mod client;
pub mod error;
pub mod http;
pub mod memory;
pub mod object;
pub mod problem;
pub mod routes;
pub mod server;
pub mod sse;
pub mod token;
pub mod transport;
pub mod watch;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod tests;

/// The type of every error response, RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Names the request; sent by clients that want to, returned always.
pub const REQUEST_ID: &str = "x-request-id";
/// The header that makes repeating a write safe; kept 24 h.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Set to `true` on an answer that is the recorded one of an earlier request.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
