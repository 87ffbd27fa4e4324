//! Numbers of statements that differ in their values only: how many, how many failed, rows, how long. Memory is bounded by
//! [`MAX_DIGESTS`]; what comes beyond is counted together, and that is said.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::histogram::Histogram;
use super::lex::Dialect;
use super::normal::normal;
use crate::event::{Column, ColumnType, Event, EventSchema, Field, Flags, Schema, Value};

/// Most statements that are told apart.
pub const MAX_DIGESTS: usize = 10_000;
/// Longest normalised statement that is kept, bytes; what is longer is told apart all the same.
const MAX_TEXT: usize = 1024;

const COLUMNS: [(&str, ColumnType); 11] = [
    ("ecapture.digest.event", ColumnType::Text),
    ("db.namespace", ColumnType::Text),
    ("db.query.summary", ColumnType::Text),
    ("ecapture.digest.count", ColumnType::U64),
    ("ecapture.digest.errors", ColumnType::U64),
    ("ecapture.digest.rows", ColumnType::U64),
    ("ecapture.digest.p50_ns", ColumnType::Duration),
    ("ecapture.digest.p95_ns", ColumnType::Duration),
    ("ecapture.digest.p99_ns", ColumnType::Duration),
    ("ecapture.digest.max_ns", ColumnType::Duration),
    ("ecapture.digest.others", ColumnType::U64),
];

/// Whether events of this schema are rows of a digest. Modules have no events with these columns.
#[must_use]
pub fn is_digest(schema: &EventSchema) -> bool {
    schema.columns().len() == COLUMNS.len()
        && schema.columns().iter().zip(COLUMNS).all(|(column, (name, _))| column.name() == name)
}

/// A statement, as its columns tell it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statement<'a> {
    /// Its text, if it is known.
    pub text: &'a [u8],
    /// The database.
    pub namespace: &'a [u8],
    /// How long it took, ns.
    pub duration_ns: Option<u64>,
    /// Rows that it returned.
    pub rows: u64,
    /// It failed.
    pub failed: bool,
    /// How its text is read.
    pub dialect: Dialect,
}

#[derive(Debug, Default)]
struct Entry {
    event: Arc<str>,
    namespace: Box<[u8]>,
    text: Box<[u8]>,
    count: u64,
    errors: u64,
    rows: u64,
    times: Histogram,
}

impl Entry {
    fn add(&mut self, statement: &Statement<'_>) {
        self.count += 1;
        self.errors += u64::from(statement.failed);
        self.rows = self.rows.saturating_add(statement.rows);
        if let Some(ns) = statement.duration_ns {
            self.times.add(ns);
        }
    }
}

/// The numbers of one module.
#[derive(Debug)]
struct Module {
    schema: Schema,
    entries: HashMap<(u64, u64), Entry>,
    others: Entry,
}

/// The numbers of all modules.
#[derive(Debug, Default)]
pub struct Digest {
    modules: Vec<(Arc<str>, Module)>,
    names: Vec<(String, Arc<str>)>,
    buffer: Vec<u8>,
    distinct: usize,
    /// Time of the last statement: monotonic, and of day.
    last: (u64, u64),
}

/// Two hashes: that two statements of a run share both is out of the question.
fn hashes(parts: [&[u8]; 3]) -> (u64, u64) {
    let mut first = DefaultHasher::new();
    parts.hash(&mut first);
    let one = first.finish();
    0x9e37_79b9_7f4a_7c15_u64.hash(&mut first);
    (one, first.finish())
}

impl Digest {
    /// Counts one.
    pub fn add(&mut self, event: &Event<'_>, statement: &Statement<'_>) {
        self.last = (event.time_ns, event.wall_ns);
        self.buffer.clear();
        normal(statement.text, statement.dialect, &mut self.buffer);
        let name = event.schema.name();
        let key = hashes([name.as_bytes(), statement.namespace, &self.buffer]);
        let Some(module) = module_of(&mut self.modules, event.schema.module()) else { return };
        if let Some(entry) = module.entries.get_mut(&key) {
            return entry.add(statement);
        }
        if self.distinct >= MAX_DIGESTS {
            return module.others.add(statement);
        }
        self.distinct += 1;
        let known = self.names.iter().find(|(known, _)| known == name).map(|(_, short)| short.clone());
        let event_name = known.unwrap_or_else(|| {
            let short: Arc<str> = name.rsplit('.').next().unwrap_or_default().into();
            self.names.push((name.to_owned(), short.clone()));
            short
        });
        let text = self.buffer.get(..self.buffer.len().min(MAX_TEXT)).unwrap_or_default();
        let namespace = statement.namespace.get(..statement.namespace.len().min(MAX_TEXT)).unwrap_or_default();
        let entry = module.entries.entry(key).or_insert_with(|| Entry {
            event: event_name,
            namespace: namespace.into(),
            text: text.into(),
            ..Entry::default()
        });
        entry.add(statement);
    }

    /// Tells everything, the most frequent first, and begins again.
    pub fn tell(&mut self, give: &mut dyn FnMut(&Event<'_>)) {
        let (time_ns, wall_ns) = self.last;
        for (_, module) in &mut self.modules {
            let Some(schema) = module.schema.event(0) else { continue };
            let mut entries: Vec<Entry> = module.entries.drain().map(|(_, entry)| entry).collect();
            entries.sort_by(|a, b| (b.count, &a.text, &a.namespace).cmp(&(a.count, &b.text, &b.namespace)));
            for entry in &entries {
                row(schema, entry, None, (time_ns, wall_ns), give);
            }
            let others = std::mem::take(&mut module.others);
            if others.count > 0 {
                row(schema, &others, Some(others.count), (time_ns, wall_ns), give);
            }
        }
        self.distinct = 0;
    }
}

fn module_of<'d>(modules: &'d mut Vec<(Arc<str>, Module)>, name: &Arc<str>) -> Option<&'d mut Module> {
    if let Some(place) = modules.iter().position(|(known, _)| known == name) {
        return modules.get_mut(place).map(|(_, module)| module);
    }
    let mut schema = Schema::new(name).ok()?;
    let columns: Result<Vec<_>, _> = COLUMNS.iter().map(|(name, ty)| Column::new(name, *ty)).collect();
    schema.push("digest", "", columns.ok()?).ok()?;
    modules.push((name.clone(), Module { schema, entries: HashMap::new(), others: Entry::default() }));
    modules.last_mut().map(|(_, module)| module)
}

fn row(
    schema: &EventSchema,
    entry: &Entry,
    others: Option<u64>,
    (time_ns, wall_ns): (u64, u64),
    give: &mut dyn FnMut(&Event<'_>),
) {
    let event = if others.is_some() { "others" } else { &entry.event };
    let values = [
        Some(Value::Text(event.as_bytes())),
        (!entry.namespace.is_empty()).then_some(Value::Text(&entry.namespace)),
        (!entry.text.is_empty()).then_some(Value::Text(&entry.text)),
        Some(Value::U64(entry.count)),
        Some(Value::U64(entry.errors)),
        Some(Value::U64(entry.rows)),
        entry.times.quantile(50).map(Value::Duration),
        entry.times.quantile(95).map(Value::Duration),
        entry.times.quantile(99).map(Value::Duration),
        entry.times.max().map(Value::Duration),
        others.map(Value::U64),
    ];
    let fields: Vec<Field<'_>> =
        (0..).zip(values).filter_map(|(column, value)| Some(Field { column, value: value? })).collect();
    give(&Event {
        schema,
        time_ns,
        wall_ns,
        pid: 0,
        tid: 0,
        uid: 0,
        cgroup: 0,
        comm: b"digest",
        exe: None,
        container: None,
        target: None,
        stream: None,
        fields: &fields,
        refused: 0,
        payload: &[],
        secret: false,
        missing: 0,
        lost_before: 0,
        flags: Flags(0),
        exchange: None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    #[test]
    fn what_is_beyond_the_bound_is_counted_together() {
        let (schema, mut digest) = (samples::schema(), Digest::default());
        let event = samples::event(&schema, &[]);
        let tables = MAX_DIGESTS as u64 + 50;
        for number in 0..tables {
            let text = format!("select * from t{number} where id = {number}");
            let statement =
                Statement { text: text.as_bytes(), duration_ns: Some(number), rows: 2, ..Statement::default() };
            digest.add(&event, &statement);
        }
        let (mut rows, mut count, mut others) = (0, 0, None);
        let number = |value: Option<Value<'_>>| match value {
            Some(Value::U64(number)) => Some(number),
            _ => None,
        };
        digest.tell(&mut |event| {
            rows += 1;
            count += number(event.value(3)).unwrap();
            others = number(event.value(10));
            assert_eq!(event.schema.name(), "mysql.digest");
        });
        assert_eq!((rows, count, others), (MAX_DIGESTS + 1, tables, Some(50)));
        digest.tell(&mut |_| panic!("told twice"));
    }
}
