//! `[[bpf]]`, `[[stream]]` and `[[event]]`.

use super::Result;
use crate::manifest::{
    BpfObject, Column, ColumnType, Event, MAX_COLUMNS, MAX_EVENTS, MAX_HELP, MAX_PARTS, Stream, Template, names,
    parse_size,
    reader::{Field, Section, quote},
};

const COLUMN_TYPES: &[(&str, ColumnType)] = &[
    ("text", ColumnType::Text),
    ("bytes", ColumnType::Bytes),
    ("u64", ColumnType::U64),
    ("i64", ColumnType::I64),
    ("bool", ColumnType::Bool),
    ("duration", ColumnType::Duration),
    ("id", ColumnType::Id),
    ("f64", ColumnType::F64),
];

/// A size in bytes, as text with a unit or as an integer, within a range.
pub(super) fn size(field: &Field<'_>, min: u64, max: u64) -> Result<u64> {
    let bytes = if field.is_int() {
        field.int()?
    } else {
        let text = field.str()?;
        parse_size(text)
            .ok_or_else(|| field.error(format!("{} is not a size, as \"64KiB\" or \"1MiB\"", quote(text))))?
    };
    match u64::try_from(bytes) {
        Ok(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(field.error(format!("{bytes} bytes; {min} to {max} are allowed"))),
    }
}

fn once(field: &Field<'_>, name: &str, mut others: impl Iterator<Item = impl AsRef<str>>) -> Result<()> {
    if others.any(|o| o.as_ref() == name) {
        return Err(field.error(format!("{} is there twice", quote(name))));
    }
    Ok(())
}

pub(super) fn read_bpf(root: &Section<'_>) -> Result<Vec<BpfObject>> {
    let mut objects: Vec<BpfObject> = Vec::new();
    for section in root.tables("bpf", MAX_PARTS)? {
        section.only(&["id"])?;
        let field = section.need("id")?;
        let id = field.name()?;
        once(&field, &id, objects.iter().map(|o| &o.id))?;
        objects.push(BpfObject { id });
    }
    Ok(objects)
}

pub(super) fn read_streams(root: &Section<'_>) -> Result<Vec<Stream>> {
    let mut streams: Vec<Stream> = Vec::new();
    for section in root.tables("stream", MAX_PARTS)? {
        section.only(&["name", "map", "join", "join_max", "ring"])?;
        let field = section.need("name")?;
        let name = field.name()?;
        once(&field, &name, streams.iter().map(|s| &s.name))?;
        let join = section.get("join").map_or(Ok(false), |f| f.bool())?;
        let join_max = match section.get("join_max") {
            Some(field) if !join => return Err(field.error("needs join = true")),
            Some(field) => size(&field, 4 << 10, 64 << 20)?,
            None => 1 << 20,
        };
        let ring = match section.get("ring") {
            Some(field) => {
                let bytes = size(&field, 64 << 10, 1 << 30)?;
                if !bytes.is_power_of_two() {
                    return Err(field.error(format!("{bytes} bytes is not a power of two")));
                }
                bytes
            }
            None => 8 << 20,
        };
        let map = match section.get("map") {
            Some(field) => field.matching(names::is_identifier, "the name of a map")?,
            None => "ecap_events".to_owned(),
        };
        streams.push(Stream { name, map, join, join_max, ring });
    }
    Ok(streams)
}

pub(super) fn read_events(root: &Section<'_>) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    for section in root.tables("event", MAX_EVENTS)? {
        section.only(&["name", "help", "text", "column"])?;
        let field = section.need("name")?;
        let name = field.name()?;
        once(&field, &name, events.iter().map(|e| &e.name))?;
        let mut columns: Vec<Column> = Vec::new();
        for section in section.tables("column", MAX_COLUMNS)? {
            columns.push(read_column(&section, &columns)?);
        }
        let text = section.get("text").map(|f| template(&f, &columns)).transpose()?;
        let help = section.get("help").map(|f| f.help()).transpose()?.unwrap_or_default();
        events.push(Event { name, help, text, columns });
    }
    Ok(events)
}

fn read_column(section: &Section<'_>, others: &[Column]) -> Result<Column> {
    section.only(&["name", "type", "help"])?;
    let field = section.need("name")?;
    let name =
        field.matching(names::is_column, "a column's name: lower-case words with dots between, at most 64 bytes")?;
    once(&field, &name, others.iter().map(|c| &c.name))?;
    if names::is_host_column(&name) {
        return Err(field.error(format!("{} is filled in by the host", quote(&name))));
    }
    let kind = section.need("type")?.one_of(COLUMN_TYPES)?;
    Ok(Column { name, kind, help: section.need("help")?.help()? })
}

fn template(field: &Field<'_>, columns: &[Column]) -> Result<Template> {
    let text = field.line_of_text(MAX_HELP)?;
    let template = Template::parse(&text).map_err(|why| field.error(why))?;
    for used in template.columns() {
        if columns.iter().any(|c| c.name == used) {
            continue;
        }
        let hint = match names::did_you_mean(used, columns.iter().map(|c| c.name.as_str())) {
            Some(meant) => format!("; did you mean {{{meant}}}?"),
            None => String::new(),
        };
        return Err(field.error(format!("{} is not a column of this event{hint}", quote(used))));
    }
    Ok(template)
}
