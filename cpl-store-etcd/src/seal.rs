//! The end of all writing, noted in the label that every write compares.

use std::sync::atomic::{AtomicI64, Ordering};

use cpl_core::store::{Cursor, Error, Kind, Seal, SealId};
use etcd_client::KeyValue;

use crate::bootstrap::{Label, others_change, parse, read, write};
use crate::follow::{Life, revision};

/// More often nobody can have been quicker.
const ATTEMPTS: usize = 16;
/// The revision of the label as this process has last seen it; negative while the store is sealed, so that whoever
/// expects it writes nothing.
#[derive(Debug)]
pub(crate) struct Known(AtomicI64);

impl Known {
    pub(crate) fn new(label: i64, seal: Option<Seal>) -> Self {
        let known = Self(AtomicI64::new(0));
        known.set(label, seal);
        known
    }

    /// What a write that changes something is to expect.
    pub(crate) fn expected(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What any other write is to expect.
    pub(crate) fn seen(&self) -> i64 {
        self.expected().abs()
    }

    fn set(&self, label: i64, seal: Option<Seal>) {
        let sealed = matches!(seal, Some(Seal::Moved(_)));
        let expected = if sealed { -label } else { label };
        self.0.store(expected, Ordering::Relaxed);
    }
}

/// What a label says to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as the write expected.
    Same,
    /// It is not, but the next write will know it.
    Changed,
    /// The store is sealed.
    Sealed,
}

impl Standing {
    /// Of a write for which there is no other reason.
    pub(crate) fn refusal(self, context: &str) -> Error {
        match self {
            Self::Same => Error::new(
                Kind::Corrupt,
                format!("{context}: it was refused without a reason"),
            ),
            Self::Changed => {
                let context = format!("{context}: the seal of the store was just taken off");
                Error::new(Kind::Overloaded, context)
            },
            Self::Sealed => Error::sealed(),
        }
    }
}

impl Life {
    /// What the label says, which is read together with whatever it is about.
    pub(crate) fn look(&self, label: Option<&KeyValue>) -> Result<Standing, Error> {
        let at = label.map_or(0, KeyValue::mod_revision);
        if at == self.label.expected() {
            return Ok(Standing::Same);
        }
        let found = self.same(label)?;
        self.label.set(at, found.seal);
        match found.seal {
            Some(Seal::Moved(_)) => Ok(Standing::Sealed),
            Some(Seal::Filling(_)) | None => Ok(Standing::Changed),
        }
    }

    /// The label, if it is of this life.
    fn same(&self, label: Option<&KeyValue>) -> Result<Label, Error> {
        let found = label.map(|kv| parse(kv.value())).transpose()?;
        found
            .filter(|label| label.identity() == self.tail.identity() && label.is_of(self.cluster))
            .ok_or_else(|| self.over("the store was opened in another life"))
    }

    pub(crate) async fn seal(&self, seal: SealId) -> Result<Cursor, Error> {
        self.relabel(|found| match found {
            Some(Seal::Moved(by)) if by == seal => Ok(None),
            Some(_) => Err(Error::sealed_by_another()),
            None => Ok(Some(Some(Seal::Moved(seal)))),
        })
        .await
    }

    pub(crate) async fn unseal(&self) -> Result<(), Error> {
        self.relabel(|found| Ok(found.map(|_| None)))
            .await
            .map(drop)
    }

    /// Changes the seal to what `decide` makes of it, unless that is nothing. A write compares the label that was
    /// read; the reading after it says whether it is as it should be.
    async fn relabel(
        &self,
        decide: impl Fn(Option<Seal>) -> Result<Option<Option<Seal>>, Error>,
    ) -> Result<Cursor, Error> {
        for _ in 0..ATTEMPTS {
            let found = read(&self.link, &self.keys).await?;
            let header = found.header().map(|h| (h.cluster_id(), h.revision()));
            let (cluster, now) = header.unwrap_or_default();
            self.check_cluster(cluster)?;
            let label = self.same(found.kvs().first())?;
            let at = found.kvs().first().map_or(0, KeyValue::mod_revision);
            let Some(seal) = decide(label.seal)? else {
                self.label.set(at, label.seal);
                self.want(revision(now));
                return Ok(self.tail.cursor(revision(now)));
            };
            write(&self.link, &self.keys, at, &label.with(seal)).await?;
        }
        Err(others_change())
    }
}
