//! Where tokens lie.

use crate::txn::{Command, KeyKind, KeyRow, TypedKey};

/// Tokens by id.
pub const TOKEN: KeyKind<Command> = KeyKind::new("/cpl/v1/tokens/{id}");

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![TOKEN.row()]
}

/// A token.
pub fn token_key(id: &str) -> TypedKey<Command> {
    TOKEN.key(&[id])
}
