//! Reading figures, and judging them. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::targets::{Against, Figure, Target, Want};

/// Ratios this near to a target count as met: two shared cores are not steadier.
const NOISE: f64 = 0.05;

/// How a target came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    WithinNoise,
    Missed,
    /// One side was not measured.
    Unknown,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) ours: Option<f64>,
    /// What it had to reach.
    pub(crate) limit: Option<f64>,
    pub(crate) verdict: Verdict,
}

/// The median of what all runs say of a figure.
pub(crate) fn median(lines: &[Value], figure: &Figure) -> Option<f64> {
    let is_it = |line: &&Value| {
        let same = |(name, value): &(&str, &str)| match &line["params"][name] {
            Value::String(text) => text == value,
            other => value.parse::<Value>().is_ok_and(|value| value == *other),
        };
        line["bench"] == figure.bench && figure.with.iter().all(same)
    };
    let found = lines.iter().filter(is_it);
    let mut found: Vec<f64> = found
        .filter_map(|line| line["metrics"][figure.metric].as_f64())
        .collect();
    found.sort_by(f64::total_cmp);
    let middle = found.len() / 2;
    match found.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(found[middle]),
        _ => Some(f64::midpoint(found[middle - 1], found[middle])),
    }
}

/// Holds one target against what was measured.
pub(crate) fn judge(lines: &[Value], target: &Target) -> Judged {
    let ours = median(lines, &target.ours);
    let limit = match &target.against {
        Against::Times(times, figure) => median(lines, figure).map(|peer| times * peer),
        Against::Sum(times, figure, more, other) => median(lines, figure)
            .zip(median(lines, other))
            .map(|(peer, own)| times * peer + more * own),
        Against::Number(number) => Some(*number),
    };
    let verdict = match (ours, limit) {
        (Some(ours), Some(limit)) => verdict(target.want, ours, limit),
        (None, _) | (_, None) => Verdict::Unknown,
    };
    Judged {
        id: target.id,
        what: target.what,
        ours,
        limit,
        verdict,
    }
}

fn verdict(want: Want, ours: f64, limit: f64) -> Verdict {
    let (met, near) = match want {
        Want::AtLeast => (ours >= limit, ours >= limit * (1.0 - NOISE)),
        Want::AtMost => (ours <= limit, ours <= limit * (1.0 + NOISE)),
    };
    match (met, near) {
        (true, _) => Verdict::Met,
        (false, true) => Verdict::WithinNoise,
        (false, false) => Verdict::Missed,
    }
}

impl Verdict {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::WithinNoise => "met within noise",
            Self::Missed => "MISSED",
            Self::Unknown => "not measured",
        }
    }
}

/// A figure with as many digits as it deserves.
pub(crate) fn shown(figure: Option<f64>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(figure) if figure.abs() >= 100.0 => format!("{figure:.0}"),
        Some(figure) => format!("{figure:.2}"),
    }
}

/// The lines as a table for the documentation.
pub(crate) fn markdown(judged: &[Judged]) -> String {
    let mut text =
        "| target | what, against what | CPL | to reach | |\n|---|---|---|---|---|\n".to_owned();
    for one in judged {
        // Writing to a `String` cannot fail.
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            one.id,
            one.what,
            shown(one.ours),
            shown(one.limit),
            one.verdict.word()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OURS: Figure = Figure {
        bench: "a",
        with: &[("n", "1"), ("who", "we")],
        metric: "x",
    };
    const THEIRS: Figure = Figure {
        bench: "b",
        with: &[],
        metric: "y",
    };

    fn check(ours: f64, theirs: f64, want: Want, expected: Verdict) {
        let lines = [
            json!({"bench": "a", "params": {"n": 1, "who": "we"}, "metrics": {"x": ours}}),
            json!({"bench": "a", "params": {"n": 2, "who": "we"}, "metrics": {"x": 1e9}}),
            json!({"bench": "b", "params": {}, "metrics": {"y": theirs}}),
        ];
        let target = Target {
            id: "T",
            what: "",
            ours: OURS,
            want,
            against: Against::Times(2.0, THEIRS),
        };
        let judged = judge(&lines, &target);
        assert_eq!(
            (judged.limit, judged.verdict),
            (Some(2.0 * theirs), expected)
        );
    }

    #[test]
    fn a_target_is_met_nearly_or_not() {
        check(200.0, 100.0, Want::AtLeast, Verdict::Met);
        check(191.0, 100.0, Want::AtLeast, Verdict::WithinNoise);
        check(180.0, 100.0, Want::AtLeast, Verdict::Missed);
        check(209.0, 100.0, Want::AtMost, Verdict::WithinNoise);
        check(220.0, 100.0, Want::AtMost, Verdict::Missed);
    }

    #[test]
    fn the_middle_of_the_runs_counts() {
        let line = |y: f64| json!({"bench": "b", "params": {}, "metrics": {"y": y}});
        assert_eq!(median(&[], &THEIRS), None);
        assert_eq!(
            median(&[line(3.0), line(1.0), line(9.0)], &THEIRS),
            Some(3.0)
        );
        assert_eq!(median(&[line(3.0), line(1.0)], &THEIRS), Some(2.0));
    }

    #[test]
    fn a_side_that_was_not_measured_is_said() {
        let judged = judge(&[], &super::super::targets::TARGETS[0]);
        assert_eq!(judged.verdict, Verdict::Unknown);
        assert!(markdown(&[judged]).contains("| - | - | not measured |"));
    }
}
