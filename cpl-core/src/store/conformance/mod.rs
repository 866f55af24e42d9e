//! The suite that every backend runs: the contract of [`Store`](super::Store) as cases.
//!
//! A store of your own is tested by a factory that gives a fresh, empty store per case:
//!
//! ```
//! use std::sync::Arc;
//! use cpl_core::store::conformance::{self, Runtime};
//! use cpl_core::store::{MemoryStore, Store, StoreId};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let host = cpl_host::Host::new();
//! let runtime = Runtime { clock: host.clock, spawner: host.spawner };
//! let report = conformance::run_all(&runtime, async || {
//!     Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&runtime.clock))) as Arc<dyn Store>
//! })
//! .await;
//! assert!(report.is_ok(), "{report:#?}");
//! # }
//! ```
//!
//! A case never panics; it returns a [`Failure`] that says what was expected. Cases of watches end
//! with a fence, a write whose event or progress mark must arrive, and then compare all that was
//! delivered: a lost tail fails. The clients of a case are tasks of their own: give it a runtime of
//! several threads, and they race in earnest; give it one thread, and every run is the same for a
//! store that answers at once.
//!
//! Lost, late and slow requests and replies: run the suite on [`Settling`] over a
//! [`FaultyStore`](super::FaultyStore) over your store. What a run has met and what it has not is
//! told by [`coverage`]. What the suite is worth is shown by stores that break the contract, in
//! [`mutant`]. What is not here: crashes and outages, which need a hand inside the backend.

mod compaction;
pub mod coverage;
mod failure;
mod history;
mod lists;
pub mod mutant;
mod outcomes;
mod races;
mod seals;
mod settling;
mod suite;
mod txns;
mod watches;
mod world;

pub use self::coverage::Coverage;
pub use self::failure::Failure;
pub use self::settling::Settling;
pub use self::suite::{Case, Runtime, cases, run_all};
