//! The writer without a thread: evaluates a batch, makes it durable, makes it readable.
//!
//! ```text
//! requests -> evaluate in order -> one log record -> durable -> index -> answers
//!                                        later: key table <- checkpoint steps -> log trimmed
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cpl_core::store::{
    Class, Clock, Commit, Cursor, Error, Expect, Key, KeyMeta, Kind, Monotonic, Op, Outcome,
    Revision, Timestamp, Txn, TxnId,
};

use crate::config::Config;
use crate::disk::{Disk, LOG, Loaded, WriteError, corrupt};
use crate::floor::Fault;
use crate::format::{Item, Label, Mark, Record, RecordRow, Recorded};
use crate::index::Index;
use crate::shared::Shared;

/// One write.
#[derive(Debug)]
pub(crate) enum Request {
    /// A transaction that was validated.
    Commit(Txn),
    Outcome(TxnId),
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Commit(Commit),
    Outcome(Outcome),
}

/// The only one who writes: to the file, and then to what is readable.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) disk: Disk,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Config,
    /// What the file says of itself.
    pub(crate) label: Label,
    pub(crate) mark: Mark,
    /// Log records that are not trimmed, oldest first; the first has the sequence `mark.record`.
    pub(crate) records: VecDeque<Kept>,
    pub(crate) log_bytes: u64,
    /// How many of those are compacted as a whole, and their bytes.
    pub(crate) compacted: (usize, u64),
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Records before this one are in the tables, and may be trimmed.
    pub(crate) trim_to: u64,
    /// Requests of the last commit: how busy it is.
    pub(crate) last_batch: usize,
    /// Ids whose rows the next checkpoint step removes.
    pub(crate) expired: Vec<TxnId>,
    poison: Option<Poison>,
}

/// A log record, as far as checkpoints need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) bytes: u64,
    /// The newest revision after it.
    pub(crate) last: Revision,
}

impl Kept {
    pub(crate) fn new(record: &Record, bytes: usize) -> Self {
        Self {
            bytes: bytes as u64,
            last: record.last(),
        }
    }
}

/// What a checkpoint has left to write.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The key table holds all changes up to here once it is through.
    pub(crate) through: Revision,
    /// Records before this one are in the tables then.
    pub(crate) trim_to: u64,
    pub(crate) keys: BTreeSet<Key>,
    /// In their order, so that neighbours share pages; written from the end.
    pub(crate) outcomes: Vec<TxnId>,
}

/// Why nothing is written.
#[derive(Clone, Debug)]
struct Poison {
    kind: Kind,
    why: String,
    /// When to look whether there is room again, and after which pause; nothing when only a person
    /// can help.
    look: Option<(Monotonic, Duration)>,
}

/// Pauses between two looks at a disk that was full: each reads the whole file.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What must fit, so that the next batch will: its values and the pages around them.
const PROBE_BYTES: usize = 2 << 20;

impl Engine {
    pub(crate) fn new(
        disk: Disk,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        config: Config,
        (label, mark): (Label, Mark),
    ) -> Self {
        let engine = Self {
            disk,
            shared,
            clock,
            config,
            label,
            mark,
            records: VecDeque::new(),
            log_bytes: 0,
            compacted: (0, 0),
            checkpoint: None,
            trim_to: mark.record,
            last_batch: 0,
            expired: Vec::new(),
            poison: None,
        };
        engine.tell_refusal();
        engine
    }

    /// Takes over a record that the log holds already.
    pub(crate) fn keep(&mut self, record: &Record, bytes: usize) {
        self.records.push_back(Kept::new(record, bytes));
        self.log_bytes += bytes as u64;
    }

    /// Evaluates the requests in order, each on the state that its predecessors leave, and answers
    /// in that order once all of them are durable. Blocks while the disk works.
    ///
    /// A request is evaluated as soon as the iterator gives it, which may wait for more of them
    /// meanwhile. An answer is told as soon as its own change is readable; whoever reads then waits
    /// until all of them are.
    ///
    /// When the disk fails, every answer of the batch is that failure, also those that changed
    /// nothing: they may have seen a predecessor that nobody knows to be durable. From then on every
    /// write is refused, for good or until a full disk has room.
    pub(crate) fn commit(
        &mut self,
        requests: impl Iterator<Item = Request>,
        mut tell: impl FnMut(Result<Answer, Error>),
    ) {
        self.recover_if_due();
        if let Some(poison) = &self.poison {
            requests.for_each(|_| tell(Err(poison.error())));
            return;
        }
        let Evaluated {
            answers,
            record,
            row,
        } = self.evaluate(requests);
        if answers.is_empty() {
            return;
        }
        self.last_batch = answers.len();
        match self.append(&record, row) {
            Ok(()) => self.publish(record.items, answers, tell),
            Err(failed) => {
                let failure = failed.explain("commit to the log");
                self.fail(&failure);
                for _ in 1..answers.len() {
                    tell(Err(Error::new(failure.kind().clone(), failure.to_string())));
                }
                tell(Err(failure));
            },
        }
    }

    fn evaluate(&self, requests: impl Iterator<Item = Request>) -> Evaluated {
        // Nobody but this thread changes the index, so that holding it keeps nobody waiting.
        let index = self.shared.index();
        let mut batch = Batch {
            index: &index,
            sealed: self.is_sealed(),
            now: self.clock.wall(),
            head: index.head,
            changed: BTreeMap::new(),
            recorded: BTreeMap::new(),
            outcome_records: self.config.outcome_records,
            items: Vec::new(),
            row: RecordRow::new(index.head),
        };
        let mut answers = Vec::new();
        for request in requests {
            let answer = match request {
                Request::Commit(txn) => batch.commit(txn).map(Answer::Commit),
                Request::Outcome(id) => batch.outcome(id).map(Answer::Outcome),
            };
            answers.push((batch.items.len(), answer));
        }
        let record = Record {
            base: index.head,
            items: batch.items,
        };
        Evaluated {
            answers,
            record,
            row: batch.row,
        }
    }

    /// Says why the next write would be refused.
    pub(crate) fn tell_refusal(&self) {
        let sealed = || self.is_sealed().then(Error::sealed);
        let refusal = self.poison.as_ref().map(Poison::error).or_else(sealed);
        self.shared.refuse(refusal);
    }

    /// Makes a record durable, if it says anything.
    fn append(&mut self, record: &Record, row: RecordRow) -> Result<(), WriteError> {
        if record.items.is_empty() {
            return Ok(());
        }
        let sequence = self.mark.record + self.records.len() as u64;
        let row = row.seal(sequence);
        self.disk.write(|transaction| {
            let mut log = transaction.open_table(LOG)?;
            log.insert(sequence, row.as_slice())?;
            Ok(())
        })?;
        self.keep(record, row.len());
        Ok(())
    }

    /// Makes durable items readable, and tells each answer once what it stands on is.
    fn publish(
        &self,
        items: Vec<Item>,
        answers: Vec<(usize, Result<Answer, Error>)>,
        mut tell: impl FnMut(Result<Answer, Error>),
    ) {
        let mut index = self.shared.index_mut();
        let mut items = items.into_iter();
        let mut applied = 0;
        for (after, answer) in answers {
            for item in items.by_ref().take(after - applied) {
                index.apply(item);
            }
            applied = after;
            tell(answer);
        }
        let revision = index.head;
        drop(index);
        self.shared.head.send_if_modified(|head| {
            let moved = head.revision != revision;
            head.revision = revision;
            moved
        });
    }

    /// Refuses every later write: after a failed commit the file may hold what the index does not. A
    /// full disk is looked at again, see [`Engine::recover_if_due`].
    pub(crate) fn fail(&mut self, failure: &Error) {
        let source = std::error::Error::source(failure).map(ToString::to_string);
        let why = source.unwrap_or_else(|| failure.to_string());
        let kind = match failure.kind() {
            Kind::Corrupt => Kind::Corrupt,
            _ => Kind::ReadOnly,
        };
        let full = kind == Kind::ReadOnly && self.disk.fault() == Fault::Full;
        let look = full.then(|| (self.clock.monotonic().plus(FIRST_LOOK), FIRST_LOOK));
        match look {
            Some(_) => tracing::error!(
                %why,
                "the disk is full: the embedded store takes no writes until there is room again"
            ),
            None => tracing::error!(
                %why,
                "the embedded store takes no more writes until it is opened again"
            ),
        }
        self.refuse(Poison { kind, why, look });
    }

    fn refuse(&mut self, poison: Poison) {
        self.poison = Some(poison);
        self.tell_refusal();
    }

    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.poison.as_ref().map(Poison::error)
    }

    /// Whether it waits for room on the disk.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.poison
            .as_ref()
            .is_some_and(|poison| poison.look.is_some())
    }

    /// Goes on from what the file holds, if the disk was full, it is time to look, and there is room.
    ///
    /// Until then nothing changes for readers. Afterwards they see what the file holds, which is all
    /// that they saw before and whatever of the last batch turns out to be there.
    pub(crate) fn recover_if_due(&mut self) {
        let Some((at, pause)) = self.poison.as_ref().and_then(|poison| poison.look) else {
            return;
        };
        if self.clock.monotonic() < at {
            return;
        }
        match self.recover() {
            Ok(()) => {
                tracing::info!("there is room on the disk: the embedded store takes writes again");
                self.poison = None;
                self.tell_refusal();
            },
            Err(failure) if failure.class() == Class::Corrupt => self.fail(&failure),
            Err(failure) if self.disk.fault() == Fault::Lasting => self.fail(&failure),
            Err(failure) => {
                tracing::debug!(%failure, "the disk is still full");
                let pause = (pause * 2).min(LONGEST_PAUSE);
                if let Some(poison) = &mut self.poison {
                    poison.look = Some((self.clock.monotonic().plus(pause), pause));
                }
            },
        }
    }

    fn recover(&mut self) -> Result<(), Error> {
        self.disk.reopen()?;
        let probed = self.disk.probe(PROBE_BYTES);
        probed.map_err(|error| error.explain("try whether there is room"))?;
        let replayed = replay(self.disk.load()?)?;
        let told = self.shared.index().head;
        if replayed.index.head < told {
            let found = replayed.index.head;
            return Err(corrupt(format!(
                "it ends at {found}, but {told} was durable"
            )));
        }
        self.label = replayed.label;
        self.mark = replayed.mark;
        self.checkpoint = None;
        self.trim_to = self.mark.record;
        self.take_over(replayed.records);
        self.expired.clear();
        self.shared.replace(replayed.index, self.disk.reader());
        Ok(())
    }

    /// The log records that the file holds.
    pub(crate) fn take_over(&mut self, records: Vec<Kept>) {
        self.log_bytes = records.iter().map(|kept| kept.bytes).sum();
        self.records = records.into();
        self.compacted = (0, 0);
        self.count_compacted();
    }
}

impl Poison {
    fn error(&self) -> Error {
        let Self { why, .. } = self;
        let context = match self.look {
            Some(_) => format!("write to the store: the disk is full ({why}); make room on it"),
            None => {
                format!("write to the store: an earlier write failed ({why}); open the file again")
            },
        };
        Error::new(self.kind.clone(), context)
    }
}

/// What a file holds, put together.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) label: Label,
    pub(crate) index: Index,
    pub(crate) mark: Mark,
    pub(crate) records: Vec<Kept>,
}

/// Replays the log on the key table. Rows that are newer than a change of the log stay as they are.
pub(crate) fn replay(loaded: Loaded) -> Result<Replayed, Error> {
    let Loaded {
        label,
        mut index,
        openings,
        mark,
        records,
    } = loaded;
    let mut kept = Vec::new();
    if index.head > mark.applied {
        return Err(corrupt("the log does not continue the key table"));
    }
    for (record, bytes) in records {
        kept.push(Kept::new(&record, bytes));
        for item in record.items {
            let expected = index.head.0 + u64::from(!item.changes.is_empty());
            if item.revision.0 != expected {
                return Err(corrupt("the log has a hole"));
            }
            index.apply(item);
        }
        index.prune(usize::MAX);
    }
    if index.head < mark.compacted || index.head < mark.applied {
        return Err(corrupt("the log ends before what is compacted"));
    }
    index.opened(openings);
    Ok(Replayed {
        label,
        index,
        mark,
        records: kept,
    })
}

/// A batch that waits for the disk.
struct Evaluated {
    /// Each with the number of items that it stands on.
    answers: Vec<(usize, Result<Answer, Error>)>,
    record: Record,
    row: RecordRow,
}

/// The durable state with what the batch adds to it.
struct Batch<'a> {
    index: &'a Index,
    /// Nothing is changed any more.
    sealed: bool,
    now: Timestamp,
    head: Revision,
    changed: BTreeMap<Key, Option<KeyMeta>>,
    recorded: BTreeMap<TxnId, Recorded>,
    outcome_records: usize,
    items: Vec<Item>,
    /// The same items as they will be on disk.
    row: RecordRow,
}

impl Batch<'_> {
    fn commit(&mut self, txn: Txn) -> Result<Commit, Error> {
        let body = txn.id.map(|id| (id, txn.digest()));
        if let Some((id, body)) = body {
            if let Some(recorded) = self.recorded(id) {
                return self.replay(&recorded, body);
            }
            self.check_room()?;
        }
        if self.sealed {
            return Err(Error::sealed());
        }
        let failed = self.failed(&txn);
        if !failed.is_empty() {
            let at = self.cursor(self.head);
            return Ok(Commit::CompareFailed { failed, at });
        }
        let next = Revision(self.head.0 + 1);
        let changes = self.change(txn.ops, next);
        if !changes.is_empty() {
            self.head = next;
        }
        let record = body.map(|(id, body)| (id, Outcome::Applied(self.head), body));
        self.push(changes, record);
        Ok(Commit::Applied {
            at: self.cursor(self.head),
            replayed: false,
        })
    }

    fn outcome(&mut self, id: TxnId) -> Result<Outcome, Error> {
        if let Some(recorded) = self.recorded(id) {
            return Ok(recorded.outcome);
        }
        self.check_room()?;
        self.push(Vec::new(), Some((id, Outcome::Void, [0; 32])));
        Ok(Outcome::Void)
    }

    fn replay(&self, recorded: &Recorded, body: [u8; 32]) -> Result<Commit, Error> {
        let refuse = |kind| Err(Error::new(kind, "commit a transaction"));
        match recorded.outcome {
            Outcome::Void => refuse(Kind::TxnVoid),
            Outcome::Applied(_) if recorded.body != body => refuse(Kind::TxnIdReused),
            Outcome::Applied(revision) => Ok(Commit::Applied {
                at: self.cursor(revision),
                replayed: true,
            }),
        }
    }

    fn failed(&self, txn: &Txn) -> Vec<(Key, Option<KeyMeta>)> {
        let metas = txn.compares.iter().filter_map(|compare| {
            let meta = self.meta(&compare.key);
            let holds = match compare.expect {
                Expect::ModRevision(revision) => meta.is_some_and(|m| m.mod_revision == revision),
                Expect::Absent => meta.is_none(),
            };
            (!holds).then(|| (compare.key.clone(), meta))
        });
        metas.collect()
    }

    /// What the writes really change, in key order.
    fn change(&mut self, ops: Vec<Op>, revision: Revision) -> Vec<(Key, Option<bytes::Bytes>)> {
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, value) = match op {
                Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key) => (key, None),
            };
            let before = self.meta(&key);
            let after = value.as_ref().map(|_| KeyMeta {
                create_revision: before.map_or(revision, |meta| meta.create_revision),
                mod_revision: revision,
                version: before.map_or(1, |meta| meta.version + 1),
            });
            if before.is_some() || after.is_some() {
                self.changed.insert(key.clone(), after);
                changes.push((key, value));
            }
        }
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }

    fn push(
        &mut self,
        changes: Vec<(Key, Option<bytes::Bytes>)>,
        record: Option<(TxnId, Outcome, [u8; 32])>,
    ) {
        let record = record.map(|(id, outcome, body)| {
            let at = self.now;
            (id, Recorded { at, outcome, body })
        });
        if let Some((id, recorded)) = record {
            self.recorded.insert(id, recorded);
        }
        if record.is_some() || !changes.is_empty() {
            let item = Item {
                revision: self.head,
                record,
                changes,
            };
            self.row.push(&item);
            self.items.push(item);
        }
    }

    fn meta(&self, key: &Key) -> Option<KeyMeta> {
        match self.changed.get(key) {
            Some(meta) => *meta,
            None => self.index.meta(key),
        }
    }

    fn recorded(&self, id: TxnId) -> Option<Recorded> {
        let held = || self.index.outcomes.get(id, self.now).copied();
        self.recorded.get(&id).copied().or_else(held)
    }

    fn check_room(&self) -> Result<(), Error> {
        if self.index.outcomes.len() + self.recorded.len() < self.outcome_records {
            return Ok(());
        }
        let context = "record a transaction id: too many are remembered already";
        Err(Error::new(Kind::Overloaded, context))
    }

    fn cursor(&self, revision: Revision) -> Cursor {
        self.index.cursor(revision)
    }
}
