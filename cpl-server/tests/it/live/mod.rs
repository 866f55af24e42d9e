//! A server, agents as processes of their own, a real HAProxy behind each, and real traffic.

mod fleet;
mod holds;
mod outage;
mod traffic;
mod under_load;
