//! The store itself: opens files, serves reads from memory, hands writes to the writer.

use std::fmt::{Debug, Formatter};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLockReadGuard};

use async_trait::async_trait;
use cpl_core::store::{
    Clock, Commit, Cursor, Entry, Error, IdGen, Identity, Incarnation, Key, Kind, Limits,
    ListRequest, Opening, Outcome, Page, Range, Read, Revision, Seal, SealId, Store, StoreId, Txn,
    TxnId, WatchStream,
};
use redb::{ReadableDatabase as _, StorageBackend};
use tokio::sync::oneshot;

use crate::config::{Config, Writer};
use crate::disk::{Disk, Draft, corrupt};
use crate::engine::{Answer, Engine, Replayed, Request, replay};
use crate::format::{FORMAT, Label, Mark, OpeningNote};
use crate::index::Index;
use crate::shared::{Shared, closed};
use crate::transfer::copy;
use crate::writer::{Inline, Queue, Submit};

/// A store in one file.
///
/// # Contract
///
/// - That of [`Store`]; `limits().exclusive` is true, since the file is locked while it is open.
/// - Reads are answered from memory and never wait for the disk.
/// - **Dropping a future** of a write leaves it queued: it may still commit.
/// - **A failed disk** stops writing, not reading: the failed writes answer with
///   [`Kind::CommitUnknown`] (or [`Kind::ReadOnly`] when nothing was begun), every later one with
///   [`Kind::ReadOnly`]. A disk without room is looked at again, after 1 s and then at pauses that
///   double up to 30 s, and writing goes on once there is room. Any other failure lasts until the
///   file is opened again.
/// - **Dropping the store** waits for the writes that are queued, then closes the file. Watches
///   end with `Closed`.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    submit: Box<dyn Submit>,
}

impl EmbeddedStore {
    /// Creates the file of an empty store; it is opened by [`EmbeddedStore::open`].
    ///
    /// The file is made under a temporary name beside `path` and appears whole or not at all, with
    /// the mode 0600. Blocks while the disk works.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when `path` exists or cannot be made.
    pub fn create(path: impl AsRef<Path>, ids: &dyn IdGen) -> Result<StoreId, Error> {
        let label = fresh_label(ids);
        make(path.as_ref(), &label, ids)?;
        Ok(label.store)
    }

    /// Makes the file of a store that is another's next life, and opens it to be filled: until it is unsealed
    /// nobody else opens it.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::create`].
    pub fn open_new(
        path: impl AsRef<Path>,
        identity: Identity,
        config: Config,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        let label = Label {
            format: FORMAT,
            store: identity.store,
            incarnation: identity.incarnation,
            seal: Some(Seal::Filling(SealId::fresh(ids))),
        };
        make(path, &label, ids)?;
        let engine = recover(Disk::open(path)?, config, clock, ids)?;
        if !engine.is(&label) {
            return Err(Error::not_complete(&path.display().to_string()));
        }
        Self::start(engine)
    }

    /// Opens a file that [`EmbeddedStore::create`], `import` or `backup` made; never makes one.
    ///
    /// Everything in the file is read and checked. Blocks while the disk works.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when there is no store of this format at `path`, [`Kind::NotConnected`] when
    /// another process has it open, [`Kind::Corrupt`] when it is damaged. The message says which.
    pub fn open(
        path: impl AsRef<Path>,
        config: Config,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
    ) -> Result<Self, Error> {
        let engine = recover(Disk::open(path.as_ref())?, config, clock, ids)?;
        if engine.is_filling() {
            return Err(Error::not_complete(&path.as_ref().display().to_string()));
        }
        Self::start(engine)
    }

    /// Opens the file, or creates it when nothing is at `path`.
    pub fn open_or_create(
        path: impl AsRef<Path>,
        config: Config,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        if let Ok(false) = path.try_exists()
            && let Err(error) = Self::create(path, ids)
            // Another process may have made it at the same moment; then opening says who has it.
            && !matches!(path.try_exists(), Ok(true))
        {
            return Err(error);
        }
        Self::open(path, config, clock, ids)
    }

    /// Opens what a simulated disk holds, or makes a store on it when it is empty.
    pub fn open_on(
        backend: impl StorageBackend,
        config: Config,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
    ) -> Result<Self, Error> {
        let disk = Disk::on(backend)?;
        if disk.is_blank()? {
            disk.initialise(&fresh_label(ids), &Mark::EMPTY)?;
        }
        Self::start(recover(disk, config, clock, ids)?)
    }

    fn start(engine: Engine) -> Result<Self, Error> {
        let shared = Arc::clone(&engine.shared);
        let submit: Box<dyn Submit> = match engine.config.writer {
            Writer::Thread => Box::new(Queue::start(engine)?),
            Writer::Inline => Box::new(Inline(Mutex::new(Some(engine)))),
        };
        Ok(Self { shared, submit })
    }

    /// Which store this is.
    pub fn identity(&self) -> Identity {
        self.shared.index().cursor(Revision(0)).identity
    }

    /// Commits what is queued, ends the watches with `Closed`, and gives the file back.
    ///
    /// Idempotent. Every later call is refused with [`Kind::NotConnected`]. Dropping the future does
    /// not stop the closing.
    pub async fn close(&self) {
        self.submit.stop();
        let mut head = self.shared.head.subscribe();
        // The sender is ours: it cannot go while we wait.
        let _closed = head.wait_for(|head| head.closed).await;
    }

    /// Copies the store into a new file while it goes on; the copy is of one moment of this call.
    ///
    /// The copy has the same identity and can be opened in its place. Whoever has seen more than the
    /// copy holds is refused by it with [`Kind::IdentityChanged`], as are cursors of one that are
    /// shown to the other once both go on.
    ///
    /// Works on a thread of its own; dropping the future does not stop it.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when `path` exists or cannot be made, [`Kind::NotConnected`] when the store
    /// is closed.
    pub async fn backup(&self, path: impl AsRef<Path>, ids: &dyn IdGen) -> Result<(), Error> {
        let draft = Draft::new(path.as_ref(), ids.fresh())?;
        let unreadable = || match self.shared.refusal() {
            Some(why) => Error::new(Kind::ReadOnly, format!("begin a backup: {why}")),
            None => closed(),
        };
        let database = self.shared.database().ok_or_else(unreadable)?;
        let snapshot = database
            .begin_read()
            .map_err(|error| corrupt("begin a backup").with_source(error))?;
        drop(database);
        let (done, copied) = oneshot::channel();
        std::thread::Builder::new()
            .name("cpl-store-backup".to_owned())
            // Whoever asked may have stopped waiting; the copy stands.
            .spawn(move || drop(done.send(copy(&snapshot, draft))))
            .map_err(|error| {
                Error::new(Kind::NotConnected, "start the backup").with_source(error)
            })?;
        copied.await.unwrap_or_else(|_| Err(gone()))
    }

    fn readable(&self) -> Result<RwLockReadGuard<'_, Index>, Error> {
        if self.shared.head.borrow().closed {
            return Err(closed());
        }
        Ok(self.shared.index())
    }

    async fn write(&self, request: Request) -> Result<Answer, Error> {
        let answer = self.submit.write(request)?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    let context = "write to the store: the writer ended without an answer";
    Error::new(Kind::CommitUnknown, context)
}

fn fresh_label(ids: &dyn IdGen) -> Label {
    Label {
        format: FORMAT,
        store: StoreId::fresh(ids),
        incarnation: Incarnation(1),
        seal: None,
    }
}

fn make(path: &Path, label: &Label, ids: &dyn IdGen) -> Result<(), Error> {
    let draft = Draft::new(path, ids.fresh())?;
    draft.disk.initialise(label, &Mark::EMPTY)?;
    draft.publish()
}

/// Puts together what the file holds, and notes the opening.
fn recover(
    disk: Disk,
    config: Config,
    clock: Arc<dyn Clock>,
    ids: &dyn IdGen,
) -> Result<Engine, Error> {
    let Replayed {
        label,
        mut index,
        mark,
        records,
    } = replay(disk.load()?)?;
    let note = OpeningNote {
        opening: nonce(ids),
        from: index.head,
    };
    let openings = disk.note_opening(index.openings().to_vec(), note)?;
    index.opened(openings);
    let shared = Arc::new(Shared::new(index, disk.reader()));
    let mut engine = Engine::new(disk, shared, clock, config, (label, mark));
    engine.take_over(records);
    Ok(engine)
}

/// Never zero, which stands for a store without openings.
fn nonce(ids: &dyn IdGen) -> Opening {
    // Half of the bits always fit.
    let bits = u64::try_from(ids.fresh() >> 64).unwrap_or(u64::MAX);
    Opening(bits.max(1))
}

#[async_trait]
impl Store for EmbeddedStore {
    fn limits(&self) -> Limits {
        Limits::portable(true)
    }

    async fn head(&self) -> Result<Cursor, Error> {
        let index = self.readable()?;
        Ok(index.cursor(index.head))
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        Ok(self.readable()?.get(key))
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        self.readable()?.list(&request)
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        txn.validate(&self.limits())?;
        match self.write(Request::Commit(txn)).await? {
            Answer::Commit(commit) => Ok(commit),
            Answer::Outcome(_) => Err(gone()),
        }
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.readable()?.check_cursor(&after)?;
        Ok(crate::watch::stream(Arc::clone(&self.shared), range, after))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        match self.write(Request::Outcome(id)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Commit(_) => Err(gone()),
        }
    }

    fn refusal(&self) -> Option<Error> {
        let refusal = self.shared.refusal()?;
        Some(Error::new(refusal.kind().clone(), refusal.context()))
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let done = self.submit.compact(through)?;
        done.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        let done = self.submit.seal(Some(seal))?;
        done.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn unseal(&self) -> Result<(), Error> {
        let done = self.submit.seal(None)?;
        done.await.unwrap_or_else(|_| Err(gone())).map(drop)
    }
}

impl Debug for EmbeddedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("identity", &self.identity())
            .field("head", &*self.shared.head.borrow())
            .finish_non_exhaustive()
    }
}
