//! Rules over crates: who imports whom, which foreign crates they name, their lints.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::table::{FOREIGN_ALONE, FOREIGN_FEATURES, FOREIGN_OF_PURE, IMPORTS, Imports};

/// A crate of the workspace.
#[derive(Debug)]
pub(crate) struct Crate {
    /// Its folder from that of the workspace: `systems/lb`.
    pub(crate) folder: String,
    /// What its manifest names.
    pub(crate) edges: Vec<Edge>,
    /// Its manifest.
    pub(crate) manifest: String,
}

/// A dependency.
#[derive(Debug)]
pub(crate) struct Edge {
    /// The package, or the folder when it is one of ours.
    pub(crate) to: String,
    /// Whether it is one of ours.
    pub(crate) ours: bool,
    /// Whether only tests use it.
    pub(crate) tests: bool,
    /// Features that are asked for.
    pub(crate) features: Vec<String>,
}

/// All findings about the crates.
pub(crate) fn check(crates: &[Crate]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = crates
        .iter()
        .flat_map(|krate| {
            let mut found = workspace_imports(krate);
            found.extend(foreign_imports(krate));
            found.extend(lints(krate));
            found
        })
        .collect();
    findings.extend(cycles(crates));
    findings
}

fn finding(krate: &Crate, needle: &str, rule: &'static str, message: String) -> Finding {
    let line = (1..)
        .zip(krate.manifest.lines())
        .find(|(_, line)| line.starts_with(needle))
        .map_or(1, |(number, _)| number);
    Finding::new(&format!("{}/Cargo.toml", krate.folder), line, rule, message)
}

/// Whether a pattern of the table names this crate.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == name, |start| name.starts_with(start))
}

fn any_fits(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

fn workspace_imports(krate: &Crate) -> Vec<Finding> {
    let Some(Imports { code, tests, .. }) = IMPORTS.iter().find(|row| fits(row.of, &krate.folder))
    else {
        let message = format!(
            "`{}` has no row in the import table: decide what it may import",
            krate.folder
        );
        return vec![finding(krate, "[package]", "crate-import", message)];
    };
    krate
        .edges
        .iter()
        .filter(|edge| edge.ours)
        .filter(|edge| {
            let allowed = any_fits(code, &edge.to) || edge.tests && any_fits(tests, &edge.to);
            !allowed
        })
        .map(|edge| {
            let who = if edge.tests { "tests of " } else { "" };
            let message = format!("{who}`{}` may not import `{}`", krate.folder, edge.to);
            let name = edge.to.rsplit('/').next().unwrap_or(&edge.to);
            finding(krate, name, "crate-import", message)
        })
        .collect()
}

fn foreign_imports(krate: &Crate) -> Vec<Finding> {
    let mut findings = Vec::new();
    for edge in krate.edges.iter().filter(|edge| !edge.ours) {
        for (foreign, ours) in FOREIGN_ALONE {
            if edge.to == *foreign && krate.folder != *ours {
                let message = format!("only `{ours}` may name `{foreign}`");
                findings.push(finding(krate, foreign, "foreign-crate", message));
            }
        }
        if edge.tests {
            continue;
        }
        for (ours, allowed) in FOREIGN_OF_PURE {
            if fits(ours, &krate.folder) && !allowed.contains(&edge.to.as_str()) {
                let message = format!(
                    "`{}` is not on the list of `{ours}`, which is pure",
                    edge.to
                );
                findings.push(finding(krate, &edge.to, "foreign-crate", message));
            }
        }
        for (ours, foreign, allowed) in FOREIGN_FEATURES {
            let wrong = edge
                .features
                .iter()
                .find(|feature| !allowed.contains(&feature.as_str()));
            if let (true, true, Some(feature)) =
                (fits(ours, &krate.folder), edge.to == *foreign, wrong)
            {
                let message =
                    format!("of `{foreign}` only {allowed:?} may be used here, not `{feature}`");
                findings.push(finding(krate, foreign, "foreign-crate", message));
            }
        }
    }
    findings
}

fn lints(krate: &Crate) -> Option<Finding> {
    let mut lines = krate
        .manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
    (!found).then(|| {
        let message = "the manifest needs `[lints]` with `workspace = true`".to_owned();
        finding(krate, "[package]", "workspace-lints", message)
    })
}

/// Crates that can reach themselves; tests may close a circle, code may not.
fn cycles(crates: &[Crate]) -> Vec<Finding> {
    let next: BTreeMap<&str, Vec<&str>> = crates
        .iter()
        .map(|krate| {
            let edges = krate.edges.iter().filter(|edge| edge.ours && !edge.tests);
            (
                krate.folder.as_str(),
                edges.map(|edge| edge.to.as_str()).collect(),
            )
        })
        .collect();
    crates
        .iter()
        .filter(|krate| reachable(&next, &krate.folder).contains(krate.folder.as_str()))
        .map(|krate| {
            let message = format!("`{}` imports itself in a circle", krate.folder);
            finding(krate, "[dependencies]", "crate-circle", message)
        })
        .collect()
}

fn reachable<'a>(next: &BTreeMap<&'a str, Vec<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = next.get(from).cloned().unwrap_or_default();
    while let Some(folder) = open.pop() {
        if seen.insert(folder) {
            open.extend(next.get(folder).into_iter().flatten());
        }
    }
    seen
}
