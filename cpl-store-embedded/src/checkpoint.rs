//! Compaction and checkpoints: the promise first, the work in small steps afterwards.
//!
//! [`Engine::compact`] makes durable that nothing up to a revision is promised any more. When the file
//! holds enough of a log that is compacted, a checkpoint begins. Each [`Engine::step`] writes some of
//! the keys that changed since the last one, as of the compacted revision, and some outcomes; the last
//! one notes that the key table holds all changes up to where the checkpoint began, and then the
//! records that are through are trimmed. Each step is one commit. A crash between two leaves rows that
//! are newer than the start of the log: a replay passes over the changes that a row has already.

use cpl_core::store::{Error, Key, Kind, Revision, TxnId};
use redb::{ReadableTable as _, WriteTransaction};

use crate::disk::{KEYS, LOG, MARK, OUTCOMES, put_fact};
use crate::engine::{Checkpoint, Engine};
use crate::format::{Mark, encode_entry, encode_recorded};
use crate::index::Index;

/// Bytes of one step for a lone caller, so that a write never waits long behind one.
const STEP_BYTES: usize = 1 << 20;
/// Under load a step is as many times larger as the last commit had this many requests, up to a bound: it
/// costs mostly by the pages that it rewrites, and neighbouring keys share them.
const STEP_PER_REQUESTS: usize = 8;
const STEP_TIMES: usize = 8;
const STEP_EXPIRED: usize = 1_000;
const STEP_RECORDS: usize = 1_000;
/// Revisions that are dropped from memory between two commits; more than one commit adds.
const STEP_PRUNED: usize = 1_024;
/// Auto-compaction waits until a log is over its measure by one part of this many, so that it works
/// in strides and not with every commit.
const SLACK: u64 = 2;

/// What a step writes.
#[derive(Debug)]
struct Step {
    mark: Mark,
    trimmed: u64,
    /// What to write, or to remove where the row is `None`, in key order.
    keys: Vec<(Key, Option<Vec<u8>>)>,
    /// Keys that have changes which this checkpoint may not write.
    again: Vec<Key>,
    outcomes: Vec<(u128, Vec<u8>)>,
    /// The last step of its checkpoint.
    ends: bool,
}

impl Engine {
    /// Compacts through a revision. The rows follow in later steps.
    pub(crate) fn compact(&mut self, through: Revision) -> Result<(), Error> {
        let head = self.shared.index().head;
        if through > head {
            let kind = Kind::FutureRevision { head };
            return Err(Error::new(kind, "compact the store"));
        }
        if through <= self.mark.compacted {
            return Ok(());
        }
        self.recover_if_due();
        if let Some(refusal) = self.poisoned() {
            return Err(refusal);
        }
        let mark = Mark {
            compacted: through,
            ..self.mark
        };
        let written = self
            .disk
            .write(|transaction| put_fact(transaction, MARK, &mark));
        if let Err(error) = written {
            let failure = error.explain("note the compaction");
            self.fail(&failure);
            return Err(failure);
        }
        self.mark = mark;
        self.shared.index_mut().compacted = through;
        self.count_compacted();
        Ok(())
    }

    pub(crate) fn count_compacted(&mut self) {
        let (mut count, mut bytes) = self.compacted;
        while let Some(kept) = self.records.get(count)
            && kept.last <= self.mark.compacted
        {
            count += 1;
            bytes += kept.bytes;
        }
        self.compacted = (count, bytes);
    }

    /// Compacts by the measure of the configuration, when the log is over it.
    pub(crate) fn auto_compact(&mut self) -> Result<(), Error> {
        // Rulings have the revision of what was there before, which may be compacted already.
        self.count_compacted();
        let (revisions, bytes) = (self.config.log_revisions, self.config.log_bytes);
        let head = self.shared.index().head;
        let held = head.0 - self.mark.compacted.0;
        let held_bytes = self.log_bytes - self.compacted.1;
        if held <= revisions + revisions / SLACK && held_bytes <= bytes + bytes / SLACK {
            return Ok(());
        }
        let by_revisions = Revision(head.0.saturating_sub(revisions));
        self.compact(by_revisions.max(self.over_bytes(held_bytes.saturating_sub(bytes))))
    }

    /// The last revision of the oldest records that are promised and have this many bytes.
    fn over_bytes(&self, mut over: u64) -> Revision {
        let mut through = Revision(0);
        for kept in self.records.iter().skip(self.compacted.0) {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(kept.bytes);
            through = kept.last;
        }
        through
    }

    /// Drops some of what is compacted from memory; whether more is left to drop.
    pub(crate) fn prune(&self) -> bool {
        if !self.shared.index().is_prunable() {
            return false;
        }
        let mut index = self.shared.index_mut();
        index.prune(STEP_PRUNED);
        index.is_prunable()
    }

    /// One bounded step; `false` when there is nothing to do.
    ///
    /// # Errors
    /// The disk's; the store then refuses every later write.
    pub(crate) fn step(&mut self) -> Result<bool, Error> {
        if self.poisoned().is_some() {
            return Ok(false);
        }
        self.expire();
        self.begin_if_due();
        let step = self.plan();
        // Expired rows go along with other work: alone they are not worth a commit until they are many.
        let works = self.checkpoint.is_some() || step.trimmed > 0;
        if !works && self.expired.len() < STEP_EXPIRED {
            return Ok(false);
        }
        match self.disk.write(|t| write(t, &step, &self.expired)) {
            Ok(mark) => {
                self.advance(mark, step);
                Ok(true)
            },
            Err(error) => {
                let failure = error.explain("write a checkpoint");
                self.fail(&failure);
                Err(failure)
            },
        }
    }

    fn begin_if_due(&mut self) {
        let (records, bytes) = self.compacted;
        let trimmed = usize::try_from(self.trim_to - self.mark.record).unwrap_or(usize::MAX);
        if self.checkpoint.is_some() || records <= trimmed || bytes <= self.config.checkpoint_bytes
        {
            return;
        }
        let mut dirty = self.shared.index_mut().begin_checkpoint();
        dirty.outcomes.sort_unstable();
        self.checkpoint = Some(Checkpoint {
            through: self.mark.compacted,
            trim_to: self.mark.record + records as u64,
            keys: dirty.keys,
            outcomes: dirty.outcomes,
        });
    }

    fn expire(&mut self) {
        let room = STEP_EXPIRED.saturating_sub(self.expired.len());
        let now = self.clock.wall();
        let expired = self.shared.index_mut().outcomes.expire(now, room);
        self.expired.extend(expired);
    }

    fn plan(&mut self) -> Step {
        let mut step = Step {
            mark: self.mark,
            trimmed: 0,
            keys: Vec::new(),
            again: Vec::new(),
            outcomes: Vec::new(),
            ends: false,
        };
        let mut trim_to = self.trim_to;
        if let Some(checkpoint) = &mut self.checkpoint {
            let times = (self.last_batch / STEP_PER_REQUESTS).clamp(1, STEP_TIMES);
            let index = self.shared.index();
            let rows = self.config.checkpoint_rows.max(1) * times;
            checkpoint.take(&index, (rows, STEP_BYTES * times), &mut step);
            if checkpoint.is_through() {
                step.ends = true;
                step.mark.applied = checkpoint.through;
                trim_to = checkpoint.trim_to;
            }
        }
        step.trimmed = (trim_to - self.mark.record).min(STEP_RECORDS as u64);
        step.mark.record += step.trimmed;
        step
    }

    fn advance(&mut self, mark: Mark, step: Step) {
        self.mark = mark;
        self.expired.clear();
        for kept in self
            .records
            .drain(..usize::try_from(step.trimmed).unwrap_or(usize::MAX))
        {
            self.log_bytes -= kept.bytes;
            self.compacted.0 -= 1;
            self.compacted.1 -= kept.bytes;
        }
        if !step.again.is_empty() {
            self.shared.index_mut().note_again(step.again);
        }
        if step.ends
            && let Some(checkpoint) = self.checkpoint.take()
        {
            self.trim_to = checkpoint.trim_to;
        }
    }

    /// How many steps to take between two commits: more than one only when the log outgrows them.
    pub(crate) fn steps_due(&self) -> usize {
        let measure = self.config.log_bytes + self.config.checkpoint_bytes;
        if self.log_bytes > measure.saturating_mul(2) {
            4
        } else {
            1
        }
    }
}

impl Checkpoint {
    fn is_through(&self) -> bool {
        self.keys.is_empty() && self.outcomes.is_empty()
    }

    /// Moves as much into a step as fits, and at least one row.
    fn take(&mut self, index: &Index, (rows, most): (usize, usize), step: &mut Step) {
        let mut bytes = 0;
        while step.keys.len() < rows
            && bytes < most
            && let Some(key) = self.keys.pop_first()
        {
            let (row, newer) = index.row(&key);
            let row = row.map(|(value, meta)| encode_entry(&key, &value, &meta));
            bytes += key.as_bytes().len() + row.as_ref().map_or(0, Vec::len);
            if newer {
                step.again.push(key.clone());
            }
            step.keys.push((key, row));
        }
        while step.keys.len() + step.outcomes.len() < rows
            && let Some(id) = self.outcomes.pop()
        {
            // Its time may be over by now.
            if let Some(recorded) = index.outcomes.held(id) {
                step.outcomes.push((id.0, encode_recorded(id, recorded)));
            }
        }
    }
}

/// The mark counts the rows, which only the tables know.
fn write(
    transaction: &WriteTransaction,
    step: &Step,
    expired: &[TxnId],
) -> Result<Mark, redb::Error> {
    let mut mark = step.mark;
    let mut outcomes = transaction.open_table(OUTCOMES)?;
    for id in expired {
        outcomes.remove(id.0)?;
    }
    for (id, row) in &step.outcomes {
        outcomes.insert(id, row.as_slice())?;
    }
    let mut keys = transaction.open_table(KEYS)?;
    for (key, row) in &step.keys {
        match row {
            Some(row) => {
                let created = keys.insert(key.as_bytes(), row.as_slice())?.is_none();
                mark.keys += u64::from(created);
            },
            None => mark.keys -= u64::from(keys.remove(key.as_bytes())?.is_some()),
        }
    }
    let mut log = transaction.open_table(LOG)?;
    for sequence in mark.record - step.trimmed..mark.record {
        log.remove(sequence)?;
    }
    debug_assert!(
        log.first()?
            .is_none_or(|(first, _)| first.value() >= mark.record)
    );
    put_fact(transaction, MARK, &mark)?;
    Ok(mark)
}
