//! Time, sleeping and spawning as parameters.
//!
//! Nothing below the binaries reads a clock, sleeps or spawns by itself: the simulator replaces all
//! three. The real ones are in the crate `cpl-host`.

use std::fmt::{Debug, Display, Formatter};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// A wall-clock time: milliseconds since the Unix epoch, UTC.
///
/// It is for people and for retention only. No decision about ownership compares wall clocks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `later` after this one, saturating at the end of representable time.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long before this time `earlier` was; zero when it was not before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with seconds, as the seed documents write times: `2024-01-23T15:30:45Z`.
    pub fn rfc3339(self) -> String {
        let civil = Civil::from_unix_seconds(self.0 / 1_000);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
        )
    }

    /// The compact form that record keys use: `20240123T153045Z`.
    pub fn compact(self) -> String {
        self.rfc3339()
            .chars()
            .filter(|c| *c != '-' && *c != ':')
            .collect()
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// Days to civil date by Howard Hinnant's algorithm (`days_from_civil`, public domain), for
    /// times from 1970 on.
    const fn from_unix_seconds(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let rest = seconds % 86_400;
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted - era * 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let month = if month_shifted < 10 {
            month_shifted + 3
        } else {
            month_shifted - 9
        };
        Self {
            year: year_of_era + era * 400 + if month <= 2 { 1 } else { 0 },
            month,
            day: day_of_year - (153 * month_shifted + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest % 3_600 / 60,
            second: rest % 60,
        }
    }
}

/// A point on a monotonic clock: the time since some start that only this process knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// The point `later` after this one.
    #[must_use]
    pub const fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// How long before this point `earlier` was; zero when it was not before.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + Debug {
    /// The wall clock; may jump in both directions.
    fn wall(&self) -> Timestamp;

    /// The monotonic clock of this process; never goes back.
    fn monotonic(&self) -> Monotonic;

    /// Completes once the monotonic clock has reached `until`. Dropping the future forgets the timer.
    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()>;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.monotonic().plus(duration))
    }
}

/// Where tasks are started.
pub trait Spawner: Send + Sync + Debug {
    /// Starts `task` under `name`. The task runs until it ends or its [`Task`] is dropped.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task;
}

/// The owner's handle of a spawned task; dropping it cancels the task at its next await.
pub struct Task {
    name: &'static str,
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// In a lock only so that handles can be shared; nobody ever waits for it.
    done: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Task {
    /// A handle from what the runtime offers: `cancel` stops the task, `done` completes when it ended.
    pub fn new(
        name: &'static str,
        cancel: impl FnOnce() + Send + Sync + 'static,
        done: BoxFuture<'static, ()>,
    ) -> Self {
        Self {
            name,
            cancel: Some(Box::new(cancel)),
            done: Mutex::new(Some(done)),
        }
    }

    /// Waits until the task ends by itself. Dropping the returned future cancels the task.
    pub async fn join(mut self) {
        let done = self
            .done
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(done) = done {
            done.await;
        }
        self.cancel = None;
    }
}

impl Task {
    /// Cancels the task and waits until it has ended and has dropped what it held.
    pub async fn stop(mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
        self.join().await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl Debug for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_seed_documents_write_them() {
        assert_eq!(
            Timestamp(1_706_023_845_000).rfc3339(),
            "2024-01-23T15:30:45Z"
        );
        assert_eq!(Timestamp(1_706_023_845_999).compact(), "20240123T153045Z");
        assert_eq!(Timestamp(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp(951_782_400_000).rfc3339(), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn differences_never_go_below_zero() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(
            Monotonic(Duration::ZERO).since(Monotonic(Duration::MAX)),
            Duration::ZERO
        );
    }
}
