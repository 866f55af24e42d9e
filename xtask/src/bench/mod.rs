//! Benchmarks: CPL beside its peers, as ratios of one run.

mod cases;
mod figures;
mod run;
mod targets;

pub(crate) use self::run::{Plan, bench};
