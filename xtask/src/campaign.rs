//! Crash campaigns for as long as one likes: kills, with seed after seed.

use std::time::Duration;

use crate::failure::Failure;
use crate::output;
use crate::process::{cargo, run, seconds, shown, timed};

/// What is killed. Each takes `CPL_KILL_ROUNDS` and `CPL_KILL_SEED`.
const CAMPAIGNS: [Campaign; 2] = [
    Campaign {
        package: "cpl-store-embedded",
        test: "campaign::nothing_acknowledged_or_shown_is_lost_to_kills",
    },
    Campaign {
        package: "cpl-server",
        test: "campaign::kills::nothing_told_is_lost_or_done_twice_when_the_server_is_killed",
    },
];

/// One test that kills.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    package: &'static str,
    test: &'static str,
}

/// How long, and with what.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Go on with further seeds until this many hours have passed; one seed of each campaign at least.
    #[arg(long, default_value_t = 0.0, value_parser = hours)]
    hours: f64,
    /// Kills for each seed of each campaign.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rounds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text
        .parse()
        .map_err(|_| "expected a number of hours".to_owned())?;
    if (0.0..=1_000.0).contains(&hours) {
        Ok(hours)
    } else {
        Err("expected 0 to 1000 hours".to_owned())
    }
}

impl Campaign {
    /// The words after `cargo` that run it.
    fn words(self) -> Vec<&'static str> {
        let test = [
            "test",
            "--release",
            "-p",
            self.package,
            "--test",
            "it",
            "--",
        ];
        let choice = ["--exact", self.test, "--nocapture"];
        test.into_iter().chain(choice).collect()
    }
}

/// Runs every campaign with one seed after the other.
///
/// # Errors
/// The first campaign that fails, with the line that repeats it.
pub(crate) fn campaign(plan: Plan) -> Result<(), Failure> {
    let time = Duration::from_secs_f64(plan.hours * 3_600.0);
    let mut passed = Duration::ZERO;
    let mut kills = 0;
    for seed in plan.seed.. {
        for campaign in CAMPAIGNS {
            passed += one(campaign, plan.rounds, seed)?;
            kills += plan.rounds;
            output::line(format_args!(
                "campaign: {kills} kills in {} so far, seed {seed}",
                seconds(passed)
            ));
        }
        if passed >= time {
            break;
        }
    }
    output::line(format_args!(
        "campaign: all ok, {kills} kills in {}",
        seconds(passed)
    ));
    Ok(())
}

fn one(campaign: Campaign, rounds: u64, seed: u64) -> Result<Duration, Failure> {
    let mut command = cargo(&campaign.words());
    let line = format!(
        "CPL_KILL_ROUNDS={rounds} CPL_KILL_SEED={seed} {}",
        shown(&command)
    );
    output::line(format_args!("campaign: {line}"));
    command.env("CPL_KILL_ROUNDS", rounds.to_string());
    command.env("CPL_KILL_SEED", seed.to_string());
    let (result, took) = timed(|| run(&mut command));
    match result {
        Ok(()) => Ok(took),
        Err(failure) => Err(Failure::new(format!("{failure}\nto repeat it:\n  {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_have_bounds() {
        assert_eq!(hours("0.5"), Ok(0.5));
        assert_eq!(hours("-1"), Err("expected 0 to 1000 hours".to_owned()));
        assert_eq!(hours("NaN"), Err("expected 0 to 1000 hours".to_owned()));
        assert_eq!(hours("two"), Err("expected a number of hours".to_owned()));
    }

    /// A renamed test would otherwise be a campaign of nothing that passes.
    #[test]
    fn the_tests_that_campaigns_run_are_there() {
        for Campaign { package, test } in CAMPAIGNS {
            let (module, name) = test.rsplit_once("::").unwrap();
            let path = module.replace("::", "/");
            let file = crate::process::root()
                .join(package)
                .join(format!("tests/it/{path}.rs"));
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("async fn {name}()")), "{test}");
        }
    }
}
