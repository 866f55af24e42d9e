//! `cpl dev`: what can be said on its command line. What it starts is not here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::agent::DriverName;

/// What `cpl dev` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DevArgs {
    /// The folder for its state; remove it to begin anew
    #[arg(long, value_name = "DIR", default_value = ".cpl-dev")]
    pub dir: PathBuf,
    /// Where the server listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Install nothing that is missing on this machine
    #[arg(long)]
    pub no_install: bool,
    /// How many nodes to run, each with addresses of its own from 127.0.0.11 on
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub nodes: u8,
    /// What the agents drive; haproxy when it can be had, otherwise render
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub driver: Option<DriverName>,
}
