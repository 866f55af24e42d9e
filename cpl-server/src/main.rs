//! The `cpl` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    cpl_server::cli::main()
}
