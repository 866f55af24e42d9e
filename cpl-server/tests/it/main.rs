//! The server over real connections.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails here"
)]

mod api;
mod campaign;
mod delivery;
mod foreign;
mod harness;
mod live;
mod shared;
mod streams;
mod versions;
