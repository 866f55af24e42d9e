//! The label of a store, and a server that is new enough.

use cpl_core::store::{
    Error, IdGen, Identity, Incarnation, Kind, OpenMode, Range, Revision, Seal, SealId, StoreId,
};
use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp};
use serde::{Deserialize, Serialize};

use crate::keys::Keys;
use crate::link::Link;

/// The format that is written.
const FORMAT: u32 = 1;
/// Oldest server that works: Debian 12's.
const OLDEST: (u32, u32, u32) = (3, 4, 23);
/// More often nobody can have been quicker.
const ATTEMPTS: usize = 16;
const OPEN: &str = "open a store on etcd";

/// What says which store this is, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    format: u32,
    store: StoreId,
    incarnation: Incarnation,
    /// The cluster in which this life began. One that is restored from a snapshot has another id, and may lack
    /// acknowledged revisions.
    cluster: String,
    /// Why nobody writes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Seal>,
}

impl Label {
    /// The same with another seal.
    pub(crate) fn with(self, seal: Option<Seal>) -> Self {
        Self { seal, ..self }
    }

    pub(crate) const fn identity(&self) -> Identity {
        Identity {
            store: self.store,
            incarnation: self.incarnation,
        }
    }

    /// Whether its life began in this cluster.
    pub(crate) fn is_of(&self, cluster: u64) -> bool {
        self.cluster == format!("{cluster:016x}")
    }
}

/// What is there once the label is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) cluster: u64,
    /// The revision of the label, which every write compares: who opened another life of the store cannot write.
    pub(crate) label: i64,
    pub(crate) seal: Option<Seal>,
    /// A revision at which this process has written something that its watch will see.
    pub(crate) head: Revision,
}

pub(crate) async fn bootstrap(
    link: &Link,
    keys: &Keys,
    mode: OpenMode,
    ids: &dyn IdGen,
) -> Result<Opened, Error> {
    check_version(link).await?;
    let own = Seal::Filling(SealId::fresh(ids));
    let mut made = false;
    for _ in 0..ATTEMPTS {
        let found = read(link, keys).await?;
        let (cluster, revision) = at(&found)?;
        let Some(kv) = found.kvs().first() else {
            let (identity, seal) = to_make(mode, own, keys, ids)?;
            nobody_else(link, keys).await?;
            let label = Label {
                format: FORMAT,
                store: identity.store,
                incarnation: identity.incarnation,
                cluster: format!("{cluster:016x}"),
                seal,
            };
            write(link, keys, 0, &label).await?;
            made = true;
            continue;
        };
        let label = parse(kv.value())?;
        check_mode(mode, &label, own, made, keys)?;
        if !label.is_of(cluster) {
            let next = Label {
                incarnation: Incarnation(label.incarnation.0 + 1),
                cluster: format!("{cluster:016x}"),
                ..label
            };
            tracing::warn!(
                ?next,
                "this store is in another cluster than before: a new incarnation begins"
            );
            write(link, keys, kv.mod_revision(), &next).await?;
            continue;
        }
        let head = pulse(link, keys).await?.max(revision);
        return Ok(Opened {
            identity: label.identity(),
            cluster,
            label: kv.mod_revision(),
            seal: label.seal,
            head: Revision(head.cast_unsigned()),
        });
    }
    Err(others_change())
}

/// Others were quicker each time.
pub(crate) fn others_change() -> Error {
    let context = "change the label of a store on etcd: others change it all the time";
    Error::new(Kind::Overloaded, context)
}

/// The identity of a store that is to be made, and its seal.
fn to_make(
    mode: OpenMode,
    own: Seal,
    keys: &Keys,
    ids: &dyn IdGen,
) -> Result<(Identity, Option<Seal>), Error> {
    match mode {
        OpenMode::Existing => {
            let message = format!("open a store on etcd: there is none under {}", keys.shown());
            Err(Error::new(Kind::Invalid, message))
        },
        OpenMode::ExistingOrNew => {
            let identity = Identity {
                store: StoreId(ids.fresh()),
                incarnation: Incarnation(1),
            };
            Ok((identity, None))
        },
        OpenMode::New(identity) => Ok((identity, Some(own))),
    }
}

/// Refuses a store that is there and should not, or that is not complete.
fn check_mode(
    mode: OpenMode,
    label: &Label,
    own: Seal,
    made: bool,
    keys: &Keys,
) -> Result<(), Error> {
    if made && label.seal == Some(own) {
        return Ok(());
    }
    match (mode, label.seal) {
        (_, Some(Seal::Filling(_))) => Err(Error::not_complete(keys.shown())),
        (OpenMode::New(_), _) => {
            let message = format!(
                "make a store on etcd: there is one under {} already",
                keys.shown()
            );
            Err(Error::new(Kind::Invalid, message))
        },
        (OpenMode::Existing | OpenMode::ExistingOrNew, _) => Ok(()),
    }
}

/// What is under the prefix of a store that is not there yet would become its content.
async fn nobody_else(link: &Link, keys: &Keys) -> Result<(), Error> {
    let (first, after) = keys.range(&Range::all());
    let options = GetOptions::new().with_range(after).with_count_only();
    let counted = link
        .call("look under the prefix of the store", move |client| {
            let (first, options) = (first.clone(), options.clone());
            Box::pin(async move { client.kv_client().get(first, Some(options)).await })
        })
        .await?;
    match counted.count() {
        0 => Ok(()),
        // Another process may have made the store in between.
        _ if !read(link, keys).await?.kvs().is_empty() => Ok(()),
        count => {
            let what = format!(
                "make a store on etcd: {count} keys under its prefix are not of a store of this format; \
                 name another prefix, or remove them"
            );
            Err(Error::new(Kind::Invalid, what))
        },
    }
}

/// The label as it is now.
pub(crate) async fn read(link: &Link, keys: &Keys) -> Result<GetResponse, Error> {
    let key = keys.label();
    let got = link.call(OPEN, |client| {
        let key = key.clone();
        Box::pin(async move { client.kv_client().get(key, None).await })
    });
    Ok(got.await?)
}

/// The cluster and revision of an answer.
fn at(answer: &GetResponse) -> Result<(u64, i64), Error> {
    let header = answer.header();
    header
        .map(|header| (header.cluster_id(), header.revision()))
        .ok_or_else(|| Error::new(Kind::Corrupt, "read an answer of etcd: it has no header"))
}

/// Writes something that every watch of this store sees, and returns its revision.
pub(crate) async fn pulse(link: &Link, keys: &Keys) -> Result<i64, Error> {
    let key = keys.pulse();
    let put = link.call("write a pulse", |client| {
        let key = key.clone();
        Box::pin(async move { client.kv_client().put(key, "", None).await })
    });
    let header = put.await?.take_header();
    Ok(header.map_or(0, |header| header.revision()))
}

/// Writes the label if it is still the one of this revision; when it is not, the next reading says what it is.
pub(crate) async fn write(
    link: &Link,
    keys: &Keys,
    revision: i64,
    label: &Label,
) -> Result<(), Error> {
    let json = serde_json::to_vec(label)
        .map_err(|error| Error::new(Kind::Invalid, OPEN).with_source(error))?;
    let key = keys.label();
    let put = link.call(OPEN, |client| {
        let (key, json) = (key.clone(), json.clone());
        Box::pin(async move {
            let txn = Txn::new()
                .when([Compare::mod_revision(
                    key.clone(),
                    CompareOp::Equal,
                    revision,
                )])
                .and_then([TxnOp::put(key, json, None)]);
            client.kv_client().txn(txn).await
        })
    });
    put.await?;
    Ok(())
}

pub(crate) fn parse(json: &[u8]) -> Result<Label, Error> {
    let label: Label = serde_json::from_slice(json).map_err(|error| {
        Error::new(
            Kind::Invalid,
            "open a store on etcd: what is at its label is not a label",
        )
        .with_source(error)
    })?;
    if label.format > FORMAT {
        let message = format!(
            "open a store on etcd: it has format {}, this version knows up to {FORMAT}",
            label.format
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(label)
}

async fn check_version(link: &Link) -> Result<(), Error> {
    let status = link.call(OPEN, |client| {
        Box::pin(async move { client.maintenance_client().status().await })
    });
    let status = status.await?;
    if version(status.version()).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    let (major, minor, patch) = OLDEST;
    let message = format!(
        "open a store on etcd: the server is {}, the oldest that works is {major}.{minor}.{patch}",
        status.version()
    );
    Err(Error::new(Kind::Invalid, message))
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.splitn(3, '.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_numbers() {
        assert_eq!(version("3.4.23"), Some((3, 4, 23)));
        assert_eq!(version("3.6.0-rc.1"), Some((3, 6, 0)));
        assert_eq!(version("3.5"), None);
        assert!(version("3.10.0").unwrap() > OLDEST);
        assert!(version("3.4.9").unwrap() < OLDEST);
    }

    #[test]
    fn a_label_of_a_newer_format_or_no_label_is_refused() {
        let label = r#"{"format":1,"store":"00000000000000000000000000000007","incarnation":2,"cluster":"ab"}"#;
        let read = parse(label.as_bytes()).unwrap();
        assert_eq!((read.store, read.incarnation), (StoreId(7), Incarnation(2)));
        let newer = label.replace("\"format\":1", "\"format\":2");
        assert!(
            parse(newer.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("format 2")
        );
        assert!(
            parse(b"hello")
                .unwrap_err()
                .to_string()
                .contains("is not a label")
        );
    }
}
