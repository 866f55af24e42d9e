//! The pure core of CPL: what a control plane is made of, without a server.
//!
//! Somebody states what they want; CPL keeps it under monotonic versions, finds out what is really
//! there, and works until both agree. Everything here is deterministic: time, sleeping, randomness,
//! ids and spawning are parameters ([`clock::Clock`], [`ids::IdGen`], [`clock::Spawner`]), and every
//! effect goes through one trait, [`store::Store`].
//!
//! The slices, each importing only those before it:
//! `store <- txn <- access <- lease <- spec <- agent <- task <- delivery <- reconcile`.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod access;
pub mod agent;
pub mod clock;
pub mod delivery;
pub mod error;
pub mod fields;
pub mod ids;
pub mod lease;
pub mod limits;
pub mod reconcile;
pub mod spec;
pub mod store;
pub mod task;
pub mod txn;
pub mod version;
