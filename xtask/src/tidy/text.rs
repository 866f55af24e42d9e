//! Rules over what is written: banned words, suppressions without a reason, comments, type names.

use super::finding::Finding;
use super::source::{Comment, Source, Token};
use super::table::{BANNED, Banned, EMPTY_ENDINGS};

/// All findings of this kind about one file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = BANNED
        .iter()
        .flat_map(|banned| occurrences(source, banned))
        .collect();
    findings.extend(reasons(source));
    findings.extend(type_names(source));
    findings.extend(
        source
            .comments
            .iter()
            .filter_map(|comment| remark(source, comment)),
    );
    findings
}

fn counts(banned: &Banned, path: &str) -> bool {
    let inside = banned.only.is_empty() || banned.only.iter().any(|start| path.starts_with(start));
    let excepted = banned.except.iter().any(|place| {
        place
            .strip_prefix('*')
            .map_or_else(|| path.starts_with(place), |end| path.ends_with(end))
    });
    inside && !excepted
}

fn occurrences(source: &Source, banned: &Banned) -> Vec<Finding> {
    if !counts(banned, &source.path) {
        return Vec::new();
    }
    let wanted: Vec<&str> = banned.tokens.split(' ').collect();
    let shown = banned.tokens.replace(' ', "");
    source
        .tokens
        .windows(wanted.len())
        .filter(|some| {
            some.iter()
                .zip(&wanted)
                .all(|(token, want)| token.text == *want)
        })
        .filter(|some| banned.tests || !some[0].is_test)
        .map(|some| {
            let message = format!("`{shown}`: {}", banned.instead);
            Finding::new(&source.path, some[0].line, "banned", message)
        })
        .collect()
}

/// Whoever expects a lint says why.
fn reasons(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, two) in source.tokens.windows(2).enumerate() {
        let attribute = two[0].text == "[" && two[1].text == "expect" && at > 0;
        if !attribute || !matches!(source.tokens[at - 1].text.as_str(), "#" | "!") {
            continue;
        }
        let inside = source.tokens[at + 2..]
            .iter()
            .take_while(|token| token.text != "]");
        if !inside.into_iter().any(|token| token.text == "reason") {
            let message = "`#[expect]` needs a reason";
            findings.push(Finding::new(&source.path, two[1].line, "reason", message));
        }
    }
    findings
}

/// Types are named after what they are.
fn type_names(source: &Source) -> Vec<Finding> {
    let declares =
        |token: &Token| matches!(token.text.as_str(), "struct" | "enum" | "trait" | "type");
    source
        .tokens
        .windows(2)
        .filter(|two| declares(&two[0]) && two[1].is_word() && !two[0].is_test)
        .filter_map(|two| {
            let name = &two[1].text;
            let ending = EMPTY_ENDINGS
                .iter()
                .find(|ending| name.ends_with(*ending))?;
            let message = format!("`{name}`: `{ending}` says nothing, name what it is");
            Some(Finding::new(
                &source.path,
                two[1].line,
                "type-name",
                message,
            ))
        })
        .collect()
}

fn remark(source: &Source, comment: &Comment) -> Option<Finding> {
    let found =
        |message: String| Some(Finding::new(&source.path, comment.line, "comment", message));
    for word in ["FIXME", "XXX", "TODO"] {
        if has_word(&comment.text, word) && !names_issue(&comment.text, word) {
            return found(format!(
                "`{word}`: open an issue and name it, `TODO(#12)`, or mend it now"
            ));
        }
    }
    if comment.is_doc() && is_ignored_fence(&comment.text) {
        return found("an example that is not compiled: mend it or make it text".to_owned());
    }
    if !comment.is_doc() && is_code(&comment.text) {
        return found("commented-out code: delete it".to_owned());
    }
    None
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|part| part == word)
}

/// Whether the number of an issue, as in `(#12)`, follows the word wherever it stands.
fn names_issue(text: &str, word: &str) -> bool {
    word == "TODO"
        && text.split(word).skip(1).all(|rest| {
            let number = rest
                .strip_prefix("(#")
                .and_then(|rest| rest.split_once(')'))
                .map_or("", |(number, _)| number);
            !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
        })
}

fn is_ignored_fence(text: &str) -> bool {
    text.split_once("```")
        .is_some_and(|(_, info)| info.split(',').any(|word| word.trim() == "ignore"))
}

/// Whether a remark reads like a statement: prose has a space before its brackets and seldom a
/// semicolon at the end.
fn is_code(text: &str) -> bool {
    let Some(text) = text.strip_prefix("//").map(str::trim) else {
        return false;
    };
    let call = text.ends_with(");")
        && text.split_once('(').is_some_and(|(name, _)| {
            name.ends_with(|c: char| c.is_alphanumeric() || "_!>".contains(c))
        });
    let import = text.starts_with("use ") && text.contains("::") && text.ends_with(';');
    let binding = text.starts_with("let ") && text.ends_with(';');
    call || import || binding || text.starts_with("#[") || text == "}"
}
