//! How long to wait before trying again, and when to stop.

use std::time::Duration;

use cpl_core::clock::Monotonic;
use cpl_core::ids::IdGen;

/// When to try again: exponential with full jitter, so that many clients that failed together do not
/// come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Longest wait after the first failure; it doubles with each further one.
    pub first: Duration,
    /// Longest wait at all.
    pub most: Duration,
    /// Most tries, the first included.
    pub attempts: u32,
    /// No try starts later than this after the first.
    pub deadline: Duration,
}

impl BackoffPolicy {
    /// For a person or a program that waits for the answer.
    pub const INTERACTIVE: Self = Self {
        first: Duration::from_millis(200),
        most: Duration::from_secs(3),
        attempts: 5,
        deadline: Duration::from_secs(20),
    };

    /// No second try.
    pub const NEVER: Self = Self {
        first: Duration::ZERO,
        most: Duration::ZERO,
        attempts: 1,
        deadline: Duration::ZERO,
    };

    /// The longest wait after `failures` failures in a row.
    pub fn cap(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }

    /// A wait after `failures` failures in a row: at least what the server asks for, and a random
    /// part of [`cap`](Self::cap) above it.
    pub fn delay(&self, failures: u32, asked: Option<Duration>, ids: &dyn IdGen) -> Duration {
        let cap = u64::try_from(self.cap(failures).as_millis()).unwrap_or(u64::MAX);
        asked
            .unwrap_or_default()
            .saturating_add(Duration::from_millis(ids.below(cap.saturating_add(1))))
    }
}

/// The tries of one call.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    started: Monotonic,
    failures: u32,
}

impl Backoff {
    /// The first try begins now.
    pub const fn start(policy: BackoffPolicy, now: Monotonic) -> Self {
        Self {
            policy,
            started: now,
            failures: 0,
        }
    }

    /// A try failed: how long to wait before the next, or `None` when that was the last.
    pub fn failed(
        &mut self,
        now: Monotonic,
        asked: Option<Duration>,
        ids: &dyn IdGen,
    ) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.policy.attempts {
            return None;
        }
        let delay = self.policy.delay(self.failures, asked, ids);
        (now.plus(delay).since(self.started) <= self.policy.deadline).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Fixed(u128);

    impl IdGen for Fixed {
        fn fresh(&self) -> u128 {
            self.0
        }
    }

    #[test]
    fn the_cap_doubles_up_to_the_most() {
        let caps: Vec<_> = (1..=6)
            .map(|n| BackoffPolicy::INTERACTIVE.cap(n).as_millis())
            .collect();
        assert_eq!(caps, [200, 400, 800, 1600, 3000, 3000]);
    }

    #[test]
    fn tries_end_with_the_attempts() {
        let mut backoff = Backoff::start(BackoffPolicy::INTERACTIVE, Monotonic::default());
        let given = (0..10)
            .map_while(|_| backoff.failed(Monotonic::default(), None, &Fixed(0)))
            .count();
        assert_eq!(given, 4);
    }

    #[test]
    fn no_try_starts_after_the_deadline() {
        let mut backoff = Backoff::start(BackoffPolicy::INTERACTIVE, Monotonic::default());
        let asked = Some(Duration::from_secs(21));
        assert_eq!(backoff.failed(Monotonic::default(), asked, &Fixed(0)), None);
    }

    proptest! {
        #[test]
        fn a_delay_is_never_shorter_than_asked_nor_longer_than_asked_and_cap(
            failures in 0u32..100, asked_ms in 0u64..100_000, chance: u128,
        ) {
            let policy = BackoffPolicy::INTERACTIVE;
            let asked = Duration::from_millis(asked_ms);
            let delay = policy.delay(failures, Some(asked), &Fixed(chance));
            prop_assert!(delay >= asked && delay <= asked + policy.cap(failures));
        }
    }
}
