//! The server over real connections.

mod api;
mod harness;
mod versions;
