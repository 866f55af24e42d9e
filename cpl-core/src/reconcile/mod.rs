//! Controllers: what should be done about a key is decided purely, then carried out.
//!
//! Level-triggered: a key is queued when something that concerns it changed, and what is done depends
//! only on the state at that moment, never on the event. Keys that fail wait longer and longer; an
//! event cannot shorten that wait.

mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::rules::{Outcome, WorkQueue};
pub use self::service::{Controller, NodeController, NodeControllerConfig, run};
