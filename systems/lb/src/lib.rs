//! The load-balancer fleet: target groups spread over nodes.
//!
//! Pure like the core: [`spec`] is what people write and its validation, [`plan`] renders what one
//! node must run, [`observed`] is what nodes report. The hands are `cpl-agent`'s driver `lb`.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod checks;
pub mod observed;
pub mod plan;
pub mod spec;
