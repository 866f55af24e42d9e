//! Compaction: the promise first, the work in small steps afterwards.
//!
//! [`Engine::compact`] makes durable that nothing up to a revision is promised any more. Each
//! [`Engine::step`] then moves some items of the log into the key table and the table of outcomes,
//! trims the records that are through, and notes how far it came, all in one commit: whatever happens
//! between two steps, the mark says where to go on.

use std::collections::BTreeMap;

use cpl_core::store::{Error, Event, Kind, Revision};
use redb::{ReadableTable as _, WriteTransaction};

use crate::disk::{KEYS, LOG, MARK, OUTCOMES, put_fact};
use crate::engine::{Engine, KeptItem};
use crate::format::{Mark, encode_entry, encode_recorded};

/// What one step does at most for a lone caller, so that a write never waits long behind one.
const STEP_CHANGES: usize = 1_000;
const STEP_BYTES: usize = 1 << 20;
/// Under load a step is as many times larger as the last commit had this many requests, up to a bound: it
/// rewrites most leaf pages of the key table whether it changes a thousand keys or five thousand, so a few
/// large steps cost a fraction of many small ones.
const STEP_PER_REQUESTS: usize = 8;
const STEP_TIMES: usize = 8;
const STEP_EXPIRED: usize = 1_000;
/// Auto-compaction waits until a log is over its measure by one part of this many, so that it works
/// in strides and not with every commit.
const SLACK: u64 = 2;

/// Rows that a step writes.
#[derive(Debug)]
struct Step {
    mark: Mark,
    /// Records that end inside this step.
    trimmed: u64,
    /// What to write, or to remove where the row is `None`: of each key the last change.
    keys: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    outcomes: Vec<(u128, Vec<u8>)>,
    bytes: usize,
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
        Ok(())
    }

    /// Compacts by the measure of the configuration, when the log is over it.
    pub(crate) fn auto_compact(&mut self) -> Result<(), Error> {
        let (revisions, bytes) = (self.config.log_revisions, self.config.log_bytes);
        let head = self.shared.index().head;
        let held = head.0 - self.mark.compacted.0;
        if held <= revisions + revisions / SLACK && self.log_bytes <= bytes + bytes / SLACK {
            return Ok(());
        }
        let by_revisions = Revision(head.0.saturating_sub(revisions));
        self.compact(by_revisions.max(self.over_bytes(bytes)))
    }

    /// The last revision of the records that are too many for `bytes`.
    fn over_bytes(&self, bytes: u64) -> Revision {
        let mut over = self.log_bytes.saturating_sub(bytes);
        let mut through = Revision(0);
        for kept in &self.records {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(kept.bytes);
            through = kept.items.last().map_or(through, |item| item.revision);
        }
        through
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
        let step = self.plan();
        // Expired rows go along with other work: alone they are not worth a commit until they are many.
        if step.mark == self.mark && self.expired.len() < STEP_EXPIRED {
            return Ok(false);
        }
        match self.disk.write(|t| write(t, &step, &self.expired)) {
            Ok(mark) => {
                self.advance(mark, step.trimmed);
                Ok(true)
            },
            Err(error) => {
                let failure = error.explain("write a checkpoint");
                self.fail(&failure);
                Err(failure)
            },
        }
    }

    fn expire(&mut self) {
        let room = STEP_EXPIRED.saturating_sub(self.expired.len());
        let now = self.clock.wall();
        let expired = self.shared.index_mut().outcomes.expire(now, room);
        self.expired.extend(expired);
    }

    /// As many of the next items as are compacted and fit into a step, and at least one.
    fn plan(&self) -> Step {
        let times = (self.last_batch / STEP_PER_REQUESTS).clamp(1, STEP_TIMES);
        let mut step = Step {
            mark: self.mark,
            trimmed: 0,
            keys: BTreeMap::new(),
            outcomes: Vec::new(),
            bytes: 0,
        };
        for kept in &self.records {
            let done = usize::try_from(step.mark.item).unwrap_or(usize::MAX);
            for item in kept.items.iter().skip(done) {
                let full =
                    step.bytes > STEP_BYTES * times || step.keys.len() > STEP_CHANGES * times;
                if full || item.revision > self.mark.compacted {
                    return step;
                }
                self.plan_item(&mut step, *item);
            }
            step.trimmed += 1;
            step.mark.record += 1;
            step.mark.item = 0;
        }
        step
    }

    fn plan_item(&self, step: &mut Step, item: KeptItem) {
        let index = self.shared.index();
        if let Some(id) = item.id
            && let Some(recorded) = index.outcomes.held(id)
        {
            step.outcomes.push((id.0, encode_recorded(id, recorded)));
        }
        let events = item.changed.then(|| index.events(item.revision)).flatten();
        for event in events.iter().flat_map(|events| events.iter()) {
            let (key, row) = match event {
                Event::Put { entry, .. } => {
                    let row = encode_entry(&entry.key, &entry.value, &entry.meta);
                    (&entry.key, Some(row))
                },
                Event::Delete { key, .. } => (key, None),
            };
            step.bytes += key.as_bytes().len() + row.as_ref().map_or(0, Vec::len);
            step.keys.insert(key.as_bytes().to_vec(), row);
        }
        step.mark.applied = item.revision;
        step.mark.item += 1;
    }

    fn advance(&mut self, mark: Mark, trimmed: u64) {
        self.mark = mark;
        self.expired.clear();
        for _ in 0..trimmed {
            let bytes = self.records.pop_front().map_or(0, |kept| kept.bytes);
            self.log_bytes -= bytes;
        }
        self.shared.index_mut().prune(mark.applied);
    }

    /// How many steps to take between two commits: more than one only when the log outgrows them.
    pub(crate) fn steps_due(&self) -> usize {
        if self.log_bytes > self.config.log_bytes.saturating_mul(2) {
            4
        } else {
            1
        }
    }
}

/// The mark counts the rows, which only the tables know.
fn write(
    transaction: &WriteTransaction,
    step: &Step,
    expired: &[cpl_core::store::TxnId],
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
                let created = keys.insert(key.as_slice(), row.as_slice())?.is_none();
                mark.keys += u64::from(created);
            },
            None => mark.keys -= u64::from(keys.remove(key.as_slice())?.is_some()),
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
