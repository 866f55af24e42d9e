//! The form of tokens, and what each scope allows. Pure.

use std::fmt::{Debug, Formatter};

use sha2::{Digest, Sha256};

use super::model::Scope;
use crate::ids::IdGen;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Reading objects, history and status.
    Read,
    /// Changing objects.
    Write,
    /// Tokens, audit, whole stores.
    Admin,
    /// Registering the agent of a node.
    Register(&'a str),
    /// Speaking for a node.
    Speak(&'a str),
}

/// Whether a scope is enough for a need.
pub fn allows(scope: &Scope, need: Need<'_>) -> bool {
    match (scope, need) {
        (Scope::Admin, Need::Read | Need::Write | Need::Admin) => true,
        (Scope::Write, Need::Read | Need::Write) => true,
        (Scope::Read, Need::Read) => true,
        (Scope::Join { node }, Need::Register(wanted)) => node == wanted,
        (Scope::Agent { node }, Need::Register(wanted) | Need::Speak(wanted)) => node == wanted,
        (
            Scope::Admin | Scope::Write | Scope::Read | Scope::Join { .. } | Scope::Agent { .. },
            Need::Read | Need::Write | Need::Admin | Need::Register(_) | Need::Speak(_),
        ) => false,
    }
}

/// A token in full: `cpl_<id>_<secret>`. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Draws a token; 256 bits of it are secret.
    pub fn draw(ids: &dyn IdGen) -> Self {
        let id = format!("{:032x}", ids.fresh());
        Self(format!(
            "cpl_{}_{:032x}{:032x}",
            &id[..16],
            ids.fresh(),
            ids.fresh()
        ))
    }

    /// The text, for its holder alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The id of a token, or `None` when the text has not the form of one.
pub fn parse(token: &str) -> Option<&str> {
    let (id, secret) = token.strip_prefix("cpl_")?.split_once('_')?;
    let hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    (hex(id, 16) && hex(secret, 64)).then_some(id)
}

/// What is stored of a token. The secret is 256 random bits, so a plain hash is enough.
pub fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Compares two hashes without telling by its time where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .fold(0, |acc, (x, y)| acc | (x ^ y))
            == 0
}
