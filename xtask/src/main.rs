//! The project's own tool: `cargo xtask verify` and `cargo xtask test` are what a change must pass.

mod backends;
mod bench;
mod campaign;
mod failure;
mod fix;
mod goldens;
mod output;
mod process;
mod programs;
mod test_run;
mod tidy;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checks, tests and mends the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check everything that can be checked without running tests; writes nothing.
    ///
    /// In turn: formatting, tidy, clippy with warnings denied, the documentation of public and private
    /// items with warnings denied, and whether generated files are what their commands write now.
    /// Stops at the first step that fails, and exits with 1.
    Verify,
    /// Look for mechanical signs of drift from STYLE.md and ARCHITECTURE.md.
    ///
    /// Prints every finding as `path:line: rule: message`, then figures about the tree; exits with 1
    /// if there is a finding. What is checked is the table in `xtask/src/tidy/table.rs`: who may import
    /// whom, the order of slices and files, lengths, banned words, comments, names, import groups.
    Tidy,
    /// Run all tests: examples in the documentation, unit and integration tests, live tests.
    ///
    /// Live tests start real programs (haproxy, curl, ip). On Debian and Ubuntu, run as root, missing
    /// ones are installed with apt; otherwise the line to type is printed and nothing is run.
    ///
    /// Uses cargo-nextest where it is installed, `cargo test` otherwise. Goes on after a failure, ends
    /// with a summary, and exits with 1 if anything failed.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test -- -p cpl-core\n  \
                            cargo xtask test -- stale_version"
    )]
    Test {
        /// Arguments for `cargo nextest run` or `cargo test`: packages, name filters. With any, the
        /// examples in the documentation are left out.
        #[arg(last = true, value_name = "ARGS")]
        rest: Vec<String>,
    },
    /// Measure CPL, beside its peers when it is told where they are, and say which targets are met.
    ///
    /// Runs each program alone, one after the other, in rounds, and compares medians of the same run: only
    /// those are comparable. Prints one line per target; writes every figure and a table below
    /// `target/bench`. Do nothing else on the machine meanwhile. Takes about four minutes a round with
    /// peers. `BIN` names a folder with the peers' programs already built, `ETCD35` an etcd. See
    /// docs/benchmarks.md.
    #[command(
        after_help = "Examples:\n  cargo xtask bench --peers ../peers\n  cargo xtask bench --only store\n  cargo xtask bench --curves --rounds 1"
    )]
    Bench(bench::Plan),
    /// Kill stores and servers at moments of chance, and look for what they had told.
    ///
    /// Runs the crash campaigns in release, one seed after the other, until the time is up. Each says
    /// what was under way at its kills. Stops at the first one that fails, says how to repeat it, and
    /// exits with 1. See docs/internals/crash-campaigns.md.
    #[command(
        after_help = "Examples:\n  cargo xtask campaign\n  cargo xtask campaign --hours 8 --seed 1000"
    )]
    Campaign(campaign::Plan),
    /// Start or stop an etcd and a PostgreSQL to try CPL on.
    ///
    /// Both listen on loopback, ask for no password, and keep what they hold in a temporary folder.
    #[command(subcommand)]
    Backends(Backends),
    /// Mend what a machine can mend: clippy's suggestions, formatting, generated files.
    ///
    /// Writes into the tree, uncommitted changes or not. Review what changed before committing it.
    Fix,
}

/// What to do with them.
#[derive(Debug, Subcommand)]
enum Backends {
    /// Start both, and print the URLs for `cpl serve --store`.
    Up,
    /// Stop both, and remove what they hold.
    Down,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Verify => verify::verify(),
        Command::Tidy => tidy::tidy(),
        Command::Test { rest } => test_run::test(&rest),
        Command::Bench(plan) => bench::bench(&plan),
        Command::Campaign(plan) => campaign::campaign(plan),
        Command::Backends(Backends::Up) => backends::up(),
        Command::Backends(Backends::Down) => backends::down(),
        Command::Fix => fix::fix(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::problem(failure);
            ExitCode::FAILURE
        },
    }
}
