//! Whole stores: out and in as text, copied, and moved to another place.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpl_core::lease::is_of_a_session;
use cpl_core::store::copy::{self, Means, Opened, Progress, Source, next_life};
use cpl_core::store::{Decoded, Decoder, Entry, Error, LINE_BYTES, OpenMode, Store, Summary};
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore};
use futures::stream;

use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::serve_config::{StoreUrl, read_password};
use crate::cli::session::Session;
use crate::cli::store::{self, CopyArgs, ImportArgs, Offline, Online};
use crate::remote::Remote;
use crate::serve::{failed as not_opened, runtime, until_told_to_stop};
use crate::wiring;

/// Works on stores that are named by their URLs. Blocks; must be called outside of any runtime.
pub(crate) fn offline(work: Offline<'_>, out: &mut Output) -> Outcome {
    let host = Host::new();
    let done = async {
        match work {
            Offline::Export(args) => {
                let url = args.store.as_deref().unwrap_or_default();
                let password = args.store_password_file.as_deref();
                let from = open(OpenMode::Existing, url, password, &host).await?;
                let text = wiring::export(&*from).await;
                write_out(
                    args.file.as_deref(),
                    &text.map_err(|error| failed(&error))?,
                    out,
                )
            },
            Offline::Import(args) => import(args, &host, out).await,
            Offline::Backup(args) => {
                let from = open_file(&args.store, &host)?;
                let copied = from.backup(&args.file, &*host.ids).await;
                copied.map_err(|error| failed(&error))?;
                out.say(&format!("copied to {}", args.file.display()));
                Ok(Exit::Success)
            },
            Offline::Copy(args) => copy_to(&source(args, &host).await?, args, &host, out).await,
            Offline::Verify(args) => verify(&source(args, &host).await?, args, &host, out).await,
            Offline::Unseal(args) => {
                let url = args.store.as_deref().unwrap_or_default();
                let password = args.store_password_file.as_deref();
                let sealed = open(OpenMode::Existing, url, password, &host).await?;
                sealed.unseal().await.map_err(|error| failed(&error))?;
                out.say("it takes writes again");
                Ok(Exit::Success)
            },
        }
    };
    runtime()?.block_on(done)
}

/// Works on the store of a server.
pub(crate) async fn online(work: Online<'_>, host: &Host, session: &mut Session<'_>) -> Outcome {
    let from = Remote::new(session.client.clone());
    match work {
        Online::Export(args) => store::export(args.file.as_deref(), session).await,
        Online::Copy(args) => copy_to(&from, args, host, session.out).await,
        Online::Verify(args) => verify(&from, args, host, session.out).await,
        Online::Unseal => {
            session.client.unseal_store().await?;
            session
                .out
                .say("the store of the server takes writes again");
            Ok(Exit::Success)
        },
    }
}

async fn copy_to(from: &dyn Source, args: &CopyArgs, host: &Host, out: &mut Output) -> Outcome {
    let identity = from.entries().await.map_err(|error| failed(&error))?.0;
    let mode = OpenMode::New(next_life(identity));
    let to = open(mode, &args.to, args.to_password_file.as_deref(), host).await?;
    let mut tell = |progress| out.progress(&said(progress));
    let stop = async {
        if until_told_to_stop().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    match copy::copy(from, &to, means(host), &mut tell, stop).await {
        Ok(content) => {
            out.say(&format!(
                "copied {} keys to {}; the store that they came from takes no more writes",
                content.entries, args.to
            ));
            out.say(&format!(
                "now start the servers with --store {}; to go back instead: cpl store unseal",
                args.to
            ));
            Ok(Exit::Success)
        },
        Err(not_copied) => {
            let failure = failed(&not_copied.error);
            let failure = if not_copied.sealed {
                failure.detail(
                    "the store may still be sealed: look whether the copy is complete (a server starts on it), then use it, \
                     or let the store take writes again with `cpl store unseal`",
                )
            } else {
                failure.detail("the store goes on as before")
            };
            Err(failure.detail(format!("remove what is at {} before the next try", args.to)))
        },
    }
}

fn means(host: &Host) -> Means<'_> {
    Means {
        clock: &*host.clock,
        ids: &*host.ids,
        leave_out: is_of_a_session,
    }
}

fn said(progress: Progress) -> String {
    match progress {
        Progress::Looking(entries) => format!("looked at {entries} keys"),
        Progress::Passed(pass) => format!(
            "{} keys at revision {}: {} copied",
            pass.entries, pass.revision, pass.changed
        ),
        Progress::Sealed => "sealed: no more writes".to_owned(),
        Progress::Equal(content) => format!(
            "the copy is equal: {} keys, SHA-256 {}",
            content.entries,
            hex::encode(content.sha256)
        ),
    }
}

async fn verify(from: &dyn Source, args: &CopyArgs, host: &Host, out: &mut Output) -> Outcome {
    let password = args.to_password_file.as_deref();
    let to = open(OpenMode::Existing, &args.to, password, host).await?;
    let compared = copy::compare(from, &Opened(to), is_of_a_session).await;
    let compared = compared.map_err(|error| failed(&error))?;
    if compared.different > 0 {
        let what = format!(
            "{} keys differ, or are in one of them only",
            compared.different
        );
        let keys = compared.named.iter().map(ToString::to_string);
        return Err(keys.fold(Failure::new(Exit::Failed, what), Failure::detail));
    }
    out.say(&said(Progress::Equal(compared.content)));
    Ok(Exit::Success)
}

async fn source(args: &CopyArgs, host: &Host) -> Result<Opened, Failure> {
    let url = args.from.as_deref().unwrap_or_default();
    let password = args.from_password_file.as_deref();
    open(OpenMode::Existing, url, password, host)
        .await
        .map(Opened)
}

async fn open(
    mode: OpenMode,
    url: &str,
    password_file: Option<&Path>,
    host: &Host,
) -> Result<Arc<dyn Store>, Failure> {
    let url = parse(url)?;
    let password = password_file.map(read_password).transpose()?;
    let opened = wiring::open_as(mode, &url, password.as_ref(), host).await;
    opened.map_err(|error| not_opened(&error))
}

fn parse(url: &str) -> Result<StoreUrl, Failure> {
    url.parse()
        .map_err(|error| Failure::invalid(format!("{url:?} is no URL of a store: {error}")))
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

/// Opens a file that exists; one that a server has open is refused by the store.
fn open_file(url: &str, host: &Host) -> Result<EmbeddedStore, Failure> {
    let StoreUrl::Embedded(path) = parse(url)? else {
        let what = format!("{url:?} is no file of a store: expected embedded:PATH");
        return Err(Failure::invalid(what));
    };
    EmbeddedStore::open(path, Config::default(), Arc::clone(&host.clock), &*host.ids)
        .map_err(|error| failed(&error))
}

async fn import(args: &ImportArgs, host: &Host, out: &mut Output) -> Outcome {
    let input = File::open(&args.file).map_err(|error| {
        Failure::invalid(format!("{} cannot be read: {error}", args.file.display()))
    })?;
    let mut input = BufReader::new(input);
    let entries = if let StoreUrl::Embedded(path) = parse(&args.store)? {
        let imported = cpl_store_embedded::import(&mut input, &path, &*host.ids);
        imported.map_err(|error| failed(&error))?.entries
    } else {
        let mut lines = Lines::begin(input).map_err(|error| failed(&error))?;
        let mode = OpenMode::New(next_life(lines.header.identity));
        let password = args.store_password_file.as_deref();
        let to = open(mode, &args.store, password, host).await?;
        let filled = copy::fill(&*to, means(host), Box::pin(stream::iter(&mut lines))).await;
        let filled = match filled {
            Ok(filled) => to.unseal().await.map(|()| filled),
            Err(error) => Err(error),
        };
        filled.map_err(|error| {
            failed(&error).detail(format!(
                "remove what is at {} before the next try",
                args.store
            ))
        })?
    };
    out.say(&format!("imported {entries} entries into {}", args.store));
    Ok(Exit::Success)
}

/// The entries of a file; the last item is an error unless its trailer came and was right.
struct Lines {
    input: BufReader<File>,
    decoder: Decoder,
    header: Summary,
    ended: bool,
}

impl Lines {
    fn begin(mut input: BufReader<File>) -> Result<Self, Error> {
        let mut decoder = Decoder::new();
        let header = match line(&mut input, &mut decoder)? {
            Decoded::Header(header) | Decoded::End(header) => header,
            Decoded::Entry(_) => return Err(decoder.damaged("it is not a header")),
        };
        Ok(Self {
            input,
            decoder,
            header,
            ended: false,
        })
    }

    fn nothing_more(&mut self) -> Option<Error> {
        let mut rest = [0];
        match self.input.read(&mut rest) {
            Ok(0) => None,
            Ok(_) => Some(self.decoder.damaged("something follows it")),
            Err(error) => Some(self.decoder.damaged("it cannot be read").with_source(error)),
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match line(&mut self.input, &mut self.decoder) {
            Ok(Decoded::Entry(entry)) => Some(Ok(entry)),
            Ok(Decoded::Header(_) | Decoded::End(_)) => {
                self.ended = true;
                self.nothing_more().map(Err)
            },
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            },
        }
    }
}

fn line(input: &mut BufReader<File>, decoder: &mut Decoder) -> Result<Decoded, Error> {
    let mut text = Vec::new();
    let read = input.take(LINE_BYTES as u64).read_until(b'\n', &mut text);
    read.map_err(|error| {
        decoder
            .damaged("what follows cannot be read")
            .with_source(error)
    })?;
    decoder.line(&text)
}

fn write_out(file: Option<&Path>, text: &[u8], out: &mut Output) -> Outcome {
    match file {
        Some(file) => {
            write_private(file, text)?;
            out.say(&format!("exported to {}", file.display()));
        },
        None => out.bytes(text)?,
    }
    Ok(Exit::Success)
}

/// Writes a file that only its owner can read: an export holds the hashes of tokens.
fn write_private(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let draft: PathBuf = path.with_extension("partial");
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
