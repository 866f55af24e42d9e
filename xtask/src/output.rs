//! The one place that writes to the terminal.

use std::fmt::Display;

/// Writes a line to standard output.
#[expect(
    clippy::print_stdout,
    reason = "the commands speak through this module"
)]
pub(crate) fn line(text: impl Display) {
    println!("{text}");
}

/// Writes a line to standard error.
#[expect(
    clippy::print_stderr,
    reason = "the commands speak through this module"
)]
pub(crate) fn problem(text: impl Display) {
    eprintln!("{text}");
}
