//! Applies all rules to the tree.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, Dependency, DependencyKind, MetadataCommand, Package};

use super::crates::{self, Crate, Edge};
use super::finding::Finding;
use super::source::Source;
use super::statistics::statistics;
use super::{imports, layout, text};
use crate::failure::Failure;
use crate::{output, process};

/// Checks the tree, prints all findings and the figures.
///
/// # Errors
/// When there is a finding, or the tree cannot be read.
pub(crate) fn tidy() -> Result<(), Failure> {
    let root = process::root();
    let crates = crates(&root)?;
    let mut findings = crates::check(&crates);
    findings.extend(retries(&root)?);
    let mut sources = Vec::new();
    for path in rust_files(&root)? {
        match source(&root, &path)? {
            Ok(source) => {
                findings.extend(check(&source));
                sources.push(source);
            },
            Err(finding) => findings.push(finding),
        }
    }
    findings.sort();
    findings.dedup();
    for finding in &findings {
        output::line(finding);
    }
    for line in statistics(crates.len(), &sources) {
        output::line(line);
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(Failure::new("tidy has 1 finding")),
        many => Err(Failure::new(format!("tidy has {many} findings"))),
    }
}

/// All findings about one file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = layout::check(source);
    findings.extend(text::check(source));
    findings.extend(imports::check(source));
    findings
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| Failure::new(format!("cannot read {}: {error}", path.display()))
}

fn source(root: &Path, path: &Path) -> Result<Result<Source, Finding>, Failure> {
    let text = fs::read_to_string(path).map_err(unreadable(path))?;
    let name = relative(root, path);
    Ok(Source::read(&name, &text).map_err(|error| {
        let line = error.span().start().line;
        Finding::new(&name, line, "syntax", error.to_string())
    }))
}

/// A path from the folder of the workspace, with `/`.
fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

/// All Rust files below a folder, in order; hidden folders and build output are left out.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(unreadable(&folder))? {
            let entry = entry.map_err(unreadable(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(unreadable(&folder))?;
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                open.push(entry.path());
            } else if kind.is_file() && Path::new(&name).extension().is_some_and(|e| e == "rs") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The crates of the workspace, as cargo sees them.
fn crates(root: &Path) -> Result<Vec<Crate>, Failure> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .no_deps()
        .exec()
        .map_err(|error| Failure::new(format!("cargo metadata: {error}")))?;
    metadata
        .packages
        .iter()
        .map(|package| {
            let path = package.manifest_path.as_std_path();
            Ok(Crate {
                folder: folder(root, package),
                edges: package
                    .dependencies
                    .iter()
                    .map(|dependency| edge(root, dependency))
                    .collect(),
                manifest: fs::read_to_string(path).map_err(unreadable(path))?,
            })
        })
        .collect()
}

fn folder(root: &Path, package: &Package) -> String {
    let path = package.manifest_path.as_std_path();
    relative(root, path.parent().unwrap_or(path))
}

fn edge(root: &Path, dependency: &Dependency) -> Edge {
    let ours = dependency
        .path
        .as_ref()
        .map(|path| relative(root, path.as_std_path()));
    Edge {
        ours: ours.is_some(),
        to: ours.unwrap_or_else(|| dependency.name.clone()),
        tests: dependency.kind == DependencyKind::Development,
        features: dependency.features.clone(),
    }
}

/// A test that passes the second time is a bug: nextest repeats nothing.
fn retries(root: &Path) -> Result<Vec<Finding>, Failure> {
    let name = ".config/nextest.toml";
    let path = root.join(name);
    let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
    Ok(retries_in(name, &text))
}

/// The lines of a nextest configuration that repeat tests.
pub(crate) fn retries_in(name: &str, text: &str) -> Vec<Finding> {
    (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| {
            let (key, value) = line.split_once('=')?;
            let value = value.split('#').next().unwrap_or(value).trim();
            (key.trim() == "retries" && value != "0").then(|| {
                let message = "a test is never repeated: a flake is a bug";
                Finding::new(name, number, "test-retries", message)
            })
        })
        .collect()
}
