//! From the kernel side's messages (bpf/module.h) to events. What comes is hostile as far as the program that was captured
//! from is: every length is checked, nothing is indexed, memory is bounded.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use ecapture_plugin_api::sdk::{Decode, Error, Out, Record};

const HEAD: usize = 40;
/// A text that is as long as the kernel side reads was longer.
const TEXT_MAX: usize = 32768;
/// SQLite's own limit for the number of a parameter.
const PARAMETERS: u32 = 32766;
/// Statements that are remembered; beyond that, all are forgotten and what refers to them says so.
const STATEMENTS: usize = 50_000;

/// What is known of a statement of a process.
#[derive(Default)]
struct Statement {
    text: Vec<u8>,
    missing: u64,
    began_ns: u64,
    running: bool,
    /// As written in SQL, and the bytes that it lacks.
    values: BTreeMap<u32, (String, u64)>,
}

/// The decoder.
pub struct Decoder {
    parameters: bool,
    statements: HashMap<(u32, u64), Statement>,
}

impl Decoder {
    /// `parameters`: show values.
    pub fn new(parameters: bool) -> Self {
        Self { parameters, statements: HashMap::new() }
    }

    fn end(&mut self, key: (u32, u64), result: i64, rows: u64, now_ns: u64, out: &mut Out<'_>) {
        let Some(statement) = self.statements.get_mut(&key) else {
            // Begun before the capture, or forgotten: that it ended is known all the same.
            out.event(0).text(0, "sqlite").text(3, &outcome(result)).u64(5, rows).state_lost().emit();
            return;
        };
        let values = self.parameters.then(|| shown(&statement.values)).filter(|v| !v.is_empty());
        let code = (result > 0 && result != 101).then(|| result.to_string());
        out.event(0)
            .text(0, "sqlite")
            .text(1, &statement.text)
            .text_if(2, values.as_ref())
            .text(3, &outcome(result))
            .text_if(4, code.as_ref())
            .u64(5, rows)
            .u64(6, now_ns.saturating_sub(statement.began_ns))
            .missing(statement.missing + statement.values.values().map(|v| v.1).sum::<u64>())
            .emit();
        statement.running = false;
    }
}

impl Decode for Decoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        if record.lost_before() > 0 {
            // Something in between is missing: what is remembered may be of another statement by now.
            self.statements.clear();
        }
        let (head, bytes) = record.data().split_first_chunk::<HEAD>().ok_or_else(|| Error::new("too short"))?;
        let word = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (key, value) = ((record.process(), long(8)), long(16).cast_signed());
        if self.statements.len() >= STATEMENTS && !self.statements.contains_key(&key) {
            self.statements.clear();
        }
        let cut = u64::from(bytes.len() >= TEXT_MAX - 1);
        match word(0) {
            1 => {
                let statement = self.statements.entry(key).or_default();
                statement.text = bytes.to_vec();
                statement.missing = record.missing().max(cut);
                statement.began_ns = record.time_ns();
                statement.running = true;
            }
            2 => self.end(key, value, long(24), record.time_ns(), out),
            3 => {
                let value = match word(32) {
                    0 => "NULL".into(),
                    1 => value.to_string(),
                    2 => "?".into(),
                    3 => format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''")),
                    4 => bytes.iter().fold("x'".to_owned(), |mut hex, b| {
                        let _ = write!(hex, "{b:02x}");
                        hex
                    }) + "'",
                    _ => return Err(Error::new("a value of no known type")),
                };
                if (1..=PARAMETERS).contains(&word(4)) {
                    self.statements.entry(key).or_default().values.insert(word(4), (value, record.missing().max(cut)));
                }
            }
            4 => {
                if self.statements.get(&key).is_some_and(|s| s.running) {
                    self.end(key, value, long(24), record.time_ns(), out);
                }
                self.statements.remove(&key);
            }
            _ => return Err(Error::new("a message of no known kind")),
        }
        Ok(())
    }
}

/// In the order of their numbers; what was never bound is NULL.
fn shown(values: &BTreeMap<u32, (String, u64)>) -> String {
    let last = values.keys().next_back().copied().unwrap_or(0);
    let all: Vec<&str> = (1..=last).map(|n| values.get(&n).map_or("NULL", |v| v.0.as_str())).collect();
    all.join(", ")
}

fn outcome(result: i64) -> String {
    let name = match result & 0xff {
        _ if result < 0 => "stopped",
        101 => "done",
        5 => "SQLITE_BUSY",
        6 => "SQLITE_LOCKED",
        8 => "SQLITE_READONLY",
        9 => "SQLITE_INTERRUPT",
        13 => "SQLITE_FULL",
        19 => "SQLITE_CONSTRAINT",
        _ => "error",
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use ecapture_plugin_api::sdk::testing::{Collected, decode, record};

    use super::*;

    fn message(kind: u32, number: u32, value: i64, kind_of_value: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = [kind.to_le_bytes(), number.to_le_bytes()].concat();
        out.extend(7_u64.to_le_bytes());
        out.extend(value.to_le_bytes());
        out.extend(3_u64.to_le_bytes());
        out.extend(kind_of_value.to_le_bytes());
        out.extend([0; 4]);
        out.extend(bytes);
        out
    }

    #[test]
    fn a_statement_with_values_is_one_event() {
        let messages = [
            message(3, 2, 5, 3, b"it's"),
            message(3, 1, -4, 1, b""),
            message(1, 0, 0, 0, b"select ?1, ?2"),
            message(2, 0, 101, 0, b""),
        ];
        let records: Vec<_> = messages.iter().map(|m| record(m)).collect();
        let mut sink = Collected::default();
        decode(&mut Decoder::new(true), &records, &mut sink);
        let [event] = sink.events.as_slice() else { panic!("{sink:?}") };
        assert_eq!(event.text(1).as_deref(), Some("select ?1, ?2"));
        assert_eq!(event.text(2).as_deref(), Some("-4, 'it''s'"));
        assert_eq!((event.text(3).as_deref(), event.u64(5)), (Some("done"), Some(3)));
    }

    #[test]
    fn nonsense_is_refused_and_never_a_panic() {
        for bytes in [vec![], vec![1; 39], message(9, 0, 0, 0, b""), message(3, 1, 0, 77, b"x")] {
            let mut sink = Collected::default();
            decode(&mut Decoder::new(true), &[record(&bytes)], &mut sink);
            assert_eq!((sink.events.len(), sink.undecodable.len()), (0, 1), "{bytes:?}");
        }
    }
}
