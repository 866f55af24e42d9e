//! Every bound of the core, with its reason.

use std::time::Duration;

/// Longest key. etcd has no limit of its own; 1 KiB keeps an index page useful everywhere.
pub const KEY_BYTES: usize = 1_024;
/// Largest value. Below etcd's 1.5 MiB request limit with room for keys and compares.
pub const VALUE_BYTES: usize = 1 << 20;
/// Most compares, and most puts and deletes, in one transaction. etcd refuses more than 128; the rest
/// is room for the records that a backend adds.
pub const TXN_OPS: usize = 100;
/// Largest transaction: keys and values together.
pub const TXN_BYTES: usize = 1 << 20;
/// Most entries of one page of a list.
pub const PAGE_ENTRIES: usize = 1_000;
/// Most bytes of one page of a list, but always at least one entry.
pub const PAGE_BYTES: usize = 4 << 20;
/// How long the outcome of a transaction with an id is kept: longer than any send deadline.
pub const OUTCOME_RETENTION: Duration = Duration::from_hours(24);
