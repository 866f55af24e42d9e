//! CPL's default store: one file, one process, no server.
//!
//! [`EmbeddedStore`] keeps the contract of [`Store`](cpl_core::store::Store) over a
//! [redb](https://docs.rs/redb) file. Reads are served from memory; a write is durable before it is
//! readable; whatever queues while the disk works is committed together. The format and its reasons
//! are in `docs/internals/embedded-store.md`.
//!
//! ```text
//! store.rs   EmbeddedStore: opens files, reads, hands writes over
//! writer.rs  the thread that drives the engine, or the caller
//! engine.rs  evaluates a batch, makes it durable, makes it readable
//! checkpoint.rs  compaction: moves the log into the key table, in steps
//! index.rs   what is readable      watch.rs  watches, which pull from it
//! disk.rs    the file              format.rs its rows
//! floor.rs   what redb stands on: outlives a failure, and tells a full disk from a broken one
//! transfer.rs  export, import, backup
//! ```

mod checkpoint;
mod config;
mod disk;
mod engine;
mod floor;
mod format;
mod index;
mod seal;
mod shared;
mod store;
mod transfer;
mod watch;
mod writer;

pub use redb::{BackendError, StorageBackend};

pub use self::config::{Config, Writer};
pub use self::store::EmbeddedStore;
pub use self::transfer::import;

#[cfg(test)]
mod tests;
