//! The process on a node: a runtime that keeps in touch with the control plane, and the drivers that
//! touch the real thing.
//!
//! [`driver::Driver`] is the line between the two: the runtime decides what should run, remembers
//! what last ran well and reports; a driver checks, applies and reads back.

pub mod driver;
pub mod drivers;
pub mod runtime;
