//! A disk that forgets, tears, fills up and breaks, by chance from a seed.
//!
//! Reads see what was written last. A crash keeps of what was not synced any part, in sectors, in any
//! order: that is what a file system and a drive may do. A failed sync may have written some of it
//! and never says which, and later ones do not try again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard};

use cpl_store_embedded::StorageBackend;

const SECTOR: usize = 512;

/// What a call of the disk was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Write,
    Sync,
    Resize,
}

/// What goes wrong, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// After this many calls that change something, everything fails: the process is gone.
    pub(crate) dies_after: Option<u64>,
    /// This sync fails, counted from 1.
    pub(crate) sync_fails: Option<u64>,
    /// Sectors that can be in use; a write to another one finds the disk full.
    pub(crate) room: Option<usize>,
    /// Every sync says that it was done, and does nothing.
    pub(crate) lies: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Platter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    /// What reads see.
    cached: Vec<u8>,
    /// What every crash leaves.
    durable: Vec<u8>,
    /// What each sector was written to since the last sync, oldest first.
    pending: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The lengths since the last sync.
    lengths: Vec<usize>,
    used: BTreeSet<usize>,
    calls: u64,
    syncs: u64,
    /// In which call the process died.
    died_in: Option<Op>,
    full: bool,
}

/// Splitmix64 (Steele, Lea and Flood, public domain).
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

impl Platter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on, this goes wrong.
    pub(crate) fn plan(&self, plan: Plan) {
        let mut state = self.state();
        (state.calls, state.syncs) = (0, 0);
        (state.died_in, state.full) = (None, false);
        state.plan = plan;
    }

    pub(crate) fn sectors_used(&self) -> usize {
        self.state().used.len()
    }

    pub(crate) fn make_room(&self) {
        self.state().plan.room = None;
    }

    pub(crate) fn died_in(&self) -> Option<Op> {
        self.state().died_in
    }

    pub(crate) fn was_full(&self) -> bool {
        self.state().full
    }

    /// Kills the process: what was written stays, in the system's memory.
    pub(crate) fn after_a_kill(&self) {
        self.plan(Plan::default());
    }

    /// Cuts the power; says whether some of what was not synced is there and some is not.
    pub(crate) fn after_a_crash(&self, chance: &mut Chance) -> bool {
        let mut state = self.state();
        let torn = state.keep_some(chance);
        let State {
            cached, durable, ..
        } = &mut *state;
        cached.clone_from(durable);
        drop(state);
        self.plan(Plan::default());
        torn
    }
}

impl State {
    /// Moves any part of what is pending to what is durable.
    fn keep_some(&mut self, chance: &mut Chance) -> bool {
        let (mut whole, mut lost) = (false, false);
        let lengths = std::mem::take(&mut self.lengths);
        let length = match chance.below(lengths.len() + 1) {
            0 => self.durable.len(),
            nth => lengths[nth - 1],
        };
        self.durable.resize(length, 0);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let kept = chance.below(versions.len() + 1);
            whole |= kept == versions.len();
            lost |= kept < versions.len();
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.durable.len());
            if kept > 0 && start < end {
                let bytes = &versions[kept - 1][..end - start];
                self.durable[start..end].copy_from_slice(bytes);
            }
        }
        whole && lost
    }

    fn call(&mut self, op: Op) -> Result<()> {
        self.calls += 1;
        if self.plan.dies_after.is_some_and(|after| self.calls > after) {
            self.died_in.get_or_insert(op);
            return Err(Error::other("the process is gone"));
        }
        Ok(())
    }

    /// What a sector holds now, as something that a crash may or may not keep.
    fn note(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cached.len());
        let mut bytes = self.cached[start..end].to_vec();
        bytes.resize(SECTOR, 0);
        self.pending.entry(sector).or_default().push(bytes);
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> Result<u64> {
        Ok(self.state().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        let state = self.state();
        let bytes = state.cached.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.state();
        state.call(Op::Resize)?;
        let len = usize::try_from(len).unwrap();
        state.cached.resize(len, 0);
        state.used.retain(|sector| sector * SECTOR < len);
        state.lengths.push(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut state = self.state();
        state.call(Op::Sync)?;
        state.syncs += 1;
        if state.plan.sync_fails == Some(state.syncs) {
            let mut chance = Chance(state.calls);
            state.keep_some(&mut chance);
            return Err(Error::other("the drive did not answer"));
        }
        if !state.plan.lies {
            // What an earlier sync failed to write is not tried again.
            for (sector, versions) in std::mem::take(&mut state.pending) {
                let start = sector * SECTOR;
                let length = state.cached.len();
                let end = (start + SECTOR).min(length);
                if state.durable.len() < length {
                    state.durable.resize(length, 0);
                }
                if start < end {
                    let bytes = &versions[versions.len() - 1][..end - start];
                    state.durable[start..end].copy_from_slice(bytes);
                }
            }
            let length = state.cached.len();
            state.durable.resize(length, 0);
            state.lengths.clear();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.state();
        state.call(Op::Write)?;
        let at = usize::try_from(offset).unwrap();
        let sectors = at / SECTOR..(at + data.len()).div_ceil(SECTOR);
        for sector in sectors.clone() {
            let room = state.plan.room.unwrap_or(usize::MAX);
            if !state.used.contains(&sector) && state.used.len() >= room {
                state.full = true;
                return Err(ErrorKind::StorageFull.into());
            }
            // A write that finds the disk full on its way has written its beginning.
            let start = (sector * SECTOR).max(at);
            let end = ((sector + 1) * SECTOR).min(at + data.len());
            state.used.insert(sector);
            state.cached[start..end].copy_from_slice(&data[start - at..end - at]);
            state.note(sector);
        }
        Ok(())
    }
}
