//! Server-Sent Events: a body of type `text/event-stream`, taken apart into events as a browser does it (HTML, "Server-sent events").
//!
//! Pure: the decoded bytes of a body go in, events come out. A line or an event that is too long is cut, and says so.

/// Bytes that are kept of a line, and of the data of an event.
const KEPT: usize = 1 << 20;

/// Whether a body of this content type is a run of events.
#[must_use]
pub fn is_sse(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; `None`: `message`.
    pub event: Option<String>,
    /// Its data; the lines of it are joined with line feeds.
    pub data: String,
    /// The last id that was said, by this event or one before.
    pub id: Option<String>,
    /// Milliseconds after which to connect again, if this event says so.
    pub retry: Option<u64>,
    /// Bytes of it that were not kept, for there are too many.
    pub cut: u64,
}

/// Reads a body piece by piece.
#[derive(Debug, Default)]
pub struct Sse {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// A carriage return was the last byte: a line feed behind it ends the same line.
    returned: bool,
    /// Something is missing of the event: it is left out.
    damaged: bool,
    /// The first line may begin with a byte order mark.
    begun: bool,
}

impl Sse {
    /// A reader at the beginning of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the body.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) {
        let mut rest = bytes;
        if self.returned && !rest.is_empty() {
            self.returned = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, behind) = rest.split_at(end);
            self.keep(line);
            self.end_line(out);
            rest = match behind {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.returned = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.keep(rest);
    }

    /// Bytes of the body are missing: what is not complete is dropped, and what follows up to the next empty line belongs to nobody
    /// knows which event.
    pub fn gap(&mut self) {
        let id = self.event.id.take();
        *self = Self { begun: true, damaged: true, event: Event { id, ..Event::default() }, ..Self::default() };
    }

    /// The end of the body. An event that is not complete is none, as for a browser; true: there was one.
    #[must_use]
    pub fn finish(self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    /// Bytes of memory that it holds, about.
    #[must_use]
    pub fn held(&self) -> usize {
        self.line.capacity() + self.event.data.capacity()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.event.cut += (bytes.len() - room) as u64;
    }

    fn end_line(&mut self, out: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let mut text = &line[..];
        if !self.begun {
            self.begun = true;
            text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        }
        if text.is_empty() {
            let id = self.event.id.clone();
            let event = std::mem::replace(&mut self.event, Event { id, ..Event::default() });
            let damaged = std::mem::take(&mut self.damaged);
            if std::mem::take(&mut self.has_data) && !damaged {
                out.push(event);
            }
        } else {
            let colon = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            let (name, value) = text.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or_default();
            self.field(name, value.strip_prefix(b" ").unwrap_or(value));
        }
        self.line = line;
        self.line.clear();
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        match name {
            b"event" => self.event.event = (!text.is_empty()).then(|| text.into_owned()),
            b"data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                if self.event.data.len() + text.len() <= KEPT {
                    self.event.data.push_str(&text);
                } else {
                    self.event.cut += value.len() as u64;
                }
            }
            b"id" if !value.contains(&0) => self.event.id = Some(text.into_owned()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.event.retry = text.parse().ok();
            }
            // A comment, or a field of which no one knows.
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
