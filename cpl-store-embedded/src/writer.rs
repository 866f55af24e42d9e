//! What drives the engine: a thread of its own, or whoever calls.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cpl_core::store::{Clock, Cursor, Error, Kind, Monotonic, Revision, SealId};
use tokio::sync::oneshot;

use crate::engine::{Answer, Engine, Request};
use crate::shared::{Shared, closed};

/// Most transactions, and about how many bytes, of one durable commit: what keeps one commit short.
const BATCH_REQUESTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// Most bytes that wait for the writer.
const QUEUE_BYTES: usize = 64 << 20;

/// After a commit of several requests, their callers are about to ask again. Starting at once would put
/// the first of them into a commit of its own and let all others wait twice; so the thread lets them run
/// until those who waited and those who were answered are there, nobody has come for this long, or this
/// much time is over, which is a fraction of what a commit takes. Whoever is alone waits for nobody.
const GATHER_QUIET: Duration = Duration::from_micros(40);
const GATHER_MOST: Duration = Duration::from_micros(200);

/// How often the thread looks whether the next look at a full disk is due.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The answer to a write, once it is there; gone when the writer ended without one.
pub(crate) type Pending<T> = oneshot::Receiver<Result<T, Error>>;

/// Takes writes.
pub(crate) trait Submit: Send + Sync + Debug {
    fn write(&self, request: Request) -> Result<Pending<Answer>, Error>;
    fn compact(&self, through: Revision) -> Result<Pending<()>, Error>;
    /// Seals the store, or takes its seal off.
    fn seal(&self, seal: Option<SealId>) -> Result<Pending<Cursor>, Error>;
    /// Takes no more, finishes what was taken, gives the file back, then says that it is closed.
    fn stop(&self);
}

enum Job {
    Write(Request, oneshot::Sender<Result<Answer, Error>>),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
    Seal(Option<SealId>, oneshot::Sender<Result<Cursor, Error>>),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Write(Request::Commit(txn), _) => txn.bytes(),
            Self::Write(Request::Outcome(_), _) | Self::Compact(..) | Self::Seal(..) => 0,
        }
    }
}

/// A queue before a thread.
#[derive(Debug)]
pub(crate) struct Queue {
    jobs: Mutex<Option<SyncSender<Job>>>,
    bytes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    pub(crate) fn start(engine: Engine) -> Result<Self, Error> {
        let (jobs, taken) = sync_channel(engine.config.queue);
        let bytes = Arc::new(AtomicUsize::new(0));
        let queued = Arc::clone(&bytes);
        let thread = std::thread::Builder::new()
            .name("cpl-store-writer".to_owned())
            .spawn(move || run(engine, &taken, &queued))
            .map_err(|error| {
                Error::new(Kind::NotConnected, "start the store's writer").with_source(error)
            })?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            bytes,
            thread: Some(thread),
        })
    }

    fn jobs(&self) -> MutexGuard<'_, Option<SyncSender<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), Error> {
        let overloaded = || Error::new(Kind::Overloaded, "queue a write: the queue is full");
        let bytes = job.bytes();
        let jobs = self.jobs();
        let Some(jobs) = jobs.as_ref() else {
            return Err(closed());
        };
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) > QUEUE_BYTES {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(overloaded());
        }
        jobs.try_send(job).map_err(|error| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => overloaded(),
                TrySendError::Disconnected(_) => closed(),
            }
        })
    }
}

impl Submit for Queue {
    fn write(&self, request: Request) -> Result<Pending<Answer>, Error> {
        let (answer, pending) = oneshot::channel();
        self.push(Job::Write(request, answer))?;
        Ok(pending)
    }

    fn compact(&self, through: Revision) -> Result<Pending<()>, Error> {
        let (answer, pending) = oneshot::channel();
        self.push(Job::Compact(through, answer))?;
        Ok(pending)
    }

    fn seal(&self, seal: Option<SealId>) -> Result<Pending<Cursor>, Error> {
        let (answer, pending) = oneshot::channel();
        self.push(Job::Seal(seal, answer))?;
        Ok(pending)
    }

    fn stop(&self) {
        self.jobs().take();
    }
}

impl Drop for Queue {
    /// Waits for the thread, so that the file can be opened again right after.
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been told to its callers as unknown outcomes.
            let _ = thread.join();
        }
    }
}

/// Says "closed" when the writer ends in whatever way, after the engine has given the file back.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.head.send_modify(|head| head.closed = true);
    }
}

fn run(mut engine: Engine, jobs: &Receiver<Job>, queued: &AtomicUsize) {
    let closing = Closing(Arc::clone(&engine.shared));
    let mut busy = true;
    let mut answered = (0, Monotonic::default());
    loop {
        // While a checkpoint has steps left, new jobs are only looked for, not waited for.
        let job = match jobs.try_recv() {
            Err(TryRecvError::Empty) if !busy => wait(&mut engine, jobs),
            looked => looked,
        };
        match job {
            Ok(job) => serve(&mut engine, job, (jobs, queued), &mut answered),
            Err(TryRecvError::Empty) => {},
            Err(TryRecvError::Disconnected) => break,
        }
        busy = maintain(&mut engine);
    }
    drop(engine);
    drop(closing);
}

/// Waits for a job. While the disk is full, it looks from time to time whether there is room: those
/// who write may have gone elsewhere until it is so.
fn wait(engine: &mut Engine, jobs: &Receiver<Job>) -> Result<Job, TryRecvError> {
    while engine.waits_for_room() {
        match jobs.recv_timeout(LOOK_AGAIN) {
            Ok(job) => return Ok(job),
            Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
            Err(RecvTimeoutError::Timeout) => engine.recover_if_due(),
        }
    }
    jobs.recv().map_err(|_| TryRecvError::Disconnected)
}

/// Serves a job and what has queued behind it: writes together, everything else on its own.
fn serve(
    engine: &mut Engine,
    first: Job,
    (jobs, queued): (&Receiver<Job>, &AtomicUsize),
    answered: &mut (usize, Monotonic),
) {
    let clock = Arc::clone(&engine.clock);
    let mut gathering = Gathering::start(&*clock, *answered);
    // Shared by what asks and what answers, which take turns.
    let waiting = RefCell::new(VecDeque::new());
    let mut alone = None;
    let mut bytes = 0;
    let mut count = 0;
    let mut first = Some(first);
    let requests = std::iter::from_fn(|| {
        let room = count < BATCH_REQUESTS && bytes < BATCH_BYTES;
        let next = first
            .take()
            .or_else(|| room.then(|| gathering.next(count, jobs))?)?;
        bytes += next.bytes();
        queued.fetch_sub(next.bytes(), Ordering::Relaxed);
        match next {
            Job::Write(request, answer) => {
                waiting.borrow_mut().push_back(answer);
                count += 1;
                Some(request)
            },
            job @ (Job::Compact(..) | Job::Seal(..)) => {
                alone = Some(job);
                None
            },
        }
    })
    .fuse();
    engine.commit(requests, |result| answer_next(&waiting, result));
    // Whoever asked may have stopped waiting; what was done stands.
    match alone {
        Some(Job::Compact(through, answer)) => drop(answer.send(engine.compact(through))),
        Some(Job::Seal(seal, answer)) => drop(answer.send(change_seal(engine, seal))),
        Some(Job::Write(..)) | None => {},
    }
    *answered = (count, clock.monotonic());
}

fn change_seal(engine: &mut Engine, seal: Option<SealId>) -> Result<Cursor, Error> {
    match seal {
        Some(seal) => engine.seal(seal),
        None => engine.unseal(),
    }
}

type Waiting = RefCell<VecDeque<oneshot::Sender<Result<Answer, Error>>>>;

fn answer_next(waiting: &Waiting, result: Result<Answer, Error>) {
    let next = waiting.borrow_mut().pop_front();
    if let Some(answer) = next {
        // Whoever asked may have stopped waiting; the commit stands.
        let _ = answer.send(result);
    }
}

/// Waiting a moment for those who were answered last.
struct Gathering<'a> {
    clock: &'a dyn Clock,
    /// How many of those are expected.
    answered: usize,
    /// How many to wait for, and until when; nothing while jobs are there without waiting.
    waits: Option<(usize, Monotonic)>,
    quiet: Monotonic,
}

impl<'a> Gathering<'a> {
    /// With how many were answered last, and when: those who did not come back at once have gone.
    fn start(clock: &'a dyn Clock, (answered, at): (usize, Monotonic)) -> Self {
        let recent = clock.monotonic().since(at) < GATHER_MOST;
        Self {
            clock,
            answered: if recent { answered } else { 0 },
            waits: None,
            quiet: Monotonic::default(),
        }
    }

    /// The next job, if one is there or comes soon.
    fn next(&mut self, gathered: usize, jobs: &Receiver<Job>) -> Option<Job> {
        loop {
            let next = jobs.try_recv().ok();
            if next.is_some() && self.waits.is_none() {
                return next;
            }
            let now = self.clock.monotonic();
            let (expected, until) = *self.waits.get_or_insert_with(|| {
                self.quiet = now.plus(GATHER_QUIET);
                // The first of those who are there may be one of those who were answered.
                (
                    gathered + self.answered.saturating_sub(1),
                    now.plus(GATHER_MOST),
                )
            });
            if next.is_some() {
                self.quiet = now.plus(GATHER_QUIET);
                return next;
            }
            if gathered >= expected || now >= until || now >= self.quiet {
                return None;
            }
            std::thread::yield_now();
        }
    }
}

/// Compacts and checkpoints a little; whether more is left to do.
fn maintain(engine: &mut Engine) -> bool {
    // A failure has poisoned the engine, which is told to whoever writes next.
    let _ = engine.auto_compact();
    let prunes = engine.prune();
    let mut steps = true;
    for _ in 0..engine.steps_due() {
        steps = steps && engine.step().unwrap_or(false);
    }
    steps || prunes
}

/// The caller's own thread. `None` once it is stopped.
#[derive(Debug)]
pub(crate) struct Inline(pub(crate) Mutex<Option<Engine>>);

impl Inline {
    fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Result<T, Error> {
        let mut engine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        engine.as_mut().map(work).ok_or_else(closed)
    }
}

impl Submit for Inline {
    fn write(&self, request: Request) -> Result<Pending<Answer>, Error> {
        let (answer, pending) = oneshot::channel();
        self.with(|engine| {
            let waiting = RefCell::new(VecDeque::from([answer]));
            engine.commit(std::iter::once(request), |result| {
                answer_next(&waiting, result);
            });
            maintain(engine);
        })?;
        Ok(pending)
    }

    fn compact(&self, through: Revision) -> Result<Pending<()>, Error> {
        let (answer, pending) = oneshot::channel();
        self.with(|engine| {
            let _ = answer.send(engine.compact(through));
            maintain(engine);
        })?;
        Ok(pending)
    }

    fn seal(&self, seal: Option<SealId>) -> Result<Pending<Cursor>, Error> {
        let (answer, pending) = oneshot::channel();
        self.with(|engine| drop(answer.send(change_seal(engine, seal))))?;
        Ok(pending)
    }

    fn stop(&self) {
        let mut engine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engine.take() {
            let closing = Closing(Arc::clone(&engine.shared));
            drop(engine);
            drop(closing);
        }
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        self.stop();
    }
}
