//! The paths that a file names, `use` trees unfolded, and what they mean inside its crate.

use super::source::{Source, Token};

/// A path such as `crate::lease::Epoch`, wherever it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its names; `*` for a glob.
    pub(crate) names: Vec<String>,
    /// The line.
    pub(crate) line: usize,
    /// How many modules with a body inside the file it lies in.
    pub(crate) depth: usize,
    /// Whether a test names it.
    pub(crate) is_test: bool,
}

/// All paths of a file; a lone name counts as a path of one.
pub(crate) fn named(source: &Source) -> Vec<Named> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 1
            && tokens[at - 1].text == "::"
            && (tokens[at - 2].is_word() || tokens[at - 2].text == ">");
        at = if tokens[at].is_word() && !continues {
            unfold(tokens, at, &[], &mut found)
        } else {
            at + 1
        };
    }
    found
}

/// Reads the path that starts at `at`, after the names of the tree around it; returns where it ends.
fn unfold(tokens: &[Token], at: usize, around: &[String], found: &mut Vec<Named>) -> usize {
    let mut names = around.to_vec();
    names.push(tokens[at].text.clone());
    let mut next = at + 1;
    while text(tokens, next) == "::" {
        let follows = tokens.get(next + 1);
        match follows {
            Some(token) if token.text == "{" => return members(tokens, next + 2, &names, found),
            Some(token) if token.is_word() || token.text == "*" => {
                names.push(token.text.clone());
                next += 2;
            },
            _ => break,
        }
    }
    found.push(Named {
        names,
        line: tokens[at].line,
        depth: tokens[at].depth,
        is_test: tokens[at].is_test,
    });
    next
}

/// Reads the members of a `use` tree up to its closing brace; returns the place after it.
fn members(tokens: &[Token], from: usize, around: &[String], found: &mut Vec<Named>) -> usize {
    let mut at = from;
    while at < tokens.len() {
        match text(tokens, at) {
            "}" => return at + 1,
            "as" => at += 2,
            "*" => {
                let mut names = around.to_vec();
                names.push("*".to_owned());
                found.push(Named {
                    names,
                    line: tokens[at].line,
                    depth: tokens[at].depth,
                    is_test: tokens[at].is_test,
                });
                at += 1;
            },
            _ if tokens[at].is_word() => at = unfold(tokens, at, around, found),
            _ => at += 1,
        }
    }
    at
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// The module of a file inside its crate: `["lease", "model"]` for `src/lease/model.rs`.
pub(crate) fn module(path_in_src: &str) -> Vec<String> {
    let path = path_in_src.strip_suffix(".rs").unwrap_or(path_in_src);
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main"))
    {
        parts.pop();
    }
    parts
}

/// The path from the crate's root, when `named` starts with `crate`, `self` or `super`.
pub(crate) fn absolute(module: &[String], named: &Named) -> Option<Vec<String>> {
    let first = named.names.first()?;
    if first == "crate" {
        return Some(named.names[1..].to_vec());
    }
    if first != "self" && first != "super" {
        return None;
    }
    let ups = named
        .names
        .iter()
        .skip(usize::from(first == "self"))
        .take_while(|name| *name == "super")
        .count();
    // A module with a body lies below the file; its own names are never those of a slice.
    let ups_from_file = ups.saturating_sub(named.depth);
    let keep = module.len().saturating_sub(ups_from_file);
    let mut path = module[..keep].to_vec();
    if named.depth > ups {
        path.push("{}".to_owned());
    }
    let rest = usize::from(first == "self") + ups;
    path.extend(named.names[rest..].iter().cloned());
    Some(path)
}
