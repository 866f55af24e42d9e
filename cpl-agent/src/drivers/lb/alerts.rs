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
        || message.contains("Some protocols failed to start their listeners")
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
        message: without_places(message),
    }
}

fn line_number(message: &str) -> Option<usize> {
    Some(place(message)?.line)
}

/// A `[<absolute path>:<line>]` in a message.
struct Place<'a> {
    before: &'a str,
    line: usize,
    after: &'a str,
}

/// The first place. An address in brackets looks alike, but has no `/`.
fn place(message: &str) -> Option<Place<'_>> {
    message.match_indices('[').find_map(|(at, _)| {
        let (inside, after) = message[at + 1..].split_once(']')?;
        let (path, line) = inside.rsplit_once(':')?;
        let before = &message[..at];
        let line = line.parse().ok().filter(|_| path.contains('/'))?;
        Some(Place {
            before,
            line,
            after,
        })
    })
}

/// The message without its places, which speak of a temporary file.
fn without_places(message: &str) -> String {
    let Some(place) = place(message) else {
        return message.trim().to_owned();
    };
    let before = place.before.trim_end().trim_end_matches("parsing");
    let after = place.after.trim_start_matches([' ', ':']);
    without_places(&format!("{before} {after}"))
}
