//! What campaigns say.

/// Figures, for whoever runs a campaign by hand; seen with `--no-capture`.
#[expect(
    clippy::print_stderr,
    reason = "the figures are what a campaign is for"
)]
pub(crate) fn figures(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
