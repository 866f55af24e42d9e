//! The server over real connections.

mod api;
mod harness;
mod live;
mod versions;
