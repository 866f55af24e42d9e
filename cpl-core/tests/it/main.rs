//! Tests of the core on a real clock and real stores.

#[cfg(feature = "conformance")]
mod conformance;
mod copy;
#[cfg(feature = "conformance")]
mod faulty;
mod lease;
mod reconcile;
mod watch;
