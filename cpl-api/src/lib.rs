//! What both ends of the wire agree on: paths, request and response types, error codes.
//!
//! Everything here is a promise: fields are only added, unknown enum values and fields in responses
//! are tolerated by clients, unknown fields in requests are refused by the server.

pub mod agent;
pub mod object;
pub mod problem;
pub mod token;

/// The type of every error response, RFC 9457.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Names the request; sent by clients that want to, returned always.
pub const REQUEST_ID: &str = "x-request-id";
/// The header that makes repeating a write safe; kept 24 h.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Set to `true` on an answer that is the recorded one of an earlier request.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
