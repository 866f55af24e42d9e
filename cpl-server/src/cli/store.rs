//! `cpl store`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use super::failure::{Exit, Failure, Outcome};
use super::session::Session;

/// Copies the state of a server out and in.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum StoreCommand {
    /// Print everything in the store, one JSON value in a line
    Export(ExportArgs),
    /// Make a store from an export
    Import(ImportArgs),
    /// Copy an embedded store while no server has it open
    Backup(BackupArgs),
}

/// What to export, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExportArgs {
    /// Write to this file, complete or not at all, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read this store (embedded:PATH) instead of asking the server
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
}

/// What to import, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ImportArgs {
    /// The export
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The store to make (embedded:PATH); it must not exist
    #[arg(long, value_name = "URL")]
    pub store: String,
}

/// What to copy, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct BackupArgs {
    /// The copy
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The store to copy (embedded:PATH)
    #[arg(long, value_name = "URL")]
    pub store: String,
}

/// What is done with a store that no server has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline<'a> {
    /// Print everything in it.
    Export(&'a ExportArgs),
    /// Make it from an export.
    Import(&'a ImportArgs),
    /// Copy it.
    Backup(&'a BackupArgs),
}

/// What a command does without a server; nothing when it asks one.
pub const fn offline(command: &StoreCommand) -> Option<Offline<'_>> {
    match command {
        StoreCommand::Export(args) if args.store.is_none() => None,
        StoreCommand::Export(args) => Some(Offline::Export(args)),
        StoreCommand::Import(args) => Some(Offline::Import(args)),
        StoreCommand::Backup(args) => Some(Offline::Backup(args)),
    }
}

/// Exports what the server has.
///
/// # Errors
/// The server's refusal, or the output cannot be written; a file that was there before is untouched.
pub async fn export(file: Option<&Path>, session: &mut Session<'_>) -> Outcome {
    let mut parts = session.client.export().await?;
    let Some(file) = file else {
        while let Some(part) = parts.next().await {
            let part = part
                .map_err(|error| Failure::from(cpl_api::error::ControlPlaneError::from(error)))?;
            session.out.bytes(&part)?;
        }
        return Ok(Exit::Success);
    };
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("failed to write {}: {error}", file.display()),
        )
    };
    let mut beside = file.as_os_str().to_owned();
    beside.push(".partial");
    let beside = PathBuf::from(beside);
    // An export holds the hashes of tokens: it is for its owner's eyes only.
    let mut open = tokio::fs::OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600);
    let mut to = open.open(&beside).await.map_err(failed)?;
    while let Some(part) = parts.next().await {
        let part =
            part.map_err(|error| Failure::from(cpl_api::error::ControlPlaneError::from(error)))?;
        to.write_all(&part).await.map_err(failed)?;
    }
    to.sync_all().await.map_err(failed)?;
    tokio::fs::rename(&beside, file).await.map_err(failed)?;
    session.out.say(&format!("exported to {}", file.display()));
    Ok(Exit::Success)
}
