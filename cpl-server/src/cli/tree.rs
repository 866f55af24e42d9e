//! Reading one document of JSON or YAML into a value, within a budget.
//!
//! YAML's aliases let a small file stand for a huge value, and the parser's own limit counts aliases,
//! not what they expand to. So whatever is built is paid for here, while it is built.

use std::cell::Cell;
use std::fmt::Formatter;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most bytes that one document may expand to, each value counted with what it costs to keep it.
const MOST_BYTES: usize = 8 << 20;
/// What a value costs besides its text.
const VALUE_BYTES: usize = 32;

/// Reads one value: keys are strings and occur once, tags and numbers without end are refused.
///
/// # Errors
/// The reader's, with the place in the text.
pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Tree {
        left: &Cell::new(MOST_BYTES),
    }
    .deserialize(deserializer)
}

#[derive(Clone, Copy)]
struct Tree<'a> {
    left: &'a Cell<usize>,
}

impl Tree<'_> {
    fn pay<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self
            .left
            .get()
            .checked_sub(bytes.saturating_add(VALUE_BYTES));
        self.left
            .set(left.ok_or_else(|| E::custom("the document expands to too much (aliases?)"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.pay(0).map(|()| value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.pay(0).map(|()| value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.pay(0).map(|()| value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.pay(0)?;
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut map = Map::new();
        while let Some(key) = members.next_key_seed(self)? {
            let Value::String(key) = key else {
                return Err(A::Error::custom(format!("the key {key} is not a string")));
            };
            if key == "<<" {
                return Err(A::Error::custom("merge keys (<<) are not supported"));
            }
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            }
            let value = members.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn yaml(text: &str) -> Result<Value, String> {
        read(serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let value = json!({"a": [1, -2, 1.5, true, null, "x"], "b": {}});
        assert_eq!(
            yaml("a: [1, -2, 1.5, true, null, x]\nb: {}\n"),
            Ok(value.clone())
        );
        let text = value.to_string();
        let json = read(&mut serde_json::Deserializer::from_str(&text)).unwrap();
        assert_eq!(json, value);
    }

    #[test]
    fn what_would_be_lost_on_the_way_is_refused() {
        for (text, why) in [
            ("a: 1\na: 2\n", "occurs twice"),
            ("1: x\n", "is not a string"),
            ("a: .nan\n", "not finite"),
            ("a: !secret x\n", "a value without tags"),
            ("x: &x {a: 1}\ny: {<<: *x}\n", "merge keys"),
        ] {
            let error = yaml(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_small_file_cannot_become_a_huge_value() {
        // Nine levels of ten aliases each would be a thousand million strings.
        let levels = (1..10).map(|level| {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            format!("a{level}: &a{level} [{aliases}]\n")
        });
        let bomb = format!("a0: &a0 lol\n{}", levels.collect::<String>());
        assert!(yaml(&bomb).is_err());
        // Few aliases to one large text stay below any limit on their number.
        let large = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(500_000),
            vec!["*a"; 100].join(", ")
        );
        assert!(yaml(&large).unwrap_err().contains("too much"));
    }
}
