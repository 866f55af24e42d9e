//! Files that a command generates and that are kept in the tree, so that a change of them is seen.

use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::{output, process};

/// A generated file.
#[derive(Debug)]
pub(crate) struct Golden {
    /// The file, from the folder of the workspace.
    pub(crate) path: &'static str,
    /// The arguments of the cargo command that writes it to standard output.
    pub(crate) command: &'static [&'static str],
}

/// All generated files.
pub(crate) const GOLDENS: &[Golden] = &[Golden {
    path: "docs/reference/cli.md",
    command: &[
        "run",
        "--quiet",
        "--package",
        "cpl-server",
        "--bin",
        "cpl",
        "--",
        "help-markdown",
    ],
}];

/// Compares every generated file with what its command writes now.
///
/// # Errors
/// When one differs or cannot be made; the message says where they part.
pub(crate) fn check() -> Result<(), Failure> {
    for golden in GOLDENS {
        let fresh = process::read(&mut process::cargo(golden.command))?;
        let kept = fs::read_to_string(process::root().join(golden.path)).unwrap_or_default();
        if let Some(line) = first_difference(&kept, &fresh) {
            return Err(Failure::new(format!(
                "{}:{line}: not what its command writes now; if the change is wanted, run `cargo xtask fix` and review it",
                golden.path
            )));
        }
    }
    output::line(format_args!("goldens: {} compared", GOLDENS.len()));
    Ok(())
}

/// Writes every generated file anew.
///
/// # Errors
/// When one cannot be made or written.
pub(crate) fn regenerate() -> Result<(), Failure> {
    for golden in GOLDENS {
        let fresh = process::read(&mut process::cargo(golden.command))?;
        write(&process::root().join(golden.path), &fresh)?;
    }
    output::line(format_args!("goldens: {} written", GOLDENS.len()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot write {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// The first line, from 1, where two texts differ.
fn first_difference(kept: &str, fresh: &str) -> Option<usize> {
    if kept == fresh {
        return None;
    }
    let same = kept
        .split_inclusive('\n')
        .zip(fresh.split_inclusive('\n'))
        .take_while(|(kept, fresh)| kept == fresh)
        .count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_do_not_differ() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    }

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a\n", "a"), Some(1));
    }
}
