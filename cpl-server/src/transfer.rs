//! Whole stores, out and in, of files that no server has open.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use cpl_core::store::{Error, Summary};
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore};

use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::serve_config::StoreUrl;
use crate::cli::store::Offline;
use crate::serve::runtime;
use crate::wiring::export;

/// Works on a store that no server has open. Blocks; must be called outside of any runtime.
pub(crate) fn offline(work: Offline<'_>, out: &mut Output) -> Outcome {
    let done = match work {
        Offline::Export(args) => {
            let url = args.store.as_deref().unwrap_or_default();
            let text = runtime()?
                .block_on(async { export(&open(url)?).await.map_err(|error| failed(&error)) })?;
            match &args.file {
                Some(file) => {
                    write_private(file, &text)?;
                    format!("exported to {}", file.display())
                },
                None => {
                    out.bytes(&text)?;
                    return Ok(Exit::Success);
                },
            }
        },
        Offline::Import(args) => {
            let input = File::open(&args.file).map_err(|error| {
                Failure::invalid(format!("{} cannot be read: {error}", args.file.display()))
            })?;
            let path = file_of(&args.store)?;
            let summary: Summary =
                cpl_store_embedded::import(&mut BufReader::new(input), &path, &*Host::new().ids)
                    .map_err(|error| failed(&error))?;
            format!(
                "imported {} entries into {}",
                summary.entries,
                path.display()
            )
        },
        Offline::Backup(args) => {
            let backup = async {
                open(&args.store)?
                    .backup(&args.file, &*Host::new().ids)
                    .await
                    .map_err(|error| failed(&error))
            };
            runtime()?.block_on(backup)?;
            format!("copied to {}", args.file.display())
        },
    };
    out.say(&done);
    Ok(Exit::Success)
}

fn failed(error: &Error) -> Failure {
    let mut failure = Failure::new(Exit::Failed, format!("failed to {error}"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        failure = failure.detail(cause.to_string());
        source = cause.source();
    }
    failure
}

fn file_of(url: &str) -> Result<std::path::PathBuf, Failure> {
    match url.parse::<StoreUrl>() {
        Ok(StoreUrl::Embedded(path)) => Ok(path),
        _ => Err(Failure::invalid(format!(
            "{url:?} is no file of a store: expected embedded:PATH"
        ))),
    }
}

/// Opens a file that exists; one that a server has open is refused by the store.
fn open(url: &str) -> Result<EmbeddedStore, Failure> {
    let Host { clock, ids, .. } = Host::new();
    let config = Config::default();
    EmbeddedStore::open(file_of(url)?, config, Arc::clone(&clock), &*ids)
        .map_err(|error| failed(&error))
}

/// Writes a file that only its owner can read: an export holds the hashes of tokens.
fn write_private(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let draft = path.with_extension("partial");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&draft).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    });
    written.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("failed to write {}: {error}", path.display()),
        )
    })
}
