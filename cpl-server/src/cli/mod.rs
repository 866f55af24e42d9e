//! The `cpl` command.
//!
//! ```text
//! command line -> args -> run -> one file per command -> output (data to stdout, talk to stderr)
//!                          |             |
//!                     connection    manifest, change, views, wait (what several commands share)
//! ```
//!
//! [`serve`], [`dev`], [`agent`] and the offline half of [`store`] only describe their command lines
//! here; each ends in one function that calls what it runs. A command for the API is an `Args` struct and
//! a `run` over a [`session::Session`], which tests give a transport without a network. What a command
//! ends with is in [`failure`].

pub mod agent;
pub mod apply;
pub mod args;
pub mod audit;
pub mod change;
pub mod completion;
pub mod connection;
pub mod context;
pub mod contexts;
pub mod delete;
pub mod describe;
pub mod dev;
pub mod diff;
pub mod endpoint;
pub mod explain;
pub mod failure;
pub mod foreign;
pub mod get;
pub mod health;
pub mod history;
pub mod kind;
pub mod manifest;
pub mod markdown;
pub mod node;
pub mod output;
pub mod reasons;
pub mod rollback;
pub mod rollout;
pub mod run;
pub mod serve;
pub mod serve_config;
pub mod session;
pub mod store;
pub mod table;
pub mod task;
#[cfg(test)]
mod tests;
pub mod token;
pub mod tree;
pub mod version;
pub mod views;
pub mod wait;
pub mod watch;
pub mod why;

pub use self::run::main;
