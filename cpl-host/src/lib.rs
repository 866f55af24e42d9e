//! The real clock, ids and spawner: the one place in CPL with ambient time and randomness.
//!
//! Binaries and embedders make one [`Host`] and hand its parts down; everything below takes them as
//! parameters, which is what lets the simulator replace them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cpl_core::clock::{Clock, Monotonic, Spawner, Task, Timestamp};
use cpl_core::ids::IdGen;
use futures::future::BoxFuture;

/// Clock, ids and spawner of this process.
#[derive(Clone, Debug)]
pub struct Host {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness of the operating system.
    pub ids: Arc<dyn IdGen>,
    /// Spawns on the Tokio runtime that is current at each spawn.
    pub spawner: Arc<dyn Spawner>,
}

impl Host {
    /// The real ones.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(SystemIds),
            spawner: Arc::new(TokioSpawner),
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A monotonic clock that starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the ambient clock enters"
    )]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the ambient clock enters"
    )]
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        let left = until.since(self.monotonic());
        Box::pin(async move { tokio::time::sleep(left).await })
    }
}

/// Randomness of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemIds;

impl IdGen for SystemIds {
    /// # Panics
    /// When the operating system has no randomness to give; nothing could be kept safe then.
    #[expect(
        clippy::expect_used,
        reason = "without randomness no id, token or nonce is safe"
    )]
    fn fresh(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        u128::from_le_bytes(bytes)
    }
}

/// Spawns on the current Tokio runtime.
#[derive(Clone, Copy, Debug)]
pub struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(task);
        let abort = handle.abort_handle();
        let done = Box::pin(async move {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        });
        Task::new(name, move || abort.abort(), done)
    }
}
