//! The store on an etcd that the tests start themselves.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

mod cluster;
mod conformance;
