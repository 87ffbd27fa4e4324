//! JSON Lines: one flat object an event. The keys are explained in `docs/events.md`, their types fixed by
//! `docs/event.schema.json`.
//!
//! Written by hand: a value tree per event would cost more than everything else the collector does. What keeps it valid
//! is that every string goes through [`escape::json`], every name was checked by the schema, and the tests parse it all.

use crate::event::{Event, Value};
use crate::stream::options::Bodies;

use super::encode::{base64, decimal, float, signed};
use super::escape;
use super::exchange;
use super::session::{Gap, Render, SegmentEnd, SessionEnd, SessionStart};
use super::time::Rfc3339;

/// Version of the lines' schema: a number that grows when a key changes its meaning; new keys do not change it.
pub const SCHEMA_VERSION: u64 = 1;

/// The format.
#[derive(Debug, Default)]
pub struct Json {
    times: Rfc3339,
    bodies: Bodies,
}

impl Render for Json {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.times.write(event.wall_ns, out);
        // Names of modules, events and columns were checked when they were declared: nothing in them to escape.
        out.extend_from_slice(b"\",\"event.name\":\"");
        out.extend_from_slice(event.schema.name().as_bytes());
        out.extend_from_slice(b"\",\"ecapture.module\":\"");
        out.extend_from_slice(event.schema.module().as_bytes());
        out.extend_from_slice(b"\",\"process.pid\":");
        decimal(event.pid.into(), out);
        out.extend_from_slice(b",\"thread.id\":");
        decimal(event.tid.into(), out);
        text("thread.name", event.comm, out);
        if let Some(exe) = event.exe {
            text("process.executable.path", exe, out);
        }
        number("process.user.id", event.uid.into(), out);
        if let Some(container) = event.container {
            text("container.id", container.as_bytes(), out);
        }
        if event.cgroup != 0 {
            id("ecapture.cgroup.id", event.cgroup, out);
        }
        if let Some(target) = event.target {
            text("ecapture.target.path", target, out);
        }
        id("ecapture.monotonic_ns", event.time_ns, out);
        if let Some(stream) = event.stream {
            id("ecapture.stream.id", stream.id, out);
            if let Some(offset) = stream.offset {
                number("ecapture.stream.offset", offset, out);
            }
        }
        for (column, value) in event.columns() {
            column_value(column.name(), value, out);
        }
        if !event.payload.is_empty() {
            payload(event.payload, out);
        }
        if let Some(exchange) = event.exchange {
            exchange::json(exchange, self.bodies, out);
        }
        losses(event, out);
        out.extend_from_slice(b"}\n");
    }

    fn session_start(&mut self, start: &SessionStart, out: &mut Vec<u8>) {
        self.begin(start.wall_ns, "ecapture.session.start", out);
        number("ecapture.session.schema", SCHEMA_VERSION, out);
        text("ecapture.session.version", start.version.as_bytes(), out);
        text("host.name", start.host.as_bytes(), out);
        text("host.arch", start.arch.as_bytes(), out);
        text("os.version", start.kernel.as_bytes(), out);
        flag("ecapture.session.tainted", start.modules.iter().any(|module| module.tainted), out);
        key("ecapture.session.modules", out);
        list(&start.modules, out, |module, out| {
            out.extend_from_slice(b"{\"name\":");
            string(module.name.as_bytes(), out);
            text("version", module.version.as_bytes(), out);
            flag("tainted", module.tainted, out);
        });
        segment(start.segment, out);
        out.extend_from_slice(b"}\n");
    }

    fn segment_end(&mut self, end: &SegmentEnd<'_>, out: &mut Vec<u8>) {
        self.begin(end.wall_ns, "ecapture.session.continued", out);
        key("ecapture.session.modules", out);
        list(end.modules, out, |module, out| {
            out.extend_from_slice(b"{\"name\":");
            string(module.name.as_bytes(), out);
            number("events", module.events, out);
            number("sink_lost", module.lost, out);
        });
        segment(Some(end.segment), out);
        out.extend_from_slice(b"}\n");
    }

    fn session_end(&mut self, end: &SessionEnd<'_>, out: &mut Vec<u8>) {
        self.begin(end.wall_ns, "ecapture.session.end", out);
        number("ecapture.session.duration_ns", end.duration_ns, out);
        key("ecapture.session.modules", out);
        list(&end.summary.modules, out, |totals, out| {
            out.extend_from_slice(b"{\"name\":");
            string(totals.module.as_bytes(), out);
            for (name, value) in totals.numbers() {
                number(name, value, out);
            }
            number("unaccounted", totals.unaccounted(), out);
        });
        if let Some(packets) = &end.summary.packets {
            key("ecapture.session.packets", out);
            out.push(b'{');
            let from = out.len();
            packets.numbers().iter().for_each(|(name, value)| number(name, *value, out));
            // Each number brings its comma along.
            out.remove(from);
            out.push(b'}');
        }
        segment(end.segment, out);
        out.extend_from_slice(b"}\n");
    }

    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        self.begin(gap.last_ns, "ecapture.sink.gap", out);
        number("ecapture.lost", gap.lost, out);
        for (name, ns) in [("ecapture.sink.gap.first", gap.first_ns), ("ecapture.sink.gap.last", gap.last_ns)] {
            key(name, out);
            out.push(b'"');
            self.times.write(ns, out);
            out.push(b'"');
        }
        text("ecapture.sink.reason", gap.reason.as_bytes(), out);
        out.extend_from_slice(b"}\n");
    }
}

impl Json {
    /// With these bodies of requests and responses.
    pub fn new(bodies: Bodies) -> Self {
        Self { bodies, ..Self::default() }
    }

    fn begin(&mut self, wall_ns: u64, name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.times.write(wall_ns, out);
        out.extend_from_slice(b"\",\"event.name\":\"");
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
}

/// Which file of several this is.
fn segment(segment: Option<u64>, out: &mut Vec<u8>) {
    if let Some(segment) = segment {
        number("ecapture.session.segment", segment, out);
    }
}

fn column_value(name: &str, value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Text(bytes) => text(name, bytes, out),
        Value::Bytes(bytes) => exact(name, bytes, out),
        Value::U64(value) | Value::Duration(value) => number(name, value, out),
        Value::I64(value) => {
            key(name, out);
            signed(value, out);
        }
        Value::Bool(value) => flag(name, value, out),
        Value::Id(value) => id(name, value, out),
        Value::F64(value) => {
            key(name, out);
            float(value, out);
        }
    }
}

fn payload(payload: &[u8], out: &mut Vec<u8>) {
    number("ecapture.payload.size", payload.len() as u64, out);
    if std::str::from_utf8(payload).is_ok() {
        text("ecapture.payload.text", payload, out);
    } else {
        out.extend_from_slice(b",\"ecapture.payload.base64\":\"");
        base64(payload, out);
        out.push(b'"');
    }
}

/// What was cut, lost or dropped; nothing if nothing was.
fn losses(event: &Event<'_>, out: &mut Vec<u8>) {
    if event.missing != 0 {
        number("ecapture.truncated_bytes", event.missing, out);
    }
    if event.flags.partial() {
        flag("ecapture.partial", true, out);
    }
    if event.flags.state_lost() {
        flag("ecapture.state_lost", true, out);
    }
    if !event.flags.redacted().is_empty() {
        key("ecapture.redacted", out);
        for (number, name) in event.flags.redacted().names().enumerate() {
            out.extend_from_slice(if number == 0 { b"[\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
        }
        out.push(b']');
    }
    if event.lost_before != 0 {
        number("ecapture.lost", event.lost_before, out);
    }
    if event.refused != 0 {
        number("ecapture.columns_refused", event.refused.into(), out);
    }
}

/// `,"name":`
pub(super) fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(super) fn string(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let whole = escape::json(bytes, out);
    out.push(b'"');
    whole
}

/// Text, and the exact bytes beside it if the text can't say them.
pub(super) fn text(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    key(name, out);
    if !string(bytes, out) {
        exact(name, bytes, out);
    }
}

fn exact(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"ecapture.base64.");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    base64(bytes, out);
    out.push(b'"');
}

pub(super) fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    key(name, out);
    decimal(value, out);
}

fn id(name: &str, value: u64, out: &mut Vec<u8>) {
    key(name, out);
    out.push(b'"');
    decimal(value, out);
    out.push(b'"');
}

pub(super) fn flag(name: &str, value: bool, out: &mut Vec<u8>) {
    key(name, out);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// `[item,item]`; `write` leaves the closing brace of each object to us.
fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write(item, out);
        out.push(b'}');
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as J;

    use super::*;
    use crate::event::Flags;
    use crate::sink::samples::{self, parse_one};

    #[test]
    fn an_event_is_one_flat_object() {
        let schema = samples::schema();
        let fields = samples::query_fields();
        let line = parse_one(&mut Json::default(), &samples::event(&schema, &fields));
        assert_eq!(line["time"], "2026-11-23T14:02:11.483920123Z");
        assert_eq!(line["event.name"], "mysql.query");
        assert_eq!(line["ecapture.module"], "mysql");
        assert_eq!(line["process.pid"], 4711);
        assert_eq!(line["thread.id"], 4802);
        assert_eq!(line["thread.name"], "mariadbd");
        assert_eq!(line["process.executable.path"], "/usr/sbin/mariadbd");
        assert_eq!(line["ecapture.cgroup.id"], "18446744073709551615");
        assert_eq!(line["ecapture.monotonic_ns"], "5000000000123");
        assert_eq!(line["ecapture.connection.id"], "7");
        assert_eq!(line["db.response.returned_rows"], 3);
        assert_eq!(line["ecapture.duration_ns"], 800_000);
        assert_eq!(line["db.query.text"], "select * from orders where id = 17");
        assert!(line.as_object().unwrap().values().all(|v| !v.is_object() && !v.is_array()));
        for absent in ["ecapture.lost", "ecapture.truncated_bytes", "ecapture.partial", "ecapture.payload.size"] {
            assert!(line.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn losses_are_said_on_the_event() {
        let schema = samples::schema();
        let mut event = samples::event(&schema, &[]);
        (event.missing, event.lost_before, event.refused) = (9, 8, 7);
        event.flags = Flags(3);
        let line = parse_one(&mut Json::default(), &event);
        assert_eq!(line["ecapture.truncated_bytes"], 9);
        assert_eq!(line["ecapture.lost"], 8);
        assert_eq!(line["ecapture.columns_refused"], 7);
        assert_eq!(line["ecapture.partial"], true);
        assert_eq!(line["ecapture.state_lost"], true);
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_exactly() {
        let schema = samples::schema();
        let fields =
            samples::fields(&[("db.query.text", Value::Text(b"a\xffb")), ("ecapture.digest", Value::Bytes(b"xyz"))]);
        let mut event = samples::event(&schema, &fields);
        event.payload = b"\xff\x00\x01";
        let line = parse_one(&mut Json::default(), &event);
        assert_eq!(line["db.query.text"], "a\u{fffd}b");
        assert_eq!(line["ecapture.base64.db.query.text"], "Yf9i");
        assert_eq!(line["ecapture.base64.ecapture.digest"], "eHl6");
        assert_eq!(line["ecapture.payload.size"], 3);
        assert_eq!(line["ecapture.payload.base64"], "/wAB");
        event.payload = b"plain";
        assert_eq!(parse_one(&mut Json::default(), &event)["ecapture.payload.text"], "plain");
    }

    proptest! {
        #[test]
        fn whatever_was_captured_the_line_is_valid_and_single(
            query in prop::collection::vec(any::<u8>(), 0..60),
            name in prop::collection::vec(any::<u8>(), 0..16),
            payload in prop::collection::vec(any::<u8>(), 0..30),
            bits in any::<u64>(),
            number in any::<i64>(),
        ) {
            let schema = samples::schema();
            let fields = samples::fields(&[
                ("db.query.text", Value::Text(&query)),
                ("ecapture.digest", Value::Bytes(&query)),
                ("ecapture.ratio", Value::F64(f64::from_bits(bits))),
                ("ecapture.delta", Value::I64(number)),
                ("ecapture.connection.id", Value::Id(bits)),
            ]);
            let mut event = samples::event(&schema, &fields);
            event.comm = &name;
            event.exe = Some(&query);
            event.payload = &payload;
            event.wall_ns = bits;
            let line = parse_one(&mut Json::default(), &event);
            prop_assert_eq!(line["db.query.text"].as_str().unwrap(), String::from_utf8_lossy(&query));
            prop_assert_eq!(line["ecapture.delta"].as_i64(), Some(number));
            let ratio = f64::from_bits(bits);
            match &line["ecapture.ratio"] {
                J::Null => prop_assert!(!ratio.is_finite()),
                // serde_json may be one unit in the last place off; `encode` has the exact test.
                other => prop_assert!((other.as_f64().unwrap() / ratio - 1.0).abs() < 1e-15 || ratio.abs() < 1e-290),
            }
        }
    }
}
