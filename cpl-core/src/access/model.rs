//! What a token is.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What the holder of a token may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum Scope {
    /// Everything, tokens included.
    Admin,
    /// Read and change objects.
    Write,
    /// Read objects, history and status.
    Read,
    /// Register the agent of one node.
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

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Who holds it.
    pub name: String,
    /// What they may do.
    #[serde(flatten)]
    pub scope: Scope,
    /// SHA-256 of the whole token, in hexadecimal.
    pub sha256: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The id of their token.
    pub token: String,
    /// Their name, for the audit.
    pub name: String,
    /// What they may do.
    pub scope: Scope,
}
