//! The one writer of specs in a process.
//!
//! Requests queue; the writer takes what has queued during the last commit, evaluates each on the head
//! plus its predecessors, and commits all their versions in one transaction that compares the version
//! counter. When somebody else was faster it waits until the cache holds the winner and evaluates anew.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::sync::{mpsc, oneshot};

use super::model::{
    Answer, AnsweredObject, Draft, Idempotency, Kinds, Object, ObjectChange, Operation, View,
};
use super::repo::{Catalog, GLOBAL_VERSION, Made, weight, write_history, write_object};
use super::rules::{Author, evaluate};
use crate::clock::{Clock, Monotonic, Spawner, Task, Timestamp};
use crate::error::{Error, Kind as ErrorKind};
use crate::ids::{IdGen, TxnId};
use crate::store::{Cache, Key, Revision, Store};
use crate::txn::{
    AuditRecord, Guard, IdempotencyRecord, Settled, SpecTxn, audit_key, commit, idempotency_key,
};
use crate::version::ConfigVersion;

/// Requests that may wait; more are refused at once.
const QUEUE: usize = 1_024;
/// Requests of one transaction.
const BATCH: usize = 24;
/// How long the cache may take to show a commit before requests are answered with an error.
const CACHE_LAG: Duration = Duration::from_secs(10);
/// Base of the pause after another writer was faster.
const RACE_PAUSE: Duration = Duration::from_millis(5);

/// What a request wants, judged on the objects as it finds them. Pure: it may be called again.
pub type Edit = Box<dyn Fn(&Kinds, &View<'_>) -> Result<Vec<Draft>, Error> + Send + Sync>;
/// The nodes that run something else after these changes; the view has them applied.
pub type Affected = Arc<dyn Fn(&View<'_>, &[ObjectChange]) -> Vec<String> + Send + Sync>;
/// The keys that agents and controllers keep of an object and that go with it.
pub type Companions = Arc<dyn Fn(&Object) -> Vec<Key> + Send + Sync>;

/// One request to change specs: one version when it is accepted.
pub struct Request {
    /// Who asks.
    pub actor: String,
    /// What the request is called.
    pub id: String,
    /// What is done, for the audit.
    pub action: &'static str,
    /// What makes repeating it safe.
    pub idempotency: Option<Idempotency>,
    /// After this nothing is sent to the store any more.
    pub deadline: Monotonic,
    /// What is wanted.
    pub edit: Edit,
}

impl Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("actor", &self.actor)
            .field("id", &self.id)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

/// What a writer needs.
#[derive(Clone)]
pub struct WriterConfig {
    /// Where to commit.
    pub store: Arc<dyn Store>,
    /// The objects; must be run.
    pub cache: Arc<Cache<Catalog>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids and jitter.
    pub ids: Arc<dyn IdGen>,
    /// Which nodes a change affects.
    pub affected: Affected,
    /// What goes with an object.
    pub companions: Companions,
}

impl Debug for WriterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterConfig")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

struct Queued {
    request: Request,
    answer: oneshot::Sender<Result<Answer, Error>>,
}

/// The way to change specs.
#[derive(Clone, Debug)]
pub struct Writer {
    config: WriterConfig,
    queue: mpsc::Sender<Queued>,
}

impl Writer {
    /// Starts the writer; it ends when the returned task is dropped.
    pub fn start(config: WriterConfig, spawner: &dyn Spawner) -> (Self, Task) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let worker = Worker {
            config: config.clone(),
            requests,
            waiting: VecDeque::new(),
        };
        let task = spawner.spawn("spec-writer", Box::pin(worker.run()));
        (Self { config, queue }, task)
    }

    /// Has a request committed. Dropping the future does not take the request back.
    ///
    /// # Errors
    /// Whatever its edit and the checks find wrong; `Exhausted` when too many wait; `Unavailable` when
    /// it certainly did not happen in time; `Indeterminate` when that is not known.
    pub async fn submit(&self, request: Request) -> Result<Answer, Error> {
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(Queued { request, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::new(
                    ErrorKind::Exhausted,
                    "QUEUE_FULL",
                    "too many changes are waiting",
                ),
                mpsc::error::TrySendError::Closed(_) => closing(),
            })?;
        answered.await.unwrap_or_else(|_| Err(closing()))
    }

    /// What a request would do now, without doing it. The version is that of the answer's place.
    pub fn preview(&self, request: &Request) -> Result<Answer, Error> {
        self.config.cache.read(|snapshot| {
            let catalog = &snapshot.index;
            let next = catalog.version().next();
            let step = self
                .config
                .evaluate(request, catalog.kinds(), &catalog.view(), next)?;
            Ok(Answer {
                version: None,
                ..step.answer
            })
        })
    }
}

fn closing() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "CLOSING",
        "the server is shutting down",
    )
}

/// One request, evaluated.
struct Step {
    changes: Vec<ObjectChange>,
    answer: Answer,
    at: Timestamp,
}

impl WriterConfig {
    fn evaluate(
        &self,
        request: &Request,
        kinds: &Kinds,
        view: &View<'_>,
        version: ConfigVersion,
    ) -> Result<Step, Error> {
        let at = self.clock.wall();
        let author = Author {
            actor: &request.actor,
            at,
            ids: &*self.ids,
        };
        let drafts = (request.edit)(kinds, view)?;
        let changes = evaluate(kinds, view, &drafts, version, &author)?;
        let merged = view.with(&changes);
        let objects = drafts
            .iter()
            .filter_map(|draft| answered(draft, kinds, &changes, view))
            .collect();
        let answer = Answer {
            version: (!changes.is_empty()).then_some(version),
            objects,
            affected_nodes: (self.affected)(&merged.view(), &changes),
            replayed: false,
        };
        Ok(Step {
            changes,
            answer,
            at,
        })
    }
}

fn answered(
    draft: &Draft,
    kinds: &Kinds,
    changes: &[ObjectChange],
    view: &View<'_>,
) -> Option<AnsweredObject> {
    let object = draft.object();
    let kind = kinds.named(&object.kind)?;
    let same = |o: &Object| o.kind == kind.name() && o.name == object.name;
    let change = changes.iter().find(|change| same(change.object()));
    let (operation, now) = match change {
        Some(ObjectChange {
            before: None,
            after: Some(after),
            ..
        }) => (Operation::Created, after),
        Some(ObjectChange {
            after: Some(after), ..
        }) => (Operation::Updated, after),
        Some(gone) => (Operation::Deleted, gone.object()),
        None => (Operation::Unchanged, view.get(kind.name(), &object.name)?),
    };
    Some(AnsweredObject {
        kind: object.kind,
        name: object.name,
        operation,
        generation: now.meta.generation,
        etag: now.etag(),
    })
}

struct Worker {
    config: WriterConfig,
    requests: mpsc::Receiver<Queued>,
    waiting: VecDeque<Queued>,
}

/// What goes into one transaction.
struct Batch {
    txn: SpecTxn,
    answers: Vec<(oneshot::Sender<Result<Answer, Error>>, Answer)>,
    /// The requests themselves, for another try.
    requests: Vec<Request>,
    deadline: Monotonic,
}

impl Worker {
    async fn run(mut self) {
        let mut reached = Revision(0);
        loop {
            if self.waiting.is_empty() {
                match self.requests.recv().await {
                    Some(queued) => self.waiting.push_back(queued),
                    None => return,
                }
            }
            while self.waiting.len() < BATCH
                && let Ok(queued) = self.requests.try_recv()
            {
                self.waiting.push_back(queued);
            }
            self.answer_repeats().await;
            self.drop_late();
            if !self.cache_reaches(reached).await {
                self.fail_all(|| {
                    let detail = "the server does not see its own writes yet";
                    Error::new(ErrorKind::Unavailable, "CACHE_BEHIND", detail)
                });
                continue;
            }
            if let Some(batch) = self.build() {
                reached = reached.max(self.send(batch).await);
            }
        }
    }

    /// Answers requests whose idempotency key has an answer already.
    async fn answer_repeats(&mut self) {
        for queued in std::mem::take(&mut self.waiting) {
            match self.recorded(&queued.request).await {
                Ok(None) => self.waiting.push_back(queued),
                Ok(Some(answer)) => reply(queued.answer, Ok(answer)),
                Err(error) => reply(queued.answer, Err(error)),
            }
        }
    }

    async fn recorded(&self, request: &Request) -> Result<Option<Answer>, Error> {
        let Some(Idempotency {
            key,
            request: digest,
        }) = &request.idempotency
        else {
            return Ok(None);
        };
        let key = idempotency_key(&request.actor, key);
        let read = self.config.store.get(key.key()).await;
        let read = read.map_err(|error| Error::store("look up an idempotency key", error))?;
        let Some(entry) = read.value else {
            return Ok(None);
        };
        let record: IdempotencyRecord =
            serde_json::from_slice(&entry.value).map_err(|e| Error::corrupt(key.key(), e))?;
        if record.request != *digest {
            let detail = "this idempotency key was used for another request";
            return Err(Error::new(
                ErrorKind::Invalid,
                "IDEMPOTENCY_KEY_REUSED",
                detail,
            ));
        }
        let mut answer: Answer =
            serde_json::from_value(record.answer).map_err(|e| Error::corrupt(key.key(), e))?;
        answer.replayed = true;
        Ok(Some(answer))
    }

    fn drop_late(&mut self) {
        let now = self.config.clock.monotonic();
        for queued in std::mem::take(&mut self.waiting) {
            if now < queued.request.deadline {
                self.waiting.push_back(queued);
            } else {
                let detail = "the change could not be made in time; nothing happened";
                let error = Error::new(ErrorKind::Unavailable, "DEADLINE_PASSED", detail);
                reply(queued.answer, Err(error));
            }
        }
    }

    async fn cache_reaches(&self, revision: Revision) -> bool {
        let waiting = Box::pin(self.config.cache.wait_for(revision));
        let limit = self.config.clock.sleep(CACHE_LAG);
        matches!(select(waiting, limit).await, Either::Left(_))
    }

    fn fail_all(&mut self, error: impl Fn() -> Error) {
        for queued in self.waiting.drain(..) {
            reply(queued.answer, Err(error()));
        }
    }

    /// Evaluates waiting requests until one does not fit, and answers those that change nothing or are
    /// refused.
    fn build(&mut self) -> Option<Batch> {
        let cache = Arc::clone(&self.config.cache);
        cache.read(|snapshot| {
            let catalog = &snapshot.index;
            let counter = GLOBAL_VERSION.key(&[]);
            let mut building = Building {
                config: &self.config,
                kinds: catalog.kinds(),
                changes: Vec::new(),
                touched: BTreeSet::new(),
                version: catalog.version(),
                steps: Vec::new(),
            };
            while let Some(queued) = self.waiting.pop_front() {
                if let Some(back) = building.take(queued, &catalog.view()) {
                    self.waiting.push_front(back);
                    break;
                }
            }
            let guard = Guard::of(catalog.counter());
            let id = TxnId::fresh(&*self.config.ids);
            let txn = SpecTxn::new(id, &counter, guard, building.version);
            building.finish(txn)
        })
    }

    /// Commits a batch and answers it; requests that lost to another writer wait again. Returns the
    /// revision that the cache must show before the next batch is evaluated.
    async fn send(&mut self, batch: Batch) -> Revision {
        let WriterConfig {
            store, clock, ids, ..
        } = &self.config;
        let Batch {
            txn,
            answers,
            requests,
            deadline,
        } = batch;
        match commit(&**store, &**clock, &**ids, txn, deadline).await {
            Ok(Settled::Applied(revision)) => {
                // Whoever is told that it is done reads it here from now on. It is done in any case: when the cache
                // stays behind, only the next batch waits.
                self.cache_reaches(revision).await;
                for (to, answer) in answers {
                    reply(to, Ok(answer));
                }
                revision
            },
            Ok(Settled::Lost { at, .. }) => {
                let senders = answers.into_iter().map(|(sender, _)| sender);
                for (request, answer) in requests.into_iter().zip(senders).rev() {
                    self.waiting.push_front(Queued { request, answer });
                }
                let jitter = Duration::from_millis(ids.below(20));
                clock.sleep(RACE_PAUSE + jitter).await;
                at
            },
            Err(error) => {
                for (to, _) in answers {
                    let (kind, reason) = (error.kind(), error.reason());
                    reply(to, Err(Error::new(kind, reason, error.to_string())));
                }
                Revision(0)
            },
        }
    }
}

fn reply(to: oneshot::Sender<Result<Answer, Error>>, answer: Result<Answer, Error>) {
    if to.send(answer).is_err() {
        tracing::debug!("a caller went away before its answer");
    }
}

/// A batch while it is being put together.
struct Building<'a> {
    config: &'a WriterConfig,
    kinds: &'a Kinds,
    changes: Vec<ObjectChange>,
    /// Objects and idempotency keys of the batch: none may occur twice in a transaction.
    touched: BTreeSet<String>,
    version: ConfigVersion,
    steps: Vec<(Queued, Step)>,
}

impl Building<'_> {
    /// Takes a request into the batch, or answers it; gives it back when it must wait for the next.
    fn take(&mut self, queued: Queued, committed: &View<'_>) -> Option<Queued> {
        let merged = committed.with(&self.changes);
        let next = self.version.next();
        let step = self
            .config
            .evaluate(&queued.request, self.kinds, &merged.view(), next);
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                reply(queued.answer, Err(error));
                return None;
            },
        };
        if step.changes.is_empty() {
            reply(queued.answer, Ok(step.answer));
            return None;
        }
        let names = names_of(&queued.request, &step.changes);
        if names.iter().any(|name| self.touched.contains(name)) || !self.fits(&step) {
            return Some(queued);
        }
        self.touched.extend(names);
        self.changes.extend(step.changes.iter().cloned());
        self.version = next;
        self.steps.push((queued, step));
        None
    }

    fn fits(&self, step: &Step) -> bool {
        let limits = self.config.store.limits();
        let all = self.steps.iter().map(|(_, step)| step).chain([step]);
        let (ops, bytes) = all.fold((1, 0), |(ops, bytes), step| {
            let (more_ops, more_bytes) = weight(&step.changes);
            (ops + more_ops, bytes + more_bytes)
        });
        self.steps.is_empty()
            || (self.steps.len() < BATCH && ops <= limits.txn_ops && bytes <= limits.txn_bytes / 2)
    }

    fn finish(self, mut txn: SpecTxn) -> Option<Batch> {
        let deadline = self
            .steps
            .iter()
            .map(|(queued, _)| queued.request.deadline)
            .min()?;
        let mut answers = Vec::with_capacity(self.steps.len());
        let mut requests = Vec::with_capacity(self.steps.len());
        for (Queued { request, answer }, step) in self.steps {
            write_step(&mut txn, self.config, self.kinds, &request, &step);
            answers.push((answer, step.answer));
            requests.push(request);
        }
        Some(Batch {
            txn,
            answers,
            requests,
            deadline,
        })
    }
}

fn names_of(request: &Request, changes: &[ObjectChange]) -> Vec<String> {
    let objects = changes
        .iter()
        .map(|change| change.object().reference().to_string());
    let key = request
        .idempotency
        .iter()
        .map(|i| format!("{}\n{}", request.actor, i.key));
    objects.chain(key).collect()
}

fn write_step(
    txn: &mut SpecTxn,
    config: &WriterConfig,
    kinds: &Kinds,
    request: &Request,
    step: &Step,
) {
    let Some(version) = step.answer.version else {
        return;
    };
    let made = Made {
        version,
        at: step.at,
        actor: &request.actor,
        request_id: &request.id,
    };
    for change in &step.changes {
        write_object(txn, kinds, change);
        write_history(txn, kinds, change, &made);
        if let (Some(before), None) = (&change.before, &change.after) {
            txn.forget((config.companions)(before));
        }
    }
    let objects = step
        .changes
        .iter()
        .map(|c| c.object().reference().to_string())
        .collect();
    let audit = AuditRecord {
        at: step.at,
        actor: request.actor.clone(),
        action: request.action.to_owned(),
        objects,
        request_id: request.id.clone(),
        config_version: Some(version),
    };
    txn.record(audit_key(step.at, &request.id), &audit);
    if let Some(Idempotency {
        key,
        request: digest,
    }) = &request.idempotency
    {
        let record = IdempotencyRecord {
            at: step.at,
            request: digest.clone(),
            answer: serde_json::to_value(&step.answer).unwrap_or_default(),
        };
        txn.record(idempotency_key(&request.actor, key), &record);
    }
}
