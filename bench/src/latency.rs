//! Times, and what is said of them.

use std::time::Duration;

/// Collected times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency(Vec<Duration>);

impl Latency {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time in milliseconds that this part of all stays below; 0 for none.
    pub(crate) fn ms(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a length is a length"
        )]
        let at = (sorted.len() as f64 * part) as usize;
        let found = sorted.get(at.min(last)).copied().unwrap_or_default();
        rounded(found.as_secs_f64() * 1_000.0)
    }
}

/// Three decimals.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_times() {
        let mut latency = Latency::default();
        assert_eq!(latency.ms(0.5).to_string(), "0");
        for ms in (1..=100).rev() {
            latency.push(Duration::from_millis(ms));
        }
        assert_eq!(latency.ms(0.5).to_string(), "51");
        assert_eq!(latency.ms(0.99).to_string(), "100");
        assert_eq!(latency.ms(1.0).to_string(), "100");
    }
}
