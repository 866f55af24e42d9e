//! The label as it stands in the running process.

use cpl_core::store::Incarnation;
use cpl_core::version::ConfigVersion;

use super::names::is_plain;
use crate::driver::Label;

/// Raised whenever the same configuration would be rendered to another text: a process that an older
/// agent configured is then reloaded once instead of being changed on a base that it does not have.
pub(super) const RENDERER: u32 = 1;

/// The variable of the process that carries it.
pub(super) const VARIABLE: &str = "proc.cpl_label";

/// What a running process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The [`RENDERER`] that wrote its file.
    pub(super) renderer: u32,
    /// What it runs.
    pub(super) label: Label,
}

/// Writes a label as the variable's value: no blanks or quotes, which the command `set var` cannot
/// take. `None` when the digest has other characters than a digest has.
pub(super) fn write(label: &Label) -> Option<String> {
    let Label {
        incarnation,
        version,
        digest,
    } = label;
    is_plain(digest).then(|| format!("{RENDERER}/{}/{}/{digest}", incarnation.0, version.0))
}

/// Reads the variable's value; `None` when it is not one of ours.
pub(super) fn read(text: &str) -> Option<Mark> {
    let mut parts = text.splitn(4, '/');
    let mut part = || parts.next();
    let (renderer, incarnation, version, digest) = (part()?, part()?, part()?, part()?);
    Some(Mark {
        renderer: renderer.parse().ok()?,
        label: Label {
            incarnation: Incarnation(incarnation.parse().ok()?),
            version: ConfigVersion(version.parse().ok()?),
            digest: digest.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_survives_the_way_through_the_process() {
        let label = Label {
            incarnation: Incarnation(3),
            version: ConfigVersion(42),
            digest: "ab".repeat(32),
        };
        let text = write(&label).expect("a plain digest");
        assert!(text.starts_with("1/3/42/abab"));
        let renderer = RENDERER;
        assert_eq!(read(&text), Some(Mark { renderer, label }));
    }

    #[test]
    fn what_is_not_ours_is_no_label() {
        for text in ["", "7", "1/2/3", "x/1/2/ff", "1/x/2/ff"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
