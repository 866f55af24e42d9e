//! Mends what a machine can mend.

use crate::failure::Failure;
use crate::goldens;
use crate::process::{cargo, run};

/// Applies clippy's suggestions, formats, and writes the generated files anew.
///
/// # Errors
/// When one of the programs fails.
pub(crate) fn fix() -> Result<(), Failure> {
    run(&mut cargo(&[
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
    ]))?;
    run(&mut cargo(&["fmt", "--all"]))?;
    goldens::regenerate()
}
