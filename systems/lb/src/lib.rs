//! The load-balancer fleet: target groups spread over nodes.
//!
//! Pure like the core: [`spec`] is what people write and its validation, [`kinds`] is what the core has
//! to know of it, [`checks`] judges objects in view of others, [`plan`] renders what one node must run,
//! [`observed`] is what nodes report. The hands are `cpl-agent`'s driver `lb`.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod checks;
pub mod kinds;
pub mod observed;
pub mod plan;
pub mod spec;

#[cfg(test)]
mod tests;
