//! Tokens: who may do what.

use std::fmt::{Debug, Formatter};
use std::str::FromStr;

use cpl_core::access;
use cpl_core::clock::Timestamp;
use cpl_core::ids::IdGen;
use serde::{Deserialize, Serialize};

/// The whole of a token, `cpl_<id>_<secret>`: whoever has it is its holder.
///
/// `Debug` shows the id only; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

/// The text is no token. It is not repeated here, since it may be a mistyped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a token, cpl_<id>_<secret>")]
pub struct BadToken;

impl BearerToken {
    /// A fresh one.
    pub fn draw(ids: &dyn IdGen) -> Self {
        Self(access::Secret::draw(ids).reveal().to_owned())
    }

    /// The id, which may be shown.
    pub fn id(&self) -> &str {
        access::parse(&self.0).unwrap_or_default()
    }

    /// What a server keeps of it: the SHA-256 of the whole, in hexadecimal.
    pub fn sha256(&self) -> String {
        access::hash(&self.0)
    }

    /// The whole text, for the header or the file that it goes into. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for BearerToken {
    type Err = BadToken;

    /// Spaces and line ends around it do not matter, since tokens come from files.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        access::parse(text).ok_or(BadToken)?;
        Ok(Self(text.to_owned()))
    }
}

impl Debug for BearerToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BearerToken")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

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

impl Debug for CreatedToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_its_id_and_never_its_secret() {
        let secret = "5ec7".repeat(16);
        let text = format!("cpl_{}_{secret}", "ab12".repeat(4));
        let token: BearerToken = format!("{text}\n").parse().unwrap();
        assert_eq!(token.id(), "ab12ab12ab12ab12");
        assert_eq!(token.reveal(), text);
        assert!(!format!("{token:?}").contains("5ec7"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "cpl_", "cpl_a_b", "cpl_ab12ab12ab12ab12_5ec7"] {
            assert_eq!(text.parse::<BearerToken>(), Err(BadToken), "{text}");
        }
    }
}
