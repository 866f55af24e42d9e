//! The embedded store does what the memory store does, whatever is asked, with crashes in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cpl_core::store::{
    Class, Commit, Cursor, Expect, Key, MemoryStore, Revision, Store, StoreId, Txn, TxnId,
};
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore, Writer};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::world::{create, entries, history, try_open};

#[derive(Clone, Debug)]
enum Step {
    Commit {
        id: Option<u8>,
        expect_absent: Option<u8>,
        expect_current: Option<u8>,
        writes: BTreeMap<u8, Option<u8>>,
    },
    Outcome(u8),
    /// Compacts at this share of the revisions, in 255 parts.
    Compact(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (
        proptest::option::weighted(0.3, 0..6_u8),
        proptest::option::weighted(0.2, 0..8_u8),
        proptest::option::weighted(0.3, 0..8_u8),
        proptest::collection::btree_map(
            0..8_u8,
            proptest::option::weighted(0.7, any::<u8>()),
            0..4,
        ),
    );
    prop_oneof![
        12 => commit.prop_map(|(id, expect_absent, expect_current, writes)| Step::Commit {
            id, expect_absent, expect_current, writes
        }),
        1 => (0..8_u8).prop_map(Step::Outcome),
        1 => any::<u8>().prop_map(Step::Compact),
        2 => Just(Step::Reopen),
    ]
}

fn key(name: u8) -> Key {
    Key::new(vec![b'k', name]).unwrap()
}

/// The two stores, and where a watch of each one started.
struct Pair {
    model: MemoryStore,
    real: Option<EmbeddedStore>,
    config: Config,
    start: (Cursor, Cursor),
}

impl Pair {
    fn real(&self) -> &EmbeddedStore {
        self.real.as_ref().unwrap()
    }

    async fn take(&mut self, path: &Path, step: Step) {
        match step {
            Step::Commit { .. } => self.commit(self.txn(step).await).await,
            Step::Outcome(id) => {
                let id = TxnId(id.into());
                let (model, real) = (self.model.outcome(id).await, self.real().outcome(id).await);
                assert_eq!(model.unwrap(), real.unwrap());
            },
            Step::Compact(share) => {
                let head = self.model.head().await.unwrap().revision;
                let through = Revision(head.0 * u64::from(share) / 255);
                self.model.compact(through).await.unwrap();
                self.real().compact(through).await.unwrap();
                if self.start.0.revision < through {
                    // Cursors as they are issued now: one of an earlier opening ends with it.
                    let heads = (self.model.head().await, self.real().head().await);
                    self.start = (heads.0.unwrap(), heads.1.unwrap());
                    self.start.0.revision = through;
                    self.start.1.revision = through;
                }
            },
            Step::Reopen => self.reopen(path),
        }
    }

    /// Inline nothing is written between two steps, so a copy of the open file is what a crash leaves.
    fn reopen(&mut self, path: &Path) {
        let crashed = path.with_extension("crashed");
        if self.config.writer == Writer::Inline {
            std::fs::copy(path, &crashed).unwrap();
        }
        self.real = None;
        if self.config.writer == Writer::Inline {
            std::fs::rename(&crashed, path).unwrap();
        }
        self.real = Some(try_open(path, self.config).unwrap());
    }

    async fn txn(&self, step: Step) -> Txn {
        let Step::Commit {
            id,
            expect_absent,
            expect_current,
            writes,
        } = step
        else {
            unreachable!("only commits are transactions");
        };
        let mut txn = Txn::new();
        txn.id = id.map(|id| TxnId(id.into()));
        if let Some(name) = expect_absent {
            txn = txn.expect(key(name), Expect::Absent);
        }
        if let Some(name) = expect_current.filter(|name| Some(*name) != expect_absent) {
            let entry = self.model.get(&key(name)).await.unwrap().value;
            let revision = entry.map_or(Revision(1), |entry| entry.meta.mod_revision);
            txn = txn.expect(key(name), Expect::ModRevision(revision));
        }
        for (name, value) in writes {
            txn = match value {
                Some(value) => txn.put(key(name), vec![value; usize::from(value)]),
                None => txn.delete(key(name)),
            };
        }
        txn
    }

    async fn commit(&self, txn: Txn) {
        let model = self.model.commit(txn.clone()).await;
        let real = self.real().commit(txn).await;
        let told = |answer: Result<Commit, cpl_core::store::Error>| match answer {
            Ok(Commit::Applied { at, replayed }) => Ok((at.revision, replayed, Vec::new())),
            Ok(Commit::CompareFailed { failed, at }) => Ok((at.revision, false, failed)),
            Err(error) => {
                assert_eq!(error.class(), Class::Rejected);
                Err(error.kind().clone())
            },
        };
        assert_eq!(told(model), told(real));
    }

    async fn compare(&self) {
        assert_eq!(entries(&self.model).await, entries(self.real()).await);
        let model = history(&self.model, self.start.0).await;
        assert_eq!(model, history(self.real(), self.start.1).await);
    }
}

async fn check(steps: Vec<Step>, config: Config) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    create(&path);
    let model = MemoryStore::new(StoreId(1), Arc::clone(&Host::new().clock));
    let real = try_open(&path, config).unwrap();
    let start = (model.head().await.unwrap(), real.head().await.unwrap());
    let real = Some(real);
    let mut pair = Pair {
        model,
        real,
        config,
        start,
    };
    for step in steps {
        let reopened = matches!(step, Step::Reopen);
        pair.take(&path, step).await;
        if reopened {
            pair.compare().await;
        }
    }
    pair.compare().await;
}

fn run(steps: Vec<Step>, writer: Writer) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let config = Config {
        writer,
        // Checkpoints all the time, so that replays find their rows in every state.
        checkpoint_bytes: 0,
        checkpoint_rows: 2,
        ..Config::default()
    };
    runtime.block_on(check(steps, config));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_thread_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        run(steps, Writer::Thread);
    }

    #[test]
    fn inline_writes_do_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        run(steps, Writer::Inline);
    }
}
