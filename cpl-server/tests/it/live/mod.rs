//! A server, agents as processes of their own, a real HAProxy behind each, and real traffic.

mod fleet;
mod full_disk;
mod holds;
mod outage;
mod process;
mod traffic;
mod under_load;
