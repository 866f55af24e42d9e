//! Asking HAProxy over its Unix sockets.
//!
//! One connection carries one command and is read to its end: answers have no other frame, since
//! some end with one empty line, some with two and some with none. The sending half is closed after the
//! command because the master's socket, unlike the worker's, keeps the connection open otherwise.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cpl_core::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::driver::Unavailable;

/// Longest command: one that does not fit HAProxy's buffer of 16 KiB hangs, and keeps the worker that
/// it hangs in alive over reloads.
const LONGEST_COMMAND: usize = 8 * 1024;
/// Longest answer that is read.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;
/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a socket may refuse before it is believed: the master's does while it reloads, longest
/// while it finds that an address cannot be bound.
const RELOAD_WINDOW: Duration = Duration::from_secs(6);
const RETRY: Duration = Duration::from_millis(20);

/// What may be done when an answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The command only reads: it is sent again. Its answer is never empty.
    Read,
    /// It changes something, perhaps did already, and is not sent again.
    Write,
}

/// One of HAProxy's sockets.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// Where it is.
    pub(super) path: PathBuf,
    /// For timeouts.
    pub(super) clock: Arc<dyn Clock>,
}

impl Socket {
    /// Sends a command and reads the answer. Waits for a socket that refuses, and repeats a command that
    /// only reads: a master that reloads refuses connections, and resets those that it has not answered.
    /// A dropped future leaves it open whether the command was executed.
    pub(super) async fn ask(&self, command: &str, kind: Kind) -> Result<String, Unavailable> {
        let failed = |source: io::Error| Unavailable {
            what: format!("ask HAProxy: {command}"),
            source: Some(Box::new(source)),
        };
        if command.len() > LONGEST_COMMAND || command.contains(['\n', '\r', '\0']) {
            let wrong = "the command is too long or has more than one line";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, wrong)));
        }
        let until = self.clock.monotonic().plus(RELOAD_WINDOW);
        loop {
            let error = match self.try_once(command, kind).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !may_repeat(&error, kind) || self.clock.monotonic() >= until {
                return Err(failed(error.source));
            }
            self.clock.sleep(RETRY).await;
        }
    }

    async fn try_once(&self, command: &str, kind: Kind) -> Result<String, Lost> {
        let at = |sent| move |source| Lost { sent, source };
        let stream = UnixStream::connect(&self.path).await.map_err(at(false))?;
        let answer = tokio::select! {
            answer = exchange(stream, command) => answer,
            () = self.clock.sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
        };
        match answer {
            Ok(answer) if answer.is_empty() && kind == Kind::Read => {
                Err(at(true)(io::ErrorKind::UnexpectedEof.into()))
            },
            answer => answer.map_err(at(true)),
        }
    }

    /// Whether anybody listens now.
    pub(super) async fn is_answered(&self) -> bool {
        UnixStream::connect(&self.path).await.is_ok()
    }
}

struct Lost {
    sent: bool,
    source: io::Error,
}

fn may_repeat(lost: &Lost, kind: Kind) -> bool {
    match lost.source.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::WouldBlock => {
            !lost.sent
        },
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => kind == Kind::Read,
        _ => false,
    }
}

async fn exchange(mut stream: UnixStream, command: &str) -> io::Result<String> {
    stream.write_all(command.as_bytes()).await?;
    // Without the line end the command would not be executed, and nothing would say so.
    stream.write_all(b"\n").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
