//! How an agent is set up.

use std::path::PathBuf;
use std::time::Duration;

use cpl_api::http::HttpConfig;
use cpl_core::fields;

/// What an agent must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The node that it speaks for.
    pub node: String,
    /// The replicas of the control plane, `https://host:port`; the first is used until it fails.
    pub servers: Vec<String>,
    /// Certificates in PEM that are trusted instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Where the last good configuration and the agent's own token are kept; made when absent, and
    /// used by one agent at a time.
    pub state_dir: PathBuf,
    /// The file with the token to register with the first time; not needed later.
    pub join_token_file: Option<PathBuf>,
    /// Ends the data plane with the agent. For `cpl dev` and tests: otherwise traffic is left alone.
    pub stop_data_plane_on_exit: bool,
}

/// An agent cannot be set up like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentConfigError {
    /// The node's name is none.
    #[error(
        "`{node}` is no name for a node: 1 to 63 lower-case letters, digits or `-`, with a letter or digit at both ends"
    )]
    BadNode {
        /// What was given.
        node: String,
    },
    /// No server was named.
    #[error("a server is needed")]
    NoServer,
    /// No directory was named.
    #[error("a state directory is needed")]
    NoStateDir,
}

impl AgentConfig {
    /// Finds what is wrong without touching anything. Servers are parsed where they are connected to.
    pub fn validate(&self) -> Result<(), AgentConfigError> {
        if fields::check_name(&self.node).is_err() {
            return Err(AgentConfigError::BadNode {
                node: self.node.clone(),
            });
        }
        if self.servers.is_empty() {
            return Err(AgentConfigError::NoServer);
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(AgentConfigError::NoStateDir);
        }
        Ok(())
    }

    pub(super) fn http(&self) -> HttpConfig {
        HttpConfig {
            servers: self.servers.clone(),
            ca_file: self.ca_file.clone(),
            connect_timeout: Duration::from_secs(5),
            user_agent: concat!("cpl-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
