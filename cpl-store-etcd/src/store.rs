//! Opens a store, reads from it, and commits.

use std::fmt::{Debug, Formatter};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cpl_core::store::{
    Clock, Commit, Cursor, EndReason, Entry, Error, Expect, IdGen, Key, KeyMeta, Kind, Limits,
    ListRequest, Op, OpenMode, Outcome, Page, PageToken, Range, Read, Revision, SealId, Spawner,
    Store, Tail, Task, Txn, TxnId, WatchStream, limits,
};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, KeyValue, ResponseHeader, Txn as EtcdTxn,
    TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::sync::Notify;

use crate::bootstrap::{bootstrap, read};
use crate::config::EtcdConfig;
use crate::error::{Reason, translate};
use crate::follow::{Follower, Life, entry, meta, number, revision};
use crate::forget;
use crate::keys::{Keys, Name};
use crate::link::{ANSWER_BYTES, Failed, Link};
use crate::seal::{Known, Standing};

/// Entries of the first request of a page: of the largest values they still fit into an answer.
const FIRST: usize = 32;
/// What an outcome has instead of a digest when it was ruled out.
const VOID: &[u8] = b"void";
const COMMIT: &str = "commit a transaction";
const LIST: &str = "list a range";
const SETTLE: &str = "settle a transaction";

/// A store under a prefix of an etcd cluster.
///
/// It is bound to one life of the store: when the cluster was restored since it was opened, everything is
/// [`Kind::IdentityChanged`], because acknowledged revisions may be missing then; open it anew. Dropping it
/// ends its watch.
pub struct EtcdStore {
    pub(crate) life: Arc<Life>,
    /// Why the last commit was refused, for health checks.
    refusal: Mutex<Option<(Kind, String)>>,
    _tasks: [Task; 2],
}

impl Debug for EtcdStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("tail", &self.life.tail)
            .finish_non_exhaustive()
    }
}

impl Drop for EtcdStore {
    /// Watchers have a part of this store for what they lack; they have to be told that nothing follows.
    fn drop(&mut self) {
        self.life.tail.end(EndReason::Closed);
    }
}

impl EtcdStore {
    /// Opens the store of a prefix, and makes it when it is not there.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the server is too old or has a store of a newer format,
    /// [`Kind::Unauthorized`], [`Kind::NotConnected`], [`Kind::Timeout`]. The message says which.
    pub async fn open(
        config: &EtcdConfig,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
        spawner: &dyn Spawner,
    ) -> Result<Self, Error> {
        Self::open_as(OpenMode::ExistingOrNew, config, clock, ids, spawner).await
    }

    /// Opens the store of a prefix, or makes it.
    ///
    /// # Errors
    /// Those of [`EtcdStore::open`]; [`Kind::Invalid`] when what is there is not what the mode expects.
    pub async fn open_as(
        mode: OpenMode,
        config: &EtcdConfig,
        clock: Arc<dyn Clock>,
        ids: &dyn IdGen,
        spawner: &dyn Spawner,
    ) -> Result<Self, Error> {
        let client = Client::connect(&config.endpoints, Some(config.options.clone()))
            .await
            .map_err(|error| translate("connect to etcd", error))?;
        let link = Link::new(client, Arc::clone(&clock));
        let keys = Keys::new(&config.prefix);
        let opened = bootstrap(&link, &keys, mode, ids).await?;
        let tail = Arc::new(Tail::new(opened.identity, opened.head, Revision(0), clock));
        let life = Arc::new(Life {
            link,
            keys,
            tail,
            cluster: opened.cluster,
            label: Known::new(opened.label, opened.seal),
            wanted: AtomicU64::new(0),
            news: Notify::new(),
        });
        life.tail.compact(life.find_compacted().await?);
        let follower = Follower::new(Arc::clone(&life));
        let forgetting = forget::run(Arc::clone(&life));
        let tasks = [
            spawner.spawn("etcd follower", Box::pin(follower.run())),
            spawner.spawn("etcd outcomes", Box::pin(forgetting)),
        ];
        Ok(Self {
            life,
            refusal: Mutex::new(None),
            _tasks: tasks,
        })
    }

    /// The place in history of an answer.
    fn at(&self, header: Option<&ResponseHeader>) -> Result<Cursor, Error> {
        let header = header
            .ok_or_else(|| Error::new(Kind::Corrupt, "read an answer of etcd: it has no header"))?;
        self.life.check_cluster(header.cluster_id())?;
        Ok(self.life.tail.cursor(revision(header.revision())))
    }

    /// etcd's words for a revision that it does not have, with the numbers.
    async fn out_of_range(&self, failed: Failed) -> Error {
        match failed.reason {
            Reason::Compacted => match self.life.find_compacted().await {
                Ok(compacted) => {
                    self.life.tail.compact(compacted);
                    Error::new(Kind::Compacted { compacted }, failed.error.context())
                },
                Err(error) => error,
            },
            Reason::FutureRevision => match self.head().await {
                Ok(at) => Error::new(
                    Kind::FutureRevision { head: at.revision },
                    failed.error.context(),
                ),
                Err(error) => error,
            },
            Reason::Token | Reason::TooLarge | Reason::Other => failed.error,
        }
    }

    fn note(&self, refused: Option<&Error>) {
        let refused = refused.map(|error| (error.kind().clone(), error.context().to_owned()));
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn limits(&self) -> Limits {
        Limits::portable(false).sparse()
    }

    fn refusal(&self) -> Option<Error> {
        let refused = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, context) = refused.clone()?;
        Some(Error::new(kind, context))
    }

    async fn head(&self) -> Result<Cursor, Error> {
        let answer = read(&self.life.link, &self.life.keys).await?;
        let at = self.at(answer.header())?;
        self.life.want(at.revision);
        Ok(at)
    }

    async fn get(&self, key: &Key) -> Result<Read<Option<Entry>>, Error> {
        let name = self.life.keys.user(key);
        let got = self.life.link.call("read a key", |client| {
            let name = name.clone();
            Box::pin(async move { client.kv_client().get(name, None).await })
        });
        let got = got.await.map_err(Error::from)?;
        Ok(Read {
            at: self.at(got.header())?,
            value: got.kvs().first().map(|kv| entry(key.clone(), kv)),
        })
    }

    async fn list(&self, request: ListRequest) -> Result<Page, Error> {
        let mut pinned = None;
        let (mut first, after) = self.life.keys.range(&request.range);
        if let Some(token) = &request.page {
            if token.range != request.range {
                let context = "list: the page token belongs to another range";
                return Err(Error::new(Kind::Invalid, context));
            }
            self.life.tail.check(&token.at)?;
            pinned = Some(token.at.revision);
            first = self.life.keys.user(&token.after);
            first.push(0);
        }
        self.page(request, pinned, first, after).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        txn.validate(&self.limits())?;
        let committed = self.life.link.call(COMMIT, |client| {
            let txn = self.encode(&txn);
            Box::pin(async move { client.kv_client().txn(txn).await })
        });
        match committed.await {
            Ok(answer) => {
                let answer = self.decode(&txn, &answer);
                let sealed = |error: &&Error| *error.kind() == Kind::ReadOnly;
                self.note(answer.as_ref().err().filter(sealed));
                answer
            },
            Err(Failed { error, .. }) => {
                self.note(Some(&error));
                Err(error)
            },
        }
    }

    async fn watch(&self, range: Range, after: Cursor) -> Result<WatchStream, Error> {
        self.life.tail.check(&after)?;
        if after.revision > self.life.tail.head() {
            let head = self.head().await?.revision;
            if after.revision > head {
                return Err(Error::new(
                    Kind::FutureRevision { head },
                    "resume after a cursor",
                ));
            }
        }
        Ok(self
            .life
            .tail
            .watch(range, after, Arc::clone(&self.life) as _))
    }

    async fn outcome(&self, id: TxnId) -> Result<Outcome, Error> {
        let key = self.life.keys.outcome(id);
        // Nothing is changed by it, so it goes on in a sealed store.
        let label = self.compare_label(self.life.label.seen());
        let settled = self.life.link.call(SETTLE, |client| {
            let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let txn = EtcdTxn::new()
                .when([absent, label.clone()])
                .and_then([TxnOp::put(key.clone(), VOID, None)])
                .or_else([TxnOp::get(key.clone(), None), self.get_label()]);
            Box::pin(async move { client.kv_client().txn(txn).await })
        });
        let answer = settled.await.map_err(Error::from)?;
        self.at(answer.header())?;
        if answer.succeeded() {
            return Ok(Outcome::Void);
        }
        let found = gets(&answer);
        self.standing(found.last())?;
        let recorded = found.first().and_then(|got| got.kvs().first());
        match recorded {
            Some(recorded) => Ok(outcome(recorded)),
            // The label has changed, which the next attempt knows.
            None => Err(Error::new(Kind::Overloaded, SETTLE)),
        }
    }

    async fn compact(&self, through: Revision) -> Result<(), Error> {
        let compacted = self.life.link.call("compact the store", |client| {
            Box::pin(async move { client.kv_client().compact(number(through), None).await })
        });
        match compacted.await {
            Ok(answer) => {
                self.at(answer.header())?;
                self.life.tail.compact(through);
                Ok(())
            },
            // It was compacted at least as far before.
            Err(failed) if failed.reason == Reason::Compacted => Ok(()),
            Err(failed) => Err(self.out_of_range(failed).await),
        }
    }

    async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        self.life.seal(seal).await
    }

    async fn unseal(&self) -> Result<(), Error> {
        self.life.unseal().await
    }
}

fn gets(answer: &TxnResponse) -> Vec<GetResponse> {
    let got = |response| match response {
        TxnOpResponse::Get(got) => Some(got),
        _ => None,
    };
    answer.op_responses().into_iter().filter_map(got).collect()
}

/// An outcome is written once, by its transaction or by who ruled it out.
fn outcome(kv: &KeyValue) -> Outcome {
    if kv.value() == VOID {
        Outcome::Void
    } else {
        Outcome::Applied(revision(kv.create_revision()))
    }
}

impl EtcdStore {
    /// What every write compares: that this is still the same life of the store, and that it is not sealed.
    fn label(&self) -> Compare {
        self.compare_label(self.life.label.expected())
    }

    fn compare_label(&self, revision: i64) -> Compare {
        Compare::mod_revision(self.life.keys.label(), CompareOp::Equal, revision)
    }

    fn get_label(&self) -> TxnOp {
        TxnOp::get(self.life.keys.label(), None)
    }

    /// What the label says of a write that was refused, for whatever reason.
    fn standing(&self, found: Option<&GetResponse>) -> Result<Standing, Error> {
        self.life.look(found.and_then(|got| got.kvs().first()))
    }

    /// One flat transaction: all compares of the caller, that its id is not known, and that this is the same life. When
    /// one is false the answer has what all of them are.
    fn encode(&self, txn: &Txn) -> EtcdTxn {
        let keys = &self.life.keys;
        let mut compares: Vec<Compare> = txn
            .compares
            .iter()
            .map(|compare| {
                let expected = match compare.expect {
                    // To etcd a key that is not there has the revision 0; no key has this one.
                    Expect::ModRevision(Revision(0)) => -1,
                    Expect::ModRevision(revision) => number(revision),
                    Expect::Absent => 0,
                };
                Compare::mod_revision(keys.user(&compare.key), CompareOp::Equal, expected)
            })
            .collect();
        let mut writes: Vec<TxnOp> = txn
            .ops
            .iter()
            .map(|op| match op {
                Op::Put(key, value) => TxnOp::put(keys.user(key), value.to_vec(), None),
                Op::Delete(key) => TxnOp::delete(keys.user(key), None),
            })
            .collect();
        let metadata = || Some(GetOptions::new().with_keys_only());
        let mut otherwise: Vec<TxnOp> = txn
            .compares
            .iter()
            .map(|compare| TxnOp::get(keys.user(&compare.key), metadata()))
            .collect();
        if let Some(id) = txn.id {
            let key = keys.outcome(id);
            compares.push(Compare::create_revision(key.clone(), CompareOp::Equal, 0));
            writes.push(TxnOp::put(key.clone(), txn.digest(), None));
            otherwise.push(TxnOp::get(key, None));
        }
        compares.push(self.label());
        otherwise.push(self.get_label());
        EtcdTxn::new()
            .when(compares)
            .and_then(writes)
            .or_else(otherwise)
    }

    fn decode(&self, txn: &Txn, answer: &TxnResponse) -> Result<Commit, Error> {
        let at = self.at(answer.header())?;
        if answer.succeeded() {
            return Ok(Commit::Applied {
                at,
                replayed: false,
            });
        }
        let found = gets(answer);
        let standing = self.standing(found.last())?;
        let recorded = txn
            .id
            .and_then(|_| found.get(txn.compares.len())?.kvs().first());
        if let Some(recorded) = recorded {
            return self.replay(txn, recorded);
        }
        if standing != Standing::Same {
            return Err(standing.refusal(COMMIT));
        }
        let there = found.iter().map(|got| got.kvs().first().map(meta));
        let failed: Vec<(Key, Option<KeyMeta>)> = txn
            .compares
            .iter()
            .zip(there)
            .filter(|(compare, there)| !holds(compare.expect, *there))
            .map(|(compare, there)| (compare.key.clone(), there))
            .collect();
        if failed.is_empty() {
            return Err(Error::new(
                Kind::Corrupt,
                "commit a transaction: it was refused without a reason",
            ));
        }
        Ok(Commit::CompareFailed { failed, at })
    }

    fn replay(&self, txn: &Txn, recorded: &KeyValue) -> Result<Commit, Error> {
        let refuse = |kind| Err(Error::new(kind, COMMIT));
        match outcome(recorded) {
            Outcome::Void => refuse(Kind::TxnVoid),
            Outcome::Applied(_) if recorded.value() != txn.digest() => refuse(Kind::TxnIdReused),
            Outcome::Applied(revision) => Ok(Commit::Applied {
                at: self.life.tail.cursor(revision),
                replayed: true,
            }),
        }
    }

    /// Reads entries until the page is full. etcd bounds an answer by a number of entries only, so the first request
    /// is small and the next ones are as large as what came lets expect.
    async fn page(
        &self,
        request: ListRequest,
        mut pinned: Option<Revision>,
        mut first: Vec<u8>,
        after: Vec<u8>,
    ) -> Result<Page, Error> {
        let limit = request.limit.clamp(1, limits::PAGE_ENTRIES);
        let (mut entries, mut bytes, mut most) = (Vec::new(), 0, FIRST);
        let (at, more) = loop {
            let wanted = most.min(limit - entries.len());
            let got = match self.range(&first, &after, pinned, wanted).await {
                Ok(got) => got,
                Err(failed) if failed.reason == Reason::TooLarge && wanted > 1 => {
                    most = wanted / 2;
                    continue;
                },
                Err(failed) => return Err(self.out_of_range(failed).await),
            };
            let header = self.at(got.header())?;
            let at = self
                .life
                .tail
                .cursor(*pinned.get_or_insert(header.revision));
            if at.revision > header.revision {
                let kind = Kind::FutureRevision {
                    head: header.revision,
                };
                return Err(Error::new(kind, LIST));
            }
            let mut full = false;
            for kv in got.kvs() {
                bytes += kv.value().len() + kv.key().len();
                full = !entries.is_empty() && bytes > limits::PAGE_BYTES;
                if full {
                    break;
                }
                if let Name::User(key) = self.life.keys.name(kv.key())? {
                    entries.push(entry(key, kv));
                }
                first = kv.key().to_vec();
                first.push(0);
            }
            if full || !got.more() || entries.len() >= limit {
                break (at, full || got.more());
            }
            let average = bytes / entries.len().max(1) + 1;
            most = (limits::PAGE_BYTES / average).clamp(1, limits::PAGE_ENTRIES);
        };
        let next = entries
            .last()
            .filter(|_| more)
            .map(|last: &Entry| PageToken {
                at,
                after: last.key.clone(),
                range: request.range,
            });
        Ok(Page { entries, at, next })
    }

    async fn range(
        &self,
        first: &[u8],
        after: &[u8],
        pinned: Option<Revision>,
        limit: usize,
    ) -> Result<GetResponse, Failed> {
        let options = GetOptions::new()
            .with_range(after)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(pinned.map_or(0, number));
        self.life
            .link
            .call(LIST, |client| {
                let (first, options) = (first.to_vec(), options.clone());
                Box::pin(async move {
                    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
                    kv.get(first, Some(options)).await
                })
            })
            .await
    }
}

fn holds(expect: Expect, there: Option<KeyMeta>) -> bool {
    match expect {
        Expect::ModRevision(revision) => there.is_some_and(|meta| meta.mod_revision == revision),
        Expect::Absent => there.is_none(),
    }
}
