//! What the search for secrets costs an event:
//! `cargo test --release -p ecapture --lib redact::bench -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use super::Redactor;
use crate::event::{Column, ColumnType, Event, Field, Schema, Value};
use crate::sink::samples;
use crate::stream::body::Body;
use crate::stream::exchange::{Exchange, Header, Message, Request, Response};

const ROUNDS: usize = 15;

/// The fastest of the rounds: what else the machine does only makes one slower.
fn measure(what: &str, events: u32, event: &Event<'_>) {
    let redactor = Redactor::default();
    let one = || redactor.event(black_box(event), |event| _ = black_box(event.fields.len()));
    let round = |_| {
        let start = Instant::now();
        (0..events).for_each(|_| one());
        start.elapsed().as_nanos() / u128::from(events)
    };
    println!("{what:44} {:8} ns", (0..ROUNDS).map(round).min().unwrap());
}

fn exchange(header: (&str, &str), body: usize) -> Exchange {
    let head = |name: &str, value: &str| Header { name: Some(name.into()), value: Some(value.into()) };
    let message = |first: Header, len: usize| Message {
        headers: vec![
            head("Host", "shop.example.org"),
            head("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            head("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            head("Accept-Encoding", "gzip, deflate, br, zstd"),
            first,
        ],
        body: Body { bytes: vec![b'x'; len], ..Body::default() }.into(),
        ..Message::default()
    };
    Exchange {
        request: Some(Request {
            method: b"GET".to_vec(),
            target: b"/orders/17/items".to_vec(),
            authority: Some(b"shop.example.org".to_vec()),
            message: message(head(header.0, header.1), 0),
            ..Request::default()
        }),
        response: Some(Response {
            status: Some(200),
            message: message(head("Content-Type", "text/html"), body),
            ..Response::default()
        }),
        ..Exchange::default()
    }
}

#[test]
#[ignore = "measures, asserts nothing but that it runs"]
fn nanoseconds_an_event() {
    let schema = samples::schema();
    let query = samples::query_fields();
    measure("a statement of 34 bytes", 200_000, &samples::event(&schema, &query));
    let long = "select id, name, price from orders where customer = 4711 and state = 'open' ".repeat(54);
    let fields = samples::fields(&[("db.query.text", Value::Text(long.as_bytes()))]);
    measure("a statement of 4 KiB", 20_000, &samples::event(&schema, &fields));
    let fields = samples::fields(&[("db.query.text", Value::Text(b"ALTER USER 'shop'@'%' IDENTIFIED BY 'S3cret'"))]);
    measure("a statement with a password", 50_000, &samples::event(&schema, &fields));

    let mut shell = Schema::new("bash").unwrap();
    shell.push("line", "", vec![Column::new("ecapture.command.text", ColumnType::Text).unwrap()]).unwrap();
    for (what, line) in [
        ("a command", "git commit -am 'tests: one rig for shells' && git push origin main"),
        ("a command with a password", "mysql -uroot -pS3cret shop -e 'select 1'"),
    ] {
        let fields = [Field { column: 0, value: Value::Text(line.as_bytes()) }];
        let event = Event { schema: shell.event(0).unwrap(), fields: &fields, ..samples::event(&schema, &[]) };
        measure(what, 50_000, &event);
    }

    for (what, header) in [
        ("a request without secrets", ("Referer", "https://shop.example.org/orders")),
        ("a request with a cookie", ("Cookie", "sid=S3cret")),
    ] {
        for (size, body) in [("no body", 0), ("a body of 1 MiB", 1 << 20)] {
            let exchange = exchange(header, body);
            let event = Event { exchange: Some(&exchange), ..samples::event(&schema, &[]) };
            measure(&format!("{what}, {size}"), 10_000 / (1 + body as u32 / 10_000), &event);
        }
    }
}
