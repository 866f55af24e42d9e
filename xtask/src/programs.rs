//! The programs that live tests start, and how they get onto this machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::process::{self, program, run};

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
struct Needed {
    program: &'static str,
    package: &'static str,
}

/// All programs that tests start.
const NEEDED: &[Needed] = &[
    Needed {
        program: "haproxy",
        package: "haproxy",
    },
    Needed {
        program: "curl",
        package: "curl",
    },
    Needed {
        program: "ip",
        package: "iproute2",
    },
    Needed {
        program: "gobgpd",
        package: "gobgpd",
    },
    Needed {
        program: "etcd",
        package: "etcd-server",
    },
    Needed {
        program: "initdb",
        package: "postgresql",
    },
];

/// Where Debian keeps the programs of PostgreSQL's server, a folder for each version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Whether a program is there, for the tests if not for everybody.
fn has(program: &str) -> bool {
    process::has(program) || postgres(program).is_some()
}

/// A program of PostgreSQL's server.
pub(crate) fn postgres(program: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(POSTGRES).into_iter().flatten().flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    let path = process::search_path();
    let mut found = bins
        .chain(std::env::split_paths(&path))
        .map(|bin| bin.join(program))
        .filter(|path| path.is_file());
    found.next()
}

/// Installs what is missing and returns the names of the packages.
///
/// # Errors
/// When something is missing and may not be installed from here; the message has the line to type.
pub(crate) fn install_missing() -> Result<Vec<&'static str>, Failure> {
    let packages = missing(NEEDED, has);
    if packages.is_empty() {
        return Ok(packages);
    }
    if !(is_root() && is_debian() && process::has("apt-get")) {
        return Err(Failure::new(advice(&packages)));
    }
    run(program("apt-get", &["update"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    run(program("apt-get", &install).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let still = missing(NEEDED, has);
    if still.is_empty() {
        return Ok(packages);
    }
    Err(Failure::new(format!(
        "apt-get installed {} without the programs that the tests need",
        still.join(" ")
    )))
}

/// The packages of programs that are not there.
fn missing(needed: &[Needed], has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let packages: BTreeSet<&str> = needed
        .iter()
        .filter(|needed| !has(needed.program))
        .map(|needed| needed.package)
        .collect();
    packages.into_iter().collect()
}

fn advice(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    format!(
        "the tests need programs that are not installed: {packages}\n\
         on Debian and Ubuntu, type:\n  \
         sudo apt-get update && sudo apt-get install --yes --no-install-recommends {packages}"
    )
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_missing_programs_are_named() {
        assert_eq!(missing(NEEDED, |name| name != "ip"), ["iproute2"]);
        assert!(missing(NEEDED, |_| true).is_empty());
    }

    #[test]
    fn advice_is_a_line_to_type() {
        assert!(
            advice(&["curl", "haproxy"])
                .ends_with("sudo apt-get install --yes --no-install-recommends curl haproxy")
        );
    }
}
