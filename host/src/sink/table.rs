//! The digest of statements as a table: a heading each time that it is told, then a row for each statement, as wide as the terminal.
//!
//! Rows come one by one and go out at once, so the columns have fixed widths; a number that is wider moves its own row only. The
//! statement comes last and takes what is left: in a terminal it is cut, elsewhere it is whole. What is too narrow for both has the statement
//! in a line of its own. Not here: how values are spelled (`text`), which rows there are (`statements::digest`).

use crate::event::{Event, Value};
use crate::statements::digest::{MAX_DIGESTS, is_digest};

use super::encode::decimal;
use super::escape;
use super::text::duration;

/// Columns of a terminal from which on the statement stands beside its numbers.
const BESIDE: usize = 120;
/// Columns from which on all numbers are shown.
const ALL: usize = 90;
/// What begins a statement in a line of its own.
const INDENT: &[u8] = b"    ";

/// A column: its heading, the key of its value, its width, and whether a narrow terminal has it.
struct Column {
    heading: &'static str,
    key: &'static str,
    width: usize,
    narrow: bool,
}

const fn column(heading: &'static str, key: &'static str, width: usize, narrow: bool) -> Column {
    Column { heading, key, width, narrow }
}

/// Numbers, to the right of their columns.
const NUMBERS: &[Column] = &[
    column("count", "ecapture.digest.count", 9, true),
    column("errors", "ecapture.digest.errors", 7, true),
    column("rows", "ecapture.digest.rows", 9, true),
    column("p50", "ecapture.digest.p50_ns", 9, true),
    column("p95", "ecapture.digest.p95_ns", 9, false),
    column("p99", "ecapture.digest.p99_ns", 9, false),
    column("max", "ecapture.digest.max_ns", 9, true),
];

/// Names, to the left.
const NAMES: &[Column] =
    &[column("event", "ecapture.digest.event", 7, true), column("database", "db.namespace", 10, true)];
const STATEMENT: &str = "db.query.summary";
const OTHERS: &str = "ecapture.digest.others";

/// What was told last, so that each telling has its heading.
#[derive(Debug, Default)]
pub struct Table {
    told: Option<(String, u64)>,
}

impl Table {
    /// Whether the event is a row of it.
    pub fn takes(event: &Event<'_>) -> bool {
        is_digest(event.schema)
    }

    /// Appends the row, behind the heading if it is the first of a telling. `heading`: writes what stands above. `columns`: of the terminal; 0:
    /// it is none.
    pub fn row(&mut self, event: &Event<'_>, columns: u16, out: &mut Vec<u8>, heading: impl FnOnce(&mut Vec<u8>)) {
        let columns = usize::from(columns);
        let narrow = (1..ALL).contains(&columns);
        let beside = !(1..BESIDE).contains(&columns);
        let told = (event.schema.module().to_string(), event.wall_ns);
        if self.told.as_ref() != Some(&told) {
            heading(out);
            self.told = Some(told);
            let shown = |column: &&Column| !narrow || column.narrow;
            for Column { heading, width, .. } in NUMBERS.iter().filter(shown) {
                pad(out, *width + 1, heading.len());
                out.extend_from_slice(heading.as_bytes());
            }
            for Column { heading, width, .. } in NAMES {
                out.extend_from_slice(b"  ");
                out.extend_from_slice(heading.as_bytes());
                pad(out, *width, heading.len());
            }
            if beside {
                out.extend_from_slice(b"  statement");
            }
            trim(out);
            out.push(b'\n');
        }
        let value = |key: &str| event.columns().find(|(column, _)| column.name() == key).map(|(_, value)| value);
        let start = out.len();
        let mut cell = Vec::new();
        for Column { key, width, .. } in NUMBERS.iter().filter(|column| !narrow || column.narrow) {
            cell.clear();
            match value(key) {
                Some(Value::U64(number)) => decimal(number, &mut cell),
                Some(Value::Duration(ns)) => duration(ns, &mut cell),
                _ => cell.push(b'-'),
            }
            pad(out, *width + 1, cell.len());
            out.extend_from_slice(&cell);
        }
        for Column { key, width, .. } in NAMES {
            cell.clear();
            match value(key) {
                Some(Value::Text(text)) => escape::text(text, &mut cell),
                _ => cell.push(b'-'),
            }
            out.extend_from_slice(b"  ");
            out.extend_from_slice(&cell);
            pad(out, *width, characters(&cell));
        }
        cell.clear();
        match (value(OTHERS), value(STATEMENT)) {
            (Some(_), _) => cell.extend(format!("(beyond the {MAX_DIGESTS} that are told apart)").into_bytes()),
            (_, Some(Value::Text(text))) => escape::text(text, &mut cell),
            _ => cell.extend_from_slice(b"(text unknown)"),
        }
        let room = if beside {
            out.extend_from_slice(b"  ");
            columns.saturating_sub(characters(out.get(start..).unwrap_or_default()))
        } else {
            trim(out);
            out.push(b'\n');
            out.extend_from_slice(INDENT);
            columns.saturating_sub(INDENT.len())
        };
        cut(&cell, if columns == 0 { usize::MAX } else { room.max(1) }, out);
        out.push(b'\n');
    }
}

/// Blanks for what `len` characters lack.
fn pad(out: &mut Vec<u8>, width: usize, len: usize) {
    out.resize(out.len() + width.saturating_sub(len), b' ');
}

fn trim(out: &mut Vec<u8>) {
    while out.last() == Some(&b' ') {
        out.pop();
    }
}

/// Characters of escaped text, which is UTF-8.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// At most `room` characters, the last three of them dots where some are missing.
fn cut(text: &[u8], room: usize, out: &mut Vec<u8>) {
    if characters(text) <= room {
        return out.extend_from_slice(text);
    }
    let kept = room.saturating_sub(3);
    let mut starts = (0..text.len()).filter(|at| text.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80));
    let end = starts.nth(kept).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.extend_from_slice(b"...".get(..room.min(3)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Field;
    use crate::sink::Render as _;
    use crate::sink::samples;
    use crate::sink::text::{Text, TextOptions};
    use crate::statements::digest::{Digest, Statement};

    fn table(columns: u16, statements: &[(&str, &str, u64, bool)]) -> String {
        let (schema, mut digest) = (samples::schema(), Digest::default());
        let event = samples::event(&schema, &[]);
        let mut text = Text::new(TextOptions { columns, ..TextOptions::default() });
        let mut out = Vec::new();
        for round in 0..2 {
            for (text, namespace, ns, failed) in statements {
                let mut event = samples::event(&schema, &[]);
                event.wall_ns += round;
                let (text, namespace) = (text.as_bytes(), namespace.as_bytes());
                let duration_ns = Some(*ns).filter(|ns| *ns > 0);
                digest.add(
                    &event,
                    &Statement { text, namespace, duration_ns, rows: 3, failed: *failed, ..Statement::default() },
                );
            }
            digest.tell(&mut |event| text.event(event, &mut out));
        }
        let _ = event;
        String::from_utf8(out).unwrap()
    }

    const SOME: &[(&str, &str, u64, bool)] = &[
        ("select * from orders where id = 17", "shop", 800_000, false),
        ("select * from orders where id = 18", "shop", 12_340_000_000, true),
        ("", "", 0, false),
        ("insert into \u{1b}[2Jl\u{f6}g (text, more, columns, than, fit) values ('x')", "sh\u{f6}p", 37_000, false),
    ];

    #[test]
    fn columns_are_aligned_and_each_telling_has_a_heading() {
        let whole = table(0, SOME);
        let expected = "\
14:02:11.483920 mysql, the most frequent first
     count  errors      rows       p50       p95       p99       max  event    database    statement
         2       1         6    0.8 ms    12.3 s    12.3 s    12.3 s  query    shop        select * from orders where id = ?
";
        assert!(whole.starts_with(expected), "{whole}");
        assert_eq!(whole.matches("the most frequent first").count(), 2);
        assert!(whole.contains("         1       0         3         -         -         -         -  query    -           (text unknown)\n"), "{whole}");
        assert!(whole.contains("query    sh\u{f6}p        insert into \\x1b [ ? \u{f6}g"), "{whole}");
        assert!(!whole.lines().any(|line| line.ends_with(' ')), "{whole}");
    }

    #[test]
    fn a_terminal_is_not_overrun() {
        for columns in [7, 20, 60, 80, 89, 90, 119, 120, 200] {
            let text = table(columns, SOME);
            let most = text
                .lines()
                .skip(2)
                .filter(|line| !line.contains("14:02"))
                .map(|line| line.chars().count())
                .max()
                .unwrap();
            // The numbers of a very narrow one are as wide as they are.
            assert!(most <= usize::from(columns).max(69), "{columns}: {most}\n{text}");
            assert_eq!(text.contains("p99"), columns >= 90);
            assert_eq!(text.contains("\n    select"), columns < 120 && columns > 12, "{text}");
            if columns <= 60 {
                assert!(text.contains("..."), "{text}");
            }
        }
        let beside = table(120, SOME);
        assert!(beside.contains("shop        select * from orders where...\n"), "{beside}");
    }

    #[test]
    fn what_is_beyond_says_so() {
        let (schema, mut digest) = (samples::schema(), Digest::default());
        let event = samples::event(&schema, &[]);
        for number in 0..=MAX_DIGESTS {
            let text = format!("select * from t{number}");
            digest.add(&event, &Statement { text: text.as_bytes(), ..Statement::default() });
        }
        let (mut text, mut out) = (Text::default(), Vec::new());
        digest.tell(&mut |event| text.event(event, &mut out));
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.ends_with("  others   -           (beyond the 10000 that are told apart)\n"),
            "{}",
            &out[out.len() - 200..]
        );
        assert_eq!(out.lines().count(), MAX_DIGESTS + 3);
    }

    #[test]
    fn other_events_are_lines_as_ever() {
        let schema = samples::schema();
        let fields = [Field { column: 4, value: Value::Text(b"select 1") }];
        assert!(!Table::takes(&samples::event(&schema, &fields)));
    }
}
