//! Stores with one defect each: what the suite must notice.
//!
//! A suite is worth what it refuses. [`Mutant`] puts one [`Defect`] before a correct store; every
//! defect fails a case, and every case fails for some defect. Whoever writes a harness of their own
//! can see with them that it reports.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each place names the defects that it knows, and all others leave it as it is"
)]

mod defect;
mod lists;
mod store;
mod watches;

pub use self::defect::Defect;
pub use self::store::Mutant;
