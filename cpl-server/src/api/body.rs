//! What comes from outside: bodies, queries, headers, names; each with its limits and clear errors.

use std::collections::BTreeMap;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cpl_api::IDEMPOTENCY_KEY;
use cpl_api::problem::Code;
use cpl_core::error::FieldError;
use cpl_core::fields::check_name;
use cpl_core::spec::Idempotency;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::{Answer, ApiError};

/// Largest body.
const BODY_BYTES: usize = 1 << 20;
/// Deepest nesting of a body.
const DEPTH: usize = 64;
/// Longest query.
const QUERY_BYTES: usize = 4_096;
/// Longest idempotency key.
const KEY_LENGTH: usize = 64;
/// Items of a page when nothing is said, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1_000;

fn invalid(reason: &str, detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidArgument, reason, detail)
}

/// A body that is JSON as far as one can see without reading it; empty when there is none.
#[derive(Debug)]
pub(super) struct Text {
    bytes: Bytes,
    idempotency: Option<Idempotency>,
}

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = to_bytes(body, BODY_BYTES).await.map_err(|_| {
            let detail = format!("a body may have up to {BODY_BYTES} bytes");
            invalid("BODY_TOO_LARGE", detail)
        })?;
        let idempotency = idempotency(&parts, &bytes)?;
        if bytes.is_empty() {
            return Ok(Self { bytes, idempotency });
        }
        is_json(&parts.headers)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| invalid("BODY_NOT_UTF8", format!("the body is not UTF-8: {error}")))?;
        if depth(text) > DEPTH {
            let detail = format!("the body is nested deeper than {DEPTH}");
            return Err(invalid("BODY_TOO_DEEP", detail));
        }
        Ok(Self { bytes, idempotency })
    }
}

impl Text {
    /// The body as a type, read at once and then gone: what waits for long holds no body.
    pub(super) fn read_required<T: DeserializeOwned>(self) -> Answer<T> {
        let text = if self.bytes.is_empty() {
            b"null"
        } else {
            &self.bytes[..]
        };
        serde_json::from_slice(text).map_err(|error| {
            if error.is_data() {
                wrong_type(&error)
            } else {
                not_json(&error)
            }
        })
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    invalid("BODY_NOT_JSON", format!("the body is not JSON: {error}"))
}

/// A JSON body, with what makes repeating the request safe.
#[derive(Debug)]
pub(super) struct Json {
    pub(super) value: Value,
    pub(super) idempotency: Option<Idempotency>,
}

impl<S: Send + Sync> FromRequest<S> for Json {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Text { bytes, idempotency } = Text::from_request(request, state).await?;
        let value = match &bytes[..] {
            [] => Value::Null,
            text => serde_json::from_slice(text).map_err(|error| not_json(&error))?,
        };
        Ok(Self { value, idempotency })
    }
}

impl Json {
    /// The body as a type whose mistakes serde can tell only one at a time.
    pub(super) fn read<T: DeserializeOwned + Default>(&self) -> Answer<T> {
        match &self.value {
            Value::Null => Ok(T::default()),
            value => read(value),
        }
    }

    /// The same where there is no default.
    pub(super) fn read_required<T: DeserializeOwned>(&self) -> Answer<T> {
        read(&self.value)
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Answer<T> {
    T::deserialize(value).map_err(|error| wrong_type(&error))
}

fn wrong_type(error: &serde_json::Error) -> ApiError {
    let detail = error.to_string();
    ApiError::invalid(vec![FieldError::new("", "BODY_INVALID", detail)])
}

fn is_json(headers: &HeaderMap) -> Answer<()> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    match kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim()) {
        Some("application/json") => Ok(()),
        Some(_) | None => Err(invalid(
            "MEDIA_TYPE",
            "send `Content-Type: application/json`",
        )),
    }
}

/// How deep the brackets of a JSON text nest, before a parser spends a stack on them.
fn depth(text: &str) -> usize {
    let (mut deepest, mut now, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                now += 1;
                deepest = deepest.max(now);
            },
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {},
        }
    }
    deepest
}

fn idempotency(parts: &Parts, body: &[u8]) -> Answer<Option<Idempotency>> {
    let Some(header) = parts.headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = header
        .to_str()
        .ok()
        .filter(|key| (1..=KEY_LENGTH).contains(&key.len()));
    let Some(key) = key else {
        let detail = format!("expected 1 to {KEY_LENGTH} visible characters in {IDEMPOTENCY_KEY}");
        return Err(invalid("IDEMPOTENCY_KEY_INVALID", detail));
    };
    let mut digest = Sha256::new();
    digest.update(parts.method.as_str());
    digest.update([0]);
    digest.update(parts.uri.to_string());
    digest.update([0]);
    digest.update(body);
    let request = hex::encode(digest.finalize());
    Ok(Some(Idempotency {
        key: key.to_owned(),
        request,
    }))
}

/// The etag of `If-Match`, without its quotes.
pub(super) fn if_match(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(header) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let quoted = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    match quoted {
        Some(etag) if !etag.contains('"') => Ok(Some(etag.to_owned())),
        Some(_) | None => Err(invalid("ETAG_MALFORMED", "expected If-Match: \"ETAG\"")),
    }
}

/// The query of a request; parameters that nobody asked for are refused by [`Query::finish`].
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, Vec<String>>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let text = parts.uri.query().unwrap_or_default();
        if text.len() > QUERY_BYTES {
            return Err(invalid(
                "QUERY_TOO_LONG",
                format!("at most {QUERY_BYTES} bytes"),
            ));
        }
        let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.entry(decode(name)?).or_default().push(decode(value)?);
        }
        Ok(Self(query))
    }
}

fn decode(text: &str) -> Answer<String> {
    let wrong = || {
        invalid(
            "QUERY_INVALID",
            format!("{text:?} is not percent-encoded UTF-8"),
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [
                    rest.next().ok_or_else(wrong)?,
                    rest.next().ok_or_else(wrong)?,
                ];
                let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

impl Query {
    /// One parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).and_then(|mut values| values.pop())
    }

    /// A parameter that may occur several times.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    /// A parameter that is true or false; false when it is missing.
    pub(super) fn flag(&mut self, name: &str) -> Answer<bool> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let detail = format!("{name} is true or false, not {other:?}");
                Err(invalid("QUERY_INVALID", detail))
            },
        }
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str) -> Answer<Option<u64>> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let number = text.parse().map_err(|_| {
            invalid(
                "QUERY_INVALID",
                format!("{name} is a whole number, not {text:?}"),
            )
        })?;
        Ok(Some(number))
    }

    /// Which page is wanted: its size and the place that the page before named.
    pub(super) fn page(&mut self) -> Answer<(usize, Option<String>)> {
        let size = self
            .number("page_size")?
            .map_or(PAGE, |n| usize::try_from(n).unwrap_or(PAGE));
        let token = match self.take("page_token") {
            Some(token) => {
                let bytes = URL_SAFE_NO_PAD.decode(&token).ok();
                let place = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
                let wrong =
                    || invalid("PAGE_TOKEN_INVALID", "this is no page token of this server");
                Some(place.ok_or_else(wrong)?)
            },
            None => None,
        };
        Ok((size.clamp(1, LARGEST_PAGE), token))
    }

    /// Refuses what nobody asked for: a misspelt `dry_run` must not write.
    pub(super) fn finish(self) -> Answer<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(invalid(
                "QUERY_UNKNOWN",
                format!("there is no query parameter {name:?}"),
            )),
        }
    }
}

/// The token of the page after `place`.
pub(super) fn page_token(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

/// A name from a path.
pub(super) fn name(text: &str) -> Answer<String> {
    match check_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(_) => {
            let detail = format!("{text:?} is not a name: 1 to 63 lower-case letters, digits, '-'");
            Err(invalid("NAME_INVALID", detail))
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        assert_eq!(depth(r#"{"a":[1,{"b":"]]]]"}]}"#), 3);
        assert_eq!(depth(r#""[[[\"[[""#), 0);
        assert_eq!(depth(&"[".repeat(100_000)), 100_000);
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decode("a%20b+c%C3%A4").unwrap(), "a b cä");
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
