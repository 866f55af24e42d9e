//! The four ways to write, each with the keys that it may touch and the guard that it carries.
//!
//! | constructor | who and what | guarded by |
//! |---|---|---|
//! | [`SpecTxn`] | people's configuration | `global_version` and the objects' revisions |
//! | [`CommandTxn`] | people's other writes | the record's revision or absence |
//! | [`ClaimTxn`] | taking ownership | the old record |
//! | [`FencedTxn`] | everything that a holder writes | the epoch of its [`Fence`] |
//!
//! A [`Table`](KeyKind) row gives each key its class, and a constructor takes keys of its own class
//! only: writing another one does not compile.

mod model;
mod repo;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use self::model::{
    AuditRecord, Claim, Class, Command, Held, IdempotencyRecord, KeyKind, KeyRow, Record, Spec,
    TypedKey, overlaps,
};
pub use self::repo::{AUDIT, IDEMPOTENCY, ROOT, audit_key, decode, idempotency_key, keys};
pub use self::rules::{ClaimTxn, CommandTxn, Fence, FencedTxn, Guard, SpecTxn};
pub use self::service::{Settled, commit};
