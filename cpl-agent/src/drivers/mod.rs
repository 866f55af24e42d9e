//! The drivers: one folder per system, one per data plane inside it.
