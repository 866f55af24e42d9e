//! Crashes and damage, on real files.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of tests by the letter"
)]

mod campaign;
mod damage;
mod faults;

mod model;
mod output;
mod platter;
mod world;
