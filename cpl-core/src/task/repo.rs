//! Where tasks lie.

use crate::txn::{Held, KeyKind, KeyRow, TypedKey};

/// The open `config_update` of each node.
pub const CONFIG_UPDATE: KeyKind<Held> = KeyKind::new("/cpl/v1/tasks/config_update/{id}");

/// The rows of this slice.
pub fn keys() -> Vec<KeyRow> {
    vec![CONFIG_UPDATE.row()]
}

/// The task of a node: its key is made from the node, so there is never a second one.
pub fn config_update_key(node: &str) -> TypedKey<Held> {
    CONFIG_UPDATE.key(&[&format!("task-{node}")])
}
