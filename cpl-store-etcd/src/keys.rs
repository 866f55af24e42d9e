//! Where things are under the prefix of a store.

use bytes::Bytes;
use cpl_core::store::{Bound, Error, Key, Kind, Range, TxnId};

/// Keys of users that begin with this are stored by what follows it, right under the prefix, where people look
/// for them: with the prefix `cpl` they are what they are.
const ROOT: &[u8] = b"/cpl/";

// What else is under the prefix begins with a byte that names of people do not begin with. The order of users'
// keys is kept, so that a range of theirs is one range of etcd's.
/// Records of ours, before all keys of users.
const OWN: u8 = 1;
/// Users' keys before the root, whole.
const BELOW: u8 = 2;
/// What follows the root, where it would begin with one of the bytes up to this one, or is nothing.
const LOW: u8 = 3;
/// The same for the bytes from this one on.
const HIGH: u8 = 0xfc;
/// Users' keys after the root, whole.
const ABOVE: u8 = 0xfd;

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

    /// The prefix, for messages.
    pub(crate) fn shown(&self) -> &str {
        &self.prefix
    }

    /// What is watched: users' keys, the label and the pulse, but no outcomes. Its first key and the first one after
    /// it.
    pub(crate) fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        (self.own("own/"), self.end())
    }

    /// Which store this is, and which life of it.
    pub(crate) fn label(&self) -> Vec<u8> {
        self.own("own/label")
    }

    /// What became of a transaction.
    pub(crate) fn outcome(&self, id: TxnId) -> Vec<u8> {
        self.own(&format!("log/txn/{}", hex::encode(id.0.to_be_bytes())))
    }

    /// All outcomes: the first key that may be one and the first one after them.
    pub(crate) fn outcomes(&self) -> (Vec<u8>, Vec<u8>) {
        (self.own("log/txn/"), self.own("log/txn0"))
    }

    /// What was there in this hour since the Unix epoch; the names sort as the hours do.
    pub(crate) fn mark(&self, hour: u64) -> Vec<u8> {
        self.own(&format!("log/time/{hour:016}"))
    }

    /// A key that is written only to see it arrive.
    pub(crate) fn pulse(&self) -> Vec<u8> {
        self.own("own/pulse")
    }

    fn own(&self, name: &str) -> Vec<u8> {
        self.under(&[OWN], name.as_bytes())
    }

    /// The first key that is not under the prefix any more.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        // The successor of the slash.
        end.pop();
        end.push(b'0');
        end
    }

    fn under(&self, class: &[u8], rest: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), class, rest].concat()
    }

    pub(crate) fn user(&self, key: &Key) -> Vec<u8> {
        let key = key.as_bytes();
        let Some(rest) = key.strip_prefix(ROOT) else {
            let class = if key < ROOT { BELOW } else { ABOVE };
            return self.under(&[class], key);
        };
        match rest.first() {
            None | Some(..=LOW) => self.under(&[LOW], rest),
            Some(HIGH..) => self.under(&[HIGH], rest),
            Some(_) => self.under(&[], rest),
        }
    }

    /// A range of users' keys: the first key that may be inside and the first one after it.
    pub(crate) fn range(&self, range: &Range) -> (Vec<u8>, Vec<u8>) {
        let first = range
            .start()
            .map_or_else(|| self.under(&[BELOW], &[]), |key| self.user(key));
        let after = match range.end() {
            Bound::Before(key) => self.user(key),
            Bound::End => self.end(),
        };
        (first, after)
    }

    pub(crate) fn name(&self, stored: &[u8]) -> Result<Name, Error> {
        let under = stored.strip_prefix(self.prefix.as_bytes());
        let key = match under.and_then(<[u8]>::split_first) {
            Some((&OWN, _)) | None => return Ok(Name::Own),
            Some((&(BELOW | ABOVE), key)) => key.to_vec(),
            Some((&(LOW | HIGH), rest)) => [ROOT, rest].concat(),
            Some(_) => [ROOT, under.unwrap_or_default()].concat(),
        };
        let key = Key::new(Bytes::from(key)).map_err(|error| {
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
        for own in [
            keys.label(),
            keys.pulse(),
            keys.outcome(TxnId(7)),
            keys.mark(0),
        ] {
            assert!(own < first || own >= after);
        }
        let top = keys.user(&Key::new(vec![0xff; 1_024]).unwrap());
        assert!(first < top && top < after);
    }

    #[test]
    fn keys_under_the_root_are_what_they_are() {
        let key = Key::new("/cpl/v1/nodes/a/spec").unwrap();
        assert_eq!(Keys::new("cpl").user(&key), key.as_bytes());
        assert_eq!(Keys::new("test/x").user(&key), b"/test/x/v1/nodes/a/spec");
    }

    #[test]
    fn all_keys_keep_their_order_and_read_back() {
        let keys = Keys::new("cpl");
        let mut all: Vec<Key> = Vec::new();
        let heads: [&[u8]; 7] = [b"/cpl/", b"/cpl", b"/cpl0", b"/cpk/", b"", b"~", b"/cpl/v1"];
        for head in heads {
            for byte in 0..=255 {
                all.push(Key::new([head, &[byte]].concat()).unwrap());
                all.push(Key::new([head, &[byte, 0]].concat()).unwrap());
            }
        }
        all.push(Key::new("/cpl/").unwrap());
        all.sort();
        all.dedup();
        let stored: Vec<Vec<u8>> = all.iter().map(|key| keys.user(key)).collect();
        assert!(stored.windows(2).all(|pair| pair[0] < pair[1]));
        let (first, after) = keys.range(&Range::all());
        for (key, stored) in all.into_iter().zip(stored) {
            assert!(first <= stored && stored < after, "{key}");
            assert_eq!(keys.name(&stored).unwrap(), Name::User(key));
        }
    }
}
