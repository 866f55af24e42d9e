//! `cpl version`.

use clap::Args;
use serde_json::json;

use super::failure::{Exit, Outcome};
use super::output::Output;
use super::session::{Session, to_value};

/// What `cpl version` takes.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionArgs {
    /// Ask the server too
    #[arg(long)]
    pub remote: bool,
}

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version of this program.
///
/// # Errors
/// The output cannot be written.
pub fn run(out: &mut Output) -> Outcome {
    if out.for_programs() {
        out.value(&json!({ "client": VERSION }))?;
    } else {
        out.text(&format!("cpl {VERSION}\n"))?;
    }
    Ok(Exit::Success)
}

/// Prints the versions of this program and of the server.
///
/// # Errors
/// The server's refusal.
pub async fn run_remote(session: &mut Session<'_>) -> Outcome {
    let about = session.client.version().await?;
    if session.out.for_programs() {
        session
            .out
            .value(&json!({ "client": VERSION, "server": to_value(&about)? }))?;
        return Ok(Exit::Success);
    }
    let (lowest, highest) = about.protocol;
    session.out.text(&format!(
        "client:           {VERSION}\nserver:           {}\nagent protocol:   {lowest} to {highest}\n\
         store:            {} incarnation {}\nglobal version:   {}\n",
        super::table::harmless(&about.software),
        about.identity.store,
        about.identity.incarnation.0,
        about.global_version
    ))?;
    Ok(Exit::Success)
}
