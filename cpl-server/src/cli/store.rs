//! `cpl store`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use super::failure::{Exit, Failure, Outcome};
use super::session::Session;

/// Looks after the store as a whole: text, copies, moves.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum StoreCommand {
    /// Print everything in the store, one JSON value in a line
    Export(ExportArgs),
    /// Make a store from an export
    Import(ImportArgs),
    /// Copy an embedded store while no server has it open
    Backup(BackupArgs),
    /// Move the store to another place while it is in use
    ///
    /// What changes meanwhile is copied, too. At the end the store takes no more writes (under a second for ten
    /// thousand keys), the copy is compared with it key by key, and is complete. Then start the servers with the new
    /// URL: agents and clients go on with them, only cursors of watches from before are refused. When anything fails,
    /// the store goes on as before.
    #[command(verbatim_doc_comment)]
    Copy(CopyArgs),
    /// Compare two stores, key by key
    Verify(CopyArgs),
    /// Let a store take writes again that was moved, or whose move was cut short
    Unseal(UnsealArgs),
}

/// What to export, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ExportArgs {
    /// Write to this file, complete or not at all, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read this store (embedded:PATH, etcd://…, postgres://…) instead of asking the server
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// A file with the password of the store
    #[arg(long, value_name = "FILE", requires = "store")]
    pub store_password_file: Option<PathBuf>,
}

/// What to import, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ImportArgs {
    /// The export
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The store to make (embedded:PATH, etcd://…, postgres://…); it must not exist
    #[arg(long, value_name = "URL")]
    pub store: String,
    /// A file with the password of the store
    #[arg(long, value_name = "FILE")]
    pub store_password_file: Option<PathBuf>,
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

/// Two stores.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CopyArgs {
    /// The store as it is (etcd://…, postgres://…, or embedded:PATH of which no server runs); the server's when absent
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// The copy (embedded:PATH, etcd://…, postgres://…); `copy` makes it, so it must not exist
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// A file with the password of the store as it is
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_password_file: Option<PathBuf>,
    /// A file with the password of the copy
    #[arg(long, value_name = "FILE")]
    pub to_password_file: Option<PathBuf>,
}

/// Which store takes writes again.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct UnsealArgs {
    /// The store (embedded:PATH, etcd://…, postgres://…); the server's when absent
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// A file with the password of the store
    #[arg(long, value_name = "FILE", requires = "store")]
    pub store_password_file: Option<PathBuf>,
}

/// What is done with stores that are named by their URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline<'a> {
    /// Print everything in it.
    Export(&'a ExportArgs),
    /// Make it from an export.
    Import(&'a ImportArgs),
    /// Copy it.
    Backup(&'a BackupArgs),
    /// Move it.
    Copy(&'a CopyArgs),
    /// Compare it.
    Verify(&'a CopyArgs),
    /// Let it take writes.
    Unseal(&'a UnsealArgs),
}

/// What is done with the store of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Online<'a> {
    /// Print everything in it.
    Export(&'a ExportArgs),
    /// Move it.
    Copy(&'a CopyArgs),
    /// Compare it.
    Verify(&'a CopyArgs),
    /// Let it take writes.
    Unseal,
}

/// Where a command finds its store.
pub const fn place(command: &StoreCommand) -> Result<Offline<'_>, Online<'_>> {
    match command {
        StoreCommand::Export(args) if args.store.is_none() => Err(Online::Export(args)),
        StoreCommand::Export(args) => Ok(Offline::Export(args)),
        StoreCommand::Import(args) => Ok(Offline::Import(args)),
        StoreCommand::Backup(args) => Ok(Offline::Backup(args)),
        StoreCommand::Copy(args) if args.from.is_none() => Err(Online::Copy(args)),
        StoreCommand::Copy(args) => Ok(Offline::Copy(args)),
        StoreCommand::Verify(args) if args.from.is_none() => Err(Online::Verify(args)),
        StoreCommand::Verify(args) => Ok(Offline::Verify(args)),
        StoreCommand::Unseal(args) if args.store.is_none() => Err(Online::Unseal),
        StoreCommand::Unseal(args) => Ok(Offline::Unseal(args)),
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
