//! The suite that every backend runs: the contract of [`Store`](super::Store) as cases.
//!
//! A store of your own is tested by a factory that gives a fresh, empty store per case:
//!
//! ```
//! use std::sync::Arc;
//! use cpl_core::store::{MemoryStore, Store, StoreId, conformance};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let host = cpl_host::Host::new();
//! let clock = Arc::clone(&host.clock);
//! let report = conformance::run_all(Arc::clone(&clock), async || {
//!     Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&clock))) as Arc<dyn Store>
//! })
//! .await;
//! assert!(report.is_ok(), "{report:#?}");
//! # }
//! ```
//!
//! A case never panics; it returns a [`Failure`] that says what was expected. Cases of watches end
//! with a fence, a write whose event or progress mark must arrive, and then compare all that was
//! delivered: a lost tail fails. Concurrency inside a case is that of joined futures; a store that
//! answers at once is tested by it in one order only.
//!
//! Lost requests and replies: run the suite on [`Settling`] over a
//! [`FaultyStore`](super::FaultyStore) over your store. What is not here: crashes and outages, which
//! need a hand inside the backend.

mod compaction;
mod failure;
mod lists;
mod outcomes;
mod settling;
mod suite;
mod txns;
mod watches;
mod world;

pub use self::failure::Failure;
pub use self::settling::Settling;
pub use self::suite::{Case, cases, run_all};
