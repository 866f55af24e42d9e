//! The one watch of this process, resumed when it broke, and the past for watchers that are behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cpl_core::store::{
    Backlog, Clock, EndReason, Entry, Error, Event, KeyMeta, Kind, Monotonic, Past, Range,
    Revision, Tail,
};
use etcd_client::{KeyValue, WatchOptions, WatchResponse, WatchStream};
use futures::future::{Either, select};
use tokio::sync::Notify;

use crate::bootstrap::{pulse, read};
use crate::error::translate;
use crate::keys::{Keys, Name};
use crate::link::{ANSWER_BYTES, Link};
use crate::seal::Known;

const WATCH: &str = "watch etcd";
/// How long nothing may come from the watch before the cluster is asked.
const QUIET: Duration = Duration::from_secs(2);
/// How long what is written to be seen may take to be seen.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long a revision that somebody waits for may come by itself.
const SOON: Duration = Duration::from_millis(100);
/// After which time without an answer watchers are told.
const SILENT: Duration = Duration::from_secs(3);
/// Pause before a watch that broke is made anew.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the next piece of the past may take.
const PAST: Duration = Duration::from_secs(10);
/// About how much of the past is read at once.
const PAST_BYTES: usize = 8 << 20;

/// What this process knows of its life of the store.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    pub(crate) tail: Arc<Tail>,
    pub(crate) cluster: u64,
    pub(crate) label: Known,
    /// The newest revision that somebody was told of, and may wait for.
    pub(crate) wanted: AtomicU64,
    pub(crate) news: Notify,
}

pub(crate) const fn revision(revision: i64) -> Revision {
    Revision(revision.cast_unsigned())
}

/// A revision as etcd has it; one that is too large stays the largest.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

impl Life {
    /// Every answer is of the cluster in which this life began.
    pub(crate) fn check_cluster(&self, cluster: u64) -> Result<(), Error> {
        if cluster == self.cluster {
            return Ok(());
        }
        Err(self.over("the cluster is another one than it was: it was restored"))
    }

    pub(crate) fn over(&self, context: &str) -> Error {
        self.tail.end(EndReason::IdentityChanged);
        Error::new(Kind::IdentityChanged, context)
    }

    /// Somebody was told of this revision; it has to be seen by the watch even when nobody writes.
    pub(crate) fn want(&self, revision: Revision) {
        if revision > self.tail.head() {
            self.wanted.fetch_max(revision.0, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    /// The revision up to which everything is forgotten. A watch from the beginning either says so or begins: the label
    /// was written at some time.
    pub(crate) async fn find_compacted(&self) -> Result<Revision, Error> {
        let options = WatchOptions::new().with_start_revision(1);
        let mut watch = open(&self.link, self.keys.label(), options).await?;
        loop {
            let response = next(&self.link, &mut watch, PAST).await?;
            if response.compact_revision() > 0 {
                return Ok(revision(response.compact_revision()));
            }
            check_canceled(&response)?;
            if !response.events().is_empty() {
                return Ok(Revision(0));
            }
        }
    }
}

async fn open(link: &Link, key: Vec<u8>, options: WatchOptions) -> Result<WatchStream, Error> {
    let opened = link.call(WATCH, |client| {
        let (key, options) = (key.clone(), options.clone());
        Box::pin(async move {
            let mut watch = client
                .watch_client()
                .max_decoding_message_size(ANSWER_BYTES);
            watch.watch(key, Some(options)).await
        })
    });
    Ok(opened.await?)
}

/// Everything that is watched, from a revision on.
async fn open_all(life: &Life, from: i64) -> Result<WatchStream, Error> {
    let (first, after) = life.keys.watched();
    let options = WatchOptions::new()
        .with_range(after)
        .with_start_revision(from)
        .with_fragment();
    open(&life.link, first, options).await
}

/// The next message, which must come in time.
async fn next(
    link: &Link,
    watch: &mut WatchStream,
    limit: Duration,
) -> Result<WatchResponse, Error> {
    match select(std::pin::pin!(watch.message()), link.clock.sleep(limit)).await {
        Either::Left((Ok(Some(response)), _)) => Ok(response),
        Either::Left((Ok(None), _)) => Err(Error::new(
            Kind::ConnectionLost,
            "watch etcd: the stream ended",
        )),
        Either::Left((Err(error), _)) => Err(translate(WATCH, error)),
        Either::Right(_) => Err(Error::new(Kind::Timeout, WATCH)),
    }
}

/// etcd refuses a watch by a message, not by an error.
fn check_canceled(response: &WatchResponse) -> Result<(), Error> {
    if !response.canceled() {
        return Ok(());
    }
    let reason = response.cancel_reason();
    // A token that is too old is refused here, too; the next request gets a new one.
    let kind = if reason.contains("permission denied") {
        Kind::Unauthorized
    } else {
        Kind::ConnectionLost
    };
    Err(Error::new(kind, format!("watch etcd: {reason}")))
}

/// Puts events of one revision together, however etcd cut its messages.
#[derive(Debug)]
struct Gather {
    revision: i64,
    events: Vec<Event>,
}

impl Gather {
    const fn new() -> Self {
        Self {
            revision: 0,
            events: Vec::new(),
        }
    }

    /// Adds a message and hands out the revisions that are whole.
    fn add(
        &mut self,
        keys: &Keys,
        response: &WatchResponse,
        mut whole: impl FnMut(Revision, Vec<Event>),
    ) -> Result<(), Error> {
        for event in response.events() {
            let Some(kv) = event.kv() else {
                continue;
            };
            if kv.mod_revision() != self.revision {
                self.hand_out(&mut whole);
                self.revision = kv.mod_revision();
            }
            let Name::User(key) = keys.name(kv.key())? else {
                continue;
            };
            // 0 is a put and 1 a deletion; `event_type` panics at anything else.
            let event = match event.0.r#type {
                0 => Event::Put {
                    entry: entry(key, kv),
                },
                1 => Event::Delete { key },
                _ => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        "watch etcd: an event is neither a put nor a deletion",
                    ));
                },
            };
            self.events.push(event);
        }
        if !response.0.fragment {
            self.hand_out(&mut whole);
        }
        Ok(())
    }

    fn hand_out(&mut self, whole: &mut impl FnMut(Revision, Vec<Event>)) {
        if self.revision > 0 {
            let mut events = std::mem::take(&mut self.events);
            events.sort_by(|a, b| a.key().cmp(b.key()));
            whole(revision(self.revision), events);
            self.revision = 0;
        }
    }
}

pub(crate) fn entry(key: cpl_core::store::Key, kv: &KeyValue) -> Entry {
    Entry {
        key,
        value: Bytes::copy_from_slice(kv.value()),
        meta: meta(kv),
    }
}

pub(crate) const fn meta(kv: &KeyValue) -> KeyMeta {
    KeyMeta {
        create_revision: revision(kv.create_revision()),
        mod_revision: revision(kv.mod_revision()),
        version: kv.version().cast_unsigned(),
    }
}

/// Follows the store for this process.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) life: Arc<Life>,
    heard: Monotonic,
    /// When something was written to be seen.
    pulsed: Option<Monotonic>,
}

enum Next {
    Message(WatchResponse),
    Wanted,
    Quiet,
}

impl Follower {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        let heard = life.link.clock.monotonic();
        Self {
            life,
            heard,
            pulsed: None,
        }
    }

    fn clock(&self) -> &dyn Clock {
        &*self.life.link.clock
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.pulsed = None;
            let Err(error) = self.follow().await;
            if *error.kind() == Kind::IdentityChanged {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the store cannot be followed any more"
                );
                return;
            }
            let silence = self.clock().monotonic().since(self.heard);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                ?silence,
                "the watch of etcd broke"
            );
            if silence >= SILENT {
                self.life.tail.stall(silence);
            }
            self.clock().sleep(AGAIN).await;
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Error> {
        let life = Arc::clone(&self.life);
        let mut watch = open_all(&life, number(life.tail.head()) + 1).await?;
        let mut gather = Gather::new();
        loop {
            match self.next(&mut watch).await? {
                Next::Message(response) => {
                    self.heard = self.clock().monotonic();
                    self.message(&response, &mut gather)?;
                },
                Next::Wanted => {
                    self.clock().sleep(SOON).await;
                    // What has come in the meantime is read first.
                    if life.wanted.load(Ordering::Relaxed) > life.tail.head().0
                        && self.pulsed.is_none()
                    {
                        self.pulse().await?;
                    }
                },
                Next::Quiet => self.check().await?,
            }
        }
    }

    async fn next(&self, watch: &mut WatchStream) -> Result<Next, Error> {
        let wanted = std::pin::pin!(self.life.news.notified());
        let other = select(wanted, self.clock().sleep(QUIET));
        match select(std::pin::pin!(watch.message()), other).await {
            Either::Left((Ok(Some(response)), _)) => Ok(Next::Message(response)),
            Either::Left((Ok(None), _)) => Err(Error::new(
                Kind::ConnectionLost,
                "watch etcd: the stream ended",
            )),
            Either::Left((Err(error), _)) => Err(translate(WATCH, error)),
            Either::Right((Either::Left(_), _)) => Ok(Next::Wanted),
            Either::Right((Either::Right(_), _)) => Ok(Next::Quiet),
        }
    }

    fn message(&mut self, response: &WatchResponse, gather: &mut Gather) -> Result<(), Error> {
        let life = &self.life;
        if let Some(header) = response.header() {
            life.check_cluster(header.cluster_id())?;
        }
        if response.compact_revision() > 0 {
            // This process was away for so long that others compacted what it has not seen.
            life.tail.compact(revision(response.compact_revision()));
            return Err(Error::new(
                Kind::ConnectionLost,
                "watch etcd: what was next is compacted",
            ));
        }
        check_canceled(response)?;
        let mut seen = false;
        let tell = |revision, events| {
            seen = true;
            life.tail.push(revision, events);
        };
        gather.add(&life.keys, response, tell)?;
        if seen {
            self.pulsed = None;
        }
        Ok(())
    }

    async fn pulse(&mut self) -> Result<(), Error> {
        self.pulsed = Some(self.clock().monotonic());
        pulse(&self.life.link, &self.life.keys).await?;
        Ok(())
    }

    /// Whether there is nothing new, or the watch is dead, or the cluster is.
    async fn check(&mut self) -> Result<(), Error> {
        let life = Arc::clone(&self.life);
        if let Some(since) = self.pulsed {
            let unseen = self.clock().monotonic().since(since);
            if unseen >= UNSEEN {
                let context = "watch etcd: what was written is not seen";
                return Err(Error::new(Kind::Timeout, context));
            }
            return Ok(());
        }
        let answer = read(&life.link, &life.keys).await?;
        self.heard = self.clock().monotonic();
        let header = answer
            .header()
            .map(|header| (header.cluster_id(), header.revision()));
        let (cluster, now) = header.unwrap_or_default();
        life.check_cluster(cluster)?;
        life.look(answer.kvs().first())?;
        if revision(now) < life.tail.head() {
            return Err(life.over("the cluster was restored"));
        }
        if revision(now) > life.tail.head() {
            self.pulse().await?;
        }
        Ok(())
    }
}

/// The past, for watchers that are behind what the tail keeps.
#[async_trait]
impl Backlog for Life {
    async fn read(&self, range: &Range, after: Revision) -> Result<Past, Error> {
        // At this revision something happened that a watch sees: then everything before it has been seen.
        let target = self.tail.floor();
        let mut watch = open_all(self, number(after) + 1).await?;
        let mut past = Past {
            revisions: Vec::new(),
            through: after,
        };
        let mut bytes = 0;
        let mut gather = Gather::new();
        while past.through < target && bytes < PAST_BYTES {
            let response = next(&self.link, &mut watch, PAST).await?;
            if response.compact_revision() > 0 {
                let compacted = revision(response.compact_revision());
                self.tail.compact(compacted);
                return Err(Error::new(Kind::Compacted { compacted }, WATCH));
            }
            check_canceled(&response)?;
            let collect = |revision, mut events: Vec<Event>| {
                past.through = revision;
                events.retain(|event| range.contains(event.key()));
                bytes += events.iter().map(Event::bytes).sum::<usize>();
                if !events.is_empty() {
                    past.revisions.push((revision, events));
                }
            };
            gather.add(&self.keys, &response, collect)?;
        }
        Ok(past)
    }
}
