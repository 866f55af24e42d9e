//! What a run of the suite has met: which answers, to which calls, in which states of the store.
//!
//! Put [`Coverage::observe`] around the store that a run is made on, the same coverage around as many
//! as you like, and look at what stayed dark: a cell that no case reaches is a promise that nobody
//! checks. Failures of a network show only behind a [`FaultyStore`](crate::store::FaultyStore), so a
//! whole picture takes a run without and some with faults:
//!
//! ```
//! use std::sync::Arc;
//! use cpl_core::store::conformance::{self, Coverage, Runtime, Settling};
//! use cpl_core::store::{Faults, FaultyStore, MemoryStore, Store, StoreId};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let host = cpl_host::Host::new();
//! let runtime = Runtime { clock: host.clock, spawner: host.spawner };
//! let store = || -> Arc<dyn Store> {
//!     Arc::new(MemoryStore::new(StoreId(1), Arc::clone(&runtime.clock)))
//! };
//! let coverage = Coverage::default();
//! conformance::run_all(&runtime, async || coverage.observe(store())).await.unwrap();
//! for seed in 0..3 {
//!     let clock = || Arc::clone(&runtime.clock);
//!     let faulty = || Arc::new(FaultyStore::new(store(), clock(), Faults::MANY, seed));
//!     let report = conformance::run_all(&runtime, async || {
//!         Settling::new(coverage.observe(faulty())) as Arc<dyn Store>
//!     });
//!     report.await.unwrap();
//! }
//! println!("{coverage}");
//! # }
//! ```

mod cells;
mod observed;
mod table;

pub use self::cells::{Answer, Call, Cell, State};
pub use self::table::Coverage;
