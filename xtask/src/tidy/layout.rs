//! Rules over places: which file may exist, and what it may name because of where it stands.

use super::finding::Finding;
use super::paths::{self, Named};
use super::source::Source;
use super::table::{
    BESIDE_SLICES, EMPTY_NAMES, FILE_ORDER, FILES_OF, MOST_FN_LINES, MOST_LINES, PURE_CRATES,
    PURE_FILES, SLICE_FILES, SLICES, SYSTEM_FILES,
};

/// All findings of this kind about one file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = lengths(source);
    findings.extend(file_name(source));
    findings.extend(wildcard_lint(source));
    findings.extend(purity(source));
    findings.extend(store_door(source));
    findings.extend(slice_order(source));
    findings
}

/// Files and functions are short.
fn lengths(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.lines > MOST_LINES {
        let message = format!("{} lines without tests, at most {MOST_LINES}", source.lines);
        findings.push(Finding::new(&source.path, 1, "file-length", message));
    }
    let long = source
        .functions
        .iter()
        .filter(|function| function.length > MOST_FN_LINES && !function.long_on_purpose);
    findings.extend(long.map(|function| {
        let message = format!(
            "`{}` has {} lines, at most {MOST_FN_LINES}",
            function.name, function.length
        );
        Finding::new(&source.path, function.line, "function-length", message)
    }));
    findings
}

/// The path below `src` of a crate whose folder starts so, with the first folder below it.
fn in_crate<'a>(source: &'a Source, start: &str) -> Option<&'a str> {
    let rest = source.path.strip_prefix(start)?;
    rest.split_once("src/").map(|(_, path)| path)
}

/// Files have the names that their siblings have.
fn file_name(source: &Source) -> Option<Finding> {
    let wrong = |message: String| Some(Finding::new(&source.path, 1, "file-name", message));
    let folder = source.path.rsplit('/').nth(1).unwrap_or_default();
    for name in [source.stem(), folder] {
        if EMPTY_NAMES.contains(&name) {
            return wrong(format!("`{name}` says nothing: name what is in it"));
        }
    }
    let (owner, name, allowed) = if let Some(path) = in_crate(source, "systems/") {
        ("a system", first_name(path), SYSTEM_FILES)
    } else {
        let (slice, path) = in_crate(source, "cpl-core/")?.split_once('/')?;
        if !SLICES.contains(&slice) {
            return wrong(format!("`{slice}` is not a slice; they are {SLICES:?}"));
        }
        let own = FILES_OF.iter().find(|(of, _)| *of == slice);
        (
            slice,
            first_name(path),
            own.map_or(SLICE_FILES, |(_, names)| names),
        )
    };
    if allowed.contains(&name) {
        return None;
    }
    wrong(format!("{owner} has no `{name}`, it may have {allowed:?}"))
}

/// The first file or folder of a path, without ending.
fn first_name(path: &str) -> &str {
    let name = path.split('/').next().unwrap_or(path);
    name.strip_suffix(".rs").unwrap_or(name)
}

/// A new state forces every `match` of core and systems to be looked at again.
fn wildcard_lint(source: &Source) -> Option<Finding> {
    let is_root = PURE_CRATES
        .iter()
        .any(|start| in_crate(source, start) == Some("lib.rs"));
    let has = source.tokens.windows(3).any(|three| {
        three.iter().map(|token| token.text.as_str()).eq([
            "clippy",
            "::",
            "wildcard_enum_match_arm",
        ])
    });
    (is_root && !has).then(|| {
        let message = "the crate needs `#![warn(clippy::wildcard_enum_match_arm)]`";
        Finding::new(&source.path, 1, "wildcard-lint", message)
    })
}

/// Pure files neither wait nor know a store.
fn purity(source: &Source) -> Vec<Finding> {
    let pure = PURE_CRATES
        .iter()
        .any(|start| source.path.starts_with(start))
        && PURE_FILES.contains(&source.stem());
    let words = source
        .tokens
        .iter()
        .filter(|token| pure && !token.is_test)
        .filter(|token| matches!(token.text.as_str(), "async" | "Store"));
    words
        .map(|token| {
            let message = format!("`{}` in a pure file: it belongs in service.rs", token.text);
            Finding::new(&source.path, token.line, "pure-file", message)
        })
        .collect()
}

/// Of the core, backends know what `cpl_core::store` shows and nothing else.
fn store_door(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("cpl-store-") {
        return Vec::new();
    }
    paths::named(source)
        .iter()
        .filter(|named| !named.is_test && named.names[0] == "cpl_core")
        .filter(|named| named.names.get(1).is_none_or(|second| second != "store"))
        .map(|named| {
            let message = format!(
                "a backend may name `cpl_core::store` only, not `{}`",
                named.names.join("::")
            );
            Finding::new(&source.path, named.line, "store-door", message)
        })
        .collect()
}

/// A slice imports those before it, a file those to its left.
fn slice_order(source: &Source) -> Vec<Finding> {
    let Some(path) = in_crate(source, "cpl-core/") else {
        return Vec::new();
    };
    let module = paths::module(path);
    if module.is_empty() || source.is_test {
        return Vec::new();
    }
    paths::named(source)
        .iter()
        .filter(|named| !named.is_test)
        .filter_map(|named| Some((named, paths::absolute(&module, named)?)))
        .filter_map(|(named, target)| against_order(source, &module, named, &target))
        .collect()
}

fn against_order(
    source: &Source,
    module: &[String],
    named: &Named,
    target: &[String],
) -> Option<Finding> {
    let slice = |path: &[String]| {
        let name = path.first()?;
        SLICES.iter().position(|slice| slice == name)
    };
    let to = slice(target)?;
    let Some(from) = slice(module) else {
        let exception = (module[0].as_str(), SLICES[to]);
        let message = format!(
            "`{}` stands beside the slices and may not use `{}`",
            module[0], SLICES[to]
        );
        return (!BESIDE_SLICES.contains(&exception))
            .then(|| Finding::new(&source.path, named.line, "slice-order", message));
    };
    if to > from {
        let message = format!(
            "`{}` comes before `{}` and may not import it",
            SLICES[from], SLICES[to]
        );
        return Some(Finding::new(
            &source.path,
            named.line,
            "slice-order",
            message,
        ));
    }
    let file = |path: &[String]| {
        let name = path.get(1)?;
        FILE_ORDER.iter().position(|file| file == name)
    };
    let (left, right) = (file(module)?, file(target)?);
    (to == from && right > left).then(|| {
        let message = format!(
            "`{}` stands left of `{}` and may not import it",
            FILE_ORDER[left], FILE_ORDER[right]
        );
        Finding::new(&source.path, named.line, "file-order", message)
    })
}
