//! Server-sent events, bounded: the parser of the stream that a watch reads.

use crate::transport::TransportError;

/// Longest event, and so longest line: an object is at most 1 MiB, its parts and status together less
/// than this.
pub const EVENT_BYTES: usize = 4 << 20;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The last `id:` of the stream so far; empty before the first.
    pub id: String,
    /// `event:`, or `message`.
    pub name: String,
    /// The `data:` lines.
    pub data: String,
}

/// Takes the bytes of a stream in any cut and gives its events.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    id: String,
    name: String,
    data: String,
    has_data: bool,
    after_carriage_return: bool,
    begun: bool,
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; returns the events that they complete.
    ///
    /// # Errors
    /// `TooLarge` when an event exceeds [`EVENT_BYTES`]; the parser is of no use after that.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TransportError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_carriage_return;
            self.after_carriage_return = byte == b'\r';
            if second_half {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                let line = std::mem::take(&mut self.line);
                events.extend(self.line(&line));
            } else {
                self.line.push(byte);
            }
            if self.line.len() + self.data.len() > EVENT_BYTES {
                return Err(TransportError::TooLarge { limit: EVENT_BYTES });
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let text = String::from_utf8_lossy(line);
        let text = if self.begun {
            &text
        } else {
            self.begun = true;
            text.strip_prefix('\u{feff}').unwrap_or(&text)
        };
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            },
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment has an empty field name; anything else is for clients of the future.
            _ => {},
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event {
            id: self.id.clone(),
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Vec<(String, String, String)> {
        Parser::new()
            .push(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|Event { id, name, data }| (id, name, data))
            .collect()
    }

    fn event(id: &str, name: &str, data: &str) -> (String, String, String) {
        (id.to_owned(), name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_end_at_an_empty_line() {
        assert_eq!(
            check("id: 7\nevent: put\ndata: a\ndata:b\n\ndata: c\n\ndata: never ended\n"),
            [event("7", "put", "a\nb"), event("7", "message", "c")]
        );
    }

    #[test]
    fn comments_and_unknown_fields_say_nothing() {
        assert_eq!(check(": ping\n\nretry: 5\nid: 9\n\n"), []);
    }

    #[test]
    fn every_line_end_is_understood() {
        for end in ["\n", "\r", "\r\n"] {
            assert_eq!(
                check(&"\u{feff}id: 1#data: x##".replace('#', end)),
                [event("1", "message", "x")]
            );
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::new();
        let part = vec![b'x'; EVENT_BYTES / 2 + 1];
        assert!(parser.push(&part).is_ok());
        assert!(parser.push(&part).is_err());
    }

    proptest! {
        #[test]
        fn the_cut_of_the_stream_does_not_matter(
            text in "(id: [0-9]{1,3}(\n|\r|\r\n)|data: ?[a-z]{0,5}(\n|\r|\r\n)|(\n|\r|\r\n)){0,20}",
            cut in 0usize..100,
        ) {
            let cut = cut.min(text.len());
            let (left, right) = text.as_bytes().split_at(cut);
            let mut parser = Parser::new();
            let mut events = parser.push(left).unwrap();
            events.extend(parser.push(right).unwrap());
            prop_assert_eq!(events, Parser::new().push(text.as_bytes()).unwrap());
        }
    }
}
