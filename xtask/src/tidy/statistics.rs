//! Figures about the tree, for people who want to see where it grows.

use super::source::Source;
use super::table::MOST_FN_LINES;

/// The figures, one line each. Functions are those outside tests.
pub(crate) fn statistics(crates: usize, sources: &[Source]) -> Vec<String> {
    let mut lengths: Vec<usize> = sources
        .iter()
        .flat_map(|source| &source.functions)
        .filter(|function| !function.is_test)
        .map(|function| function.length)
        .collect();
    lengths.sort_unstable();
    let long = lengths
        .iter()
        .filter(|length| **length > MOST_FN_LINES)
        .count();
    let longest = sources.iter().max_by_key(|source| source.lines);
    let (path, lines) = longest.map_or(("none", 0), |source| (source.path.as_str(), source.lines));
    vec![
        format!("crates                    {crates}"),
        format!("files                     {}", sources.len()),
        format!("functions                 {}", lengths.len()),
        format!(
            "median function           {} lines",
            percentile(&lengths, 50)
        ),
        format!(
            "95th percentile           {} lines",
            percentile(&lengths, 95)
        ),
        format!(
            "functions over {MOST_FN_LINES} lines   {}",
            share(long, lengths.len())
        ),
        format!("longest file              {path}, {lines} lines"),
    ]
}

/// The smallest length that `percent` of all do not exceed.
fn percentile(sorted: &[usize], percent: usize) -> usize {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// A share in percent with one digit behind the point.
fn share(part: usize, whole: usize) -> String {
    let per_mille = (part * 1000).div_ceil(whole.max(1));
    format!("{}.{} % ({part})", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let hundred: Vec<usize> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), 50);
        assert_eq!(percentile(&hundred, 95), 95);
        assert_eq!(percentile(&[7], 95), 7);
        assert_eq!(percentile(&[], 50), 0);
    }

    #[test]
    fn a_share_is_never_rounded_to_nothing() {
        assert_eq!(share(0, 10), "0.0 % (0)");
        assert_eq!(share(1, 5000), "0.1 % (1)");
        assert_eq!(share(0, 0), "0.0 % (0)");
    }
}
