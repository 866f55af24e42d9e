//! Moving a store: as text that outlives every format, or as a copy of the file.
//!
//! An export is JSON lines: a header, one line per live key, and a trailer with the count and the
//! SHA-256 of all bytes before it. A key or value that is no UTF-8 is given as base64 instead.
//!
//! ```json
//! {"format":"cpl-export","version":1,"store":"5f…","incarnation":1,"revision":42}
//! {"key":"nodes/a/spec","value":"{}","create":7,"mod":42,"puts":3}
//! {"count":1,"sha256":"9c…"}
//! ```

use std::io::{BufRead, Read as _, Write};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cpl_core::store::{
    Entry, Error, IdGen, Identity, Incarnation, Key, KeyMeta, Kind, ListRequest, Range, Revision,
    Store, StoreId,
};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::{Disk, Draft, FACTS, KEYS, LOG, OUTCOMES, corrupt};
use crate::format::{FORMAT, Label, Mark, encode_entry};

const EXPORT: &str = "cpl-export";
const VERSION: u32 = 1;
/// Longest line: a value of 1 MiB, all of it escaped, and its key.
const LINE_BYTES: u64 = 8 << 20;
/// About how many bytes one commit of a new file holds.
const COMMIT_BYTES: usize = 4 << 20;

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
/// [`import`] refuses it.
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
        let sha256 = hex(&self.hash.clone().finalize());
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

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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

/// Makes a new file of an export: the same store in its next life, so that every cursor from before
/// is refused, at a revision above the exported one.
///
/// The file appears when all of the export was read and its trailer is right, or not at all. Blocks
/// while the disk works.
///
/// # Errors
/// [`Kind::Invalid`] when `path` exists or cannot be made, or the text is no export of this version;
/// [`Kind::Corrupt`] when the export is cut short or was changed.
pub fn import(
    input: &mut dyn BufRead,
    path: impl AsRef<Path>,
    ids: &dyn IdGen,
) -> Result<Summary, Error> {
    let mut reader = Reader {
        input,
        hash: Sha256::new(),
        number: 0,
    };
    let header = reader.header()?;
    let draft = Draft::new(path.as_ref(), ids.fresh())?;
    let entries = reader.entries(&draft.disk, header.revision)?;
    let label = Label {
        format: FORMAT,
        store: header.store,
        incarnation: Incarnation(header.incarnation.0 + 1),
    };
    // Above: whoever compares only revisions still sees that something is new.
    let revision = Revision(header.revision.0 + 1);
    let mark = Mark {
        applied: revision,
        record: 0,
        compacted: revision,
        keys: entries,
    };
    draft.disk.initialise(&label, &mark)?;
    draft.publish()?;
    let identity = Identity {
        store: label.store,
        incarnation: label.incarnation,
    };
    Ok(Summary {
        identity,
        revision,
        entries,
    })
}

struct Reader<'a> {
    input: &'a mut dyn BufRead,
    /// Of all lines that were taken.
    hash: Sha256,
    number: u64,
}

impl Reader<'_> {
    fn header(&mut self) -> Result<Header, Error> {
        let text = self.line()?;
        let header: Option<Header> = serde_json::from_slice(&text).ok();
        let Some(header) = header.filter(|header| header.format == EXPORT) else {
            let context = "import a store: the first line is not the header of an export";
            return Err(Error::new(Kind::Invalid, context));
        };
        if header.version != VERSION {
            let version = header.version;
            let context = format!(
                "import a store: the export has version {version}, and this program reads {VERSION}"
            );
            return Err(Error::new(Kind::Invalid, context));
        }
        self.hash.update(&text);
        Ok(header)
    }

    /// Writes all entries, checks the trailer, and returns their number.
    fn entries(&mut self, disk: &Disk, newest: Revision) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            let (rows, trailer) = self.rows(newest)?;
            count += rows.len() as u64;
            write_rows(disk, &rows)?;
            if let Some(trailer) = trailer {
                self.check(&trailer, count)?;
                return Ok(count);
            }
        }
    }

    /// As many rows as one commit may hold, and the trailer when it came.
    fn rows(&mut self, newest: Revision) -> Result<(Vec<Row>, Option<Trailer>), Error> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < COMMIT_BYTES {
            let text = self.line()?;
            if let Ok(trailer) = serde_json::from_slice(&text) {
                return Ok((rows, Some(trailer)));
            }
            let line = serde_json::from_slice(&text)
                .map_err(|error| self.damaged("it is not an entry").with_source(error))?;
            let row = row_of(line, newest).ok_or_else(|| self.damaged("its fields disagree"))?;
            bytes += row.row.len();
            rows.push(row);
            self.hash.update(&text);
        }
        Ok((rows, None))
    }

    fn check(&mut self, trailer: &Trailer, count: u64) -> Result<(), Error> {
        if trailer.count != count || trailer.sha256 != hex(&self.hash.clone().finalize()) {
            return Err(self.damaged("the entries are not those that were exported"));
        }
        let mut rest = [0];
        match self.input.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something follows the trailer")),
            Err(error) => Err(self.damaged("it cannot be read").with_source(error)),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, Error> {
        self.number += 1;
        let mut text = Vec::new();
        let mut bounded = (&mut *self.input).take(LINE_BYTES);
        let read = bounded.read_until(b'\n', &mut text);
        read.map_err(|error| self.damaged("it cannot be read").with_source(error))?;
        if text.last() != Some(&b'\n') {
            return Err(self.damaged("the export is cut short"));
        }
        Ok(text)
    }

    fn damaged(&self, why: &str) -> Error {
        let context = format!("import a store: line {}: {why}", self.number);
        Error::new(Kind::Corrupt, context)
    }
}

struct Row {
    key: Key,
    row: Vec<u8>,
}

fn row_of(line: Line, newest: Revision) -> Option<Row> {
    let key = Key::new(bytes_of(line.key, line.key_base64)?).ok()?;
    let value = bytes_of(line.value, line.value_base64)?;
    let meta = KeyMeta {
        create_revision: line.create,
        mod_revision: line.modified,
        version: line.puts,
    };
    let ordered = line.create <= line.modified && line.modified <= newest && line.puts > 0;
    ordered.then(|| Row {
        row: encode_entry(&key, &value, &meta),
        key,
    })
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Option<Bytes> {
    match (text, base64) {
        (Some(text), None) => Some(text.into()),
        (None, Some(base64)) => Some(BASE64_STANDARD.decode(base64).ok()?.into()),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn write_rows(disk: &Disk, rows: &[Row]) -> Result<(), Error> {
    let twice = disk
        .write(|transaction| {
            let mut keys = transaction.open_table(KEYS)?;
            for row in rows {
                let before = keys.insert(row.key.as_bytes(), row.row.as_slice())?;
                if before.is_some() {
                    return Ok(Some(row.key.clone()));
                }
            }
            Ok(None)
        })
        .map_err(|error| error.explain("write the imported keys"))?;
    match twice {
        None => Ok(()),
        Some(key) => Err(corrupt(format!("the export has the key {key} twice"))),
    }
}

/// Copies what one snapshot of a file holds into a new file.
pub(crate) fn copy(from: &ReadTransaction, draft: Draft) -> Result<(), Error> {
    copy_table(from, &draft.disk, FACTS)?;
    copy_table(from, &draft.disk, KEYS)?;
    copy_table(from, &draft.disk, LOG)?;
    copy_table(from, &draft.disk, OUTCOMES)?;
    draft.publish()
}

fn copy_table<K: redb::Key + 'static>(
    from: &ReadTransaction,
    to: &Disk,
    definition: TableDefinition<'static, K, &'static [u8]>,
) -> Result<(), Error> {
    let unread = |error: redb::Error| corrupt("back it up").with_source(error);
    let table = from.open_table(definition).map_err(|e| unread(e.into()))?;
    let mut rows = table.iter().map_err(|e| unread(e.into()))?;
    let mut more = true;
    while more {
        more = to
            .write(|transaction| {
                let mut copied = transaction.open_table(definition)?;
                let mut bytes = 0;
                for row in rows.by_ref() {
                    let (key, value) = row?;
                    copied.insert(key.value(), value.value())?;
                    bytes += value.value().len();
                    if bytes > COMMIT_BYTES {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .map_err(|error| error.explain("write the backup"))?;
    }
    Ok(())
}
