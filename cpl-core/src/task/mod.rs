//! Units of work that one holder at a time may do.
//!
//! What the fleet needs of it: one open `config_update` per node, which says what the node is being
//! brought to and why. It is bookkeeping that people can see; delivery never waits for it.

mod model;
mod repo;
mod rules;
#[cfg(test)]
mod tests;

pub use self::model::ConfigUpdate;
pub use self::repo::{CONFIG_UPDATE, config_update_key, keys};
pub use self::rules::{LEASE, Step, Wanted, step};
