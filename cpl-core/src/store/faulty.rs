//! A store behind a bad network, for tests of everything that must survive one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};

use super::error::{Error, Kind};
use super::types::{
    Commit, Cursor, EndReason, Entry, Key, Limits, ListRequest, Outcome, Page, Range, Read, Txn,
    WatchItem,
};
use super::{Store, WatchStream};
use crate::clock::Clock;
use crate::ids::{SealId, TxnId};
use crate::version::Revision;

/// How often what goes wrong, in thousandths of the calls. Each is drawn for itself: a reply may be
/// slow and lost, and raising one rate moves no draw of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The request does not arrive. Half of the time the caller is told so, half of the time it
    /// cannot know.
    pub lost_request: u32,
    /// The request of a write arrives during some later call, after its caller has given up.
    pub late_request: u32,
    /// The request arrives and the reply does not.
    pub lost_reply: u32,
    /// The request takes its time; so other requests overtake it.
    pub slow_request: u32,
    /// The reply takes its time: by the time it is there, it may be old.
    pub slow_reply: u32,
    /// Longest time that something slow takes; each takes a random part of it.
    pub delay: Duration,
    /// A watch ends before an item, to be resumed after the last one.
    pub cut_watch: u32,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost_request: 0,
        late_request: 0,
        lost_reply: 0,
        slow_request: 0,
        slow_reply: 0,
        delay: Duration::ZERO,
        cut_watch: 0,
    };

    /// About a third of the calls, and every tenth item of a watch.
    pub const MANY: Self = Self {
        lost_request: 150,
        late_request: 50,
        lost_reply: 150,
        slow_request: 20,
        slow_reply: 20,
        delay: Duration::from_millis(2),
        cut_watch: 100,
    };
}

/// A store whose calls fail as a network makes them fail, by chance from a seed.
///
/// Whether a request arrives, whether its reply does, how long either takes, and what the caller is
/// told are drawn apart from each other, so all combinations occur. Nothing that the store below
/// answers is changed, only withheld. The same seed and the same order of calls give the same faults.
/// A write that was late and not delivered when this is dropped is lost.
///
/// Dropping a call drops the call below, wherever it is.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    chance: Arc<Mutex<Chance>>,
}

#[derive(Debug)]
struct Chance {
    faults: Faults,
    late: Vec<Write>,
    requests: Draws,
    replies: Draws,
    delays: Draws,
    told: Draws,
    arrivals: Draws,
    cuts: Draws,
}

/// A write on its way.
#[derive(Clone, Debug)]
enum Write {
    Commit(Txn),
    Outcome(TxnId),
    Compact(Revision),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Arrives,
    Late,
    Lost,
}

/// What becomes of one call, drawn whole before it begins.
#[derive(Clone, Debug)]
struct Fate {
    request: Request,
    reply_lost: bool,
    request_takes: Duration,
    reply_takes: Duration,
    /// What the caller of a lost request is told.
    of_request: Kind,
    /// What the caller of a lost reply is told.
    of_reply: Kind,
}

impl FaultyStore {
    /// `inner` behind faults that are drawn from `seed`; delays are those of `clock`.
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, faults: Faults, seed: u64) -> Self {
        let chance = Arc::new(Mutex::new(Chance::new(faults, seed)));
        Self {
            inner,
            clock,
            chance,
        }
    }

    /// From now on, these faults; [`Faults::NONE`] lets a test come to its end.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.chance).faults = faults;
    }

    /// A read that got lost may be repeated without a thought; a late one is one that got lost.
    async fn read<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let fate = lock(&self.chance).fate();
        self.take(fate.request_takes).await;
        match fate.request {
            Request::Lost | Request::Late => Err(Error::new(fate.of_request, what)),
            Request::Arrives => self.reply(fate, what, call.await).await,
        }
    }

    async fn write<T>(
        &self,
        what: &str,
        write: Write,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.deliver_late().await;
        let fate = lock(&self.chance).fate();
        self.take(fate.request_takes).await;
        match fate.request {
            Request::Arrives => self.reply(fate, what, call.await).await,
            Request::Lost => Err(Error::new(fate.of_request, what)),
            Request::Late => {
                lock(&self.chance).late.push(write);
                Err(Error::new(Kind::Timeout, what))
            },
        }
    }

    /// Withholds the answer, be it an error, when that is its fate.
    async fn reply<T>(&self, fate: Fate, what: &str, answer: Result<T, Error>) -> Result<T, Error> {
        self.take(fate.reply_takes).await;
        if fate.reply_lost {
            return Err(Error::new(fate.of_reply, what));
        }
        answer
    }

    async fn take(&self, time: Duration) {
        if !time.is_zero() {
            self.clock.sleep(time).await;
        }
    }

    async fn deliver_late(&self) {
        let due = {
            let mut chance = lock(&self.chance);
            let Some(at) = chance.arrives_now() else {
                return;
            };
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

/// One sequence of numbers, apart from all others of the same seed.
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    /// The sequence of a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Splitmix64 (Steele, Lea and Flood, public domain): small, and the same everywhere.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        self.next() % 1_000 < u64::from(thousandths)
    }

    /// A random part of `most`, drawn whether it is used or not.
    fn part(&mut self, most: Duration, thousandths: u32) -> Duration {
        let slow = self.happens(thousandths);
        let part = u32::try_from(self.next() % 1_000).unwrap_or(0);
        if slow {
            most * part / 1_000
        } else {
            Duration::ZERO
        }
    }

    /// One of the ways of not knowing.
    const fn unknown(&mut self) -> Kind {
        match self.next() % 3 {
            0 => Kind::Timeout,
            1 => Kind::ConnectionLost,
            _ => Kind::CommitUnknown,
        }
    }
}

impl Chance {
    fn new(faults: Faults, seed: u64) -> Self {
        let mut seeds = Draws::new(seed);
        let mut draws = || Draws::new(seeds.next());
        Self {
            faults,
            late: Vec::new(),
            requests: draws(),
            replies: draws(),
            delays: draws(),
            told: draws(),
            arrivals: draws(),
            cuts: draws(),
        }
    }

    /// Draws everything every time, so that what is drawn for a call depends on its number alone.
    fn fate(&mut self) -> Fate {
        let faults = self.faults;
        let lost = self.requests.happens(faults.lost_request);
        let late = self.requests.happens(faults.late_request);
        let request = match (lost, late) {
            (true, _) => Request::Lost,
            (false, true) => Request::Late,
            (false, false) => Request::Arrives,
        };
        let known = self.told.happens(500);
        let unknown = self.told.unknown();
        Fate {
            request,
            reply_lost: self.replies.happens(faults.lost_reply),
            request_takes: self.delays.part(faults.delay, faults.slow_request),
            reply_takes: self.delays.part(faults.delay, faults.slow_reply),
            of_request: if known { Kind::NotConnected } else { unknown },
            of_reply: self.told.unknown(),
        }
    }

    /// Which of the writes under way arrives now: with every third call one, in any order.
    fn arrives_now(&mut self) -> Option<usize> {
        let now = self.arrivals.below(3) == 0;
        let at = self.arrivals.below(self.late.len());
        (now && at < self.late.len()).then_some(at)
    }

    fn cuts(&mut self) -> bool {
        let thousandths = self.faults.cut_watch;
        self.cuts.happens(thousandths)
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn refusal(&self) -> Option<Error> {
        self.inner.refusal()
    }

    async fn head(&self) -> Result<Cursor, Error> {
        self.read("read the head", self.inner.head()).await
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        self.read("get a key", self.inner.get(key)).await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        self.read("list a range", self.inner.list(request)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let write = Write::Commit(txn.clone());
        let call = self.inner.commit(txn);
        self.write("commit a transaction", write, call).await
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        let call = self.inner.watch(range, after);
        let watched = self.read("start a watch", call).await?;
        let state = Some((watched, Arc::clone(&self.chance)));
        Ok(Box::pin(stream::unfold(state, |state| async move {
            let (mut watched, chance) = state?;
            let item = watched.next().await?;
            if lock(&chance).cuts() {
                return Some((WatchItem::End(EndReason::Overflow), None));
            }
            Some((item, Some((watched, chance))))
        })))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let call = self.inner.outcome(id);
        self.write("settle a transaction", Write::Outcome(id), call)
            .await
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let call = self.inner.compact(through);
        self.write("compact the store", Write::Compact(through), call)
            .await
    }

    // Never late: a seal that arrives after it was taken off would be there for good.
    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        self.read("seal the store", self.inner.seal(seal)).await
    }

    async fn unseal(&self) -> Result<(), Error> {
        self.read("unseal the store", self.inner.unseal()).await
    }
}
