//! `cpl task`.

use clap::Subcommand;
use cpl_api::server::ConfigUpdateTask;

use super::failure::{Exit, Outcome};
use super::output::View;
use super::session::{MOST_LISTED, Session, pages, to_value};
use super::table::Table;

/// Lists open work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum TaskCommand {
    /// List nodes that are to be brought to a version and have not reported it yet
    List,
}

/// Prints open tasks.
///
/// # Errors
/// The server's refusal.
pub async fn run(command: &TaskCommand, session: &mut Session<'_>) -> Outcome {
    let TaskCommand::List = command;
    let tasks: Vec<ConfigUpdateTask> =
        pages!(MOST_LISTED, |page| session.client.config_update_tasks(page));
    let mut table = Table::new(&[
        "ID",
        "NODE",
        "VERSION",
        "REASON",
        "CREATED",
        "LEASE UNTIL",
        "ATTEMPT",
    ]);
    for task in &tasks {
        table.row(vec![
            task.id.clone().into(),
            task.node_id.clone().into(),
            task.target_config_version.into(),
            task.reason.clone().into(),
            task.created_at.clone().into(),
            task.lease_until.clone().into(),
            task.attempt.into(),
        ]);
    }
    session.out.show(&View {
        value: serde_json::json!({ "items": to_value(&tasks)? }),
        table,
        names: tasks
            .iter()
            .map(|task| format!("task/{}", task.id))
            .collect(),
        nothing: "there is no open task".to_owned(),
    })?;
    Ok(Exit::Success)
}
