//! Ownership: sessions of replicas, and the shards that hang on them.
//!
//! An ownership is a record `{holder, epoch}`; whoever takes it over raises the epoch, and every write
//! of a holder compares the record. Time only decides when to try; the epoch decides who may.
//!
//! A store that one process has alone (`limits().exclusive`) proves the predecessor dead, so a new
//! process takes over at once. On a shared store a session is renewed by an ordinary write, and one
//! process at a time owns the shard: the others stand by until its session lapsed or was released.

mod model;
mod repo;
mod service;

pub use self::model::{Owner, Ownership, Session, SessionTimes, Shard};
pub use self::repo::{RENEWAL, SESSION, SHARD, is_of_a_session, keys};
pub use self::service::{claim, hold, release};
