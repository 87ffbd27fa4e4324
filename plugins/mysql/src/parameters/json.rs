//! A JSON array that grows to a bound and no further. Values only; not here: where they come from.

use super::{Stop, to_u64};
use std::fmt::Write as _;

/// An array of parameters under way.
#[derive(Debug)]
pub struct Json {
    text: String,
    most: usize,
    cut: u64,
}

/// What is kept free for closing brackets, and what an element may need besides its value.
const SPARE: usize = 64;

impl Json {
    /// Nothing yet; at most about `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { text: String::new(), most, cut: 0 }
    }

    /// Begins an array, or one inside of another.
    pub fn open(&mut self) {
        self.comma();
        self.text.push('[');
    }

    /// Ends it.
    pub fn close(&mut self) {
        self.text.push(']');
    }

    /// What was made, and how many bytes of values it lacks.
    pub fn into_text(self) -> (String, u64) {
        (self.text, self.cut)
    }

    /// `null`.
    pub fn null(&mut self) -> Result<(), Stop> {
        self.plain("null")
    }

    /// A number, as its text.
    pub fn number(&mut self, number: &dyn std::fmt::Display) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        // Writing into a String can't fail.
        let _ = write!(self.text, "{number}");
        Ok(())
    }

    /// A floating-point number; JSON has no word for those that are not finite, which are strings.
    pub fn float(&mut self, finite: bool, number: &dyn std::fmt::Debug) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        let quote = if finite { "" } else { "\"" };
        let _ = write!(self.text, "{quote}{number:?}{quote}");
        Ok(())
    }

    /// Text without anything that needs escaping.
    pub fn simple(&mut self, text: &str) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        let _ = write!(self.text, "\"{text}\"");
        Ok(())
    }

    /// `{"name":true}`.
    pub fn mark(&mut self, name: &str) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        let _ = write!(self.text, "{{\"{name}\":true}}");
        Ok(())
    }

    /// Text as a string, other bytes as `{"hex":"…"}`; cut if there are `missing` bytes behind them or if the room ends.
    pub fn bytes(&mut self, bytes: &[u8], missing: u64) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        let room = self.most.saturating_sub(self.text.len() + SPARE);
        // The end of a cut text may be half a character.
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) if missing > 0 && error.error_len().is_none() => {
                bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok())
            }
            Err(_) => None,
        };
        let start = self.text.len();
        let shown = match text {
            Some(text) => self.quoted(text, room),
            None => {
                let shown = bytes.get(..bytes.len().min(room / 2)).unwrap_or(bytes);
                self.text.push_str("{\"hex\":\"");
                for byte in shown {
                    let _ = write!(self.text, "{byte:02x}");
                }
                self.text.push_str("\"}");
                shown.len()
            }
        };
        let lacks = to_u64(bytes.len() - shown).saturating_add(missing);
        if lacks > 0 {
            self.cut = self.cut.saturating_add(lacks);
            if text.is_some() {
                self.text.insert_str(start, "{\"text\":");
            } else {
                self.text.pop();
            }
            let _ = write!(self.text, ",\"missing\":{lacks}}}");
        }
        Ok(())
    }

    /// A string of at most `room` bytes; how many bytes of `text` are in it.
    fn quoted(&mut self, text: &str, room: usize) -> usize {
        let most = self.text.len().saturating_add(room);
        self.text.push('"');
        let mut shown = text.len();
        for (at, character) in text.char_indices() {
            if self.text.len() >= most {
                shown = at;
                break;
            }
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                control if control < ' ' => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(control));
                }
                other => self.text.push(other),
            }
        }
        self.text.push('"');
        shown
    }

    fn plain(&mut self, text: &str) -> Result<(), Stop> {
        self.room()?;
        self.comma();
        self.text.push_str(text);
        Ok(())
    }

    fn room(&self) -> Result<(), Stop> {
        if self.text.len() + 2 * SPARE > self.most { Err(Stop::Full) } else { Ok(()) }
    }

    fn comma(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('[') {
            self.text.push(',');
        }
    }
}
