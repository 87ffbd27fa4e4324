//! How many events a second each format makes of a statement of 128 bytes:
//! `cargo test --release -p ecapture --lib sink::bench -- --ignored --nocapture`

use std::time::Instant;

use super::samples;
use super::set::{Format, OutputOptions, OutputSpec, SinkSet};
use crate::event::wire::{Fixed, RawColumn, View, encode, kind};
use crate::event::{Clock, Event, Field, Flags};

const EVENTS: u32 = 1_000_000;

fn measure(what: &str, mut one: impl FnMut()) {
    let start = Instant::now();
    (0..EVENTS).for_each(|_| one());
    let rate = f64::from(EVENTS) / start.elapsed().as_secs_f64();
    println!("{what:28} {:9.0} events/s", rate);
}

#[test]
#[ignore = "measures, asserts nothing but that it runs"]
fn events_per_second() {
    let schema = samples::schema();
    let clock = Clock::with_offset(1_795_442_531_000_000_000);
    let query = b"select id, name, price from orders where customer = 4711 and state = 'open' and total > 100.00 order by created_at limit 10     ";
    let number = |column, bits| RawColumn { column, kind: kind::U64, bits, bytes: b"" };
    let text = |column, bytes| RawColumn { column, kind: kind::TEXT, bits: 0, bytes };
    let columns = [number(0, 7), text(1, b"ok"), number(2, 3), number(3, 800_000), text(4, query)];
    let mut wire = Vec::new();
    let mut fixed = Fixed {
        event: 0,
        role: 1,
        pid: 4711,
        tid: 4802,
        cgroup: 5123,
        comm: *b"mariadbd\0\0\0\0\0\0\0\0",
        ..Fixed::default()
    };

    measure("encode", || {
        wire.clear();
        fixed.time_ns += 1;
        encode(&fixed, columns, &[], &mut wire).unwrap();
    });
    let mut fields: Vec<Field<'_>> = Vec::new();
    measure("decode and bind", || {
        let view = View::decode(&wire).unwrap();
        assert_eq!(schema.event(view.fixed.event).unwrap().bind(&view, &mut fields), 0);
    });

    let file = || std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    for (name, format) in [("text", Format::Text), ("json", Format::Json), ("hex", Format::Hex), ("none", Format::None)]
    {
        for (to, fd) in [("/dev/null", file()), ("file", tempfile::tempfile().unwrap())] {
            let options = OutputOptions {
                name: name.into(),
                format,
                utc_offset_s: 0,
                multiline: false,
                color: false,
                columns: 0,
                shared: false,
                rotate: None,
                quiet_end: false,
                bodies: Default::default(),
            };
            let mut set = SinkSet::new(vec![OutputSpec { options, fd: Some(fd.into()), header: Vec::new() }]).unwrap();
            let mut notices = Vec::new();
            let mut sent = 0_u64;
            measure(&format!("decode, bind, {name} to {to}"), || {
                let view = View::decode(&wire).unwrap();
                let declared = schema.event(view.fixed.event).unwrap();
                let refused = declared.bind(&view, &mut fields);
                let time_ns = view.fixed.time_ns + sent * 1000;
                let event = Event {
                    schema: declared,
                    time_ns,
                    wall_ns: clock.wall_ns(time_ns),
                    cgroup: view.fixed.cgroup,
                    flags: Flags(view.fixed.flags),
                    refused,
                    ..samples::event(&schema, &fields)
                };
                set.event(&event);
                sent += 1;
                if sent.is_multiple_of(256) {
                    set.tick(Instant::now(), &mut notices);
                }
            });
            let (_, reports) = set.finish(std::time::Duration::from_secs(5));
            assert_eq!((reports[0].written, reports[0].lost), (sent, 0), "{notices:?}");
        }
    }
}
