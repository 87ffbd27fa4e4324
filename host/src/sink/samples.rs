//! Events for the tests of the sinks.

use crate::event::{Column, ColumnType, Event, Field, Flags, Schema, Value};

use super::session::Render;

const TEXT: &str = "conn {ecapture.connection.id}[  query {ecapture.outcome}][ {db.response.returned_rows} rows][ {ecapture.duration_ns}]  {db.query.text}";

const COLUMNS: [(&str, ColumnType); 8] = [
    ("ecapture.connection.id", ColumnType::Id),
    ("ecapture.outcome", ColumnType::Text),
    ("db.response.returned_rows", ColumnType::U64),
    ("ecapture.duration_ns", ColumnType::Duration),
    ("db.query.text", ColumnType::Text),
    ("ecapture.digest", ColumnType::Bytes),
    ("ecapture.ratio", ColumnType::F64),
    ("ecapture.delta", ColumnType::I64),
];

pub fn schema() -> Schema {
    let columns = |columns: &[(&str, ColumnType)]| columns.iter().map(|(n, t)| Column::new(n, *t).unwrap()).collect();
    let mut schema = Schema::new("mysql").unwrap();
    schema.push("query", TEXT, columns(&COLUMNS)).unwrap();
    schema.push("raw", "", columns(&[("raw.bytes", ColumnType::Bytes), ("raw.ratio", ColumnType::F64)])).unwrap();
    schema
}

pub fn fields<'a>(values: &[(&str, Value<'a>)]) -> Vec<Field<'a>> {
    let number = |name: &str| COLUMNS.iter().position(|(column, _)| *column == name).unwrap() as u16;
    values.iter().map(|(name, value)| Field { column: number(name), value: *value }).collect()
}

pub fn query_fields() -> Vec<Field<'static>> {
    fields(&[
        ("ecapture.connection.id", Value::Id(7)),
        ("ecapture.outcome", Value::Text(b"ok")),
        ("db.response.returned_rows", Value::U64(3)),
        ("ecapture.duration_ns", Value::Duration(800_000)),
        ("db.query.text", Value::Text(b"select * from orders where id = 17")),
    ])
}

pub fn event<'a>(schema: &'a Schema, fields: &'a [Field<'a>]) -> Event<'a> {
    Event {
        schema: schema.event(0).unwrap(),
        time_ns: 5_000_000_000_123,
        wall_ns: 1_795_442_531_483_920_123,
        pid: 4711,
        tid: 4802,
        uid: 110,
        cgroup: u64::MAX,
        comm: b"mariadbd",
        exe: Some(b"/usr/sbin/mariadbd"),
        container: None,
        target: Some(b"/usr/sbin/mariadbd"),
        stream: None,
        fields,
        refused: 0,
        payload: &[],
        secret: false,
        missing: 0,
        lost_before: 0,
        flags: Flags::default(),
        exchange: None,
    }
}

pub fn render_one(render: &mut dyn Render, event: &Event<'_>) -> String {
    let mut out = Vec::new();
    render.event(event, &mut out);
    String::from_utf8(out).unwrap()
}

/// The line as JSON, checked to be one.
pub fn parse_one(render: &mut dyn Render, event: &Event<'_>) -> serde_json::Value {
    let text = render_one(render, event);
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "{text:?}");
    serde_json::from_str(&text).unwrap()
}
