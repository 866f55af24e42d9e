//! Reading a JSON object that somebody wrote, with every mistake in it reported at once.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::FieldError;

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    code: &'static str,
    detail: String,
}

impl Wrong {
    /// A mistake: a stable `UPPER_SNAKE` code, and what would be right.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// One JSON object being read. Fields that were not asked for are mistakes, see [`Fields::finish`].
#[derive(Debug)]
pub struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    pointer: String,
    asked: BTreeSet<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Starts reading `value`, which stands at `pointer`. When it is no object that is the one
    /// mistake reported.
    pub fn of(value: &'a Value, pointer: impl Into<String>) -> Self {
        let pointer = pointer.into();
        let mut fields = Self {
            object: value.as_object(),
            pointer,
            asked: BTreeSet::new(),
            errors: Vec::new(),
        };
        if fields.object.is_none() {
            let detail = format!("expected an object, got {}", kind_of(value));
            fields.errors.push(FieldError::new(
                fields.pointer.clone(),
                "FIELD_TYPE",
                detail,
            ));
        }
        fields
    }

    /// A field that may be missing or null.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(name)?;
        match read(value) {
            Ok(read) => Some(read),
            Err(wrong) => {
                self.wrong(name, wrong);
                None
            },
        }
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let missing = self
            .object
            .is_some_and(|o| o.get(name).is_none_or(Value::is_null));
        if missing {
            self.wrong(name, Wrong::new("FIELD_REQUIRED", "this field is required"));
        }
        self.optional(name, read)
    }

    /// An object inside this one, when it is there.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let value = self.take(name)?;
        let mut inner = Fields::of(value, format!("{}/{name}", self.pointer));
        let result = inner.object.is_some().then(|| read(&mut inner));
        self.errors.append(&mut inner.finish());
        result
    }

    /// An object inside this one that must be there.
    pub fn required_object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let missing = self
            .object
            .is_some_and(|o| o.get(name).is_none_or(Value::is_null));
        if missing {
            self.wrong(name, Wrong::new("FIELD_REQUIRED", "this field is required"));
        }
        self.object(name, read)
    }

    /// A list of objects, when it is there; `read` sees each with its index.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let list = self.optional(name, |value| items(value, most))?;
        let mut read_items = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let mut inner = Fields::of(value, format!("{}/{name}/{index}", self.pointer));
            read_items.extend(read(&mut inner));
            self.errors.append(&mut inner.finish());
        }
        Some(read_items)
    }

    /// A list of plain values, when it is there.
    pub fn values<T>(
        &mut self,
        name: &'static str,
        most: usize,
        read: impl Fn(&'a Value) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let list = self.optional(name, |value| items(value, most))?;
        let mut read_items = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            match read(value) {
                Ok(item) => read_items.push(item),
                Err(wrong) => self.wrong(&format!("{name}/{index}"), wrong),
            }
        }
        Some(read_items)
    }

    /// Fields that the server writes: accepted, so that what was read can be sent back, and ignored.
    pub fn ignore(&mut self, names: &[&'static str]) {
        self.asked.extend(names);
    }

    /// Reports a mistake of a field, for rules that concern several.
    pub fn wrong(&mut self, name: &str, wrong: Wrong) {
        let pointer = format!("{}/{name}", self.pointer);
        self.errors
            .push(FieldError::new(pointer, wrong.code, wrong.detail));
    }

    /// Whether nothing was wrong so far.
    pub const fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// Ends reading: all mistakes, unknown fields included.
    pub fn finish(mut self) -> Vec<FieldError> {
        let known = self.asked.iter().copied().collect::<Vec<_>>().join(", ");
        for name in self.object.into_iter().flat_map(Map::keys) {
            if !self.asked.contains(name.as_str()) {
                let pointer = format!("{}/{}", self.pointer, escape(name));
                let detail = format!("unknown field; known here: {known}");
                self.errors
                    .push(FieldError::new(pointer, "FIELD_UNKNOWN", detail));
            }
        }
        self.errors
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.insert(name);
        self.object?.get(name).filter(|value| !value.is_null())
    }
}

/// A member name as it stands in a JSON pointer (RFC 6901), cut to a length that a log line bears.
fn escape(name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    short.replace('~', "~0").replace('/', "~1")
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong_type(expected: &str, value: &Value) -> Wrong {
    Wrong::new(
        "FIELD_TYPE",
        format!("expected {expected}, got {}", kind_of(value)),
    )
}

fn items(value: &Value, most: usize) -> Result<&Vec<Value>, Wrong> {
    let list = value
        .as_array()
        .ok_or_else(|| wrong_type("a list", value))?;
    if list.len() > most {
        let detail = format!("at most {most} items, got {}", list.len());
        return Err(Wrong::new("FIELD_TOO_LONG", detail));
    }
    Ok(list)
}

/// A whole number inside `range`.
pub fn integer(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, Wrong> {
    move |value| {
        if !value.is_number() {
            return Err(wrong_type("a whole number", value));
        }
        value.as_u64().filter(|n| range.contains(n)).ok_or_else(|| {
            let detail = format!(
                "expected a whole number from {} to {}, got {value}",
                range.start(),
                range.end()
            );
            Wrong::new("FIELD_OUT_OF_RANGE", detail)
        })
    }
}

/// A port, 1 to 65535.
pub fn port(value: &Value) -> Result<u16, Wrong> {
    integer(1..=65_535)(value).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
}

/// True or false.
pub fn boolean(value: &Value) -> Result<bool, Wrong> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type("true or false", value))
}

/// Text of at most `most` characters without control characters.
pub fn text(most: usize) -> impl Fn(&Value) -> Result<String, Wrong> {
    move |value| {
        let text = value
            .as_str()
            .ok_or_else(|| wrong_type("a string", value))?;
        if text.chars().count() > most {
            let detail = format!("at most {most} characters");
            return Err(Wrong::new("FIELD_TOO_LONG", detail));
        }
        if text.chars().any(char::is_control) {
            return Err(Wrong::new(
                "FIELD_INVALID",
                "control characters are not allowed",
            ));
        }
        Ok(text.to_owned())
    }
}

/// One of a few words.
pub fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Result<T, Wrong> {
    move |value| {
        let text = value
            .as_str()
            .ok_or_else(|| wrong_type("a string", value))?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| {
                let known = words
                    .iter()
                    .map(|(word, _)| *word)
                    .collect::<Vec<_>>()
                    .join(", ");
                Wrong::new("FIELD_INVALID", format!("expected one of {known}"))
            })
    }
}

/// An IPv4 or IPv6 address; names are refused, since resolving them differs from node to node.
pub fn ip(value: &Value) -> Result<IpAddr, Wrong> {
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type("an IP address", value))?;
    text.parse()
        .map_err(|_| Wrong::new("FIELD_INVALID", "expected an IP address like 10.0.0.1"))
}

/// The name of an object: lower-case letters, digits and `-`, 1 to 63 characters, a letter or digit
/// at both ends.
pub fn name(value: &Value) -> Result<String, Wrong> {
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type("a string", value))?;
    check_name(text).map(|()| text.to_owned())
}

/// The rule of [`name`] for a text that did not come as JSON.
///
/// # Errors
/// What would be right.
pub fn check_name(text: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=63).contains(&text.len())
        && text.chars().all(|c| plain(c) || c == '-')
        && text.starts_with(plain)
        && text.ends_with(plain);
    if fits {
        return Ok(());
    }
    let detail =
        "expected 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends";
    Err(Wrong::new("NAME_INVALID", detail))
}

/// A length of time as people write it: `500ms`, `5s`, `2m`, `1h`. Printed in the largest unit that
/// fits without a rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Its length in milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads `500ms`, `5s`, `2m` or `1h`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        number
            .parse::<u64>()
            .ok()?
            .checked_mul(factor)
            .map(Self::from_millis)
    }
}

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let millis = self.as_millis();
        let whole = UNITS
            .iter()
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor));
        match whole {
            Some((unit, factor)) => write!(f, "{}{unit}", millis / factor),
            None => f.write_str("0s"),
        }
    }
}

impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected a span like 5s"))
    }
}

/// A span inside `range`.
pub fn span(range: RangeInclusive<Span>) -> impl Fn(&Value) -> Result<Span, Wrong> {
    move |value| {
        let text = value
            .as_str()
            .ok_or_else(|| wrong_type("a time like \"5s\"", value))?;
        let span = Span::parse(text).ok_or_else(|| {
            Wrong::new("FIELD_INVALID", "expected a time like 500ms, 5s, 2m or 1h")
        })?;
        if range.contains(&span) {
            return Ok(span);
        }
        let detail = format!("expected {} to {}, got {span}", range.start(), range.end());
        Err(Wrong::new("FIELD_OUT_OF_RANGE", detail))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let value =
            json!({"port": 70_000, "inner": {"wait": "soon", "odd": 1}, "list": [{"ip": 3}]});
        let mut fields = Fields::of(&value, "/spec");
        fields.required("port", port);
        fields.required("protocol", text(10));
        fields.object("inner", |f| {
            f.optional("wait", span(Span::default()..=Span::from_millis(9)))
        });
        fields.objects("list", 5, |f| f.required("ip", ip));
        let found: Vec<_> = fields
            .finish()
            .into_iter()
            .map(|e| (e.pointer, e.code))
            .collect::<Vec<_>>();
        let expected = [
            ("/spec/port", "FIELD_OUT_OF_RANGE"),
            ("/spec/protocol", "FIELD_REQUIRED"),
            ("/spec/inner/wait", "FIELD_INVALID"),
            ("/spec/inner/odd", "FIELD_UNKNOWN"),
            ("/spec/list/0/ip", "FIELD_TYPE"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(p, c)| ((*p).to_owned(), (*c).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn spans_read_what_they_print() {
        for text in ["500ms", "5s", "2m", "1h", "90s", "1500ms"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Span::parse("60s").unwrap().to_string(), "1m");
        for text in ["", "5", "s", "5 s", "-5s", "99999999999999999999h", "5d"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_the_names_of_the_documents() {
        for good in ["web-tg", "node-1", "a", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "a;b",
            "a b",
            "a.b",
            "ä",
            &"x".repeat(64),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
