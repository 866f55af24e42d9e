//! What a command that talks to a server works with, and how the server's refusals are told.

use std::sync::Arc;

use cpl_api::client::ControlPlaneClient;
use cpl_api::error::ControlPlaneError;
use cpl_core::clock::Clock;
use serde::Serialize;
use serde_json::Value;

use super::failure::{Exit, Failure};
use super::output::Output;

/// A server, time, and the person at the terminal.
#[derive(Debug)]
pub struct Session<'a> {
    /// The server.
    pub client: ControlPlaneClient,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The person.
    pub out: &'a mut Output,
}

impl From<ControlPlaneError> for Failure {
    fn from(error: ControlPlaneError) -> Self {
        refusal(&error, &str::to_owned)
    }
}

/// The failure that an error of the server or of the way to it is; `place` turns a pointer into the
/// request into a place that the person knows.
pub fn refusal(error: &ControlPlaneError, place: &dyn Fn(&str) -> String) -> Failure {
    let exit = Exit::of(error.code());
    match error {
        ControlPlaneError::Transport(error) => {
            Failure::new(exit, format!("failed to {error}")).unreached()
        },
        ControlPlaneError::Problem(problem) => {
            let mut failure =
                Failure::new(exit, problem.detail.clone()).because(problem.reason.clone());
            for field in &problem.errors {
                let place = place(&field.pointer);
                failure = failure.detail(format!("{place}: {}: {}", field.code, field.detail));
            }
            if let Some(wait) = problem.retry_after_ms {
                let seconds = wait.div_ceil(1_000);
                failure = failure.detail(format!("try again after {seconds} s"));
            }
            if problem.instance.is_empty() {
                return failure;
            }
            failure.request(problem.instance.clone())
        },
    }
}

/// The answer of a write. When the answer was lost, the failure says that the write may have happened.
///
/// # Errors
/// The server's refusal, or what happened on the way.
pub fn wrote<R>(answer: Result<R, ControlPlaneError>) -> Result<R, Failure> {
    answer.map_err(|error| {
        let failure = refusal(&error, &str::to_owned);
        if is_unsure(&error) {
            return failure.detail(UNSURE);
        }
        failure
    })
}

/// Said when the answer to a write was lost.
pub const UNSURE: &str = "it may have happened all the same; look before you repeat it";

/// Whether a write that ended so may have happened.
pub const fn is_unsure(error: &ControlPlaneError) -> bool {
    match error {
        ControlPlaneError::Transport(error) => error.maybe_delivered(),
        ControlPlaneError::Problem(_) => false,
    }
}

/// An answer of the API as a value, for `-o json` and `-o yaml`.
///
/// # Errors
/// JSON cannot say it; every answer came as JSON.
pub fn to_value<T: Serialize>(answer: &T) -> Result<Value, Failure> {
    serde_json::to_value(answer)
        .map_err(|error| Failure::new(Exit::Failed, format!("JSON cannot say this: {error}")))
}

/// How many entries of a list are read when nobody says how many.
pub const MOST_LISTED: usize = 10_000;

/// Reads how many entries are wanted.
///
/// # Errors
/// What would be right.
pub fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=MOST_LISTED).contains(n));
    number.ok_or_else(|| format!("expected a number from 1 to {MOST_LISTED}"))
}

/// All pages of a list, up to `most` entries: `$page` is called with each [`Page`] to ask for.
///
/// [`Page`]: cpl_api::routes::Page
macro_rules! pages {
    ($most:expr, |$page:ident| $call:expr) => {{
        let most: usize = $most;
        let mut items = Vec::new();
        let mut token = None;
        loop {
            let size = u32::try_from(most - items.len()).unwrap_or(u32::MAX);
            let asked = cpl_api::routes::Page {
                page_size: Some(size.min(1_000)),
                page_token: token,
            };
            let $page = &asked;
            let answer = $call.await?;
            items.extend(answer.items);
            token = answer.next_page_token;
            if token.is_none() || items.len() >= most {
                items.truncate(most);
                break items;
            }
        }
    }};
}
pub(super) use pages;
