//! Runs the tests and says what was run.

use std::time::Duration;

use crate::failure::Failure;
use crate::process::{cargo, has, run, seconds, shown, timed};
use crate::{output, programs};

/// What ran, how it ended, how long it took.
#[derive(Debug)]
struct Ran {
    command: String,
    ok: bool,
    duration: Duration,
}

/// Installs what is missing, runs all tests, and sums up.
///
/// # Errors
/// When a program is missing or a test fails.
pub(crate) fn test(rest: &[String]) -> Result<(), Failure> {
    let installed = programs::install_missing()?;
    let installed = if installed.is_empty() {
        "nothing to install".to_owned()
    } else {
        format!("installed {}", installed.join(" "))
    };
    output::line(format_args!("test: {installed}"));
    let ran: Vec<Ran> = commands(has_nextest(), rest)
        .iter()
        .map(|args| one(args))
        .collect();
    output::line("test: summary");
    output::line(format_args!("  {installed}"));
    for Ran {
        command,
        ok,
        duration,
    } in &ran
    {
        let end = if *ok { "ok    " } else { "FAILED" };
        output::line(format_args!("  {end} {:>9}  {command}", seconds(*duration)));
    }
    let failed = ran.iter().filter(|ran| !ran.ok).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "test: {failed} of {} runs failed",
        ran.len()
    )))
}

fn has_nextest() -> bool {
    has("cargo-nextest")
        || std::env::var_os("CARGO_HOME")
            .map(std::path::PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
            .is_some_and(|home| home.join("bin/cargo-nextest").is_file())
}

fn one(args: &[String]) -> Ran {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = cargo(&args);
    let name = shown(&command);
    output::line(format_args!("test: {name}"));
    let (result, duration) = timed(|| run(&mut command));
    if let Err(failure) = &result {
        output::problem(failure);
    }
    Ran {
        command: name,
        ok: result.is_ok(),
        duration,
    }
}

/// The cargo commands to run. Live tests share ports and addresses and run one at a time: nextest
/// knows it from its configuration; under `cargo test` they are a run of their own. A filter of the
/// caller cannot be joined with that of live tests there, so then everything runs one at a time.
fn commands(nextest: bool, rest: &[String]) -> Vec<Vec<String>> {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let plain = "test --no-fail-fast --lib --bins --tests --examples";
    // Cargo would take a package beside `--workspace` as no choice at all.
    let chosen = rest
        .iter()
        .any(|word| word.starts_with("-p") || word.starts_with("--package"));
    let scope = if chosen {
        Vec::new()
    } else {
        words("--workspace")
    };
    match (nextest, rest.is_empty()) {
        (true, true) => vec![
            words("test --workspace --doc"),
            words("nextest run --workspace --no-fail-fast"),
        ],
        (false, true) => vec![
            words("test --workspace --doc"),
            words(&format!("{plain} --workspace -- --skip live::")),
            words(&format!("{plain} --workspace -- live:: --test-threads=1")),
        ],
        (true, false) => {
            vec![[words("nextest run --no-fail-fast"), scope, rest.to_vec()].concat()]
        },
        (false, false) => {
            let end = words("-- --test-threads=1");
            vec![[words(plain), scope, rest.to_vec(), end].concat()]
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nextest: bool, rest: &[&str], expected: &[&str]) {
        let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
        let commands: Vec<String> = commands(nextest, &rest)
            .iter()
            .map(|args| args.join(" "))
            .collect();
        assert_eq!(commands, expected);
    }

    #[test]
    fn nextest_gets_one_run_beside_the_doctests() {
        check(
            true,
            &[],
            &[
                "test --workspace --doc",
                "nextest run --workspace --no-fail-fast",
            ],
        );
    }

    #[test]
    fn cargo_test_runs_live_tests_apart_and_one_at_a_time() {
        check(
            false,
            &[],
            &[
                "test --workspace --doc",
                "test --no-fail-fast --lib --bins --tests --examples --workspace -- --skip live::",
                "test --no-fail-fast --lib --bins --tests --examples --workspace -- live:: --test-threads=1",
            ],
        );
    }

    #[test]
    fn arguments_of_the_caller_are_handed_on() {
        check(
            true,
            &["-p", "cpl-core", "stale"],
            &["nextest run --no-fail-fast -p cpl-core stale"],
        );
        check(
            false,
            &["stale"],
            &[
                "test --no-fail-fast --lib --bins --tests --examples --workspace stale -- --test-threads=1",
            ],
        );
    }
}
