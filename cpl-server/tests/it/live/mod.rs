//! A server, agents as processes of their own, a real HAProxy behind each, and real traffic.

pub(crate) mod fleet;
mod full_disk;
mod holds;
mod outage;
pub(crate) mod process;
mod traffic;
mod under_load;
