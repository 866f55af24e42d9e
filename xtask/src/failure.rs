//! Why a command ended without success.

use std::error::Error;
use std::fmt::{Display, Formatter, Result as FmtResult};

/// A message for the person at the terminal: what failed, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure with its message.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}
