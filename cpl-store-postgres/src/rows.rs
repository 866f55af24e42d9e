//! Rows as the store's types.

use bytes::Bytes;
use cpl_core::store::{
    Bound, Entry, Error, Event, Expect, Key, KeyMeta, Kind, Op, Range, Revision, limits,
};
use sqlx::FromRow;

/// Above every key that is allowed.
const AFTER_ALL: [u8; limits::KEY_BYTES + 1] = [0xff; limits::KEY_BYTES + 1];

/// Most changes that are read at once: more than the largest transaction, so that one revision is whole.
pub(crate) const CHANGES: i32 = 2_048;
/// And most bytes of them, likewise.
pub(crate) const CHANGES_BYTES: i32 = 8 << 20;
const _: () =
    assert!(CHANGES as usize > limits::TXN_OPS && CHANGES_BYTES as usize > 2 * limits::TXN_BYTES);

/// What a compare for absence is sent as.
const ABSENT: i64 = -1;

pub(crate) const fn revision(revision: i64) -> Revision {
    Revision(revision.cast_unsigned())
}

/// A revision as PostgreSQL has it; one that is too large stays the largest.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A range as its first key and the first one after it; keys are never empty.
pub(crate) fn bounds(range: &Range) -> (&[u8], &[u8]) {
    let first = range.start().map_or(&[][..], Key::as_bytes);
    let before = match range.end() {
        Bound::Before(key) => key.as_bytes(),
        Bound::End => &AFTER_ALL,
    };
    (first, before)
}

fn corrupt(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("read a row: {what}"))
}

/// A live entry, as `page` and the newest row of a key give it.
#[derive(Debug, FromRow)]
pub(crate) struct EntryRow {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) revision: Option<i64>,
    pub(crate) created: Option<i64>,
    pub(crate) version: Option<i64>,
    pub(crate) value: Option<Vec<u8>>,
}

impl EntryRow {
    pub(crate) fn entry(self) -> Result<Option<Entry>, Error> {
        let (Some(key), Some(at), Some(created), Some(version), Some(value)) = (
            self.key,
            self.revision,
            self.created,
            self.version,
            self.value,
        ) else {
            return Ok(None);
        };
        Ok(Some(Entry {
            key: Key::new(key).map_err(|_| corrupt("a key is too long"))?,
            value: Bytes::from(value),
            meta: meta(created, at, version),
        }))
    }
}

pub(crate) const fn meta(created: i64, at: i64, version: i64) -> KeyMeta {
    KeyMeta {
        create_revision: revision(created),
        mod_revision: revision(at),
        version: version.cast_unsigned(),
    }
}

/// A change, as `changes` gives it.
#[derive(Debug, FromRow)]
pub(crate) struct ChangeRow {
    pub(crate) walked: Option<i64>,
    pub(crate) inside: Option<bool>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) revision: Option<i64>,
    pub(crate) created: Option<i64>,
    pub(crate) version: Option<i64>,
    pub(crate) value: Option<Vec<u8>>,
}

impl ChangeRow {
    fn event(self, at: i64) -> Result<Event, Error> {
        let key = self.key.ok_or_else(|| corrupt("a change has no key"))?;
        let key = Key::new(key).map_err(|_| corrupt("a key is too long"))?;
        let (created, version) = (self.created, self.version);
        match (self.value, created, version) {
            (Some(value), Some(created), Some(version)) => Ok(Event::Put {
                entry: Entry {
                    key,
                    value: Bytes::from(value),
                    meta: meta(created, at, version),
                },
            }),
            (None, ..) => Ok(Event::Delete { key }),
            _ => Err(corrupt("a change is neither a put nor a delete")),
        }
    }
}

/// A write as `apply` takes it: NULL deletes.
pub(crate) fn value(op: &Op) -> Option<Vec<u8>> {
    match op {
        Op::Put(_, value) => Some(value.to_vec()),
        Op::Delete(_) => None,
    }
}

/// Whole revisions of what was asked for, and how far that goes.
pub(crate) struct Changes {
    pub(crate) revisions: Vec<(Revision, Vec<Event>)>,
    pub(crate) through: Revision,
    /// There is more.
    pub(crate) cut: bool,
}

/// Collects rows that came in order. When they were cut, the last revision may not be whole and is left for the
/// next time.
pub(crate) fn collect(
    rows: Vec<ChangeRow>,
    since: Revision,
    newest: Revision,
) -> Result<Changes, Error> {
    let walked = rows.first().and_then(|row| row.walked).unwrap_or_default();
    let cut =
        walked >= i64::from(CHANGES) || walked > i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let mut revisions: Vec<(Revision, Vec<Event>)> = Vec::new();
    let (mut whole, mut last) = (since, since);
    for row in rows {
        let Some(at) = row.revision else {
            continue;
        };
        if revision(at) != last {
            whole = last;
            last = revision(at);
        }
        if row.inside == Some(true) {
            let event = row.event(at)?;
            match revisions.last_mut() {
                Some((revision, events)) if *revision == last => events.push(event),
                _ => revisions.push((last, vec![event])),
            }
        }
    }
    let through = if cut { whole } else { newest };
    revisions.retain(|(revision, _)| *revision <= through);
    Ok(Changes {
        revisions,
        through,
        cut,
    })
}

pub(crate) fn expected(expect: Expect) -> i64 {
    match expect {
        Expect::ModRevision(revision) => number(revision),
        Expect::Absent => ABSENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(walked: i64, revision: i64, inside: bool) -> ChangeRow {
        ChangeRow {
            walked: Some(walked),
            inside: Some(inside),
            key: Some(b"k".to_vec()),
            revision: Some(revision),
            created: Some(1),
            version: Some(1),
            value: inside.then(Vec::new),
        }
    }

    #[test]
    fn a_revision_that_may_be_cut_is_left_for_the_next_time() {
        let collected = |walked| {
            let rows = [(3, true), (4, false), (5, true), (5, true)];
            let rows = rows.map(|(revision, inside)| row(walked, revision, inside));
            let changes = collect(rows.into(), Revision(2), Revision(5)).unwrap();
            let told: Vec<_> = changes
                .revisions
                .iter()
                .map(|r| (r.0.0, r.1.len()))
                .collect();
            (told, changes.through.0, changes.cut)
        };
        assert_eq!(collected(4), (vec![(3, 1), (5, 2)], 5, false));
        assert_eq!(collected(5), (vec![(3, 1)], 4, true));
        assert_eq!(collected(i64::from(CHANGES)), (vec![(3, 1)], 4, true));
        let nothing = collect(vec![], Revision(2), Revision(7)).unwrap();
        assert_eq!((nothing.through.0, nothing.cut), (7, false));
    }
}
