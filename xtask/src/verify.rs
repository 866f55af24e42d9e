//! The read-only gate.

use crate::failure::Failure;
use crate::process::{cargo, run, seconds, timed};
use crate::{goldens, output, tidy};

/// One step: its name, and what it does.
type Step = (&'static str, fn() -> Result<(), Failure>);

/// Cheapest first; the first failure ends it.
const STEPS: &[Step] = &[
    ("format", format),
    ("tidy", tidy::tidy),
    ("clippy", clippy),
    ("docs", docs),
    ("goldens", goldens::check),
];

/// Runs all steps, and stops at the first that fails.
///
/// # Errors
/// The failure of that step.
pub(crate) fn verify() -> Result<(), Failure> {
    for (name, step) in STEPS {
        output::line(format_args!("verify: {name} ..."));
        let (result, duration) = timed(step);
        let duration = seconds(duration);
        result.map_err(|failure| {
            Failure::new(format!("verify: {name} failed after {duration}: {failure}"))
        })?;
        output::line(format_args!("verify: {name} ok ({duration})"));
    }
    output::line("verify: all ok");
    Ok(())
}

fn format() -> Result<(), Failure> {
    run(&mut cargo(&["fmt", "--all", "--check"]))
}

fn clippy() -> Result<(), Failure> {
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn docs() -> Result<(), Failure> {
    run(cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ])
    .env("RUSTDOCFLAGS", "-D warnings"))
}
