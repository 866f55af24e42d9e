//! The store of a server, as far as it has to be known to be copied.

use std::collections::VecDeque;

use async_trait::async_trait;
use cpl_api::client::ControlPlaneClient;
use cpl_api::error::ControlPlaneError;
use cpl_api::problem::Code;
use cpl_api::transport::ByteStream;
use cpl_core::ids::SealId;
use cpl_core::store::copy::{Entries, Source};
use cpl_core::store::{Decoded, Decoder, Entry, Error, Identity, Kind, LINE_BYTES};
use cpl_core::version::Revision;
use futures::{StreamExt as _, stream};

/// The store of a server.
#[derive(Debug)]
pub(crate) struct Remote(ControlPlaneClient);

impl Remote {
    pub(crate) const fn new(client: ControlPlaneClient) -> Self {
        Self(client)
    }
}

#[async_trait]
impl Source for Remote {
    async fn entries(&self) -> Result<(Identity, Revision, Entries<'_>), Error> {
        let parts = self.0.export().await;
        let mut lines = Lines::new(parts.map_err(|error| read("read the server's store", error))?);
        let Some(Decoded::Header(header)) = lines.next().await.transpose()? else {
            return Err(lines.decoder.damaged("it has no header"));
        };
        let entries = stream::unfold(lines, |mut lines| async move {
            match lines.next().await? {
                Ok(Decoded::Entry(entry)) => Some((Ok::<Entry, Error>(entry), lines)),
                Ok(Decoded::Header(_) | Decoded::End(_)) => None,
                Err(error) => Some((Err(error), lines)),
            }
        });
        Ok((header.identity, header.revision, Box::pin(entries)))
    }

    async fn seal(&self, seal: SealId) -> Result<(), Error> {
        let sealed = self.0.seal_store(seal).await;
        sealed
            .map(drop)
            .map_err(|error| write("seal the server's store", error))
    }

    async fn unseal(&self) -> Result<(), Error> {
        let unsealed = self.0.unseal_store().await;
        unsealed
            .map(drop)
            .map_err(|error| write("unseal the server's store", error))
    }
}

/// Lines of an answer that comes in parts, which do not end with them.
struct Lines {
    parts: ByteStream,
    decoder: Decoder,
    /// What came of lines that are not whole.
    rest: Vec<u8>,
    whole: VecDeque<Vec<u8>>,
    failed: bool,
}

impl Lines {
    fn new(parts: ByteStream) -> Self {
        Self {
            parts,
            decoder: Decoder::new(),
            rest: Vec::new(),
            whole: VecDeque::new(),
            failed: false,
        }
    }

    /// The next line; after an error there is none.
    async fn next(&mut self) -> Option<Result<Decoded, Error>> {
        if self.failed {
            return None;
        }
        let next = self.read().await;
        self.failed = next.is_err();
        Some(next)
    }

    async fn read(&mut self) -> Result<Decoded, Error> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return self.decoder.line(&line);
            }
            let Some(part) = self.parts.next().await else {
                // Also when there is nothing: a whole export has been left before its end.
                return self.decoder.line(&std::mem::take(&mut self.rest));
            };
            let part = part.map_err(|error| {
                let context = "read the server's store: its answer was cut short";
                Error::new(Kind::NotConnected, context).with_source(error)
            })?;
            for piece in part.split_inclusive(|byte| *byte == b'\n') {
                self.rest.extend_from_slice(piece);
                if piece.last() == Some(&b'\n') {
                    self.whole.push_back(std::mem::take(&mut self.rest));
                }
            }
            if self.rest.len() > LINE_BYTES {
                return Err(self.decoder.damaged("the line after it is too long"));
            }
        }
    }
}

/// What an error of the server says of something that changes nothing.
fn read(context: &str, error: ControlPlaneError) -> Error {
    let kind = refused(&error).unwrap_or(Kind::NotConnected);
    Error::new(kind, context).with_source(error)
}

/// What it says of something that may have been done.
fn write(context: &str, error: ControlPlaneError) -> Error {
    let kind = refused(&error).unwrap_or(Kind::ConnectionLost);
    Error::new(kind, context).with_source(error)
}

/// The kind of a refusal for good; nothing when it may be tried again.
fn refused(error: &ControlPlaneError) -> Option<Kind> {
    match error.code() {
        Code::PermissionDenied | Code::Unauthenticated => Some(Kind::Unauthorized),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::OutOfRange => Some(Kind::Invalid),
        Code::DataLoss => Some(Kind::Corrupt),
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::Unknown => None,
    }
}
