//! What is said on a connection beside exchanges, as events: the columns that the host gives messages of WebSockets, Server-Sent Events
//! and pieces of streams.

use super::exchanges::{Ends, Told};
use crate::event::{Column, ColumnType, EventSchema, Field, Flags, Schema, SchemaError, Value};
use crate::stream::exchange::Direction;
use crate::stream::said::{Said, What};
use crate::stream::websocket::Kind;

/// Columns that all of them have.
const COMMON: &[(&str, ColumnType)] = &[
    ("network.io.direction", ColumnType::Text),
    ("network.local.address", ColumnType::Text),
    ("network.local.port", ColumnType::U64),
    ("network.peer.address", ColumnType::Text),
    ("network.peer.port", ColumnType::U64),
    ("ecapture.tls.address_source", ColumnType::Text),
];

/// Columns of what belongs to an exchange.
const OF: &[(&str, ColumnType)] = &[
    ("network.protocol.name", ColumnType::Text),
    ("ecapture.http.side", ColumnType::Text),
    ("ecapture.http.stream.id", ColumnType::Id),
    ("url.full", ColumnType::Text),
    ("url.scheme", ColumnType::Text),
    ("url.path", ColumnType::Text),
    ("server.address", ColumnType::Text),
    ("server.port", ColumnType::U64),
];

const WEBSOCKET: &[(&str, ColumnType)] = &[
    ("ecapture.websocket.type", ColumnType::Text),
    ("ecapture.websocket.size", ColumnType::U64),
    ("ecapture.websocket.wire_size", ColumnType::U64),
    ("ecapture.websocket.frames", ColumnType::U64),
    ("ecapture.websocket.compressed", ColumnType::Bool),
    ("ecapture.websocket.cut", ColumnType::Bool),
    ("ecapture.websocket.close.code", ColumnType::U64),
    ("ecapture.websocket.close.reason", ColumnType::Text),
    ("ecapture.websocket.problem", ColumnType::Text),
];
const WEBSOCKET_TEXT: &str = "websocket {ecapture.websocket.type}[ {ecapture.websocket.close.code}]\
    [ {ecapture.websocket.close.reason}] {ecapture.websocket.size} B[  {url.full}][  ({ecapture.websocket.problem})]";

const EVENT: &[(&str, ColumnType)] = &[
    ("ecapture.sse.type", ColumnType::Text),
    ("ecapture.sse.id", ColumnType::Text),
    ("ecapture.sse.retry_ms", ColumnType::U64),
];
const EVENT_TEXT: &str = "event {ecapture.sse.type}[ id {ecapture.sse.id}][  {url.full}]";

const PIECE: &[(&str, ColumnType)] = &[
    ("ecapture.piece.connection", ColumnType::Id),
    ("ecapture.piece.offset", ColumnType::U64),
    ("ecapture.piece.size", ColumnType::U64),
    ("ecapture.piece.calls", ColumnType::U64),
];
const PIECE_TEXT: &str = "{ecapture.piece.connection} at {ecapture.piece.offset}: {ecapture.piece.size} B\
    [  {network.local.address}:{network.local.port} peer {network.peer.address}:{network.peer.port}]";

/// How the events `<module>.websocket`, `<module>.sse` and `<module>.stream` are declared. They differ by direction only in the mark
/// with which a line of text begins.
#[derive(Debug)]
pub struct Schemas {
    transmit: Schema,
    receive: Schema,
}

impl Schemas {
    /// Of this module.
    ///
    /// # Errors
    /// The module's name is none.
    pub fn new(module: &str) -> Result<Self, SchemaError> {
        let with = |mark: &str| {
            let mut schema = Schema::new(module)?;
            let parts: [(&str, &str, &[&[_]]); 3] = [
                ("websocket", WEBSOCKET_TEXT, &[COMMON, OF, WEBSOCKET]),
                ("sse", EVENT_TEXT, &[COMMON, OF, EVENT]),
                ("stream", PIECE_TEXT, &[COMMON, PIECE]),
            ];
            for (name, text, columns) in parts {
                let columns = columns.iter().flat_map(|part| part.iter());
                let columns: Result<Vec<_>, _> = columns.map(|(name, ty)| Column::new(name, *ty)).collect();
                schema.push(name, &format!("{mark} {text}"), columns?)?;
            }
            Ok(schema)
        };
        Ok(Self { transmit: with(">")?, receive: with("<")? })
    }

    /// That of this one.
    pub fn of(&self, said: &Said) -> Option<&EventSchema> {
        let schema = if said.direction == Direction::Transmit { &self.transmit } else { &self.receive };
        schema.event(match said.what {
            What::Message(_) => 0,
            What::Event(_) => 1,
            What::Piece(_) => 2,
        })
    }
}

/// The columns and all else that an event has of it.
pub struct Shown<'a> {
    /// The columns.
    pub fields: Vec<Field<'a>>,
    /// What was said.
    pub payload: &'a [u8],
    /// Bytes that are missing of it.
    pub missing: u64,
    /// Whether it is all there.
    pub flags: Flags,
    /// Its place in its direction, if that is known.
    pub offset: Option<u64>,
}

/// The reason with which the other end closes, to be held while it is shown.
pub fn reason(said: &Said) -> Option<(u16, String)> {
    match &said.what {
        What::Message(message) => message.close(),
        _ => None,
    }
}

/// Works out the columns. `told`: of the exchange to which it belongs; `connection`: its number.
pub fn show<'a>(
    said: &'a Said,
    told: &'a Told<'a>,
    ends: &'a Ends,
    connection: u64,
    close: Option<&'a (u16, String)>,
    schema: &EventSchema,
) -> Shown<'a> {
    let mut fields = Vec::with_capacity(24);
    let mut put = |name: &str, value: Option<Value<'a>>| {
        let column = schema.columns().iter().position(|column| column.name() == name);
        let column = column.and_then(|column| u16::try_from(column).ok());
        fields.extend(column.zip(value).map(|(column, value)| Field { column, value }));
    };
    fn text(text: &str) -> Value<'_> {
        Value::Text(text.as_bytes())
    }
    put("network.io.direction", Some(text(if said.direction == Direction::Transmit { "transmit" } else { "receive" })));
    for (end, address, port) in [
        (&ends.local, "network.local.address", "network.local.port"),
        (&ends.peer, "network.peer.address", "network.peer.port"),
    ] {
        put(address, end.as_ref().map(|end| text(&end.0)));
        put(port, end.as_ref().map(|end| Value::U64(end.1.into())));
    }
    put("ecapture.tls.address_source", ends.source.as_deref().map(text));
    put("ecapture.http.side", said.of.client.map(|client| text(if client { "client" } else { "server" })));
    put("ecapture.http.stream.id", (said.of.substream != 0).then_some(Value::Id(said.of.substream)));
    put("url.full", told.full.as_deref().map(text));
    put("url.path", told.path.as_deref().map(text));
    if said.of.request.is_some() {
        put("url.scheme", Some(text(&told.scheme)));
        put("server.address", told.host.as_deref().map(text));
        put("server.port", told.port.map(|port| Value::U64(port.into())));
    }
    let partial = |is: bool| Flags(if is { Flags::PARTIAL } else { 0 });
    match &said.what {
        What::Message(message) => {
            put("network.protocol.name", Some(text("websocket")));
            put("ecapture.websocket.type", Some(text(kind(message.kind))));
            put("ecapture.websocket.size", Some(Value::U64(message.decoded)));
            put("ecapture.websocket.wire_size", Some(Value::U64(message.wire)));
            put("ecapture.websocket.frames", Some(Value::U64(message.frames)));
            put("ecapture.websocket.compressed", Some(Value::Bool(message.compressed)));
            let cut = message.decoded > message.bytes.len() as u64 && message.missing == 0;
            put("ecapture.websocket.cut", cut.then_some(Value::Bool(true)));
            put("ecapture.websocket.close.code", close.map(|close| Value::U64(close.0.into())));
            let reason = close.map(|close| close.1.as_str()).filter(|reason| !reason.is_empty());
            put("ecapture.websocket.close.reason", reason.map(text));
            put("ecapture.websocket.problem", message.problem.as_deref().map(text));
            let payload = if close.is_some() { &[][..] } else { &message.bytes };
            let flags = partial(!message.complete || message.problem.is_some());
            Shown { fields, payload, missing: message.missing, flags, offset: None }
        }
        What::Event(event) => {
            put("network.protocol.name", Some(text("http")));
            put("ecapture.sse.type", Some(text(event.event.as_deref().unwrap_or("message"))));
            put("ecapture.sse.id", event.id.as_deref().map(text));
            put("ecapture.sse.retry_ms", event.retry.map(Value::U64));
            let payload = event.data.as_bytes();
            Shown { fields, payload, missing: event.cut, flags: partial(event.cut > 0), offset: None }
        }
        What::Piece(piece) => {
            put("ecapture.piece.connection", Some(Value::Id(connection)));
            put("ecapture.piece.offset", Some(Value::U64(piece.offset)));
            put("ecapture.piece.size", Some(Value::U64(piece.bytes.len() as u64)));
            put("ecapture.piece.calls", (piece.calls > 0).then_some(Value::U64(piece.calls)));
            let flags = partial(piece.missing > 0);
            Shown { fields, payload: &piece.bytes, missing: piece.missing, flags, offset: Some(piece.offset) }
        }
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Binary => "binary",
        Kind::Close => "close",
        Kind::Ping => "ping",
        Kind::Pong => "pong",
        Kind::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::exchange::{Exchange, Request};
    use crate::stream::follow::Piece;
    use crate::stream::sse::Event;
    use crate::stream::websocket::Message;

    fn said(direction: Direction, what: What) -> Said {
        let request = Request { target: b"/chat".to_vec(), authority: Some(b"h".to_vec()), ..Request::default() };
        let of = Exchange { client: Some(true), request: Some(request), ..Exchange::default() };
        Said { of, direction, time_ns: 1, what }
    }

    fn columns(said: &Said) -> (String, Vec<(String, String)>, Vec<u8>) {
        let schemas = Schemas::new("openssl").unwrap();
        let (ends, schema) = (Ends { tls: true, ..Ends::default() }, schemas.of(said).unwrap());
        let (told, close) = (Told::new(&said.of, &ends), reason(said));
        let shown = show(said, &told, &ends, 7, close.as_ref(), schema);
        let name = |field: &Field<'_>| schema.columns()[usize::from(field.column)].name().to_owned();
        let value = |field: &Field<'_>| match field.value {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        let fields = shown.fields.iter().map(|field| (name(field), value(field))).collect();
        (schema.name().to_owned(), fields, shown.payload.to_vec())
    }

    #[test]
    fn each_has_its_columns() {
        let message = Message {
            direction: Direction::Receive,
            kind: Kind::Close,
            bytes: b"\x03\xe8bye".to_vec(),
            decoded: 5,
            wire: 5,
            missing: 0,
            frames: 1,
            compressed: false,
            complete: true,
            began_ns: 1,
            ended_ns: 1,
            problem: None,
        };
        let (name, fields, payload) = columns(&said(Direction::Receive, What::Message(message)));
        let has = |fields: &[(String, String)], name: &str, value: &str| {
            assert!(fields.contains(&(name.into(), value.into())), "{name}: {fields:?}");
        };
        assert_eq!((name.as_str(), payload.as_slice()), ("openssl.websocket", &b""[..]));
        has(&fields, "ecapture.websocket.type", "close");
        has(&fields, "ecapture.websocket.close.code", "U64(1000)");
        has(&fields, "ecapture.websocket.close.reason", "bye");
        has(&fields, "url.full", "https://h/chat");
        has(&fields, "network.io.direction", "receive");
        let event = Event { data: "x".into(), id: Some("4".into()), ..Event::default() };
        let (name, fields, payload) = columns(&said(Direction::Receive, What::Event(event)));
        assert_eq!((name.as_str(), payload.as_slice()), ("openssl.sse", &b"x"[..]));
        has(&fields, "ecapture.sse.type", "message");
        has(&fields, "ecapture.sse.id", "4");
        let piece = Piece { offset: 9, bytes: b"abc".to_vec(), missing: 0, calls: 2 };
        let piece = Said { of: Exchange::default(), ..said(Direction::Transmit, What::Piece(piece)) };
        let (name, fields, payload) = columns(&piece);
        assert_eq!((name.as_str(), payload.as_slice()), ("openssl.stream", &b"abc"[..]));
        has(&fields, "ecapture.piece.offset", "U64(9)");
        has(&fields, "ecapture.piece.connection", "Id(7)");
        assert!(fields.iter().all(|(name, _)| !name.starts_with("url.")), "{fields:?}");
    }
}
