//! How fast each token may ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cpl_api::problem::Code;
use cpl_core::clock::{Clock, Monotonic};

use super::error::ApiError;

/// Requests that one token may make at once, and how fast that fills up again.
const BURST: f64 = 400.0;
const PER_SECOND: f64 = 200.0;
/// Tokens that are remembered; beyond that the longest idle is forgotten.
const REMEMBERED: usize = 50_000;

/// How fast each token may ask.
#[derive(Debug)]
pub(crate) struct Limits {
    clock: Arc<dyn Clock>,
    buckets: Mutex<BTreeMap<String, (f64, Monotonic)>>,
}

impl Limits {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            buckets: Mutex::default(),
        }
    }

    /// Counts one request of a token, or says that it is one too many.
    pub(super) fn admit(&self, token: &str) -> Result<(), ApiError> {
        let now = self.clock.monotonic();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(token) {
            let refill = Duration::from_secs_f64(BURST / PER_SECOND);
            buckets.retain(|_, (_, at)| now.since(*at) < refill);
        }
        let (left, at) = buckets.entry(token.to_owned()).or_insert((BURST, now));
        *left = (*left + now.since(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        if *left < 1.0 {
            let detail = "this token asks too fast";
            return Err(ApiError::new(
                Code::ResourceExhausted,
                "RATE_LIMITED",
                detail,
            ));
        }
        *left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cpl_core::clock::Timestamp;
    use futures::future::BoxFuture;

    use super::*;

    /// A clock that stands still.
    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn wall(&self) -> Timestamp {
            Timestamp(0)
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic(Duration::ZERO)
        }

        fn sleep_until(&self, _until: Monotonic) -> BoxFuture<'static, ()> {
            Box::pin(futures::future::pending())
        }
    }

    #[test]
    fn one_token_too_fast_costs_others_nothing() {
        let limits = Limits::new(Arc::new(Still));
        let admitted = (0..1_000).filter(|_| limits.admit("").is_ok()).count();
        assert_eq!(admitted, 400, "the burst of one bucket");
        assert!(limits.admit("").is_err());
        assert!(limits.admit("another").is_ok());
    }
}
