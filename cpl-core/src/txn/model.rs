//! Keys with a class, and the records that go with every write of people.

use std::fmt::{Debug, Formatter};
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::store::{Key, Range};
use crate::version::ConfigVersion;

/// Which constructor may write a key.
pub trait Class: 'static {
    /// The class in words.
    const NAME: &'static str;
}

macro_rules! class {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Class for $name {
            const NAME: &'static str = $text;
        }
    };
}

class!(
    /// People's configuration, written by [`SpecTxn`](super::SpecTxn).
    Spec, "spec"
);
class!(
    /// People's other records, written by [`CommandTxn`](super::CommandTxn).
    Command, "command"
);
class!(
    /// Ownership, written by [`ClaimTxn`](super::ClaimTxn).
    Claim, "claim"
);
class!(
    /// What a holder writes, by [`FencedTxn`](super::FencedTxn).
    Held, "held"
);
class!(
    /// Audit, history and idempotency records: created beside another write, trimmed by the owner.
    Record, "record"
);

/// A key of one class.
pub struct TypedKey<C> {
    key: Key,
    class: PhantomData<fn() -> C>,
}

impl<C> TypedKey<C> {
    /// The key.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The key alone.
    pub fn into_key(self) -> Key {
        self.key
    }
}

impl<C> Clone for TypedKey<C> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            class: PhantomData,
        }
    }
}

impl<C: Class> Debug for TypedKey<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({})", self.key, C::NAME)
    }
}

/// A row of the one table of keys: a pattern like `/cpl/v1/nodes/{name}/status`.
pub struct KeyKind<C> {
    pattern: std::borrow::Cow<'static, str>,
    class: PhantomData<fn() -> C>,
}

impl<C: Class> Debug for KeyKind<C> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.pattern, C::NAME)
    }
}

impl<C: Class> KeyKind<C> {
    /// A row of a pattern; `{...}` stands for one segment.
    pub const fn new(pattern: &'static str) -> Self {
        Self {
            pattern: std::borrow::Cow::Borrowed(pattern),
            class: PhantomData,
        }
    }

    /// A row whose pattern is put together at run time.
    pub const fn of(pattern: String) -> Self {
        Self {
            pattern: std::borrow::Cow::Owned(pattern),
            class: PhantomData,
        }
    }

    /// The key with these parts in place of the `{...}`.
    ///
    /// # Panics
    /// When the number of parts is not that of the pattern, or the key comes out too long: both are
    /// bugs, since names are checked at the edge.
    pub fn key(&self, parts: &[&str]) -> TypedKey<C> {
        let (text, used) = self.fill(parts);
        assert_eq!(used, parts.len(), "{} takes {used} parts", self.pattern);
        assert!(
            !text.contains('{'),
            "{} takes more than {used} parts",
            self.pattern
        );
        typed(text)
    }

    /// Every key of this kind whose first parts are these.
    pub fn range(&self, parts: &[&str]) -> Range {
        let (text, _) = self.fill(parts);
        let end = text.find('{').unwrap_or(text.len());
        match Range::prefix(text.as_bytes()[..end].to_vec()) {
            Ok(range) => range,
            Err(_) => Range::one(typed::<C>(text).key()),
        }
    }

    /// The parts of a key of this kind, or `None` when it is of another.
    pub fn parts<'k>(&self, key: &'k Key) -> Option<Vec<&'k str>> {
        let text = key.as_str()?;
        let mut parts = Vec::new();
        let mut segments = text.split('/');
        for wanted in self.pattern.split('/') {
            let segment = segments.next()?;
            if wanted.starts_with('{') {
                parts.push(segment);
            } else if wanted != segment {
                return None;
            }
        }
        segments.next().is_none().then_some(parts)
    }

    /// The row of the table.
    pub fn row(&self) -> KeyRow {
        KeyRow {
            pattern: self.pattern.to_string(),
            class: C::NAME,
        }
    }

    fn fill(&self, parts: &[&str]) -> (String, usize) {
        let mut used = 0;
        let filled = self
            .pattern
            .split('/')
            .map(|segment| match parts.get(used) {
                Some(part) if segment.starts_with('{') => {
                    used += 1;
                    escape(part)
                },
                _ => segment.to_owned(),
            });
        let text = filled.collect::<Vec<_>>().join("/");
        (text, used)
    }
}

/// A part as a segment of a key: whatever is not plain is written as `%XX`, so that no part can reach
/// into another segment.
fn escape(part: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b':');
    part.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[expect(
    clippy::expect_used,
    reason = "invariant: parts are names and ids, checked at the edge"
)]
fn typed<C>(text: String) -> TypedKey<C> {
    TypedKey {
        key: Key::new(text).expect("a key of checked parts fits"),
        class: PhantomData,
    }
}

/// One row of the table of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRow {
    /// The pattern.
    pub pattern: String,
    /// Its class.
    pub class: &'static str,
}

/// Two rows that some key would belong to both of, if there are any.
pub fn overlaps(rows: &[KeyRow]) -> Option<(&KeyRow, &KeyRow)> {
    let meet = |a: &KeyRow, b: &KeyRow| {
        let (a, b): (Vec<_>, Vec<_>) = (
            a.pattern.split('/').collect(),
            b.pattern.split('/').collect(),
        );
        let open = |segment: &str| segment.starts_with('{');
        a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| x == y || open(x) || open(y))
    };
    rows.iter().enumerate().find_map(|(i, row)| {
        rows[i + 1..]
            .iter()
            .find(|other| meet(row, other))
            .map(|other| (row, other))
    })
}

/// Who changed what, when, by which request. One for every write of people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what, like `TargetGroup/web`.
    pub objects: Vec<String>,
    /// By which request.
    pub request_id: String,
    /// The version that came of it, when it was a change of specs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_version: Option<ConfigVersion>,
}

/// The answer to a request that carried an idempotency key, kept 24 h.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// When.
    pub at: Timestamp,
    /// A digest of the request: the same key with another request is refused.
    pub request: String,
    /// What was answered.
    pub answer: Value,
}
