//! Moving a store to another place while it is in use.
//!
//! ```text
//! pass, pass, …   what differs is written to the copy, until little does
//! seal            the source takes no more writes
//! pass, compare   the copy is equal
//! unseal          the copy is complete: it may be opened
//! ```
//!
//! Up to the seal nobody notices anything. From the seal to the end the source refuses writes; when anything
//! fails in that time the seal is taken off and the source goes on. The copy is the next life of the same
//! store, see [`next_life`].

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use sha2::{Digest, Sha256};

use super::Store;
use super::error::{Class, Error, Kind};
use super::types::{
    Commit, Entry, Expect, Identity, Incarnation, Key, ListRequest, Outcome, Page, Range, Txn,
};
use crate::clock::Clock;
use crate::ids::{IdGen, SealId, TxnId};
use crate::limits;
use crate::version::Revision;

/// Passes before the source is sealed, at most; and how few differences are few enough to seal it.
const PASSES: u32 = 10;
const FEW: u64 = 200;
/// How often something that may be repeated is, and the pause in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);
/// Most bytes of a transaction that has more than one write.
const WRITE_BYTES: usize = limits::TXN_BYTES / 2;
/// After how many entries of a pass something is said.
const SAY_AFTER: u64 = 50_000;
/// Most differences that are named.
const NAMED: usize = 20;

/// Entries in the order of their keys.
pub type Entries<'a> = Pin<Box<dyn Stream<Item = Result<Entry, Error>> + Send + 'a>>;

/// A store as far as it has to be known to be copied.
#[async_trait]
pub trait Source: Send + Sync + Debug {
    /// All that is live at one revision, which is the newest one.
    async fn entries(&self) -> Result<(Identity, Revision, Entries<'_>), Error>;

    /// As [`Store::seal`].
    async fn seal(&self, seal: SealId) -> Result<(), Error>;

    /// As [`Store::unseal`].
    async fn unseal(&self) -> Result<(), Error>;
}

/// A store of this process as a source.
#[derive(Clone, Debug)]
pub struct Opened(pub Arc<dyn Store>);

#[async_trait]
impl Source for Opened {
    async fn entries(&self) -> Result<(Identity, Revision, Entries<'_>), Error> {
        let first = self.0.list(ListRequest::first(Range::all())).await?;
        let at = first.at;
        Ok((at.identity, at.revision, rest(&*self.0, first)))
    }

    async fn seal(&self, seal: SealId) -> Result<(), Error> {
        self.0.seal(seal).await.map(drop)
    }

    async fn unseal(&self) -> Result<(), Error> {
        self.0.unseal().await
    }
}

/// The entries of a page and of all pages after it.
fn rest(store: &dyn Store, first: Page) -> Entries<'_> {
    let pages = stream::try_unfold(Some(Either::Left(first)), move |next| async move {
        let page = match next {
            None => return Ok(None),
            Some(Either::Left(page)) => page,
            Some(Either::Right(token)) => {
                let request = ListRequest {
                    page: Some(token),
                    ..ListRequest::first(Range::all())
                };
                store.list(request).await?
            },
        };
        let entries = stream::iter(page.entries.into_iter().map(Ok::<_, Error>));
        Ok::<_, Error>(Some((entries, page.next.map(Either::Right))))
    });
    Box::pin(pages.try_flatten())
}

/// What a copy of a store has to be opened as: the same store in a life in which no cursor was given out.
pub const fn next_life(identity: Identity) -> Identity {
    Identity {
        store: identity.store,
        incarnation: Incarnation(identity.incarnation.0 + 1),
    }
}

/// What is told while a store is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many entries of this pass have been looked at.
    Looking(u64),
    /// A pass is through.
    Passed(Pass),
    /// The source takes no more writes.
    Sealed,
    /// The copy has all that the source has.
    Equal(Content),
}

/// One look at everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// At which revision of the source.
    pub revision: Revision,
    /// How many keys it had.
    pub entries: u64,
    /// How many of them were not in the copy as they are, or were there and should not be.
    pub changed: u64,
}

/// What is in a store, without the keys that are not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// How many keys.
    pub entries: u64,
    /// Of keys and values, each with its length before it.
    pub sha256: [u8; 32],
}

/// What two stores have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What is in the first.
    pub content: Content,
    /// How many keys are only in one of them, or differ.
    pub different: u64,
    /// The first of those.
    pub named: Vec<Key>,
}

/// With what a store is copied.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// Pauses.
    pub clock: &'a dyn Clock,
    /// The seal, and ids of transactions.
    pub ids: &'a dyn IdGen,
    /// Keys that mean something only in the life in which they were written.
    pub leave_out: fn(&Key) -> bool,
}

/// Told how far it is.
pub type Tell<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// A copy that was not made.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotCopied {
    /// Why.
    #[source]
    pub error: Error,
    /// Whether the source may be sealed all the same: its seal could not be taken off, or nobody knows whether the
    /// copy is complete.
    pub sealed: bool,
}

impl From<Error> for NotCopied {
    fn from(error: Error) -> Self {
        let sealed = false;
        Self { error, sealed }
    }
}

/// Copies a store to one that was opened with [`OpenMode::New`](super::OpenMode::New), as [`next_life`] of it, and
/// leaves the source sealed.
///
/// When `stop` completes before the copy is equal, all is as before but for what was written to the copy, which nobody
/// opens. Dropping the future may leave the source sealed.
///
/// # Errors
/// Why not, and whether the source is sealed. Apart from that, nothing has changed for the source.
pub async fn copy(
    from: &dyn Source,
    to: &Arc<dyn Store>,
    means: Means<'_>,
    tell: Tell<'_>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Content, NotCopied> {
    let mut stop = std::pin::pin!(stop);
    let stopped = || Error::new(Kind::Invalid, "copy the store: it was stopped");
    match select(Box::pin(follow(from, &**to, means, tell)), &mut stop).await {
        Either::Left((followed, _)) => followed?,
        Either::Right(_) => return Err(stopped().into()),
    }
    let seal = SealId::fresh(means.ids);
    if let Err((error, perhaps)) = insist(means.clock, || from.seal(seal)).await {
        return Err(give_up(from, means.clock, error, perhaps).await);
    }
    tell(Progress::Sealed);
    let ended = match select(Box::pin(finish(from, to, means, tell)), stop).await {
        Either::Left((finished, _)) => finished,
        Either::Right(_) => Err(stopped()),
    };
    let content = match ended {
        Ok(content) => content,
        Err(error) => return Err(give_up(from, means.clock, error, true).await),
    };
    match insist(means.clock, || to.unseal()).await {
        Ok(()) => Ok(content),
        // The copy may be complete, and somebody may have opened it.
        Err((error, true)) => Err(NotCopied {
            error,
            sealed: true,
        }),
        Err((error, false)) => Err(give_up(from, means.clock, error, true).await),
    }
}

/// Takes the seal off again, if it may be on.
async fn give_up(from: &dyn Source, clock: &dyn Clock, error: Error, perhaps: bool) -> NotCopied {
    let sealed = perhaps && insist(clock, || from.unseal()).await.is_err();
    NotCopied { error, sealed }
}

/// Passes until little is left to do.
async fn follow(
    from: &dyn Source,
    to: &dyn Store,
    means: Means<'_>,
    tell: Tell<'_>,
) -> Result<(), Error> {
    for _ in 0..PASSES {
        if pass(from, to, means, tell).await?.changed <= FEW {
            break;
        }
    }
    Ok(())
}

/// What is left to do, and the proof that it was all.
async fn finish(
    from: &dyn Source,
    to: &Arc<dyn Store>,
    means: Means<'_>,
    tell: Tell<'_>,
) -> Result<Content, Error> {
    pass(from, &**to, means, tell).await?;
    let copy = Opened(Arc::clone(to));
    let mut attempt = 1;
    let compared = loop {
        match compare(from, &copy, means.leave_out).await {
            Ok(compared) => break compared,
            Err(error) => again(means.clock, &mut attempt, error).await?,
        }
    };
    if compared.different > 0 {
        let context = format!(
            "copy the store: {} keys of the copy are not as they should be, the first is {}; somebody else writes to it",
            compared.different,
            compared
                .named
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        );
        return Err(Error::new(Kind::Invalid, context));
    }
    tell(Progress::Equal(compared.content));
    Ok(compared.content)
}

/// Repeats what may be repeated. The error says whether one of the attempts may have had an effect.
async fn insist<F>(clock: &dyn Clock, mut call: impl FnMut() -> F) -> Result<(), (Error, bool)>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut perhaps = false;
    let mut attempt = 1;
    loop {
        let error = match call().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        perhaps |= error.class() == Class::Indeterminate;
        let again = matches!(error.class(), Class::NotApplied | Class::Indeterminate);
        if !again || attempt == ATTEMPTS {
            return Err((error, perhaps));
        }
        attempt += 1;
        clock.sleep(PAUSE).await;
    }
}

/// Writes what differs.
async fn pass(
    from: &dyn Source,
    to: &dyn Store,
    means: Means<'_>,
    tell: Tell<'_>,
) -> Result<Pass, Error> {
    let mut attempt = 1;
    loop {
        match one_pass(from, to, means, tell).await {
            Ok(pass) => {
                tell(Progress::Passed(pass));
                return Ok(pass);
            },
            Err(error) => again(means.clock, &mut attempt, error).await?,
        }
    }
}

/// Pauses before reading is begun anew, or gives the error back.
async fn again(clock: &dyn Clock, attempt: &mut u32, error: Error) -> Result<(), Error> {
    if *attempt == ATTEMPTS || !may_be_repeated(&error) {
        return Err(error);
    }
    *attempt += 1;
    clock.sleep(PAUSE).await;
    Ok(())
}

fn may_be_repeated(error: &Error) -> bool {
    // What takes no writes goes on doing so.
    *error.kind() != Kind::ReadOnly
        && (matches!(error.kind(), Kind::Compacted { .. })
            || matches!(error.class(), Class::NotApplied | Class::Indeterminate))
}

async fn one_pass(
    from: &dyn Source,
    to: &dyn Store,
    means: Means<'_>,
    tell: Tell<'_>,
) -> Result<Pass, Error> {
    let (_, revision, theirs) = from.entries().await?;
    let first = to.list(ListRequest::first(Range::all())).await?;
    let mut merge = Merge::begin(theirs, rest(to, first), means.leave_out).await?;
    let mut txn = Txn::new();
    let mut changed = 0;
    while let Some(step) = merge.next().await? {
        if merge.looked.is_multiple_of(SAY_AFTER) {
            tell(Progress::Looking(merge.looked));
        }
        let (bytes, write) = match step {
            Step::Same => continue,
            Step::Put(entry, was) => {
                let bytes = entry.value.len() + 2 * entry.key.as_bytes().len();
                let expect = was.map_or(Expect::Absent, Expect::ModRevision);
                let write = move |txn: Txn| {
                    txn.expect(entry.key.clone(), expect)
                        .put(entry.key, entry.value)
                };
                (bytes, Either::Left(write))
            },
            Step::Delete(key, was) => {
                let bytes = 2 * key.as_bytes().len();
                let write = move |txn: Txn| {
                    txn.expect(key.clone(), Expect::ModRevision(was))
                        .delete(key)
                };
                (bytes, Either::Right(write))
            },
        };
        let full = txn.ops.len() == limits::TXN_OPS || txn.bytes() + bytes > WRITE_BYTES;
        if full && !txn.ops.is_empty() {
            apply(to, means, std::mem::take(&mut txn)).await?;
        }
        txn = match write {
            Either::Left(put) => put(txn),
            Either::Right(delete) => delete(txn),
        };
        changed += 1;
    }
    if !txn.ops.is_empty() {
        apply(to, means, txn).await?;
    }
    Ok(Pass {
        revision,
        entries: merge.theirs.count,
        changed,
    })
}

/// Commits what must apply: its compares keep a transaction that arrives late from undoing what came after it.
async fn apply(to: &dyn Store, means: Means<'_>, txn: Txn) -> Result<(), Error> {
    let id = TxnId::fresh(means.ids);
    let txn = txn.with_id(id);
    let mut attempt = 1;
    loop {
        let error = match to.commit(txn.clone()).await {
            Ok(Commit::Applied { .. }) => return Ok(()),
            Ok(Commit::CompareFailed { failed, .. }) => {
                let first = failed.first().map(|(key, _)| key.to_string());
                let context = format!(
                    "write to the copy: somebody else has changed {}",
                    first.unwrap_or_default()
                );
                return Err(Error::new(Kind::Invalid, context));
            },
            Err(error) if may_be_repeated(&error) => error,
            Err(error) => return Err(error),
        };
        if attempt == ATTEMPTS {
            // Whatever it was, it must not arrive later.
            return match to.outcome(id).await? {
                Outcome::Applied(_) => Ok(()),
                Outcome::Void => Err(error),
            };
        }
        attempt += 1;
        means.clock.sleep(PAUSE).await;
    }
}

/// Compares two stores, key by key and value by value; revisions are each store's own.
///
/// # Errors
/// Those of reading.
pub async fn compare(
    one: &dyn Source,
    other: &dyn Source,
    leave_out: fn(&Key) -> bool,
) -> Result<Comparison, Error> {
    let (_, _, theirs) = one.entries().await?;
    let (_, _, ours) = other.entries().await?;
    let mut merge = Merge::begin(theirs, ours, leave_out).await?;
    let (mut different, mut named) = (0, Vec::new());
    while let Some(step) = merge.next().await? {
        let key = match step {
            Step::Same => continue,
            Step::Put(entry, _) => entry.key,
            Step::Delete(key, _) => key,
        };
        different += 1;
        if named.len() < NAMED {
            named.push(key);
        }
    }
    Ok(Comparison {
        content: Content {
            entries: merge.theirs.count,
            sha256: merge.theirs.hash.finalize().into(),
        },
        different,
        named,
    })
}

/// What makes the second of two stores like the first, key by key.
struct Merge<'a> {
    theirs: Side<'a>,
    ours: Side<'a>,
    looked: u64,
}

enum Step {
    Same,
    /// To be written over this revision.
    Put(Entry, Option<Revision>),
    /// To be removed at this revision.
    Delete(Key, Revision),
}

impl<'a> Merge<'a> {
    async fn begin(
        theirs: Entries<'a>,
        ours: Entries<'a>,
        leave_out: fn(&Key) -> bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            theirs: Side::begin(theirs, leave_out).await?,
            ours: Side::begin(ours, leave_out).await?,
            looked: 0,
        })
    }

    async fn next(&mut self) -> Result<Option<Step>, Error> {
        self.looked += 1;
        let order = match (&self.theirs.next, &self.ours.next) {
            (None, None) => return Ok(None),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(theirs), Some(ours)) => theirs.key.cmp(&ours.key),
        };
        let theirs = if order.is_le() {
            self.theirs.take().await?
        } else {
            None
        };
        let ours = if order.is_ge() {
            self.ours.take().await?
        } else {
            None
        };
        Ok(match (theirs, ours) {
            (Some(theirs), Some(ours)) if theirs.value == ours.value => Some(Step::Same),
            (Some(theirs), ours) => {
                let was = ours.map(|ours| ours.meta.mod_revision);
                Some(Step::Put(theirs, was))
            },
            (None, Some(ours)) => Some(Step::Delete(ours.key, ours.meta.mod_revision)),
            (None, None) => None,
        })
    }
}

struct Side<'a> {
    entries: Entries<'a>,
    leave_out: fn(&Key) -> bool,
    next: Option<Entry>,
    count: u64,
    hash: Sha256,
}

impl<'a> Side<'a> {
    async fn begin(entries: Entries<'a>, leave_out: fn(&Key) -> bool) -> Result<Self, Error> {
        let mut side = Self {
            entries,
            leave_out,
            next: None,
            count: 0,
            hash: Sha256::new(),
        };
        side.take().await?;
        Ok(side)
    }

    /// The next entry; the one after it is read.
    async fn take(&mut self) -> Result<Option<Entry>, Error> {
        let mut following = None;
        while let Some(entry) = self.entries.next().await.transpose()? {
            if !(self.leave_out)(&entry.key) {
                following = Some(entry);
                break;
            }
        }
        let taken = std::mem::replace(&mut self.next, following);
        if let (Some(taken), Some(next)) = (&taken, &self.next)
            && taken.key >= next.key
        {
            let context = format!("read a store: {} is not after {}", next.key, taken.key);
            return Err(Error::new(Kind::Corrupt, context));
        }
        if let Some(taken) = &taken {
            self.count += 1;
            for part in [taken.key.as_bytes(), &taken.value] {
                self.hash.update((part.len() as u64).to_be_bytes());
                self.hash.update(part);
            }
        }
        Ok(taken)
    }
}

/// Writes the entries of an export to a store that was opened with [`OpenMode::New`](super::OpenMode::New), in any order;
/// it is complete once it is unsealed.
///
/// # Errors
/// Those of writing, and of the entries.
pub async fn fill(
    to: &dyn Store,
    means: Means<'_>,
    mut entries: Entries<'_>,
) -> Result<u64, Error> {
    let (mut txn, mut count) = (Txn::new(), 0);
    while let Some(entry) = entries.next().await.transpose()? {
        if (means.leave_out)(&entry.key) {
            continue;
        }
        let bytes = entry.value.len() + 2 * entry.key.as_bytes().len();
        let full = txn.ops.len() == limits::TXN_OPS || txn.bytes() + bytes > WRITE_BYTES;
        if full && !txn.ops.is_empty() {
            apply(to, means, std::mem::take(&mut txn)).await?;
        }
        txn = txn
            .expect(entry.key.clone(), Expect::Absent)
            .put(entry.key, entry.value);
        count += 1;
    }
    if !txn.ops.is_empty() {
        apply(to, means, txn).await?;
    }
    Ok(count)
}
