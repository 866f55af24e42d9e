//! A server that is killed, again and again, while clients change things and agents follow.
//!
//! `CPL_KILL_ROUNDS` sets how often, `CPL_KILL_SEED` when. See `docs/internals/crash-campaigns.md`.

mod chance;
mod check;
mod client;
mod kills;
mod moves;
mod nodes;
mod output;
mod replicas;
