//! Where things are under the prefix of a store.

use bytes::Bytes;
use cpl_core::store::{Bound, Error, Key, Kind, Range, TxnId};
use etcd_client::KeyValue;

/// A prefix that ends with a slash, so that no store is inside another by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    prefix: String,
}

/// What a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// One of the store's users.
    User(Key),
    /// A record of ours: an outcome, the label, the pulse.
    Own,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("/{}/", prefix.trim_matches('/')),
        }
    }

    /// What is watched: users' keys, the label and the pulse, but no outcomes. Its first key and the first one after
    /// it.
    pub(crate) fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        let after = format!("{}q", self.prefix).into_bytes();
        (self.users(), after)
    }

    /// Which store this is, and which life of it.
    pub(crate) fn label(&self) -> Vec<u8> {
        format!("{}label", self.prefix).into_bytes()
    }

    /// What became of a transaction.
    pub(crate) fn outcome(&self, id: TxnId) -> Vec<u8> {
        format!("{}txn/{}", self.prefix, hex::encode(id.0.to_be_bytes())).into_bytes()
    }

    /// All outcomes: the first key that may be one and the first one after them.
    pub(crate) fn outcomes(&self) -> (Vec<u8>, Vec<u8>) {
        let name = |end: &str| format!("{}{end}", self.prefix).into_bytes();
        (name("txn/"), name("txn0"))
    }

    /// What was there in this hour since the Unix epoch; the names sort as the hours do.
    pub(crate) fn mark(&self, hour: u64) -> Vec<u8> {
        format!("{}time/{hour:016}", self.prefix).into_bytes()
    }

    /// A key that is written only to see it arrive.
    pub(crate) fn pulse(&self) -> Vec<u8> {
        format!("{}pulse", self.prefix).into_bytes()
    }

    fn users(&self) -> Vec<u8> {
        format!("{}key/", self.prefix).into_bytes()
    }

    pub(crate) fn user(&self, key: &Key) -> Vec<u8> {
        let mut name = self.users();
        name.extend_from_slice(key.as_bytes());
        name
    }

    /// A range of users' keys: the first key that may be inside and the first one after it.
    pub(crate) fn range(&self, range: &Range) -> (Vec<u8>, Vec<u8>) {
        let first = range
            .start()
            .map_or_else(|| self.users(), |key| self.user(key));
        let after = match range.end() {
            Bound::Before(key) => self.user(key),
            Bound::End => format!("{}key0", self.prefix).into_bytes(),
        };
        (first, after)
    }

    pub(crate) fn name(&self, kv: &KeyValue) -> Result<Name, Error> {
        let key = kv.key();
        let Some(rest) = key.strip_prefix(self.users().as_slice()) else {
            return Ok(Name::Own);
        };
        let key = Key::new(Bytes::copy_from_slice(rest)).map_err(|error| {
            let context = "read a key that somebody else has put under the prefix of this store";
            Error::new(Kind::Corrupt, context).with_source(error)
        })?;
        Ok(Name::User(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_not_inside_another_by_its_name_alone() {
        let keys = Keys::new("/cpl");
        let (first, after) = keys.watched();
        let watched = |key: &[u8]| first.as_slice() <= key && key < after.as_slice();
        assert!(watched(&keys.label()) && watched(&keys.pulse()));
        assert!(watched(&keys.user(&Key::new(vec![0xff; 9]).unwrap())));
        assert!(!watched(&keys.outcome(TxnId(1))));
        assert!(!watched(&Keys::new("cpl2").label()) && !watched(b"/cpl"));
        assert_eq!(Keys::new("a/b/"), Keys::new("/a/b"));
    }

    #[test]
    fn ranges_hold_users_keys_only() {
        let keys = Keys::new("cpl");
        let (first, after) = keys.range(&Range::all());
        for own in [keys.label(), keys.pulse(), keys.outcome(TxnId(7))] {
            assert!(own < first || own >= after);
        }
        let top = keys.user(&Key::new(vec![0xff; 1_024]).unwrap());
        assert!(first < top && top < after);
    }
}
