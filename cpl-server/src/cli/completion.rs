//! `cpl completion`.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

/// What `cpl completion` takes.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The script.
pub fn script(shell: Shell, mut command: Command) -> String {
    let mut script = Vec::new();
    generate(shell, &mut command, "cpl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
