//! Tests of the core on a real clock and real stores.

mod lease;
