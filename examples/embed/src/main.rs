//! A control plane of your own, without CPL's server: notes that should stand in files.
//!
//! Somebody states what a note should say; the core keeps that under versions in one file on disk, and
//! a controller of ours writes the files. `docs/guide/embed.md` walks through it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cpl_core::clock::Timestamp;
use cpl_core::fields::{Fields, text};
use cpl_core::reconcile::{self, Controller, Outcome};
use cpl_core::spec::{Catalog, Draft, Kind, Kinds, Parts, Request, Writer, WriterConfig, manifest};
use cpl_core::store::{Cache, Key, Range, Snapshot, Store};
use cpl_core::txn::ROOT;
use cpl_host::Host;
use cpl_store_embedded::{Config, EmbeddedStore};
use serde_json::{Value, json};

/// The kind of a note: `spec: {text}`.
const NOTE: &str = "Note";

#[derive(Debug)]
struct NoteKind;

impl Kind for NoteKind {
    fn name(&self) -> &'static str {
        NOTE
    }

    fn collection(&self) -> &'static str {
        "notes"
    }

    /// Every mistake is reported to `fields`; what comes back is valid.
    fn read(&self, fields: &mut Fields<'_>) -> Option<Parts> {
        let text = fields.required_object("spec", |spec| spec.required("text", text(1_000)))??;
        Some(Parts::from([("spec", json!({"text": text}))]))
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keeps one file per note.
struct Files(PathBuf);

#[async_trait]
impl Controller for Files {
    type Key = String;
    type Plan = Option<String>;

    fn name(&self) -> &'static str {
        "files"
    }

    fn interests(&self, snapshot: &Snapshot<Catalog>, changed: &[Key]) -> Vec<String> {
        let objects = changed
            .iter()
            .filter_map(|key| snapshot.index.object_of(key));
        objects.map(|(_, name)| name).collect()
    }

    fn all(&self, snapshot: &Snapshot<Catalog>) -> Vec<String> {
        snapshot
            .index
            .view()
            .of_kind(NOTE)
            .map(|note| note.name.clone())
            .collect()
    }

    /// Pure: what the file should say, or `None` for no file.
    fn plan(&self, at: &Snapshot<Catalog>, name: &String, _: Timestamp) -> Option<Option<String>> {
        let note = at.index.get(NOTE, name);
        Some(note.and_then(|note| Some(note.part("spec").get("text")?.as_str()?.to_owned())))
    }

    /// Writing a file twice does no harm, so a crash in the middle needs no care.
    async fn carry_out(&self, plans: Vec<(String, Option<String>)>) -> Vec<Outcome> {
        let write = |(name, text): (String, Option<String>)| match text {
            Some(text) => std::fs::write(self.0.join(name), text),
            None => std::fs::remove_file(self.0.join(name)),
        };
        let outcome = |done: std::io::Result<()>| match done {
            Ok(()) => Outcome::Done(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Outcome::Done(None),
            Err(error) => Outcome::Retry(error.to_string()),
        };
        plans.into_iter().map(|plan| outcome(write(plan))).collect()
    }
}

/// Says what a note should be; returns the version of that change.
async fn apply(writer: &Writer, host: &Host, wanted: Value) -> Result<u64, Failure> {
    let request = Request {
        actor: "example".to_owned(),
        id: format!("{:032x}", host.ids.fresh()),
        action: "apply",
        idempotency: None,
        deadline: host.clock.monotonic().plus(Duration::from_secs(5)),
        edit: Box::new(move |kinds, _| {
            let read = manifest(kinds, &wanted, "").map_err(cpl_core::error::Error::invalid)?;
            Ok(vec![Draft::put(read)])
        }),
    };
    let answer = writer.submit(request).await?;
    Ok(answer.version.map_or(0, |version| version.0))
}

async fn run(dir: &Path) -> Result<Vec<u64>, Failure> {
    let host = Host::new();
    let (clock, ids) = (Arc::clone(&host.clock), Arc::clone(&host.ids));
    let file = dir.join("notes.redb");
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open_or_create(
        file,
        Config::default(),
        Arc::clone(&clock),
        &*ids,
    )?);
    let catalog = Catalog::new(Kinds::new(vec![Arc::new(NoteKind)]));
    let range = Range::prefix(ROOT)?;
    let cache = Cache::load(Arc::clone(&store), Arc::clone(&clock), range, catalog).await?;
    let following = host
        .spawner
        .spawn("cache", Box::pin(Arc::clone(&cache).run()));
    let (writer, writing) = Writer::start(
        WriterConfig {
            store,
            cache: Arc::clone(&cache),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            affected: Arc::new(|_, _| Vec::new()),
            companions: Arc::new(|_| Vec::new()),
        },
        &*host.spawner,
    );
    let controller = Arc::new(Files(dir.to_owned()));
    let running = reconcile::run(controller, cache, Arc::clone(&clock), ids);
    let controlling = host.spawner.spawn("files", Box::pin(running));

    let mut versions = Vec::new();
    for text in ["first", "second"] {
        let note = json!({"kind": NOTE, "metadata": {"name": "a"}, "spec": {"text": text}});
        versions.push(apply(&writer, &host, note).await?);
        until(&host, || {
            std::fs::read_to_string(dir.join("a")).is_ok_and(|now| now == text)
        })
        .await?;
    }
    for running in [controlling, writing, following] {
        running.stop().await;
    }
    Ok(versions)
}

/// Waits for the controller, which works by itself.
async fn until(host: &Host, there: impl Fn() -> bool) -> Result<(), Failure> {
    for _ in 0..500 {
        if there() {
            return Ok(());
        }
        host.clock.sleep(Duration::from_millis(10)).await;
    }
    Err("the file did not become what the note says".into())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let versions = run(dir.path()).await?;
    assert_eq!(versions, [1, 2], "a new store begins at version 1");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_become_what_notes_say_and_versions_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run(dir.path()).await.unwrap(), [1, 2]);
        assert_eq!(run(dir.path()).await.unwrap(), [3, 4]);
    }
}
