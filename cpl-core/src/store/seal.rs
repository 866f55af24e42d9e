//! How far a store is in its life, which backends record beside its identity.

use serde::{Deserialize, Serialize};

use super::types::Identity;
use crate::ids::SealId;

/// What keeps a store from taking writes, as backends record it beside the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seal {
    /// It was moved, or is about to be; see [`Store::seal`](super::Store::seal).
    Moved(
        /// By whom.
        SealId,
    ),
    /// It is not complete: only who made it may write, until [`Store::unseal`](super::Store::unseal).
    Filling(
        /// Who made it.
        SealId,
    ),
}

/// What is expected of the place where a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// A store is there.
    Existing,
    /// One is there, or an empty one is made.
    ExistingOrNew,
    /// None is there: one with this identity is made, for its opener to fill and for nobody else until
    /// [`Store::unseal`](super::Store::unseal).
    New(
        /// A life that no store had before.
        Identity,
    ),
}
