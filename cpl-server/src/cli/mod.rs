//! The `cpl` command.
//!
//! `serve`, `dev` and `agent` only describe their command lines here; each ends in one call of what it
//! runs. What a command ends with is in [`failure`].

pub mod agent;
pub mod contexts;
pub mod dev;
pub mod failure;
pub mod kind;
pub mod manifest;
pub mod output;
pub mod reasons;
pub mod serve;
pub mod serve_config;
pub mod table;
pub mod tree;
