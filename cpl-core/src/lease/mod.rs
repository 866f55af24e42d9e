//! Ownership: sessions of replicas, and the shards that hang on them.
//!
//! An ownership is a record `{holder, epoch}`; whoever takes it over raises the epoch, and every write
//! of a holder compares the record. Time only decides when to try; the epoch decides who may.
//!
//! A session is the place of one process on the store. On a store that one process has alone (`limits().exclusive`) a
//! new session ends the one before, whose process is proven dead. On a shared store there are as many as processes, each renewed by
//! an ordinary write; the one shard, under which the work goes on that is done once, belongs to one of them. The
//! others take it over once that session lapsed or was given up, and its owner ends the sessions of all who are gone.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{Living, Membership, Owner, SeenSession, Session, SessionTimes, Shard};
pub use self::repo::{EPOCH, RENEWAL, SESSION, SHARD, is_of_a_session, keys};
pub use self::rules::Sessions;
pub use self::service::{Place, begin, hold, reap, release, take_shard};
