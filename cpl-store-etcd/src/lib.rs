//! CPL's store on etcd.
//!
//! [`EtcdStore`] keeps the contract of [`Store`](cpl_core::store::Store) under one prefix of an etcd
//! cluster. Any number of processes may use it at once, and others may use the rest of the cluster:
//! revisions are etcd's own. Why it is so is in `docs/internals/etcd-store.md`.
//!
//! ```text
//! store.rs   EtcdStore: opens, reads, commits
//! follow.rs  the one watch of this process, resumed when it broke, and the past for those behind
//! link.rs    one request: its deadline, a fresh token when the old one ran out
//! forget.rs  outcomes that are old enough
//! bootstrap.rs  the label of a store, and a server that is new enough
//! seal.rs    the end of all writing
//! keys.rs    where things are   config.rs  the URL   error.rs  errors as kinds
//! ```

mod bootstrap;
mod config;
mod error;
mod follow;
mod forget;
mod keys;
mod link;
mod seal;
mod store;

pub use self::config::{ConfigError, EtcdConfig};
pub use self::store::EtcdStore;
