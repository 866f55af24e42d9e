//! How a command ends: what the shell sees, and what a person reads when it went wrong.

use cpl_api::problem::Code;

use super::reasons;

/// What the program exits with. The numbers are a promise; the help of `cpl` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// Done.
    Success,
    /// `cpl diff` found differences.
    Differs,
    /// It failed, and nothing more precise is known.
    Failed,
    /// The command line, a manifest or a request is wrong.
    Invalid,
    /// There is no such object.
    NotFound,
    /// The server does not know or does not allow the caller.
    Auth,
    /// The state is not the one that was named, or somebody else was faster.
    Conflict,
    /// The server is not there, or it took too long.
    Unavailable,
    /// What was waited for can no longer come by itself.
    OtherState,
    /// The request was cancelled.
    Interrupted,
}

impl Exit {
    /// The process's exit status.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Differs | Self::Failed => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Auth => 4,
            Self::Conflict => 5,
            Self::Unavailable => 6,
            Self::OtherState => 7,
            Self::Interrupted => 130,
        }
    }

    /// What a canonical code of the server means here; the numbers agree with [`Code::exit`].
    pub const fn of(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::Interrupted,
            Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Self::Failed,
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Self::Auth,
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Self::Conflict,
            Code::DeadlineExceeded | Code::ResourceExhausted | Code::Unavailable => {
                Self::Unavailable
            },
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    details: Vec<String>,
    reason: Option<String>,
    request_id: Option<String>,
    silent: bool,
    unreached: bool,
}

impl Failure {
    /// A failure that is told in the line `what`.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            details: Vec::new(),
            reason: None,
            request_id: None,
            silent: false,
            unreached: false,
        }
    }

    /// The command line, a manifest or a setting is wrong.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, what)
    }

    /// Whoever read the output has gone: nothing is said and nothing is wrong, as in `cpl get | head`.
    pub fn reader_gone() -> Self {
        Self {
            silent: true,
            ..Self::new(Exit::Success, "nobody reads the output")
        }
    }

    /// The same failure, with another line below the first.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// The same failure, with the stable reason that `cpl explain` knows.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// The same failure, with the request that met it.
    #[must_use]
    pub fn request(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// The same failure where exit status 1 has another meaning, as in `cpl diff`.
    #[must_use]
    pub const fn never_one(mut self) -> Self {
        if self.exit.code() == 1 {
            self.exit = Exit::Invalid;
        }
        self
    }

    /// What the process exits with.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// A failure to reach a server, as opposed to what a server said.
    #[must_use]
    pub const fn unreached(mut self) -> Self {
        self.unreached = true;
        self
    }

    /// Whether no server was reached.
    pub const fn is_unreached(&self) -> bool {
        self.unreached
    }

    /// Everything that is said of it, line by line; nothing when there is nobody to tell.
    pub fn lines(&self) -> Vec<String> {
        if self.silent {
            return Vec::new();
        }
        let mut lines = vec![match &self.reason {
            Some(reason) => format!("error: {} ({reason})", self.what),
            None => format!("error: {}", self.what),
        }];
        lines.extend(self.details.iter().map(|detail| format!("  {detail}")));
        if let Some(id) = &self.request_id {
            lines.push(format!("  request id: {id}"));
        }
        if let Some(reason) = self
            .reason
            .as_deref()
            .filter(|r| reasons::find(r).is_some())
        {
            lines.push(format!("  more: cpl explain {reason}"));
        }
        lines
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// What every command returns.
pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 16] = [
        Code::Cancelled,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
        Code::Unknown,
    ];

    #[test]
    fn exits_agree_with_the_codes_of_the_wire() {
        for code in CODES {
            assert_eq!(Exit::of(code).code(), code.exit(), "{code:?}");
        }
    }

    #[test]
    fn a_failure_is_told_from_what_failed_to_where_to_read_more() {
        let failure = Failure::new(Exit::Conflict, "web was changed by somebody else")
            .because("ETAG_MISMATCH")
            .detail("/metadata/etag: expected u-2")
            .request("r1");
        assert_eq!(
            failure.lines().join("\n"),
            "error: web was changed by somebody else (ETAG_MISMATCH)\n  \
             /metadata/etag: expected u-2\n  request id: r1\n  more: cpl explain ETAG_MISMATCH"
        );
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        assert_eq!(Failure::reader_gone().exit().code(), 0);
        assert!(Failure::reader_gone().lines().is_empty());
    }

    #[test]
    fn one_never_means_failed_where_it_means_different() {
        let failed = Failure::new(Exit::Failed, "x").never_one();
        assert_eq!(failed.exit().code(), 2);
        let missing = Failure::new(Exit::NotFound, "x").never_one();
        assert_eq!(missing.exit().code(), 3);
    }
}
