//! `cpl adopt` and `cpl revert`.

use clap::Args;
use cpl_api::client::WriteOptions;

use super::change;
use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::session::{Session, wrote};

/// What `cpl adopt` and `cpl revert` take.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ForeignArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Makes what is in the store the newest version.
///
/// # Errors
/// The server's refusal.
pub async fn adopt(args: &ForeignArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let answer = session.client.adopt(kind, &name, &options(args)).await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}

/// Puts back what was there before.
///
/// # Errors
/// The server's refusal.
pub async fn revert(args: &ForeignArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let answer = session.client.revert(kind, &name, &options(args)).await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}

fn options(args: &ForeignArgs) -> WriteOptions {
    WriteOptions {
        dry_run: args.dry_run,
        ..WriteOptions::default()
    }
}
