//! A whole store as text that outlives every format.
//!
//! An export is JSON lines: a header, one line per live key in the order of keys, and a trailer with the
//! count and the SHA-256 of all bytes before it. A key or value that is no UTF-8 is given as base64 instead.
//!
//! ```json
//! {"format":"cpl-export","version":1,"store":"5f…","incarnation":1,"revision":42}
//! {"key":"nodes/a/spec","value":"{}","create":7,"mod":42,"puts":3}
//! {"count":1,"sha256":"9c…"}
//! ```

use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Store;
use super::error::{Error, Kind};
use super::types::{Entry, Identity, Incarnation, Key, KeyMeta, ListRequest, Range};
use crate::ids::StoreId;
use crate::version::Revision;

const EXPORT: &str = "cpl-export";
const VERSION: u32 = 1;

/// Longest line: a value of 1 MiB, all of it escaped, and its key.
pub const LINE_BYTES: usize = 8 << 20;

/// What was exported, or imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which store and life it is.
    pub identity: Identity,
    /// Its newest revision.
    pub revision: Revision,
    /// How many keys it has.
    pub entries: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    store: StoreId,
    incarnation: Incarnation,
    revision: Revision,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    create: Revision,
    #[serde(rename = "mod")]
    modified: Revision,
    /// The key's version.
    puts: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    count: u64,
    sha256: String,
}

/// Writes all live keys of any store, as of one revision.
///
/// Outcomes of transactions are not part of it: settle them before moving a store.
///
/// # Errors
/// The store's, among them [`Kind::Compacted`] when compaction overtook a long export: begin again.
/// [`Kind::NotConnected`] when `out` takes no more. What was written then has no trailer, and
/// [`Decoder`] refuses it.
pub async fn export(store: &dyn Store, out: &mut (dyn Write + Send)) -> Result<Summary, Error> {
    let mut request = ListRequest::first(Range::all());
    let mut page = store.list(request.clone()).await?;
    let summary = Summary {
        identity: page.at.identity,
        revision: page.at.revision,
        entries: 0,
    };
    let mut lines = Lines::begin(out, &summary)?;
    loop {
        for entry in &page.entries {
            lines.write(&line_of(entry))?;
        }
        request.page = page.next;
        if request.page.is_none() {
            let entries = lines.end()?;
            return Ok(Summary { entries, ..summary });
        }
        page = store.list(request.clone()).await?;
    }
}

struct Lines<'a> {
    out: &'a mut (dyn Write + Send),
    hash: Sha256,
    count: u64,
}

impl<'a> Lines<'a> {
    fn begin(out: &'a mut (dyn Write + Send), summary: &Summary) -> Result<Self, Error> {
        let hash = Sha256::new();
        let mut lines = Self {
            out,
            hash,
            count: 0,
        };
        lines.line(&Header {
            format: EXPORT.to_owned(),
            version: VERSION,
            store: summary.identity.store,
            incarnation: summary.identity.incarnation,
            revision: summary.revision,
        })?;
        Ok(lines)
    }

    fn write(&mut self, line: &Line) -> Result<(), Error> {
        self.count += 1;
        self.line(line)
    }

    fn end(mut self) -> Result<u64, Error> {
        let count = self.count;
        let sha256 = hex::encode(self.hash.clone().finalize());
        self.line(&Trailer { count, sha256 })?;
        self.out.flush().map_err(unwritten)?;
        Ok(count)
    }

    fn line<T: Serialize>(&mut self, line: &T) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec(line).map_err(unwritten)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.out.write_all(&bytes).map_err(unwritten)
    }
}

fn unwritten(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::NotConnected, "write the export").with_source(error)
}

fn line_of(entry: &Entry) -> Line {
    let (key, key_base64) = text_or_base64(entry.key.as_bytes());
    let (value, value_base64) = text_or_base64(&entry.value);
    Line {
        key,
        key_base64,
        value,
        value_base64,
        create: entry.meta.create_revision,
        modified: entry.meta.mod_revision,
        puts: entry.meta.version,
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// What a line of an export says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The first line: which store it was; how many entries follow is not known yet.
    Header(Summary),
    /// One of its entries.
    Entry(Entry),
    /// The last line: all of it was there, and is as it was exported.
    End(Summary),
}

/// Reads an export line by line, and checks it.
#[derive(Debug, Default)]
pub struct Decoder {
    hash: Sha256,
    number: u64,
    summary: Option<Summary>,
    last: Option<Key>,
    complete: bool,
}

impl Decoder {
    /// Before the first line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the trailer was read, and was right.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes the next line, its end included.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the text is no export of this version; [`Kind::Corrupt`] when it is cut short or
    /// was changed. The message says in which line.
    pub fn line(&mut self, text: &[u8]) -> Result<Decoded, Error> {
        self.number += 1;
        if self.complete {
            return Err(self.damaged("something follows the trailer"));
        }
        if text.last() != Some(&b'\n') {
            return Err(self.damaged("the export is cut short"));
        }
        let Some(summary) = self.summary else {
            let summary = header(text)?;
            self.hash.update(text);
            self.summary = Some(summary);
            return Ok(Decoded::Header(summary));
        };
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(text) {
            let sha256 = hex::encode(self.hash.clone().finalize());
            if trailer.count != summary.entries || trailer.sha256 != sha256 {
                return Err(self.damaged("the entries are not those that were exported"));
            }
            self.complete = true;
            return Ok(Decoded::End(summary));
        }
        let line = serde_json::from_slice(text)
            .map_err(|error| self.damaged("it is not an entry").with_source(error))?;
        let entry =
            entry_of(line, summary.revision).ok_or_else(|| self.damaged("its fields disagree"))?;
        if self.last.as_ref().is_some_and(|last| *last >= entry.key) {
            return Err(self.damaged("its key is not after the one before"));
        }
        self.last = Some(entry.key.clone());
        self.hash.update(text);
        let entries = summary.entries + 1;
        self.summary = Some(Summary { entries, ..summary });
        Ok(Decoded::Entry(entry))
    }

    /// What is wrong with the line that was read last, or with what could not be read after it.
    pub fn damaged(&self, why: &str) -> Error {
        let context = format!("read an export: line {}: {why}", self.number);
        Error::new(Kind::Corrupt, context)
    }
}

fn header(text: &[u8]) -> Result<Summary, Error> {
    let header: Option<Header> = serde_json::from_slice(text).ok();
    let Some(header) = header.filter(|header| header.format == EXPORT) else {
        let context = "read an export: the first line is not the header of one";
        return Err(Error::new(Kind::Invalid, context));
    };
    if header.version != VERSION {
        let version = header.version;
        let context =
            format!("read an export: it has version {version}, and this program reads {VERSION}");
        return Err(Error::new(Kind::Invalid, context));
    }
    Ok(Summary {
        identity: Identity {
            store: header.store,
            incarnation: header.incarnation,
        },
        revision: header.revision,
        entries: 0,
    })
}

fn entry_of(line: Line, newest: Revision) -> Option<Entry> {
    let entry = Entry {
        key: Key::new(bytes_of(line.key, line.key_base64)?).ok()?,
        value: bytes_of(line.value, line.value_base64)?,
        meta: KeyMeta {
            create_revision: line.create,
            mod_revision: line.modified,
            version: line.puts,
        },
    };
    let ordered = line.create <= line.modified && line.modified <= newest && line.puts > 0;
    ordered.then_some(entry)
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Option<Bytes> {
    match (text, base64) {
        (Some(text), None) => Some(text.into()),
        (None, Some(base64)) => Some(BASE64_STANDARD.decode(base64).ok()?.into()),
        (Some(_), Some(_)) | (None, None) => None,
    }
}
