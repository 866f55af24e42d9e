//! `cpl rollback`.

use clap::Args;
use cpl_api::client::WriteOptions;
use cpl_api::object::RollbackRequest;
use cpl_core::version::Generation;

use super::change;
use super::failure::{Exit, Failure, Outcome};
use super::kind::{Named, Selection};
use super::session::{Session, wrote};

/// What `cpl rollback` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RollbackArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, num_args = 1..=2, value_name = "OBJECT")]
    pub object: Vec<String>,
    /// The generation whose content is wanted, see `cpl history` [default: the one before the present]
    #[arg(long, value_name = "GENERATION")]
    pub to_generation: Option<u64>,
    /// Let the server check everything and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Rolls an object back.
///
/// # Errors
/// The server's refusal.
pub async fn run(args: &RollbackArgs, session: &mut Session<'_>) -> Outcome {
    let Named { kind, name } = Selection::one(&args.object).map_err(Failure::invalid)?;
    let request = RollbackRequest {
        to_generation: args.to_generation.map(Generation),
    };
    let options = WriteOptions {
        dry_run: args.dry_run,
        ..WriteOptions::default()
    };
    let answer = session
        .client
        .rollback(kind, &name, request, &options)
        .await;
    change::show(session.out, &wrote(answer)?)?;
    Ok(Exit::Success)
}
