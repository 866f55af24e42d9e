//! How rows look on disk: binary, checksummed, each with its format known from the file's.
//!
//! Nothing here touches a file. Every row ends in eight bytes of SHA-256 over its key and its
//! content, so that a row that was damaged, or landed under another key, is noticed when it is read.

use bytes::Bytes;
use cpl_core::store::{
    Incarnation, Key, KeyMeta, Opening, Outcome, Revision, Seal, StoreId, Timestamp, TxnId,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The format of the file as a whole; a program refuses every other one.
pub(crate) const FORMAT: u32 = 2;

const CHECKSUM: usize = 8;

/// Which store a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) format: u32,
    pub(crate) store: StoreId,
    pub(crate) incarnation: Incarnation,
    /// Why nobody writes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Seal>,
}

/// Only the format, so that a label of a later format can be refused by its number.
#[derive(Deserialize)]
pub(crate) struct AnyLabel {
    pub(crate) format: u32,
}

/// One opening of the file, and the newest revision that it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpeningNote {
    pub(crate) opening: Opening,
    pub(crate) from: Revision,
}

/// How far the key table has come, and what is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Every change up to here is in the key table. Some rows may be newer, but none is newer than
    /// what is compacted.
    pub(crate) applied: Revision,
    /// The first record of the log; it begins at `applied` or before.
    pub(crate) record: u64,
    /// Everything up to here is compacted.
    pub(crate) compacted: Revision,
    /// Rows of the key table, so that a lost one is noticed.
    pub(crate) keys: u64,
}

impl Mark {
    /// Of a store in which nothing ever was.
    pub(crate) const EMPTY: Self = Self {
        applied: Revision(0),
        record: 0,
        compacted: Revision(0),
        keys: 0,
    };
}

/// One logged transaction or ruling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The newest revision once this is applied; one more than before when it changes keys.
    pub(crate) revision: Revision,
    /// What is remembered under the transaction's id.
    pub(crate) record: Option<(TxnId, Recorded)>,
    /// Keys that really changed, in key order; `None` deletes.
    pub(crate) changes: Vec<(Key, Option<Bytes>)>,
}

/// What is remembered of a transaction id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) at: Timestamp,
    pub(crate) outcome: Outcome,
    /// SHA-256 of the transaction; zeros for a ruling.
    pub(crate) body: [u8; 32],
}

/// All that one durable commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The newest revision before it, so that a missing record is noticed.
    pub(crate) base: Revision,
    pub(crate) items: Vec<Item>,
}

impl Record {
    /// The newest revision after it.
    pub(crate) fn last(&self) -> Revision {
        self.items.last().map_or(self.base, |item| item.revision)
    }

    pub(crate) fn decode(sequence: u64, row: &[u8]) -> Option<Self> {
        let mut input = Reader::open(&sequence.to_be_bytes(), row)?;
        let base = Revision(input.number()?);
        let count = input.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(input.item()?);
        }
        input.end(Self { base, items })
    }
}

/// A record's row while its items come.
pub(crate) struct RecordRow {
    out: Writer,
    count: u64,
}

impl RecordRow {
    /// Where the number of items stands: after the base.
    const COUNT: std::ops::Range<usize> = 8..16;
    /// What a row of a busy store has, so that it seldom moves while it grows.
    const ROOM: usize = 64 << 10;

    pub(crate) fn new(base: Revision) -> Self {
        let mut out = Writer(Vec::with_capacity(Self::ROOM));
        out.number(base.0);
        out.number(0);
        Self { out, count: 0 }
    }

    pub(crate) fn push(&mut self, item: &Item) {
        self.count += 1;
        let out = &mut self.out;
        out.number(item.revision.0);
        match &item.record {
            None => out.byte(0),
            Some((id, recorded)) => {
                out.byte(1);
                out.raw(&id.0.to_be_bytes());
                out.recorded(recorded);
            },
        }
        out.length(item.changes.len());
        for (key, value) in &item.changes {
            out.bytes(key.as_bytes());
            match value {
                None => out.byte(0),
                Some(value) => {
                    out.byte(1);
                    out.bytes(value);
                },
            }
        }
    }

    /// The whole row.
    pub(crate) fn seal(mut self, sequence: u64) -> Vec<u8> {
        self.out.0[Self::COUNT].copy_from_slice(&self.count.to_be_bytes());
        self.out.seal(&sequence.to_be_bytes())
    }
}

/// A row of the key table.
pub(crate) fn encode_entry(key: &Key, value: &[u8], meta: &KeyMeta) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(meta.create_revision.0);
    out.number(meta.mod_revision.0);
    out.number(meta.version);
    out.raw(value);
    out.seal(key.as_bytes())
}

pub(crate) fn decode_entry(key: &[u8], row: &[u8]) -> Option<(Bytes, KeyMeta)> {
    let mut input = Reader::open(key, row)?;
    let meta = KeyMeta {
        create_revision: Revision(input.number()?),
        mod_revision: Revision(input.number()?),
        version: input.number()?,
    };
    Some((Bytes::copy_from_slice(input.0), meta))
}

/// A row of the table of outcomes.
pub(crate) fn encode_recorded(id: TxnId, recorded: &Recorded) -> Vec<u8> {
    let mut out = Writer::default();
    out.recorded(recorded);
    out.seal(&id.0.to_be_bytes())
}

pub(crate) fn decode_recorded(id: TxnId, row: &[u8]) -> Option<Recorded> {
    let mut input = Reader::open(&id.0.to_be_bytes(), row)?;
    let recorded = input.recorded()?;
    input.end(recorded)
}

/// A row of the table of facts about the file, as JSON for whoever looks with other tools.
pub(crate) fn encode_fact<T: Serialize>(
    name: &str,
    fact: &T,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Writer(serde_json::to_vec(fact)?);
    Ok(std::mem::take(&mut out).seal(name.as_bytes()))
}

pub(crate) fn decode_fact<'a, T: Deserialize<'a>>(name: &str, row: &'a [u8]) -> Option<T> {
    let input = Reader::open(name.as_bytes(), row)?;
    serde_json::from_slice(input.0).ok()
}

fn checksum(key: &[u8], content: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new()
        .chain_update(key)
        .chain_update(content)
        .finalize();
    let mut short = [0; CHECKSUM];
    short.copy_from_slice(&digest[..CHECKSUM]);
    short
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        self.number(length as u64);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    fn recorded(&mut self, recorded: &Recorded) {
        self.number(recorded.at.0);
        match recorded.outcome {
            Outcome::Void => self.byte(0),
            Outcome::Applied(revision) => {
                self.byte(1);
                self.number(revision.0);
            },
        }
        self.raw(&recorded.body);
    }

    fn seal(mut self, key: &[u8]) -> Vec<u8> {
        let sum = checksum(key, &self.0);
        self.raw(&sum);
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn open(key: &[u8], row: &'a [u8]) -> Option<Self> {
        let (content, sum) = row.split_at_checked(row.len().checked_sub(CHECKSUM)?)?;
        (checksum(key, content) == sum).then_some(Self(content))
    }

    fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.raw(length)
    }

    /// Copied, so that one small live value does not keep a whole record in memory.
    fn value(&mut self) -> Option<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    /// Whether something optional follows.
    fn present(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn recorded(&mut self) -> Option<Recorded> {
        let at = Timestamp(self.number()?);
        let outcome = if self.present()? {
            Outcome::Applied(Revision(self.number()?))
        } else {
            Outcome::Void
        };
        let body = self.array()?;
        Some(Recorded { at, outcome, body })
    }

    fn item(&mut self) -> Option<Item> {
        let revision = Revision(self.number()?);
        let mut record = None;
        if self.present()? {
            let id = TxnId(u128::from_be_bytes(self.array()?));
            record = Some((id, self.recorded()?));
        }
        let count = self.length()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let key = Key::new(self.value()?).ok()?;
            let value = if self.present()? {
                Some(self.value()?)
            } else {
                None
            };
            changes.push((key, value));
        }
        Some(Item {
            revision,
            record,
            changes,
        })
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(record: &Record, sequence: u64) -> Vec<u8> {
        let mut row = RecordRow::new(record.base);
        record.items.iter().for_each(|item| row.push(item));
        row.seal(sequence)
    }

    fn record() -> Record {
        let key = |text: &'static str| Key::new(text).unwrap();
        let recorded = Recorded {
            at: Timestamp(7),
            outcome: Outcome::Applied(Revision(5)),
            body: [3; 32],
        };
        let void = Recorded {
            at: Timestamp(8),
            outcome: Outcome::Void,
            body: [0; 32],
        };
        Record {
            base: Revision(4),
            items: vec![
                Item {
                    revision: Revision(5),
                    record: Some((TxnId(9), recorded)),
                    changes: vec![(key("a"), Some(Bytes::from_static(b"1"))), (key("b"), None)],
                },
                Item {
                    revision: Revision(5),
                    record: Some((TxnId(10), void)),
                    changes: Vec::new(),
                },
            ],
        }
    }

    #[test]
    fn a_log_record_is_what_it_was_when_written() {
        // Changing these bytes is changing the format: raise FORMAT and read the old one.
        let row = encode(&record(), 1);
        let sum: [u8; 8] = checksum(b"golden", &row);
        assert_eq!(
            (row.len(), hex::encode(sum)),
            (209, "e797458e98a1fad8".to_owned())
        );
    }

    #[test]
    fn a_log_record_reads_back() {
        assert_eq!(Record::decode(1, &encode(&record(), 1)), Some(record()));
    }

    #[test]
    fn a_damaged_or_misplaced_row_is_refused() {
        let row = encode(&record(), 1);
        assert_eq!(Record::decode(2, &row), None);
        for at in 0..row.len() {
            let mut damaged = row.clone();
            damaged[at] ^= 1;
            assert_eq!(Record::decode(1, &damaged), None, "byte {at}");
            assert_eq!(Record::decode(1, &row[..at]), None, "cut at {at}");
        }
    }
}
