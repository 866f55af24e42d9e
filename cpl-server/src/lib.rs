//! The server of a control plane, and the `cpl` command that runs it and talks to it.
//!
//! [`plane`] is a running control plane: the services of the core on one store. [`api`] is its HTTP
//! face, [`serve`] listens, [`cli`] is the command. [`wiring`] is the one file that names the concrete
//! stores and systems.

pub mod agent;
pub mod api;
pub mod cli;
pub mod dev;
mod housekeeping;
mod leading;
mod listener;
pub mod plane;
mod remote;
pub mod serve;
mod transfer;
pub mod wiring;
