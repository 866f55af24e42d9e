//! `cpl wait`, and waiting for other commands.

use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use cpl_api::client::ControlPlaneClient;
use cpl_api::object::{Convergence, RolloutNode, RolloutResponse};
use cpl_core::clock::Monotonic;
use cpl_core::fields::Span;
use cpl_core::ids::Uid;
use cpl_core::version::ConfigVersion;
use futures::future::{Either, select};

use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::session::Session;
use super::views;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `cpl wait` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WaitArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// What to wait for: `converged` (every node that is concerned runs the newest change),
    /// `version=N` (each of them has accepted everything up to version N), or `deleted`
    #[arg(long = "for", value_name = "GOAL", default_value = "converged")]
    pub goal: Goal,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "60s")]
    pub timeout: Span,
}

/// Waits.
///
/// # Errors
/// The time is over, or the goal is out of reach.
pub async fn run(args: &WaitArgs, session: &mut Session<'_>) -> Outcome {
    let object = Selection::one(&args.object).map_err(Failure::invalid)?;
    let deadline = session.clock.monotonic().plus(args.timeout.0);
    until(&object, &args.goal, deadline, session).await?;
    Ok(Exit::Success)
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Every node that is concerned runs the newest change.
    Converged,
    /// Every node that is concerned has accepted everything up to a version.
    Version(
        /// The version.
        ConfigVersion,
    ),
    /// The object is gone.
    Deleted,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let version = text
            .strip_prefix("version=")
            .and_then(|number| number.parse().ok());
        match (text, version) {
            ("converged", _) => Ok(Self::Converged),
            ("deleted", _) => Ok(Self::Deleted),
            (_, Some(version)) => Ok(Self::Version(ConfigVersion(version))),
            (_, None) => Err("expected converged, version=N or deleted".to_owned()),
        }
    }
}

/// Reads a length of time.
///
/// # Errors
/// What would be right.
pub fn span(text: &str) -> Result<Span, String> {
    Span::parse(text).ok_or_else(|| "expected a time like 500ms, 30s, 5m or 1h".to_owned())
}

/// How things stand at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What was waited for is there.
    Reached,
    /// It may come; this is what it waits for.
    Coming(String),
    /// It cannot come by itself; this is why.
    Stuck(String),
}

/// Waits for a goal until `deadline`, and shows how far it is.
///
/// The first look must succeed, so that a wrong address is told at once; later ones are forgiven, since
/// a server that is restarted must not end the wait.
///
/// # Errors
/// The deadline has passed, or the goal is out of reach.
pub async fn until(
    object: &Named,
    goal: &Goal,
    deadline: Monotonic,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let mut uid = None;
    let mut last: Option<Standing> = None;
    loop {
        let late = session.clock.sleep_until(deadline);
        let seen = match select(pin!(look(object, goal, &mut uid, &session.client)), late).await {
            Either::Left((seen, _)) => seen,
            Either::Right(_) => return Err(too_late(object, last)),
        };
        let standing = match (seen, &last) {
            (Ok(standing), _) => standing,
            (Err(failure), Some(_)) if failure.exit() == Exit::Unavailable => {
                Standing::Coming(failure.to_string())
            },
            (Err(failure), Some(_)) if failure.exit() == Exit::NotFound => {
                Standing::Stuck("it was deleted".to_owned())
            },
            (Err(failure), _) => return Err(failure),
        };
        match &standing {
            Standing::Reached => {
                session.out.say(&format!("{object}: {}", done(goal)));
                return Ok(());
            },
            Standing::Stuck(why) => {
                return Err(Failure::new(Exit::OtherState, format!("{object}: {why}")));
            },
            Standing::Coming(what) => session.out.progress(&format!("{object}: {what}")),
        }
        last = Some(standing);
        if session.clock.monotonic() >= deadline {
            return Err(too_late(object, last));
        }
        session.clock.sleep(LOOK_EVERY).await;
    }
}

fn done(goal: &Goal) -> String {
    match goal {
        Goal::Converged => "every node runs it".to_owned(),
        Goal::Version(version) => format!("every node has accepted version {version}"),
        Goal::Deleted => "deleted".to_owned(),
    }
}

fn too_late(object: &Named, last: Option<Standing>) -> Failure {
    let what = match last {
        Some(Standing::Coming(what)) => format!("{object}: not in time; {what}"),
        Some(Standing::Reached | Standing::Stuck(_)) | None => format!("{object}: not in time"),
    };
    Failure::new(Exit::Unavailable, what)
}

async fn look(
    object: &Named,
    goal: &Goal,
    uid: &mut Option<Uid>,
    client: &ControlPlaneClient,
) -> Result<Standing, Failure> {
    let Named { kind, name } = object;
    match goal {
        Goal::Converged => Ok(converged(&client.rollout(*kind, name).await?)),
        Goal::Version(version) => Ok(accepted(*version, &client.rollout(*kind, name).await?)),
        Goal::Deleted => match client.get(*kind, name).await.map_err(Failure::from) {
            Err(failure) if failure.exit() == Exit::NotFound => Ok(Standing::Reached),
            Err(failure) => Err(failure),
            // One that was made anew under the name is another one.
            Ok(now) if *uid.get_or_insert(now.metadata.uid) != now.metadata.uid => {
                Ok(Standing::Reached)
            },
            Ok(_) => Ok(Standing::Coming("it is still there".to_owned())),
        },
    }
}

/// How the newest change of an object stands.
pub fn converged(rollout: &RolloutResponse) -> Standing {
    if rollout.complete {
        return Standing::Reached;
    }
    let missing = rollout
        .nodes
        .iter()
        .filter(|node| node.convergence != Convergence::Converged);
    standing(rollout.nodes.len(), &missing.collect::<Vec<_>>())
}

fn accepted(version: ConfigVersion, rollout: &RolloutResponse) -> Standing {
    let missing: Vec<_> = rollout
        .nodes
        .iter()
        .filter(|node| node.current < version)
        .collect();
    if missing.is_empty() {
        return Standing::Reached;
    }
    standing(rollout.nodes.len(), &missing)
}

fn standing(all: usize, missing: &[&RolloutNode]) -> Standing {
    let named: Vec<_> = missing.iter().take(3).map(|node| told(node)).collect();
    let more = match missing.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let nodes = format!("{}{more}", named.join("; "));
    let held = missing
        .iter()
        .all(|node| node.convergence == Convergence::Held);
    if held && !missing.is_empty() {
        return Standing::Stuck(format!("it is refused by {nodes}"));
    }
    let there = all.saturating_sub(missing.len());
    Standing::Coming(format!("{there} of {all} nodes; waiting for {nodes}"))
}

fn told(node: &RolloutNode) -> String {
    let word = views::word(node.convergence);
    if node.reason.is_empty() {
        return format!("{} ({word})", node.node);
    }
    format!("{} ({word}: {})", node.node, node.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, current: u64, convergence: Convergence) -> RolloutNode {
        RolloutNode {
            node: name.to_owned(),
            desired: ConfigVersion(9),
            current: ConfigVersion(current),
            convergence,
            reason: String::new(),
        }
    }

    fn rollout(nodes: Vec<RolloutNode>) -> RolloutResponse {
        RolloutResponse {
            config_version: ConfigVersion(9),
            complete: nodes
                .iter()
                .all(|node| node.convergence == Convergence::Converged),
            nodes,
        }
    }

    #[test]
    fn a_rollout_is_coming_while_any_node_may_still_come() {
        let one = node("node-1", 9, Convergence::Converged);
        let held = node("node-2", 8, Convergence::Held);
        let pending = node("node-3", 8, Convergence::Pending);
        let all = vec![one.clone(), held.clone(), pending];
        assert_eq!(
            converged(&rollout(all)),
            Standing::Coming(
                "1 of 3 nodes; waiting for node-2 (held); node-3 (pending)".to_owned()
            )
        );
        assert_eq!(
            converged(&rollout(vec![one.clone(), held])),
            Standing::Stuck("it is refused by node-2 (held)".to_owned())
        );
        assert_eq!(converged(&rollout(vec![one])), Standing::Reached);
        assert_eq!(converged(&rollout(Vec::new())), Standing::Reached);
    }

    #[test]
    fn a_version_is_reached_when_every_node_has_accepted_it() {
        let held = node("node-2", 8, Convergence::Held);
        let nodes = rollout(vec![node("node-1", 9, Convergence::Converged), held]);
        assert_eq!(accepted(ConfigVersion(8), &nodes), Standing::Reached);
        assert!(matches!(
            accepted(ConfigVersion(9), &nodes),
            Standing::Stuck(_)
        ));
    }

    #[test]
    fn goals_are_read() {
        assert_eq!("converged".parse(), Ok(Goal::Converged));
        assert_eq!("version=12".parse(), Ok(Goal::Version(ConfigVersion(12))));
        assert_eq!("deleted".parse(), Ok(Goal::Deleted));
        assert!("version=x".parse::<Goal>().is_err());
    }
}
