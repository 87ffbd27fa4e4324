//! The lines that JSON output produces against `docs/event.schema.json`, with a checker of the few keywords it uses.

use serde_json::Value as J;

use super::json::Json;
use super::samples;
use super::session::{Gap, Render, SegmentEnd, SegmentModule, SessionEnd, SessionModule, SessionStart};
use crate::event::{Event, Flags, PacketTotals, Summary, Value, model::Stream};
use crate::stream::options::Bodies;
use ecapture_plugin_api::manifest::{HOST_COLUMNS, HOST_PREFIXES};

fn schema() -> J {
    serde_json::from_str(include_str!("../../../docs/event.schema.json")).unwrap()
}

/// `type`, `const`, `$ref`, `items`, `properties`, `patternProperties` (as a prefix, or with `$` as a whole), `additionalProperties`, `required`.
fn check(root: &J, rule: &J, value: &J, at: &str) -> Result<(), String> {
    if let Some(reference) = rule["$ref"].as_str() {
        return check(root, root.pointer(reference.trim_start_matches('#')).unwrap(), value, at);
    }
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other} in the schema"),
    };
    let fits = match &rule["type"] {
        J::String(name) => is(name),
        J::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        other => panic!("{at}: type {other}"),
    };
    if !fits || rule.get("const").is_some_and(|only| only != value) {
        return Err(format!("{at}: {value} is not {rule}"));
    }
    for item in value.as_array().into_iter().flatten() {
        check(root, &rule["items"], item, at)?;
    }
    for name in rule["required"].as_array().into_iter().flatten().filter(|_| value.is_object()) {
        value.get(name.as_str().unwrap()).ok_or_else(|| format!("{at}: {name} is missing"))?;
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let patterns = rule["patternProperties"].as_object();
        let pattern = patterns.and_then(|patterns| {
            let fits = |pattern: &str| {
                let plain = pattern.trim_start_matches('^').replace('\\', "");
                plain.strip_suffix('$').map_or_else(|| key.starts_with(&plain), |whole| key == whole)
            };
            patterns.iter().find(|(pattern, _)| fits(pattern)).map(|(_, rule)| rule)
        });
        let found = rule["properties"].get(key).or(pattern).or(rule.get("additionalProperties"));
        match found {
            None | Some(J::Bool(false)) => return Err(format!("{at}: key {key} is not in the schema")),
            Some(rule) => check(root, rule, inner, key)?,
        }
    }
    Ok(())
}

fn line(write: impl FnOnce(&mut Json, &mut Vec<u8>)) -> J {
    let mut out = Vec::new();
    write(&mut Json::default(), &mut out);
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
    serde_json::from_slice(&out).unwrap()
}

fn conforms(definition: &str, line: &J) {
    let root = schema();
    check(&root, &root["$defs"][definition], line, definition).unwrap();
}

/// An event with every key there is.
fn full<'a>(schema: &'a crate::event::Schema, fields: &'a [crate::event::Field<'a>]) -> Event<'a> {
    Event {
        container: Some("3f2a"),
        stream: Some(Stream { id: u64::MAX, offset: Some(12) }),
        refused: 1,
        payload: b"\xff",
        missing: 1,
        lost_before: 1,
        flags: Flags(3 | 1 << 24),
        ..samples::event(schema, fields)
    }
}

#[test]
fn events_are_as_published() {
    let schema = samples::schema();
    let fields = samples::fields(&[
        ("db.query.text", Value::Text(b"\xff")),
        ("ecapture.digest", Value::Bytes(b"x")),
        ("ecapture.ratio", Value::F64(f64::NAN)),
        ("ecapture.delta", Value::I64(-1)),
    ]);
    let full = line(|json, out| json.event(&full(&schema, &fields), out));
    conforms("event", &full);
    conforms("event", &line(|json, out| json.event(&samples::event(&schema, &[]), out)));
    // And the other way round: every published key was produced, and no module can take it.
    for (key, _) in self::schema()["$defs"]["event"]["properties"].as_object().unwrap() {
        assert!(full.get(key).is_some() || key == "ecapture.payload.text", "{key} is published, never produced");
        assert!(HOST_COLUMNS.contains(&key.as_str()) || HOST_PREFIXES.iter().any(|p| key.starts_with(p)), "{key}");
    }
}

#[test]
fn exchanges_are_as_published() {
    let schema = samples::schema();
    let exchange = super::exchange::tests::exchange();
    let mut event = samples::event(&schema, &[]);
    event.exchange = Some(&exchange);
    conforms("event", &line(|_, out| Json::new(Bodies::All).event(&event, out)));
    let call = super::grpc::tests::exchange();
    event.exchange = Some(&call);
    let call = line(|_, out| Json::new(Bodies::All).event(&event, out));
    assert!(call["ecapture.grpc.response.messages"].is_array());
    conforms("event", &call);
}

#[test]
fn session_lines_and_gaps_are_as_published() {
    let module = SessionModule { name: "mysql".into(), version: "0.1.0".into(), tainted: true };
    let start = SessionStart {
        command: String::new(),
        host: "a\"b\n".into(),
        modules: vec![module.clone(), module],
        segment: Some(2),
        ..SessionStart::default()
    };
    let start = line(|json, out| json.session_start(&start, out));
    conforms("ecapture.session.start", &start);
    assert_eq!(start["ecapture.session.tainted"], true);
    assert_eq!(start["host.name"], "a\"b\n");

    let mut summary = Summary::default();
    (summary.module("mysql").produced, summary.module("tls").sink_lost) = (5, u64::MAX);
    let end = SessionEnd { wall_ns: 1, duration_ns: 2, summary: &summary, segment: Some(3) };
    let end = line(|json, out| json.session_end(&end, out));
    conforms("ecapture.session.end", &end);
    assert_eq!((&start["ecapture.session.segment"], &end["ecapture.session.segment"]), (&J::from(2), &J::from(3)));
    let modules = [SegmentModule { name: "mysql".into(), events: 7, lost: 1 }];
    let continued = SegmentEnd { wall_ns: 1, segment: 2, modules: &modules };
    let continued = line(|json, out| json.segment_end(&continued, out));
    conforms("ecapture.session.continued", &continued);
    assert_eq!(continued["ecapture.session.modules"][0]["events"], 7);
    assert_eq!(end["ecapture.session.modules"][0]["unaccounted"], 5);
    assert_eq!(end["ecapture.session.modules"][1]["sink_lost"], u64::MAX);

    summary.packets = Some(PacketTotals { produced: 7, sink_lost: u64::MAX, ..PacketTotals::default() });
    let end = SessionEnd { wall_ns: 1, duration_ns: 2, summary: &summary, segment: None };
    let end = line(|json, out| json.session_end(&end, out));
    conforms("ecapture.session.end", &end);
    let packets = end["ecapture.session.packets"].as_object().unwrap();
    assert_eq!((&packets["produced"], &packets["sink_lost"]), (&J::from(7), &J::from(u64::MAX)));
    let published = &schema()["$defs"]["ecapture.session.end"]["properties"]["ecapture.session.packets"];
    assert!(
        packets.keys().eq(published["properties"].as_object().unwrap().keys()),
        "no total is published that is not there"
    );

    let gap = Gap { lost: 3, first_ns: 1, last_ns: 2, reason: "No space \"left\"".into() };
    conforms("ecapture.sink.gap", &line(|json, out| json.gap(&gap, out)));
}

#[test]
fn the_checker_notices() {
    let schema = samples::schema();
    let good = line(|json, out| json.event(&samples::event(&schema, &[]), out));
    let root = self::schema();
    for (key, value) in
        [("process.pid", J::from("1")), ("db.query.text", J::Array(vec![])), ("ecapture.partial", J::from(false))]
    {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(check(&root, &root["$defs"]["event"], &bad, "event").is_err(), "{key}");
    }
    let mut short = good;
    short.as_object_mut().unwrap().remove("time");
    assert!(check(&root, &root["$defs"]["event"], &short, "event").is_err());
}
