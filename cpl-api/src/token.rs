//! Tokens: who may do what.

use cpl_core::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// What the holder of a token may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum Scope {
    /// Everything, tokens included.
    Admin,
    /// Read and change objects.
    Write,
    /// Read objects, history, status.
    Read,
    /// Register the agent of one node, within the token's life.
    Join {
        /// The node.
        node: String,
    },
    /// Speak for one node.
    Agent {
        /// The node.
        node: String,
    },
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Who holds it, as the audit names them.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
    /// How long it lives, in seconds; for ever when absent (never for a join token: 1 h).
    #[serde(default)]
    pub ttl_s: Option<u64>,
}

/// A token as it is listed: never its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its id, which may be shown.
    pub id: String,
    /// Who holds it.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The one answer that holds the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// What was made.
    #[serde(flatten)]
    pub token: TokenView,
    /// `cpl_<id>_<secret>`; the server keeps only its hash.
    pub secret: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/nodes/{name}:join`: makes the node when it does not exist, and a token for its agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// How long the token lives, in seconds; 3600 when absent, at most 86400.
    #[serde(default)]
    pub ttl_s: Option<u64>,
}
