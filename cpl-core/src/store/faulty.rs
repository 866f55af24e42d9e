//! A store behind a bad network, for tests of everything that must survive one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use super::error::{Error, Kind};
use super::types::{
    Commit, Cursor, EndReason, Entry, Key, Limits, ListRequest, Outcome, Page, Range, Read, Txn,
    WatchItem,
};
use super::{Store, WatchStream};
use crate::ids::TxnId;
use crate::version::Revision;

/// How often what goes wrong, in thousandths of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The request does not arrive. Half of the time the caller is told so, half of the time it
    /// cannot know.
    pub lost_request: u32,
    /// The request of a write arrives during some later call, after its caller has given up.
    pub late_request: u32,
    /// The request arrives and the reply does not.
    pub lost_reply: u32,
    /// A watch ends before an item, to be resumed after the last one.
    pub cut_watch: u32,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost_request: 0,
        late_request: 0,
        lost_reply: 0,
        cut_watch: 0,
    };

    /// About a third of the writes, and every tenth item of a watch.
    pub const MANY: Self = Self {
        lost_request: 150,
        late_request: 50,
        lost_reply: 150,
        cut_watch: 100,
    };
}

/// A store whose calls fail as a network makes them fail, by chance from a seed.
///
/// Whether a write happened and whether its caller learns so are drawn apart from each other, so all
/// four combinations occur. Nothing that the store below answers is changed, only withheld. The same
/// seed and the same order of calls give the same faults. A write that was late and not delivered
/// when this is dropped is lost.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    chance: Arc<Mutex<Chance>>,
}

#[derive(Debug)]
struct Chance {
    seed: u64,
    faults: Faults,
    late: Vec<Write>,
}

/// A write on its way.
#[derive(Clone, Debug)]
enum Write {
    Commit(Txn),
    Outcome(TxnId),
    Compact(Revision),
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    LostRequest,
    LateRequest,
    LostReply,
}

impl FaultyStore {
    /// `inner` behind faults that are drawn from `seed`.
    pub fn new(inner: Arc<dyn Store>, faults: Faults, seed: u64) -> Self {
        let late = Vec::new();
        let chance = Arc::new(Mutex::new(Chance { seed, faults, late }));
        Self { inner, chance }
    }

    /// From now on, these faults; [`Faults::NONE`] lets a test come to its end.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.chance).faults = faults;
    }

    /// Draws the fate of a read. A read that got lost may be repeated without a thought.
    fn read(&self, what: &str) -> Result<(), Error> {
        match lock(&self.chance).fate() {
            Fate::Fine | Fate::LateRequest => Ok(()),
            Fate::LostRequest | Fate::LostReply => Err(Error::new(Kind::NotConnected, what)),
        }
    }

    /// Draws the fate of a write, and delivers late ones first.
    ///
    /// # Errors
    /// What the caller is told when the request does not arrive now.
    async fn send(&self, write: Write, what: &str) -> Result<Fate, Error> {
        self.deliver_late().await;
        let mut chance = lock(&self.chance);
        let fate = chance.fate();
        match fate {
            Fate::Fine | Fate::LostReply => Ok(fate),
            Fate::LateRequest => {
                chance.late.push(write);
                Err(Error::new(Kind::Timeout, what))
            },
            Fate::LostRequest if chance.below(2) == 0 => Err(Error::new(Kind::NotConnected, what)),
            Fate::LostRequest => Err(Error::new(chance.unknown(), what)),
        }
    }

    /// Withholds the reply when that is its fate.
    fn reply<T>(&self, fate: Fate, what: &str, reply: T) -> Result<T, Error> {
        if fate == Fate::LostReply {
            return Err(Error::new(lock(&self.chance).unknown(), what));
        }
        Ok(reply)
    }

    async fn deliver_late(&self) {
        let due = {
            let mut chance = lock(&self.chance);
            if chance.late.is_empty() || chance.below(3) > 0 {
                return;
            }
            let waiting = chance.late.len();
            let at = chance.below(waiting);
            chance.late.swap_remove(at)
        };
        // Nobody waits for these any more, so nobody hears what became of them.
        match due {
            Write::Commit(txn) => drop(self.inner.commit(txn).await),
            Write::Outcome(id) => drop(self.inner.outcome(id).await),
            Write::Compact(through) => drop(self.inner.compact(through).await),
        }
    }
}

fn lock(chance: &Mutex<Chance>) -> MutexGuard<'_, Chance> {
    chance.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chance {
    /// Splitmix64 (Steele, Lea and Flood, public domain): small, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        self.next() % 1_000 < u64::from(thousandths)
    }

    fn fate(&mut self) -> Fate {
        let faults = self.faults;
        if self.happens(faults.lost_request) {
            Fate::LostRequest
        } else if self.happens(faults.late_request) {
            Fate::LateRequest
        } else if self.happens(faults.lost_reply) {
            Fate::LostReply
        } else {
            Fate::Fine
        }
    }

    /// One of the ways of not knowing.
    fn unknown(&mut self) -> Kind {
        match self.below(3) {
            0 => Kind::Timeout,
            1 => Kind::ConnectionLost,
            _ => Kind::CommitUnknown,
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        self.read("read the head")?;
        self.inner.head().await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        self.read("get a key")?;
        self.inner.get(key).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        self.read("list a range")?;
        self.inner.list(request).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let what = "commit a transaction";
        let fate = self.send(Write::Commit(txn.clone()), what).await?;
        let reply = self.inner.commit(txn).await?;
        self.reply(fate, what, reply)
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.read("start a watch")?;
        let watched = self.inner.watch(range, after).await?;
        let state = (watched, Arc::clone(&self.chance), false);
        Ok(Box::pin(stream::unfold(
            state,
            |(mut watched, chance, ended)| async move {
                if ended {
                    return None;
                }
                let item = watched.next().await?;
                let cut = {
                    let mut chance = lock(&chance);
                    let thousandths = chance.faults.cut_watch;
                    chance.happens(thousandths)
                };
                let item = if cut {
                    WatchItem::End(EndReason::Overflow)
                } else {
                    item
                };
                Some((item, (watched, chance, cut)))
            },
        )))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let what = "settle a transaction";
        let fate = self.send(Write::Outcome(id), what).await?;
        let reply = self.inner.outcome(id).await?;
        self.reply(fate, what, reply)
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let what = "compact the store";
        let fate = self.send(Write::Compact(through), what).await?;
        self.inner.compact(through).await?;
        self.reply(fate, what, ())
    }
}
