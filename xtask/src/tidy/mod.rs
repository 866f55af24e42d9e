//! Mechanical signs of drift: what a reviewer would otherwise have to look for.
//!
//! [`table`] says what is checked, as data. [`source`] reads a file into tokens with tests marked;
//! [`crates`], [`layout`] and [`text`] are the rules; [`run`] applies them to the tree and reports.

mod crates;
mod finding;
mod imports;
mod layout;
mod paths;
mod run;
mod source;
mod statistics;
mod table;
mod text;

#[cfg(test)]
mod tests;

pub(crate) use self::run::tidy;
