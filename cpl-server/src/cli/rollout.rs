//! `cpl rollout`.

use clap::{Args, Subcommand};
use cpl_api::object::RolloutResponse;
use cpl_core::fields::Span;

use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::output::View;
use super::session::{Session, to_value};
use super::table::{Cell, Table};
use super::views;
use super::wait::{self, Goal, Standing, span};

/// Tells how far the newest change of an object has come.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RolloutCommand {
    /// Print every node that is concerned, and whether it is there
    ///
    /// Exits with 7 when all nodes that are not there refuse the change; with `--watch` also with 6 when the
    /// time is over.
    Status(StatusArgs),
}

/// What `cpl rollout status` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct StatusArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// Wait until it has come everywhere
    #[arg(short, long)]
    pub watch: bool,
    /// How long to wait
    #[arg(long, requires = "watch", value_name = "TIME", value_parser = span, default_value = "5m")]
    pub timeout: Span,
}

/// Tells how far a change has come.
///
/// # Errors
/// The server's refusal; with `--watch` what waiting ends with.
pub async fn run(command: &RolloutCommand, session: &mut Session<'_>) -> Outcome {
    let RolloutCommand::Status(args) = command;
    let object = Selection::one(&args.object).map_err(Failure::invalid)?;
    let waited = if args.watch {
        let deadline = session.clock.monotonic().plus(args.timeout.0);
        wait::until(&object, &Goal::Converged, deadline, session).await
    } else {
        Ok(())
    };
    match &waited {
        Err(failure) if !matches!(failure.exit(), Exit::Unavailable | Exit::OtherState) => {
            return waited.map(|()| Exit::Success);
        },
        Ok(()) | Err(_) => {},
    }
    // How it stands is shown also when it did not end well, since that is what people need then.
    let Named { kind, name } = &object;
    match session.client.rollout(*kind, name).await {
        Ok(rollout) => {
            show(&rollout, session)?;
            waited?;
            Ok(match wait::converged(&rollout) {
                Standing::Reached | Standing::Coming(_) => Exit::Success,
                Standing::Stuck(_) => Exit::OtherState,
            })
        },
        Err(error) => {
            waited?;
            Err(error.into())
        },
    }
}

fn show(rollout: &RolloutResponse, session: &mut Session<'_>) -> Result<(), Failure> {
    let mut table = Table::new(&["NODE", "STATE", "CURRENT/DESIRED", "REASON"]);
    for node in &rollout.nodes {
        table.row(vec![
            node.node.clone().into(),
            Cell::new(views::word(node.convergence), views::tone(node.convergence)),
            format!("{}/{}", node.current, node.desired).into(),
            node.reason.clone().into(),
        ]);
    }
    session.out.show(&View {
        value: to_value(rollout)?,
        table,
        names: rollout
            .nodes
            .iter()
            .map(|node| format!("node/{}", node.node))
            .collect(),
        nothing: "no node is concerned".to_owned(),
    })?;
    let word = match wait::converged(rollout) {
        Standing::Reached => "complete".to_owned(),
        Standing::Coming(what) | Standing::Stuck(what) => what,
    };
    session
        .out
        .say(&format!("version {}: {word}", rollout.config_version));
    Ok(())
}
