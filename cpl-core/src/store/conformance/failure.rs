//! What a case found.

use std::fmt::{Display, Formatter};

use crate::store::Error;

/// What a store did instead of what was expected. `Display` says both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    pub(super) case: &'static str,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            case: "",
            message: message.into(),
        }
    }

    /// The case that failed.
    pub const fn case(&self) -> &'static str {
        self.case
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.case, self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(format!("an unexpected error: {error} ({:?})", error.kind()))
    }
}
