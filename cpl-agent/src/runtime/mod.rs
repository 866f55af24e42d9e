//! What keeps a node as the control plane wants it, and keeps it so without the control plane.
//!
//! ```text
//!             +--------- link: register, sync -----------+
//! control     |                                          |     decides, pure
//!  plane  <-->|  run: the one loop, all the effects      |
//!             |                                          |
//!   driver <->+--------- machine: check, apply, ... -----+
//!  state dir <-  state: current.json, pending.json, agent.token
//! ```
//!
//! [`AgentRuntime`] is for programs that embed an agent, [`run_agent`] for those that are one. The
//! decisions are in `machine` (what to do to the data plane and the disk), `selection` (which body of
//! each object) and `link` (what to say to the control plane); they know neither time nor chance but
//! what they are given.

mod attempt;
mod config;
mod link;
mod machine;
mod model;
mod outcome;
mod run;
mod selection;
mod state;
#[cfg(test)]
mod tests;

pub use self::config::{AgentConfig, AgentConfigError};
pub use self::run::{AgentError, AgentRuntime, run_agent};
pub use self::state::StateError;
