//! CPL's store on PostgreSQL.
//!
//! [`PostgresStore`] keeps the contract of [`Store`](cpl_core::store::Store) in one schema of a
//! database. Any number of processes may use it at once: every commit locks one row first, so that
//! the order of revisions is the order of commits. Why it is so is in
//! `docs/internals/postgres-store.md`.
//!
//! ```text
//! store.rs   PostgresStore: opens, reads, hands writes over
//! writer.rs  commits together whatever queued during the commit before
//! follow.rs  reads what is new, once for all watchers of the process
//! link.rs    one connection, made again when it broke
//! bootstrap.rs  makes the schema and checks the server     ../migrations  the SQL
//! config.rs  the URL       rows.rs  rows as types       error.rs  errors as kinds
//! ```

mod bootstrap;
mod config;
mod error;
mod follow;
mod link;
mod rows;
mod store;
mod writer;

pub use self::config::{ConfigError, PostgresConfig};
pub use self::store::PostgresStore;
