//! HAProxy for `cpl dev`: found, or installed where that is possible and allowed.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::agent::find_program;
use crate::cli::agent::DriverName;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Output;

const APT: [&str; 4] = ["install", "-y", "--no-install-recommends", "haproxy"];

/// The driver that this machine can have.
pub(super) fn driver(
    wanted: Option<DriverName>,
    no_install: bool,
    out: &mut Output,
) -> Result<DriverName, Failure> {
    if wanted == Some(DriverName::Render) {
        return Ok(DriverName::Render);
    }
    let found = || find_program(Path::new("haproxy")).is_some();
    if found() {
        return Ok(DriverName::Haproxy);
    }
    let line = format!("apt-get {}", APT.join(" "));
    if !no_install && is_root() && has_apt() {
        out.say(&format!("HAProxy is missing; installing it: {line}"));
        if install() && found() {
            return Ok(DriverName::Haproxy);
        }
        out.warn("installing HAProxy failed");
    }
    let hint = format!("HAProxy is missing. On Debian or Ubuntu, type as root: {line}");
    if wanted == Some(DriverName::Haproxy) {
        return Err(Failure::new(Exit::Failed, hint));
    }
    out.warn(&hint);
    out.warn("going on with the render driver: files only, no data plane, no traffic");
    Ok(DriverName::Render)
}

fn install() -> bool {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        // What apt says belongs with the talk, not with the data.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()));
        command.status().is_ok_and(|status| status.success())
    };
    // Lists that are out of date do no harm as long as the package is found.
    let _updated = apt(&["update", "-qq"]);
    // Debian starts the service of a package it installs; this HAProxy is not wanted as a service.
    let installed = apt(&APT);
    if installed {
        let stop = |verb: &str| {
            Command::new("systemctl")
                .args([verb, "haproxy"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        };
        // Without systemd there is no service to stop.
        let _stopped = stop("stop");
        let _disabled = stop("disable");
    }
    installed
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Linux shows each process as a folder that belongs to its user.
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn has_apt() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let family = release.lines().any(|line| {
        let (name, value) = line.split_once('=').unwrap_or_default();
        let names = value.trim_matches('"').split_whitespace();
        matches!(name, "ID" | "ID_LIKE")
            && names.into_iter().any(|n| matches!(n, "debian" | "ubuntu"))
    });
    family && find_program(Path::new("apt-get")).is_some()
}
