//! The drivers, from the outside.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails here"
)]

mod ambush;
mod bgp;
mod contract;
mod fixture;
mod live;
mod traffic;
