//! What CPL costs, measured: one JSON line per case, in the form of the programs that measure its
//! peers, for `cargo xtask bench` to compare.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement takes the real time, and one that cannot go on has nothing to report"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures are printed with three digits"
)]

mod agents;
mod fleet;
mod latency;
mod output;
mod process;
mod serve;
mod store;
mod streams;

use clap::{Parser, Subcommand};
use tikv_jemallocator::Jemalloc;

/// The one of `cpl`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Measures CPL; every subcommand prints one JSON line per case on standard output.
#[derive(Debug, Parser)]
#[command(name = "cpl-bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum What {
    /// The embedded store, in this process.
    #[command(subcommand)]
    Store(store::Case),
    /// A server in a process of its own, with agents and watchers in this one.
    #[command(subcommand)]
    Fleet(fleet::Case),
    /// The server of `fleet`: answers on standard output, takes commands on standard input.
    #[command(hide = true)]
    Serve(serve::Arguments),
}

#[tokio::main]
async fn main() {
    match Arguments::parse().what {
        What::Store(case) => store::run(case).await,
        What::Fleet(case) => fleet::run(case).await,
        What::Serve(arguments) => serve::run(arguments).await,
    }
}
