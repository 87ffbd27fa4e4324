//! What is said beside requests and responses: WebSockets, Server-Sent Events, messages of gRPC, and connections as they are, as programs
//! speak them that no one here wrote, over TLS and on both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules, payload};
use ecapture_tests::tls::Library;
use ecapture_tests::wheels::{file, wheel};
use ecapture_tests::{needs, or_skip, skip_if};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";

fn missing() -> Option<String> {
    needs::capture()
        .or_else(|| needs::program("/usr/bin/openssl", "openssl"))
        .or_else(|| needs::program(PYTHON, "python3"))
}

/// A package of Python's index, or a test that is skipped for this reason.
macro_rules! wheel {
    ($test:expr, $package:expr) => {{
        skip_if!($test, missing());
        or_skip!($test, wheel($package))
    }};
}

fn capture(target: &Path, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let args = ["tls", "--libssl", target.to_str().unwrap(), "-o", "json", "--ring-size", "128MiB"];
    let capture = Capture::start(&modules, &[&args, more].concat());
    (modules, capture)
}

fn text<'e>(event: &'e Value, key: &str) -> &'e str {
    event[key].as_str().unwrap_or_default()
}

/// Which end of the connection, and which way.
fn way(event: &Value) -> (String, String) {
    (text(event, "ecapture.http.side").to_owned(), text(event, "network.io.direction").to_owned())
}

fn ways([asked, answered]: &[Vec<u8>; 2]) -> BTreeMap<(String, String), Vec<u8>> {
    let way = |side: &str, direction: &str, bytes: &Vec<u8>| ((side.to_owned(), direction.to_owned()), bytes.clone());
    BTreeMap::from([
        way("client", "transmit", asked),
        way("server", "receive", asked),
        way("server", "transmit", answered),
        way("client", "receive", answered),
    ])
}

fn whole(finished: &Finished) {
    finished.assert_whole();
    let totals = &finished.end()["ecapture.session.modules"][0];
    for none in ["unparsed_bytes", "gap_bytes", "evicted", "not_shown"] {
        assert_eq!(totals[none], 0, "{none}: {totals}");
    }
}

#[test]
fn every_message_of_websockets_is_there_on_both_sides() {
    let package = wheel!("every_message_of_websockets_is_there_on_both_sides", "websockets");
    let (library, rounds) = (Library::installed(), 60);
    let (_modules, capture) = capture(&library.path(), &[]);
    let path = package.as_os_str();
    let said = library.exchange_with(
        Path::new(PYTHON),
        "tls-websocket.py",
        &[],
        rounds,
        &[("PYTHONPATH", path), ("PYTHONDONTWRITEBYTECODE", path)],
    );
    let finished = capture.stop();
    whole(&finished);
    let mut heard: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in finished.named("openssl.websocket") {
        let kind = text(event, "ecapture.websocket.type");
        let url = text(event, "url.full");
        assert!(url.starts_with("https://localhost:"), "{event:.600}");
        *counts.entry((kind.to_owned(), url.rsplit('/').next().unwrap().to_owned())).or_default() += 1;
        assert_eq!((&event["ecapture.websocket.problem"], &event["ecapture.partial"]), (&Value::Null, &Value::Null));
        match kind {
            "text" | "binary" => {
                let compressed = url.ends_with("/deflate");
                assert_eq!(event["ecapture.websocket.compressed"], compressed, "{event:.600}");
                // Few bytes may be a text by chance.
                assert!(event["ecapture.payload.text"].is_string() || kind == "binary", "{event:.600}");
                let bytes = payload(event);
                assert_eq!(event["ecapture.websocket.size"], bytes.len());
                heard.entry(way(event)).or_default().extend(bytes);
            }
            "close" => {
                assert_eq!(event["ecapture.websocket.close.code"], 4000);
                assert_eq!(event["ecapture.websocket.close.reason"], "enough said");
            }
            _ => assert_eq!(event["ecapture.payload.text"], "there?"),
        }
    }
    let expected = ways(&said);
    for (way, bytes) in &expected {
        assert!(heard.get(way) == Some(bytes), "{way:?}: {:?} of {}", heard.get(way).map(Vec::len), bytes.len());
    }
    for compression in ["deflate", "None"] {
        let count = |kind: &str| counts.get(&(kind.to_owned(), compression.to_owned())).copied().unwrap_or(0);
        // Two ends of two directions each.
        assert_eq!(count("text") + count("binary"), 4 * rounds as usize, "{counts:?}");
        assert_eq!((count("ping"), count("pong"), count("close")), (30, 30, 4), "{counts:?}");
    }
    let upgrades = finished.named("openssl.http").filter(|event| event["http.response.status_code"] == 101);
    assert_eq!(upgrades.count(), 4);
}

/// A place for everybody, with a copy of the script.
fn place(library: &Library, script: &str) -> PathBuf {
    let place = library.dir().join("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets").join(script);
    std::fs::copy(from, place.join(script)).unwrap();
    place
}

#[test]
fn events_are_told_while_the_response_goes_on() {
    skip_if!("events_are_told_while_the_response_goes_on", missing());
    let library = Library::installed();
    let place = place(&library, "https-events.py");
    let (_modules, mut capture) = capture(&library.path(), &[]);
    let mut command = library.command(Path::new(PYTHON));
    command.arg(place.join("https-events.py")).arg(library.certificate()).arg(library.key()).arg(&place);
    let mut python = command.spawn().unwrap();
    // The response cannot end before it is let go.
    for direction in ["transmit", "receive"] {
        let first = capture.wait_for("event", Duration::from_secs(20), |event| {
            event["event.name"] == "openssl.sse" && event["network.io.direction"] == direction
        });
        assert_eq!((text(&first, "ecapture.sse.type"), text(&first, "ecapture.sse.id")), ("price", "17"), "{first}");
        assert_eq!((text(&first, "ecapture.payload.text"), text(&first, "url.path")), ("first", "/open"), "{first}");
    }
    std::fs::write(place.join("go"), b"").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !place.join("over").exists() {
        assert!(Instant::now() < deadline, "the script does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The process goes on; the connection has ended, and with it the body that has no other end.
    for side in ["client", "server"] {
        let closed = capture.wait_for("response", Duration::from_secs(5), |event| {
            event["event.name"] == "openssl.http"
                && event["url.path"] == "/closed"
                && event["ecapture.http.side"] == side
        });
        assert_eq!(closed["ecapture.http.response.body.text"], "data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert_eq!(closed["ecapture.http.notes"], "its body ended with the connection");
        assert_eq!(
            (&closed["ecapture.partial"], &closed["ecapture.http.response.incomplete"]),
            (&Value::Null, &Value::Null)
        );
    }
    std::fs::write(place.join("end"), b"").unwrap();
    assert!(python.wait().unwrap().success());
    let finished = capture.stop();
    whole(&finished);
    for (side, direction) in [("client", "receive"), ("server", "transmit")] {
        let of = |path: &str| -> Vec<String> {
            let mine =
                |event: &&Value| way(event) == (side.into(), direction.into()) && text(event, "url.path") == path;
            let data = |event: &Value| text(event, "ecapture.payload.text").to_owned();
            finished.named("openssl.sse").filter(mine).map(data).collect()
        };
        assert_eq!(of("/open"), ["first", "second\nline"], "{side}");
        assert_eq!(of("/closed"), ["0", "1", "2"], "{side}");
    }
    assert_eq!(finished.named("openssl.http").count(), 4);
}

#[test]
fn calls_of_grpc_have_their_messages_and_their_status() {
    let test = "calls_of_grpc_have_their_messages_and_their_status";
    let (package, types) = (wheel!(test, "grpcio"), wheel!(test, "typing_extensions"));
    let (served, rounds) = (Library::installed(), 10);
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(package.join(".")).arg(dir.path()).status();
    assert!(status.unwrap().success());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (_modules, capture) = capture(&file(dir.path(), "cygrpc"), &["--view", "http"]);
    let path = std::env::join_paths([dir.path(), types.as_path()]).unwrap();
    let said = served.exchange_with(Path::new(PYTHON), "tls-grpc-calls.py", &[], rounds, &[("PYTHONPATH", &path)]);
    let finished = capture.stop();
    finished.assert_whole();
    let mut counts: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    let mut sizes: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for event in finished.named("openssl.http") {
        let side = text(event, "ecapture.http.side").to_owned();
        assert_eq!((&event["ecapture.partial"], text(event, "rpc.system")), (&Value::Null, "grpc"), "{event:.900}");
        assert_eq!(text(event, "rpc.service"), "shop.Orders");
        let call = (side.clone(), text(event, "rpc.method").to_owned(), text(event, "ecapture.grpc.status").to_owned());
        *counts.entry(call).or_default() += 1;
        let messages =
            |half: &str| event[format!("ecapture.grpc.{half}.messages")].as_array().cloned().unwrap_or_default();
        let (asked, answered) = (messages("request"), messages("response"));
        let expected = match text(event, "rpc.method") {
            "Get" => (1, 1),
            "List" => (1, 10),
            "Put" => (5, 1),
            "Talk" => (5, 5),
            _ => (1, 0),
        };
        assert_eq!((asked.len(), answered.len()), expected, "{event:.900}");
        if text(event, "rpc.method") == "Fail" {
            assert_eq!(text(event, "ecapture.grpc.message"), "no such thing: 100 %");
            assert_eq!(event["rpc.grpc.status_code"], 5);
        }
        for (half, messages) in [("request", asked), ("response", answered)] {
            for message in messages {
                let fields = message["fields"].as_array().unwrap_or_else(|| panic!("{message}"));
                assert_eq!((&fields[0]["field"], &fields[0]["wire"]), (&1.into(), &"varint".into()), "{message}");
                let texts = ["line", "part", &"shoes ".repeat(20)];
                assert!(texts.iter().any(|text| fields[1]["value"] == *text), "{message}");
                // Each is so long: key and number, key and length, text.
                let size: u64 = fields.iter().map(|field| 2 + field["value"].as_str().map_or(0, str::len) as u64).sum();
                *sizes.entry((side.clone(), half)).or_default() += size;
            }
        }
    }
    for side in ["client", "server"] {
        for (method, status) in [("Get", "OK"), ("List", "OK"), ("Put", "OK"), ("Talk", "OK"), ("Fail", "NOT_FOUND")] {
            let call = (side.to_owned(), method.to_owned(), status.to_owned());
            assert_eq!(counts.get(&call), Some(&(rounds as usize)), "{call:?}: {counts:?}");
        }
        for (half, said) in ["request", "response"].into_iter().zip(&said) {
            assert_eq!(sizes.get(&(side.to_owned(), half)), Some(&(said.len() as u64)), "{side} {half}");
        }
    }
}

#[test]
fn a_connection_is_followed() {
    skip_if!("a_connection_is_followed", missing());
    let library = Library::installed();
    let (_modules, capture) = capture(&library.path(), &["--view", "stream"]);
    let said = library.exchange(Path::new(PYTHON), "tls-echo.py", &["blocking"], 40);
    let finished = capture.stop();
    whole(&finished);
    assert_eq!(finished.named("openssl.data").count(), 0);
    let mut ends: BTreeMap<&str, BTreeMap<&str, Vec<u8>>> = BTreeMap::new();
    let mut turns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in finished.named("openssl.stream") {
        let (id, direction) = (text(event, "ecapture.stream.id"), text(event, "network.io.direction"));
        let bytes = ends.entry(id).or_default().entry(direction).or_default();
        assert_eq!(
            (&event["ecapture.stream.offset"], &event["ecapture.piece.offset"]),
            (&bytes.len().into(), &bytes.len().into())
        );
        bytes.extend(payload(event));
        let turns = turns.entry(id).or_default();
        if turns.last() != Some(&direction) {
            turns.push(direction);
        }
    }
    let mut directions: Vec<Vec<u8>> = ends.into_values().flat_map(BTreeMap::into_values).collect();
    directions.sort_unstable();
    let mut expected: Vec<Vec<u8>> = said.iter().chain(&said).cloned().collect();
    expected.sort_unstable();
    assert!(directions == expected, "{:?}", directions.iter().map(Vec::len).collect::<Vec<_>>());
    // Question and answer in turn, forty times.
    assert!(turns.len() == 2 && turns.values().all(|turns| turns.len() == 80), "{turns:?}");
}
