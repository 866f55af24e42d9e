//! The file: its tables, the one way to write to it, and what is read from it at opening.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use cpl_core::store::{Error, Identity, Key, Kind, Revision, TxnId};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _,
    ReadableTable as _, StorageBackend, StorageError, TableDefinition, WriteTransaction,
    backends::FileBackend,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::floor::{Fault, Floor};
use crate::format::{
    self, AnyLabel, FORMAT, Label, Mark, OpeningNote, Record, Recorded, decode_fact, encode_fact,
};
use crate::index::{Index, Outcomes};

pub(crate) const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
pub(crate) const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(crate) const OUTCOMES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("outcomes");

pub(crate) const LABEL: &str = "label";
pub(crate) const MARK: &str = "mark";
pub(crate) const OPENINGS: &str = "openings";
/// Left behind only by a crash in the middle of [`Disk::probe`]; nobody reads it.
const PROBE: &str = "probe";

/// The first bytes of every redb file.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// redb's page cache; small, since reads are served from the index.
const CACHE_BYTES: usize = 16 << 20;
/// Openings that are noted; cursors of older ones are refused.
const OPENINGS_KEPT: usize = 1_000;

/// An open file, held against every other process until it is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Nothing while the file could not be opened again after a failure.
    database: Option<Arc<Database>>,
    floor: Floor,
}

/// A write that failed.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The commit did not begin.
    NotApplied(redb::Error),
    /// The commit began, and may or may not be on the disk.
    Unknown(redb::Error),
}

impl Disk {
    /// Opens a file that holds a store already.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        inspect(path)?;
        let context = format!("open the store {}", path.display());
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path);
        let backend = file
            .map_err(|error| StorageError::Io(error).into())
            .and_then(FileBackend::new)
            .map_err(|error| explain(error, context.clone()))?;
        Self::standing_on(Floor::new(backend), context)
    }

    /// Opens what a backend holds, or makes a new database in it when it is empty.
    pub(crate) fn on(backend: impl StorageBackend) -> Result<Self, Error> {
        Self::standing_on(Floor::new(backend), "open the store's backend".to_owned())
    }

    fn standing_on(floor: Floor, context: String) -> Result<Self, Error> {
        let database = start(floor.clone(), context)?;
        Ok(Self {
            database: Some(Arc::new(database)),
            floor,
        })
    }

    /// What the errors since the last look mean.
    pub(crate) fn fault(&self) -> Fault {
        self.floor.fault()
    }

    /// Opens the same file anew, without giving up its lock: redb takes nothing more after an error.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        self.database = None;
        let context = "open the store anew".to_owned();
        self.database = Some(Arc::new(start(self.floor.clone(), context)?));
        Ok(())
    }

    /// For those who only read, and do not keep the file open.
    pub(crate) fn reader(&self) -> Weak<Database> {
        self.database
            .as_ref()
            .map(Arc::downgrade)
            .unwrap_or_default()
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        let closed = || redb::Error::Io(io::Error::other("the file is not open at the moment"));
        self.database.as_deref().ok_or_else(closed)
    }

    /// The only way in which anything is written. Every commit is durable, in two phases and with the
    /// allocator's state, from the first one on: redb recovers such a file without guessing, and a
    /// single commit of the other kind in between would take that away.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, WriteError> {
        let begin = || -> Result<_, redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            let value = change(&transaction)?;
            Ok((transaction, value))
        };
        let (transaction, value) = begin().map_err(WriteError::NotApplied)?;
        match transaction.commit() {
            Ok(()) => Ok(value),
            Err(error) => Err(WriteError::Unknown(error.into())),
        }
    }

    /// Whether nothing was ever written to it.
    pub(crate) fn is_blank(&self) -> Result<bool, Error> {
        let tables = || -> Result<_, redb::Error> {
            Ok(self.database()?.begin_read()?.list_tables()?.count())
        };
        let count = tables().map_err(|error| corrupt("its tables").with_source(error))?;
        Ok(count == 0)
    }

    /// Writes what makes an empty database a store.
    pub(crate) fn initialise(&self, label: &Label, mark: &Mark) -> Result<(), Error> {
        self.write(|transaction| {
            transaction.open_table(KEYS)?;
            transaction.open_table(LOG)?;
            transaction.open_table(OUTCOMES)?;
            put_fact(transaction, LABEL, label)?;
            put_fact(transaction, MARK, mark)?;
            put_fact(transaction, OPENINGS, &Vec::<OpeningNote>::new())
        })
        .map_err(|error| error.explain("write a fresh store"))
    }

    /// Notes that the file was opened at this revision, dropping the oldest notes.
    pub(crate) fn note_opening(
        &self,
        mut openings: Vec<OpeningNote>,
        note: OpeningNote,
    ) -> Result<Vec<OpeningNote>, Error> {
        openings.push(note);
        openings.drain(..openings.len().saturating_sub(OPENINGS_KEPT));
        self.write(|transaction| put_fact(transaction, OPENINGS, &openings))
            .map_err(|error| error.explain("note the opening of the store"))?;
        Ok(openings)
    }

    /// Shows that there is room for a batch, and makes durable whatever was written before: what the
    /// last commit left behind may be readable by now without being on the disk.
    pub(crate) fn probe(&self, bytes: usize) -> Result<(), WriteError> {
        let room = vec![0; bytes];
        self.write(|transaction| {
            transaction
                .open_table(FACTS)?
                .insert(PROBE, room.as_slice())?;
            Ok(())
        })?;
        self.write(|transaction| {
            transaction.open_table(FACTS)?.remove(PROBE)?;
            Ok(())
        })
    }

    /// Reads and checks all of it.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        guarded("read the store", || {
            let failed = |error: redb::Error| corrupt("a table cannot be read").with_source(error);
            let read = || -> Result<_, redb::Error> { Ok(self.database()?.begin_read()?) };
            load(&read().map_err(failed)?)
        })
    }
}

impl WriteError {
    pub(crate) fn explain(self, context: &str) -> Error {
        match self {
            Self::NotApplied(error) => Error::new(Kind::ReadOnly, context).with_source(error),
            Self::Unknown(error) => Error::new(Kind::CommitUnknown, context).with_source(error),
        }
    }
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) label: Label,
    pub(crate) index: Index,
    pub(crate) openings: Vec<OpeningNote>,
    pub(crate) mark: Mark,
    /// The log: what its records mean, and their size. The index holds the key table alone.
    pub(crate) records: Vec<(Record, usize)>,
}

fn load(transaction: &ReadTransaction) -> Result<Loaded, Error> {
    let label = read_label(transaction)?;
    let mark: Mark = fact(transaction, MARK)?;
    let identity = Identity {
        store: label.store,
        incarnation: label.incarnation,
    };
    let records = load_log(transaction, &mark)?;
    let base = records.first();
    let base = base.map_or(mark.applied, |(record, _)| record.base);
    let outcomes = Outcomes::load(load_outcomes(transaction)?);
    let mut index = Index::new(identity, base, mark.compacted, outcomes);
    load_keys(transaction, &mark, &mut index)?;
    Ok(Loaded {
        label,
        index,
        openings: fact(transaction, OPENINGS)?,
        mark,
        records,
    })
}

fn read_label(transaction: &ReadTransaction) -> Result<Label, Error> {
    let foreign = || {
        let context = "open the store: the file is a redb database, but not one of this store";
        Error::new(Kind::Invalid, context)
    };
    let table = transaction.open_table(FACTS).map_err(|_| foreign())?;
    let row = table
        .get(LABEL)
        .map_err(|error| corrupt("the label cannot be read").with_source(error))?
        .ok_or_else(foreign)?;
    let damaged = || corrupt("the label is damaged");
    let AnyLabel { format } = decode_fact(LABEL, row.value()).ok_or_else(damaged)?;
    if format != FORMAT {
        let context = format!(
            "open the store: the file has format {format}, and this program reads format {FORMAT}"
        );
        return Err(Error::new(Kind::Invalid, context));
    }
    decode_fact(LABEL, row.value()).ok_or_else(damaged)
}

fn fact<T: DeserializeOwned>(transaction: &ReadTransaction, name: &str) -> Result<T, Error> {
    let damaged = || corrupt(format!("the fact {name} is damaged or missing"));
    let read = || -> Result<_, redb::Error> { Ok(transaction.open_table(FACTS)?.get(name)?) };
    let row = read().map_err(|error| damaged().with_source(error))?;
    let row = row.ok_or_else(damaged)?;
    // Owned, since the row's bytes go when this returns.
    let value: serde_json::Value = decode_fact(name, row.value()).ok_or_else(damaged)?;
    serde_json::from_value(value).map_err(|error| damaged().with_source(error))
}

fn load_keys(transaction: &ReadTransaction, mark: &Mark, index: &mut Index) -> Result<(), Error> {
    let mut keys = 0;
    each(transaction, KEYS, |key, row| {
        let decoded = format::decode_entry(key, row);
        let (value, meta) = decoded.ok_or_else(|| corrupt("a key's row is damaged"))?;
        let key = Key::new(key.to_vec())
            .map_err(|error| corrupt("a key is not one").with_source(error))?;
        if meta.mod_revision > mark.compacted {
            return Err(corrupt(format!(
                "the key {key} is newer than the key table may be"
            )));
        }
        index.load(key, value, meta);
        keys += 1;
        Ok(())
    })?;
    if keys != mark.keys {
        let expected = mark.keys;
        return Err(corrupt(format!(
            "the key table has {keys} rows instead of {expected}"
        )));
    }
    Ok(())
}

fn load_outcomes(transaction: &ReadTransaction) -> Result<Vec<(TxnId, Recorded)>, Error> {
    let mut rows = Vec::new();
    each(transaction, OUTCOMES, |id, row| {
        let recorded = format::decode_recorded(TxnId(id), row);
        rows.push((
            TxnId(id),
            recorded.ok_or_else(|| corrupt("an outcome's row is damaged"))?,
        ));
        Ok(())
    })?;
    Ok(rows)
}

fn load_log(transaction: &ReadTransaction, mark: &Mark) -> Result<Vec<(Record, usize)>, Error> {
    let mut records: Vec<(Record, usize)> = Vec::new();
    let mut expected = mark.record;
    let mut head: Option<Revision> = None;
    each(transaction, LOG, |sequence, row| {
        let damaged = || corrupt(format!("the log record {sequence} is damaged"));
        let record = Record::decode(sequence, row).ok_or_else(damaged)?;
        if sequence != expected || head.is_some_and(|head| head != record.base) {
            return Err(corrupt(format!(
                "the log record before {sequence} is missing"
            )));
        }
        expected += 1;
        head = Some(record.last());
        records.push((record, row.len()));
        Ok(())
    })?;
    Ok(records)
}

/// Calls `visit` for every row of a table.
fn each<K: redb::Key + 'static>(
    transaction: &ReadTransaction,
    definition: TableDefinition<'_, K, &'static [u8]>,
    mut visit: impl FnMut(K::SelfType<'_>, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let damaged = |error: redb::Error| corrupt("a table cannot be read").with_source(error);
    let table = transaction
        .open_table(definition)
        .map_err(|error| damaged(error.into()))?;
    for row in table.iter().map_err(|error| damaged(error.into()))? {
        let (key, value) = row.map_err(|error| damaged(error.into()))?;
        visit(key.value(), value.value())?;
    }
    Ok(())
}

pub(crate) fn put_fact<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    fact: &T,
) -> Result<(), redb::Error> {
    let row = encode_fact(name, fact).map_err(|error| redb::Error::Io(error.into()))?;
    transaction
        .open_table(FACTS)?
        .insert(name, row.as_slice())?;
    Ok(())
}

pub(crate) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, format!("read the store: {}", what.into()))
}

fn start(backend: impl StorageBackend, context: String) -> Result<Database, Error> {
    let guard = context.clone();
    guarded(&guard, || {
        let opened = builder().create_with_backend(backend);
        opened.map_err(|error| explain(error, context))
    })
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // redb then verifies the checksum of every page instead of trusting the file; a damaged page of
    // its own bookkeeping would otherwise surface as an overwritten live one, much later.
    builder.set_check_integrity_on_open(true);
    builder
}

/// redb may panic on a file that something else has damaged; that is the file's fault, and one more
/// way of being corrupt.
fn guarded<T>(context: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let context = format!("{context}: the file is damaged (reading it panicked)");
        Err(Error::new(Kind::Corrupt, context))
    })
}

/// Refuses what is plainly no store, with a message that says what it is instead.
fn inspect(path: &Path) -> Result<(), Error> {
    let context = |what: &str| format!("open the store {}: {what}", path.display());
    let invalid = |what: &str| Error::new(Kind::Invalid, context(what));
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => invalid("there is no such file; a store is created first"),
        _ => invalid("it cannot be read").with_source(error),
    })?;
    if metadata.is_dir() {
        return Err(invalid("it is a directory; a store is one file"));
    }
    if metadata.len() == 0 {
        return Err(invalid("the file is empty; no store was ever in it"));
    }
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut magic))
        .map_err(|error| invalid("it cannot be read").with_source(error))?;
    if magic != MAGIC {
        return Err(invalid("the file is not a redb database"));
    }
    Ok(())
}

fn explain(error: DatabaseError, context: String) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let context = format!("{context}: another process has it open");
            Error::new(Kind::NotConnected, context)
        },
        DatabaseError::UpgradeRequired(version) => {
            let context = format!("{context}: it has the redb file format {version}");
            Error::new(Kind::Invalid, context)
        },
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Error::new(Kind::NotConnected, context).with_source(error)
        },
        other => Error::new(Kind::Corrupt, context).with_source(other),
    }
}

/// A file that is being made: under a temporary name until [`Draft::publish`], removed when dropped
/// before. So a file under its own name is always whole, whenever the machine stops.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) disk: Disk,
    temporary: Temporary,
    path: PathBuf,
}

#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: what is left behind has a name that nothing opens.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Draft {
    /// An empty database beside `path`. `suffix` tells drafts apart.
    pub(crate) fn new(path: &Path, suffix: u128) -> Result<Self, Error> {
        let fail = |error: io::Error| create_error(path, error);
        let exists = path.try_exists().map_err(fail)?;
        let name = path.file_name().filter(|_| !exists);
        let Some(name) = name.map(|name| name.to_string_lossy().into_owned()) else {
            return Err(fail(io::ErrorKind::AlreadyExists.into()));
        };
        let temporary = path.with_file_name(format!(".{name}.{suffix:032x}.new"));
        let file = private(&temporary).map_err(fail)?;
        let temporary = Temporary(temporary);
        let backend = FileBackend::new(file).map_err(|error| create_error(path, error))?;
        let context = format!("create the store {}", path.display());
        Ok(Self {
            disk: Disk::standing_on(Floor::new(backend), context)?,
            temporary,
            path: path.to_owned(),
        })
    }

    /// Gives the file its name, unless something has that name by now.
    pub(crate) fn publish(self) -> Result<(), Error> {
        let Self {
            disk,
            temporary,
            path,
        } = self;
        drop(disk);
        name_durably(&temporary.0, &path).map_err(|error| create_error(&path, error))
    }
}

fn create_error(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let context = format!("create the store {}", path.display());
    Error::new(Kind::Invalid, context).with_source(error)
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A link and not a rename: of two processes that create the same store one must lose, and a rename
/// would replace the file that the other has opened already.
fn name_durably(temporary: &Path, path: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    std::fs::hard_link(temporary, path)?;
    std::fs::remove_file(temporary)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
