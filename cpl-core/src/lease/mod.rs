//! Ownership: sessions of replicas, and the shards that hang on them.
//!
//! An ownership is a record `{holder, epoch}`; whoever takes it over raises the epoch, and every write
//! of a holder compares the record. Time only decides when to try; the epoch decides who may.
//!
//! A store that one process has alone (`limits().exclusive`) proves the predecessor dead, so a new
//! process takes over at once. Several replicas on a shared store, with sessions that are renewed,
//! need more than is here, and are refused.

mod model;
mod repo;
mod service;

pub use self::model::{Owner, Ownership, Session, Shard};
pub use self::repo::{SESSION, SHARD, keys};
pub use self::service::claim;
