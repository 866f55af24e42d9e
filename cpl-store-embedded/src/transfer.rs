//! Moving a file: made of an export, or copied as it is.

use std::io::{BufRead, Read as _};
use std::path::Path;

use cpl_core::store::{
    Decoded, Decoder, Entry, Error, IdGen, Identity, Incarnation, Key, Kind, LINE_BYTES, Revision,
    Summary,
};
use redb::{ReadTransaction, ReadableTable as _, TableDefinition};

use crate::disk::{Disk, Draft, FACTS, KEYS, LOG, OUTCOMES, corrupt};
use crate::format::{FORMAT, Label, Mark, encode_entry};

/// About how many bytes one commit of a new file holds.
const COMMIT_BYTES: usize = 4 << 20;

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
        decoder: Decoder::new(),
    };
    let Decoded::Header(header) = reader.line()? else {
        return Err(Error::new(
            Kind::Invalid,
            "import a store: it has no header",
        ));
    };
    let draft = Draft::new(path.as_ref(), ids.fresh())?;
    let entries = reader.entries(&draft.disk)?;
    let identity = Identity {
        incarnation: Incarnation(header.identity.incarnation.0 + 1),
        ..header.identity
    };
    let label = Label {
        format: FORMAT,
        store: identity.store,
        incarnation: identity.incarnation,
        seal: None,
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
    Ok(Summary {
        identity,
        revision,
        entries,
    })
}

struct Reader<'a> {
    input: &'a mut dyn BufRead,
    decoder: Decoder,
}

impl Reader<'_> {
    /// Writes all entries, checks the trailer, and returns their number.
    fn entries(&mut self, disk: &Disk) -> Result<u64, Error> {
        loop {
            let (rows, end) = self.rows()?;
            write_rows(disk, &rows)?;
            if let Some(end) = end {
                self.nothing_more()?;
                return Ok(end.entries);
            }
        }
    }

    /// As many rows as one commit may hold, and the end when it came.
    fn rows(&mut self) -> Result<(Vec<Row>, Option<Summary>), Error> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < COMMIT_BYTES {
            match self.line()? {
                Decoded::End(summary) => return Ok((rows, Some(summary))),
                Decoded::Header(_) => {},
                Decoded::Entry(Entry { key, value, meta }) => {
                    let row = encode_entry(&key, &value, &meta);
                    bytes += row.len();
                    rows.push((key, row));
                },
            }
        }
        Ok((rows, None))
    }

    fn line(&mut self) -> Result<Decoded, Error> {
        let mut text = Vec::new();
        let mut bounded = (&mut *self.input).take(LINE_BYTES as u64);
        let read = bounded.read_until(b'\n', &mut text);
        read.map_err(|error| {
            self.decoder
                .damaged("what follows cannot be read")
                .with_source(error)
        })?;
        self.decoder.line(&text)
    }

    fn nothing_more(&mut self) -> Result<(), Error> {
        let mut rest = [0];
        match self.input.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.decoder.damaged("something follows it")),
            Err(error) => Err(self
                .decoder
                .damaged("what follows cannot be read")
                .with_source(error)),
        }
    }
}

type Row = (Key, Vec<u8>);

fn write_rows(disk: &Disk, rows: &[Row]) -> Result<(), Error> {
    let written = disk.write(|transaction| {
        let mut keys = transaction.open_table(KEYS)?;
        for (key, row) in rows {
            keys.insert(key.as_bytes(), row.as_slice())?;
        }
        Ok(())
    });
    written.map_err(|error| error.explain("write the imported keys"))
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
