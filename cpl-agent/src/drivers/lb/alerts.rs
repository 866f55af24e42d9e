//! What HAProxy complains about, as rejections of the objects that caused it. Pure.

use cpl_core::delivery::Stage;

use super::render::Rendered;
use crate::driver::Rejection;

/// Reads the alerts of `haproxy -c`, or of its log, that speak of `rendered`.
///
/// An alert names the file and line in one of several forms, or not at all; warnings are no reason to
/// refuse anything.
pub(super) fn rejections(output: &str, rendered: &Rendered, stage: Stage) -> Vec<Rejection> {
    let mut rejections: Vec<Rejection> = output
        .lines()
        .filter_map(alert)
        .filter(|message| !is_summary(message))
        .map(|message| rejection(message, rendered, stage))
        .collect();
    rejections.dedup();
    rejections
}

fn alert(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("[ALERT]")?;
    let (_, message) = rest.split_once(" : ")?;
    Some(message.strip_prefix("config : ").unwrap_or(message))
}

/// Sentences that say only that there were others.
fn is_summary(message: &str) -> bool {
    message.starts_with("Error(s) found in configuration file")
        || message.starts_with("Fatal errors found in configuration")
        || message.starts_with("[haproxy.main()] Some protocols failed to start")
        || message.starts_with("Some protocols failed to start")
}

fn rejection(message: &str, rendered: &Rendered, stage: Stage) -> Rejection {
    let origin = line_number(message).and_then(|line| rendered.origin(line));
    let code = if message.contains("(Address already in use)") {
        "ADDRESS_IN_USE"
    } else if message.contains("(Cannot assign requested address)") {
        "ADDRESS_NOT_AVAILABLE"
    } else {
        "CONFIG_INVALID"
    };
    Rejection {
        object: origin.map(|origin| origin.object.clone()),
        stage,
        code: code.to_owned(),
        field: origin
            .map(|origin| origin.field.clone())
            .filter(|field| !field.is_empty()),
        message: without_place(message).to_owned(),
    }
}

/// The number in the first `[<file>:<number>]`.
fn line_number(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once('[')?;
    let (place, _) = rest.split_once(']')?;
    place.rsplit_once(':')?.1.parse().ok()
}

/// The message after the places, which are those of a temporary file.
fn without_place(message: &str) -> &str {
    let mut rest = message;
    loop {
        let trimmed = rest.trim_start_matches("parsing ").trim_start();
        let is_place = trimmed.starts_with('[') && line_number(trimmed).is_some();
        match trimmed.split_once(']') {
            Some((_, after)) if is_place => rest = after.trim_start_matches([' ', ':']),
            Some(_) | None => return rest,
        }
    }
}
