//! The drivers that this agent has, one folder for each system.

pub mod lb;
