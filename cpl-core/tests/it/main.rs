//! Tests of the core on a real clock and real stores.
#![expect(clippy::unwrap_used, reason = "tests")]

mod lease;
