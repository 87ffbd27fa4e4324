//! One line an event, for people:
//! `14:02:11.483920 mariadbd[4711/4802] conn 7  query ok 3 rows 0.8 ms  select * from orders where id = 17`
//!
//! The host writes the prefix and what was lost at the end; between them stands the event's template. Captured text is
//! escaped ([`super::escape`]), so a line is an event and an event a line (`--multiline`: and its indented lines). What
//! is *not* promised is that a suffix like `[9 bytes missing]` was not captured text: JSON has a key for that.

use std::io::Write as _;

use crate::event::template::Part;
use crate::event::{Event, Value};
use crate::stream::exchange::Exchange;
use crate::stream::options::{Bodies, is_text};

use super::encode::{decimal, float, hex_byte, signed};
use super::escape;
use super::grpc;
use super::session::{Gap, Render, SessionEnd, SessionStart};
use super::table::Table;
use super::time::time_of_day;

/// Bytes of a `bytes` column that fit a line of text; the rest is counted. `-o hex` shows all.
const SHOWN_BYTES: usize = 32;

/// Options of the format.
#[derive(Debug, Clone, Copy, Default)]
pub struct TextOptions {
    /// Seconds east of UTC for the time of day.
    pub utc_offset_s: i32,
    /// Line feeds in captured text begin an indented line.
    pub multiline: bool,
    /// Colours. The caller knows whether this is a terminal.
    pub color: bool,
    /// Bodies of requests and responses that follow their line, indented.
    pub bodies: Bodies,
    /// Columns of the terminal; 0: it is none, or nobody knows.
    pub columns: u16,
}

/// The format.
#[derive(Debug, Default)]
pub struct Text {
    options: TextOptions,
    table: Table,
}

#[derive(Clone, Copy)]
enum Style {
    Dim,
    Name,
    Warn,
}

impl Text {
    /// With these options.
    pub fn new(options: TextOptions) -> Self {
        Self { options, table: Table::default() }
    }

    /// `14:02:11.483920 mariadbd[4711/4802] `
    pub(super) fn prefix(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.styled(Style::Dim, out, |out| time_of_day(event.wall_ns, self.options.utc_offset_s, out));
        out.push(b' ');
        self.styled(Style::Name, out, |out| escape::text(event.program(), out));
        out.push(b'[');
        decimal(event.pid.into(), out);
        out.push(b'/');
        decimal(event.tid.into(), out);
        out.extend_from_slice(b"] ");
    }

    /// What has to be said at the end of a line, and the end of the line.
    pub(super) fn suffix(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        let number = |number: u64, before: &str, after: &str, out: &mut Vec<u8>| {
            if number != 0 {
                self.styled(Style::Warn, out, |out| {
                    out.extend_from_slice(before.as_bytes());
                    decimal(number, out);
                    out.extend_from_slice(after.as_bytes());
                });
            }
        };
        let fact = |is: bool, text: &str, out: &mut Vec<u8>| {
            if is {
                self.styled(Style::Warn, out, |out| out.extend_from_slice(text.as_bytes()));
            }
        };
        number(event.missing, " [", if event.missing == 1 { " byte missing]" } else { " bytes missing]" }, out);
        fact(event.flags.partial() && event.missing == 0, " [incomplete]", out);
        fact(event.flags.state_lost(), " [statement text unknown: decoder restarted]", out);
        number(event.refused.into(), " [", " columns dropped]", out);
        number(event.lost_before, " [lost ", " before]", out);
        out.push(b'\n');
    }

    fn styled(&self, style: Style, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.options.color {
            return write(out);
        }
        let code: &[u8] = match style {
            Style::Dim => b"\x1b[2m",
            Style::Name => b"\x1b[36m",
            Style::Warn => b"\x1b[33m",
        };
        out.extend_from_slice(code);
        write(out);
        out.extend_from_slice(b"\x1b[0m");
    }

    fn parts(&self, parts: &[Part], event: &Event<'_>, out: &mut Vec<u8>) {
        for part in parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Column(column) => match event.value(*column) {
                    Some(value) => self.value(value, out),
                    None => out.push(b'-'),
                },
                Part::Group(inner) => {
                    let absent = |part: &Part| matches!(part, Part::Column(c) if event.value(*c).is_none());
                    if !inner.iter().any(absent) {
                        self.parts(inner, event, out);
                    }
                }
            }
        }
    }

    /// A value as it stands in a line.
    pub(super) fn value(&self, value: Value<'_>, out: &mut Vec<u8>) {
        match value {
            Value::Text(bytes) if self.options.multiline => escape::multiline(bytes, out),
            Value::Text(bytes) => escape::text(bytes, out),
            Value::Bytes(bytes) => {
                out.extend_from_slice(b"0x");
                bytes.iter().take(SHOWN_BYTES).for_each(|b| hex_byte(*b, out));
                if let Some(more) = bytes.len().checked_sub(SHOWN_BYTES).filter(|more| *more > 0) {
                    let _ = write!(out, "... ({more} more bytes)");
                }
            }
            Value::U64(number) | Value::Id(number) => decimal(number, out),
            Value::I64(number) => signed(number, out),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Duration(ns) => duration(ns, out),
            Value::F64(number) if number.is_finite() => float(number, out),
            Value::F64(number) => _ = write!(out, "{number}"),
        }
    }

    /// The event without a template: `mysql.query db.query.text=select 1`.
    fn fallback(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(event.schema.name().as_bytes());
        for (column, value) in event.columns() {
            out.push(b' ');
            out.extend_from_slice(column.name().as_bytes());
            out.push(b'=');
            self.value(value, out);
        }
    }

    fn payload(&self, payload: &[u8], out: &mut Vec<u8>) {
        match std::str::from_utf8(payload) {
            _ if payload.is_empty() => {}
            Ok(_) => {
                out.extend_from_slice(b"  ");
                self.value(Value::Text(payload), out);
            }
            Err(_) => _ = write!(out, "  ({} bytes that are not text: -o hex shows them)", payload.len()),
        }
    }
}

impl Text {
    /// What was said, each half in an indented line of its own, or in several with `multiline`.
    fn bodies(&self, exchange: &Exchange, out: &mut Vec<u8>) {
        let request = exchange.request.iter().map(|request| (&b"> "[..], &request.message));
        let response = exchange.response.iter().map(|response| (&b"< "[..], &response.message));
        for (mark, message) in request.chain(response) {
            let body = &message.body;
            if grpc::shows(message, self.options.bodies) {
                for line in grpc::text(message) {
                    out.extend_from_slice(escape::INDENT.get(1..).unwrap_or_default());
                    out.extend_from_slice(mark);
                    self.value(Value::Text(&line), out);
                    out.push(b'\n');
                }
                continue;
            }
            if !self.options.bodies.shows(&body.bytes) {
                continue;
            }
            // The line before ends already.
            out.extend_from_slice(escape::INDENT.get(1..).unwrap_or_default());
            out.extend_from_slice(mark);
            if is_text(&body.bytes) {
                self.value(Value::Text(&body.bytes), out);
            } else {
                let _ = write!(out, "({} bytes that are not text: -o json has them)", body.bytes.len());
            }
            if let Some(more) = body.decoded.checked_sub(body.bytes.len() as u64).filter(|more| *more > 0) {
                let _ = write!(out, " ... ({more} more bytes)");
            }
            if let Some(problem) = &body.problem {
                out.extend_from_slice(b" [");
                escape::text(problem.as_bytes(), out);
                out.push(b']');
            }
            out.push(b'\n');
        }
    }
}

impl Text {
    /// A row of a digest.
    fn row(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let mut table = std::mem::take(&mut self.table);
        table.row(event, self.options.columns, out, |out| {
            self.styled(Style::Dim, out, |out| time_of_day(event.wall_ns, self.options.utc_offset_s, out));
            out.push(b' ');
            self.styled(Style::Name, out, |out| escape::text(event.schema.module().as_bytes(), out));
            out.extend_from_slice(b", the most frequent first\n");
        });
        self.table = table;
    }
}

impl Render for Text {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if Table::takes(event) {
            return self.row(event, out);
        }
        self.prefix(event, out);
        match event.schema.text().parts() {
            [] => self.fallback(event, out),
            parts => self.parts(parts, event, out),
        }
        self.payload(event.payload, out);
        self.suffix(event, out);
        if let Some(exchange) = event.exchange {
            self.bodies(exchange, out);
        }
    }

    /// Text begins with the first event: what a person has to know at start is said on stderr.
    fn session_start(&mut self, _: &SessionStart, _: &mut Vec<u8>) {}

    /// And the summary is for stderr too.
    fn session_end(&mut self, _: &SessionEnd<'_>, _: &mut Vec<u8>) {}

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        self.styled(Style::Warn, out, |out| {
            time_of_day(gap.last_ns, self.options.utc_offset_s, out);
            let events = if gap.lost == 1 { "event" } else { "events" };
            let _ = write!(out, " [{} {events} not written here since ", gap.lost);
            time_of_day(gap.first_ns, self.options.utc_offset_s, out);
            out.extend_from_slice(b": ");
            escape::text(gap.reason.as_bytes(), out);
            out.push(b']');
        });
        out.push(b'\n');
    }
}

/// `37 us`, `0.8 ms`, `12.3 s`: tenths of a millisecond are what a person compares queries by.
pub(super) fn duration(ns: u64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let mut tenths = |unit: u64, name: &str| _ = write!(out, "{}.{} {name}", ns / unit, ns % unit / (unit / 10));
    match ns {
        100_000..10_000_000_000 => tenths(1_000_000, "ms"),
        10_000_000_000.. => tenths(1_000_000_000, "s"),
        1_000.. => _ = write!(out, "{} us", ns / 1_000),
        _ => _ = write!(out, "{ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Flags;
    use crate::sink::samples::{self, render_one};

    fn line(options: TextOptions, event: &Event<'_>) -> String {
        render_one(&mut Text::new(options), event)
    }

    #[test]
    fn the_example_of_the_documentation() {
        let schema = samples::schema();
        let fields = samples::query_fields();
        let event = samples::event(&schema, &fields);
        let expected =
            "14:02:11.483920 mariadbd[4711/4802] conn 7  query ok 3 rows 0.8 ms  select * from orders where id = 17\n";
        assert_eq!(line(TextOptions::default(), &event), expected);
        let later = line(TextOptions { utc_offset_s: 3600, ..TextOptions::default() }, &event);
        assert!(later.starts_with("15:02:11.483920 "), "{later}");
    }

    #[test]
    fn a_group_without_its_column_is_left_out() {
        let schema = samples::schema();
        let fields = samples::fields(&[("ecapture.connection.id", Value::Id(7)), ("db.query.text", Value::Text(b"x"))]);
        let text = line(TextOptions::default(), &samples::event(&schema, &fields));
        assert_eq!(text, "14:02:11.483920 mariadbd[4711/4802] conn 7  x\n");
        let text = line(TextOptions::default(), &samples::event(&schema, &[]));
        assert_eq!(text, "14:02:11.483920 mariadbd[4711/4802] conn -  -\n");
    }

    #[test]
    fn losses_stand_at_the_end() {
        let schema = samples::schema();
        let fields = samples::fields(&[("db.query.text", Value::Text(b"x"))]);
        let mut event = samples::event(&schema, &fields);
        (event.missing, event.lost_before) = (12, 3);
        event.flags = Flags(Flags::STATE_LOST | Flags::PARTIAL);
        let text = line(TextOptions::default(), &event);
        let end = "x [12 bytes missing] [statement text unknown: decoder restarted] [lost 3 before]\n";
        assert!(text.ends_with(end), "{text}");
        event.missing = 0;
        assert!(line(TextOptions::default(), &event).contains("x [incomplete] [statement"));
    }

    #[test]
    fn without_a_template_names_and_values_are_printed() {
        let schema = samples::schema();
        let fields = [
            crate::event::Field { column: 0, value: Value::Bytes(&[0xab; 40]) },
            crate::event::Field { column: 1, value: Value::F64(f64::NAN) },
        ];
        let mut event = samples::event(&schema, &fields);
        event.schema = schema.event(1).unwrap();
        event.payload = b"\xff";
        let text = line(TextOptions::default(), &event);
        let end = format!(
            "] mysql.raw raw.bytes=0x{}... (8 more bytes) raw.ratio=NaN  (1 bytes that are not text: -o hex shows them)\n",
            "ab".repeat(32)
        );
        assert!(text.ends_with(&end), "{text}");
    }

    #[test]
    fn a_process_cannot_drive_the_terminal_by_its_name() {
        let schema = samples::schema();
        let mut event = samples::event(&schema, &[]);
        event.exe = Some(b"/tmp/\x1b]0;x\x07\n");
        let text = line(TextOptions::default(), &event);
        assert!(text.contains(" \\x1b]0;x\\x07\\n[4711/"), "{text}");
    }

    #[test]
    fn colours_only_on_request() {
        let schema = samples::schema();
        let event = samples::event(&schema, &[]);
        assert!(!line(TextOptions::default(), &event).contains('\x1b'));
        let colored = line(TextOptions { color: true, ..TextOptions::default() }, &event);
        assert!(colored.starts_with("\x1b[2m14:02:11.483920\x1b[0m \x1b[36mmariadbd\x1b[0m["), "{colored:?}");
    }

    #[test]
    fn durations_read_well() {
        let of = |ns| {
            let mut out = Vec::new();
            duration(ns, &mut out);
            String::from_utf8(out).unwrap()
        };
        let cases = [
            (999, "999 ns"),
            (37_900, "37 us"),
            (100_000, "0.1 ms"),
            (800_000, "0.8 ms"),
            (9_999_999_999, "9999.9 ms"),
        ];
        for (ns, text) in cases.into_iter().chain([(12_340_000_000, "12.3 s"), (u64::MAX, "18446744073.7 s")]) {
            assert_eq!(of(ns), text);
        }
    }

    proptest! {
        #[test]
        fn an_event_is_a_line(query in prop::collection::vec(any::<u8>(), 0..60), multiline in any::<bool>()) {
            let schema = samples::schema();
            let fields = samples::fields(&[("db.query.text", Value::Text(&query))]);
            let mut event = samples::event(&schema, &fields);
            event.comm = &query;
            event.exe = None;
            event.payload = &query;
            let text = line(TextOptions { multiline, ..TextOptions::default() }, &event);
            let begins = text.lines().filter(|line| !line.starts_with("    ")).count();
            prop_assert_eq!(begins, 1);
            prop_assert!(multiline || text.lines().count() == 1);
            prop_assert!(text.ends_with('\n') && !text.contains('\x1b'));
        }
    }
}
