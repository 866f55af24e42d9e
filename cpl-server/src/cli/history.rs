//! `cpl history`.

use clap::Args;
use cpl_api::object::Change;

use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::output::View;
use super::session::{Session, pages, to_value};
use super::table::Table;

/// What `cpl history` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HistoryArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = super::session::count)]
    pub limit: usize,
}

/// Prints the changes.
///
/// # Errors
/// The server's refusal.
pub async fn run(args: &HistoryArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let changes: Vec<Change> = pages!(args.limit, |page| session.client.history(kind, &name, page));
    session.out.show(&View {
        value: to_value(&serde_json::json!({ "items": changes }))?,
        table: table(&changes, session.out.wide()),
        names: changes.iter().map(|change| change.id.clone()).collect(),
        nothing: "there are no changes".to_owned(),
    })?;
    Ok(Exit::Success)
}

/// Changes as a table.
pub fn table(changes: &[Change], wide: bool) -> Table {
    let mut table = Table::new(if wide {
        &[
            "GENERATION",
            "VERSION",
            "OPERATION",
            "ENDPOINTS",
            "BY",
            "WHEN",
            "ID",
            "REQUEST",
        ]
    } else {
        &[
            "GENERATION",
            "VERSION",
            "OPERATION",
            "ENDPOINTS",
            "BY",
            "WHEN",
        ]
    });
    for change in changes {
        let mut cells = vec![
            change.target_version.into(),
            change.config_version.into(),
            change.operation.clone().into(),
            endpoints(change).into(),
            change.modified_by.clone().into(),
            change.timestamp.clone().into(),
        ];
        if wide {
            cells.extend([change.id.clone().into(), change.request_id.clone().into()]);
        }
        table.row(cells);
    }
    table
}

/// `+ep-1 -ep-2 ~ep-3`, or only how many when there are more than three.
fn endpoints(change: &Change) -> String {
    let parts = [
        ('+', &change.endpoints_added),
        ('-', &change.endpoints_removed),
        ('~', &change.endpoints_changed),
    ];
    let all: usize = parts.iter().map(|(_, ids)| ids.len()).sum();
    let words = parts
        .iter()
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(sign, ids)| {
            if all > 3 {
                return format!("{sign}{}", ids.len());
            }
            ids.iter()
                .map(|id| format!("{sign}{id}"))
                .collect::<Vec<_>>()
                .join(" ")
        });
    words.collect::<Vec<_>>().join(" ")
}
