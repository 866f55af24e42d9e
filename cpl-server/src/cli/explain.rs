//! `cpl explain`.

use clap::Args;
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, View};
use super::reasons::{REASONS, find, near};
use super::table::Table;

/// What `cpl explain` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExplainArgs {
    /// The reason, like `OBJECT_HELD`
    #[arg(value_name = "REASON")]
    pub reason: Option<String>,
}

/// Explains.
///
/// # Errors
/// There is no such reason.
pub fn run(args: &ExplainArgs, out: &mut Output) -> Outcome {
    let Some(name) = &args.reason else {
        list(out)?;
        return Ok(Exit::Success);
    };
    let Some(reason) = find(name) else {
        let failure = Failure::new(Exit::NotFound, format!("there is no reason named {name:?}"));
        let near = near(name);
        if near.is_empty() {
            return Err(failure.detail("`cpl explain` lists all"));
        }
        return Err(failure.detail(format!("do you mean {}?", near.join(" or "))));
    };
    if out.for_programs() {
        out.value(&json!({"reason": reason.name, "cause": reason.cause, "fix": reason.fix}))?;
    } else {
        let text = format!(
            "{}\n  cause:  {}\n  helps:  {}\n",
            reason.name, reason.cause, reason.fix
        );
        out.text(&text)?;
    }
    Ok(Exit::Success)
}

fn list(out: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["REASON", "CAUSE"]);
    for reason in REASONS {
        table.row(vec![reason.name.into(), reason.cause.into()]);
    }
    let value = REASONS
        .iter()
        .map(|reason| json!({"reason": reason.name, "cause": reason.cause, "fix": reason.fix}));
    out.show(&View {
        value: value.collect(),
        table,
        names: REASONS
            .iter()
            .map(|reason| reason.name.to_owned())
            .collect(),
        nothing: String::new(),
    })
}
