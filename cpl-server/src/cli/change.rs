//! Telling what a change of specs did.

use cpl_api::object::{ChangeResponse, Operation};

use super::failure::Failure;
use super::output::{Output, View};
use super::session::to_value;
use super::table::{Cell, Table, Tone};

/// Prints what a change did to each object, and says what it means for the nodes.
///
/// # Errors
/// The output cannot be written.
pub fn show(out: &mut Output, change: &ChangeResponse) -> Result<(), Failure> {
    let mut table = Table::new(&["OBJECT", "CHANGE", "GENERATION"]);
    for object in &change.objects {
        table.row(vec![
            format!("{}/{}", object.kind, object.name).into(),
            Cell::new(word(object.operation), tone(object.operation)),
            object.generation.into(),
        ]);
    }
    let names = change
        .objects
        .iter()
        .map(|o| format!("{}/{}", o.kind.to_ascii_lowercase(), o.name));
    out.show(&View {
        value: to_value(change)?,
        table,
        names: names.collect(),
        nothing: "no object was named".to_owned(),
    })?;
    out.say(&summary(change));
    Ok(())
}

/// One line on what a change means.
pub fn summary(change: &ChangeResponse) -> String {
    let nodes = match change.affected_nodes.as_slice() {
        [] => "no node runs anything else".to_owned(),
        [one] => format!("{one} runs something else"),
        nodes if nodes.len() <= 8 => {
            format!(
                "{} nodes run something else: {}",
                nodes.len(),
                nodes.join(", ")
            )
        },
        nodes => format!("{} nodes run something else", nodes.len()),
    };
    let changed = change
        .objects
        .iter()
        .any(|object| object.operation != Operation::Unchanged);
    match change.config_version {
        _ if change.dry_run && changed => {
            format!("dry run, nothing was written; if it were, {nodes}")
        },
        _ if change.dry_run => "dry run: everything is as wanted already".to_owned(),
        Some(version) => format!("version {version}: {nodes}"),
        None => "everything was as wanted already".to_owned(),
    }
}

/// The word for an operation.
pub const fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Created => "created",
        Operation::Updated => "updated",
        Operation::Unchanged => "unchanged",
        Operation::Deleted => "deleted",
    }
}

const fn tone(operation: Operation) -> Tone {
    match operation {
        Operation::Created => Tone::Good,
        Operation::Updated => Tone::Watch,
        Operation::Unchanged => Tone::Faint,
        Operation::Deleted => Tone::Bad,
    }
}
