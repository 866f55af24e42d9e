//! `cpl agent`: what can be said on its command line. The agent itself is not here.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What an agent drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DriverName {
    /// A HAProxy process, which carries traffic.
    Haproxy,
    /// Files only: nothing listens and no traffic flows.
    Render,
}

/// What `cpl agent` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct AgentArgs {
    /// The node that this machine is
    #[arg(long, env = "CPL_NODE", value_name = "NAME", value_parser = super::kind::node_name)]
    pub node: String,
    /// The servers, from the global option `--server`; the next is used when one fails.
    #[arg(skip)]
    pub server: Vec<String>,
    /// Certificates to trust, from the global option `--ca`.
    #[arg(skip)]
    pub ca: Option<PathBuf>,
    /// Where the agent keeps its token and the last good configuration [default:
    /// /var/lib/cpl-agent/NODE]
    #[arg(long, env = "CPL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where sockets and process ids go [default: /run/cpl-agent/NODE]
    #[arg(long, env = "CPL_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// The token of `cpl node join`, needed until the agent has registered for the first time
    #[arg(long, env = "CPL_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// What the agent drives
    #[arg(
        long,
        env = "CPL_DRIVER",
        value_enum,
        value_name = "DRIVER",
        default_value = "haproxy"
    )]
    pub driver: DriverName,
    /// The HAProxy program
    #[arg(
        long,
        env = "CPL_HAPROXY",
        value_name = "PATH",
        default_value = "haproxy"
    )]
    pub haproxy: PathBuf,

    /// The program `gobgp`, for nodes that announce prefixes
    #[arg(long, value_name = "PATH", env = "CPL_GOBGP", default_value = "gobgp")]
    pub gobgp: PathBuf,

    /// Where gobgpd answers: `ADDRESS:PORT` or `unix://PATH`
    #[arg(
        long,
        value_name = "TARGET",
        env = "CPL_GOBGP_TARGET",
        default_value = "127.0.0.1:50051"
    )]
    pub gobgp_target: String,
    /// Stop the data plane when the agent ends; without it traffic flows on
    #[arg(long)]
    pub stop_data_plane_on_exit: bool,
    /// End when stdin ends, so that the agent does not outlive whoever started it
    #[arg(long)]
    pub exit_with_stdin: bool,
}

impl AgentArgs {
    /// Where the agent keeps what has to survive a restart.
    pub fn state_dir(&self) -> PathBuf {
        let default = || PathBuf::from("/var/lib/cpl-agent").join(&self.node);
        self.state_dir.clone().unwrap_or_else(default)
    }

    /// Where it keeps what must not.
    pub fn runtime_dir(&self) -> PathBuf {
        let default = || PathBuf::from("/run/cpl-agent").join(&self.node);
        self.runtime_dir.clone().unwrap_or_else(default)
    }
}
