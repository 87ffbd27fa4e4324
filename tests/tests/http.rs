//! Requests and responses: what curl and nginx say to each other over TLS, put together again on both sides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::tls::Library;
use ecapture_tests::web::Nginx;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

/// Each file is fetched in each of these forms, and uploaded once.
const CODINGS: [(&str, &[&str]); 4] = [
    ("gzip", &["/usr/bin/gzip", "-c1"]),
    (
        "deflate",
        &[
            "/usr/bin/python3",
            "-c",
            "import sys,zlib; sys.stdout.buffer.write(zlib.compress(open(sys.argv[1],'rb').read(),1))",
        ],
    ),
    ("br", &["/usr/bin/brotli", "-c1"]),
    ("zstd", &["/usr/bin/zstd", "-qc1"]),
];

fn capture(library: &Library, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let path = library.text();
    let args = ["tls", "--libssl", &path, "-o", "json", "--ring-size", "512MiB"];
    let capture = Capture::start(&modules, &[&args, more].concat());
    (modules, capture)
}

/// Puts an encoded copy of every file beside it; false: the program for it is not here.
fn encode(library: &Library, nginx: &Nginx, coding: &str, program: &[&str]) -> bool {
    if !Path::new(program[0]).exists() {
        println!("SKIPPED {coding} bodies: no {}", program[0]);
        return false;
    }
    let dir = library.dir().join(coding);
    std::fs::create_dir_all(&dir).unwrap();
    for number in 0..nginx.files.len() {
        let file = std::fs::File::create(dir.join(number.to_string())).unwrap();
        let plain = library.dir().join(number.to_string());
        let status = Command::new(program[0]).args(&program[1..]).arg(plain).stdout(file).status().unwrap();
        assert!(status.success(), "{program:?}");
    }
    open(&dir);
    true
}

/// For everybody, also for writing.
fn open(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
}

/// One transfer: method, path, and the file that it moves.
type Transfer = (&'static str, String, usize);

fn transfers(library: &Library, nginx: &Nginx) -> Vec<Transfer> {
    let mut all = Vec::new();
    for number in 0..nginx.files.len() {
        all.push(("GET", format!("/{number}"), number));
        all.push(("PUT", format!("/up/{number}"), number));
    }
    for (coding, program) in CODINGS {
        if encode(library, nginx, coding, program) {
            all.extend((0..nginx.files.len()).map(|number| ("GET", format!("/{coding}/{number}"), number)));
        }
    }
    all
}

/// Curl does all of them in one process, so many at once.
fn run(library: &Library, nginx: &Nginx, transfers: &[Transfer], parallel: u32, version: &str) {
    open(&library.dir().join("up"));
    let into = library.dir().join("fetched");
    open(&into);
    let mut list = String::new();
    for (index, (method, path, number)) in transfers.iter().enumerate() {
        let _ = writeln!(list, "url = https://127.0.0.1:{}{path}?n={index}", nginx.port);
        let _ = writeln!(list, "output = {}", into.join(index.to_string()).display());
        if *method == "PUT" {
            let _ = writeln!(list, "upload-file = {}", library.dir().join(number.to_string()).display());
        }
        let _ =
            writeln!(list, "cacert = {}\nhttp{version}\nfail\nlimit-rate = 1M\nnext", library.certificate().display());
    }
    let list = list.strip_suffix("next\n").unwrap_or(&list);
    let file = library.dir().join("list");
    std::fs::write(&file, list).unwrap();
    let mut command = library.command(Path::new("/usr/bin/curl"));
    command.args(["--silent", "--show-error", "--parallel", "--parallel-max", &parallel.to_string(), "--config"]);
    let output = command.arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (index, (method, path, _)) in transfers.iter().enumerate().filter(|(_, transfer)| transfer.0 == "GET") {
        let [got, served] =
            [into.join(index.to_string()), library.dir().join(&path[1..])].map(|file| std::fs::read(file).unwrap());
        assert!(got == served, "curl itself: {method} {path}: {} of {} bytes", got.len(), served.len());
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut command = Command::new("/usr/bin/sha256sum");
    let mut process = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(process.wait_with_output().unwrap().stdout).unwrap()
}

fn body(event: &Value, half: &str) -> Vec<u8> {
    let key = |form: &str| event[format!("ecapture.http.{half}.body.{form}")].as_str();
    match (key("text"), key("base64")) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(coded)) => ecapture_tests::capture::base64(coded),
        (None, None) => Vec::new(),
    }
}

/// The line is one of the transfers, with its body: which, and on which side.
fn is_right(event: &Value, nginx: &Nginx, transfers: &[Transfer], hashes: &[String], version: &str) -> (String, usize) {
    let side = event["ecapture.http.side"].as_str().unwrap();
    let index: usize = event["url.query"].as_str().unwrap().strip_prefix("n=").unwrap().parse().unwrap();
    let (method, path, number) = &transfers[index];
    let told = format!("{side} {index} {method} {path}");
    let asked = (&event["http.request.method"], &event["url.path"]);
    assert_eq!(asked, (&(*method).into(), &path.as_str().into()), "{told}");
    assert_eq!((&event["url.scheme"], &event["server.address"]), (&"https".into(), &"127.0.0.1".into()));
    assert_eq!(event["server.port"], nginx.port);
    assert_eq!(event["network.protocol.version"], version, "{told}");
    let status = if *method == "PUT" { [201, 204] } else { [200, 200] };
    assert!(status.iter().any(|s| event["http.response.status_code"] == *s), "{told}: {event:.500}");
    for problem in ["request.body.problem", "response.body.problem", "request.incomplete", "response.incomplete"] {
        let mut shown = event.clone();
        for half in ["request", "response"].map(|half| format!("ecapture.http.{half}.body")) {
            shown[format!("{half}.text")].take();
            shown[format!("{half}.base64")].take();
        }
        assert_eq!(event[format!("ecapture.http.{problem}")], Value::Null, "{told}: {shown}");
    }
    assert!(event["ecapture.duration_ns"].as_u64().is_some_and(|ns| ns > 0), "{told}: {event:.2000}");
    let half = if *method == "PUT" { "request" } else { "response" };
    assert_eq!(sha256(&body(event, half)), hashes[*number], "{told}: the body differs");
    (side.to_owned(), index)
}

/// Every transfer is there once on each side, with the bodies that it had.
fn every_pair_is_right(finished: Finished, file: &Path, nginx: &Nginx, transfers: &[Transfer], version: &str) {
    let hashes: Vec<String> = nginx.files.iter().map(|bytes| sha256(bytes)).collect();
    let mut seen: BTreeMap<(String, usize), usize> = BTreeMap::new();
    // Whether all arrived, before what is made of it.
    assert!(finished.said.contains("none lost"), "{}", finished.said);
    // Line by line: all of them together are large.
    let mut others = Vec::new();
    for line in BufReader::with_capacity(1 << 20, std::fs::File::open(file).unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event.name"] == "openssl.http" {
            *seen.entry(is_right(&event, nginx, transfers, &hashes, version)).or_default() += 1;
        } else {
            others.push(event);
        }
    }
    let finished = Finished { events: others, ..finished };
    finished.assert_whole();
    for side in ["client", "server"] {
        for (index, transfer) in transfers.iter().enumerate() {
            assert_eq!(seen.get(&(side.to_owned(), index)), Some(&1), "{side} {index}: {transfer:?}");
        }
    }
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!(totals["exchanges"], 2 * transfers.len());
    for none in ["incomplete", "filtered", "unparsed_bytes", "gap_bytes", "evicted", "not_shown"] {
        assert_eq!(totals[none], 0, "{none}: {totals}");
    }
    assert_eq!(finished.events.len(), 2, "calls of HTTP connections are not shown");
}

#[test]
fn curl_and_nginx_over_http1_with_bodies_of_all_encodings_on_both_sides() {
    every_body("curl_and_nginx_over_http1_with_bodies_of_all_encodings_on_both_sides", "1.1");
}

#[test]
fn curl_and_nginx_over_http2_with_bodies_of_all_encodings_on_both_sides() {
    every_body("curl_and_nginx_over_http2_with_bodies_of_all_encodings_on_both_sides", "2");
}

fn every_body(test: &str, version: &str) {
    skip_if!(
        test,
        needs::capture(),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/sbin/nginx", "nginx-light"),
        needs::program("/usr/bin/curl", "curl")
    );
    let count = std::env::var("ECAPTURE_TEST_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    for (parallel, longest) in [(1, 1 << 16), (32, 8 << 20)] {
        let library = Library::installed();
        let nginx = Nginx::start(&library, count, longest);
        let transfers = transfers(&library, &nginx);
        let file = library.dir().join("events.jsonl");
        let more = ["--max-body", "16MiB", "--stream-memory", "1GiB", "-w", file.to_str().unwrap()];
        let (_modules, capture) = capture(&library, &more);
        run(&library, &nginx, &transfers, parallel, version);
        every_pair_is_right(capture.stop(), &file, &nginx, &transfers, version);
        println!(
            "{} transfers, {parallel} at once, bodies up to {longest} bytes: every one on both sides",
            transfers.len()
        );
    }
}

/// nginx with three files, and what fetches them and something that is not there.
fn small(library: &Library) -> (Nginx, Vec<Transfer>) {
    let nginx = Nginx::start(library, 3, 1 << 10);
    let transfers = (0..3).map(|number| ("GET", format!("/{number}"), number)).collect();
    (nginx, transfers)
}

fn missing() -> Option<String> {
    needs::capture()
        .or_else(|| needs::program("/usr/bin/openssl", "openssl"))
        .or_else(|| needs::program("/usr/sbin/nginx", "nginx-light"))
        .or_else(|| needs::program("/usr/bin/curl", "curl"))
}

/// One request with curl; what it answers is not looked at.
fn curl(library: &Library, nginx: &Nginx, more: &[&str]) {
    let mut command = library.command(Path::new("/usr/bin/curl"));
    command.args(["--silent", "--http1.1", "--cacert"]).arg(library.certificate()).args(more);
    for arg in ["/1?a=b", "/nothing"] {
        command.arg(format!("https://localhost:{}{arg}", nginx.port));
    }
    assert!(command.output().unwrap().status.success());
}

#[test]
fn filters_choose_among_requests_and_are_counted() {
    skip_if!("filters_choose_among_requests_and_are_counted", missing());
    let library = Library::installed();
    let (nginx, _) = small(&library);
    for (filter, expected) in [
        (&["--status", "404"][..], 2),
        (&["--status", "2xx,404", "--path", "/1"], 2),
        (&["--host", "localhost", "--method", "get"], 4),
        (&["--host", "*.example.org"], 0),
        (&["--min-duration", "10s"], 0),
        (&["--errors-only"], 2),
    ] {
        let (_modules, capture) = capture(&library, filter);
        curl(&library, &nginx, &[]);
        let finished = capture.stop();
        finished.assert_whole();
        assert_eq!(finished.named("openssl.http").count(), expected, "{filter:?}");
        let totals = &finished.end()["ecapture.session.modules"][0];
        assert_eq!((&totals["exchanges"], &totals["filtered"]), (&4.into(), &(4 - expected).into()), "{filter:?}");
        let left_out = 4 - expected;
        assert_eq!(finished.said.contains("left out by the filters"), left_out > 0, "{}", finished.said);
    }
    // What is left out does not count: the first two are fine.
    let (_modules, capture) = capture(&library, &["--errors-only", "--count", "2"]);
    curl(&library, &nginx, &[]);
    let failed: Vec<Value> =
        capture.wait().named("openssl.http").map(|event| event["http.response.status_code"].clone()).collect();
    assert_eq!(failed, [404, 404]);
    let modules = Modules::with(&["openssl"]);
    let output = modules.run(&["tls", "--view", "raw", "--status", "404"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--view raw does not show"), "{output:?}");
}

#[test]
fn what_is_no_http_is_shown_call_by_call_or_counted() {
    let test = "what_is_no_http_is_shown_call_by_call_or_counted";
    skip_if!(test, missing().or_else(|| needs::program("/usr/bin/gcc", "gcc")));
    let library = Library::installed();
    let calls = ecapture_tests::tls::calls();
    for (view, shown) in [("auto", true), ("http", false), ("raw", true)] {
        let (_modules, capture) = capture(&library, &["--view", view]);
        let said = library.run(&calls, "lengths", 9);
        let finished = capture.stop();
        finished.assert_whole();
        let totals = &finished.end()["ecapture.session.modules"][0];
        if shown {
            ecapture_tests::tls::compare(&said, &ecapture_tests::tls::captured(&finished.events));
        } else {
            assert_eq!(finished.named("openssl.data").count(), 0);
        }
        assert_eq!(totals["not_shown"].as_u64().unwrap() > 0, !shown, "{totals}");
        assert_eq!(totals["exchanges"], 0);
    }
}

#[test]
fn a_recording_is_looked_at_in_every_view() {
    skip_if!("a_recording_is_looked_at_in_every_view", missing());
    let library = Library::installed();
    let (nginx, transfers) = small(&library);
    let recording = library.dir().join("http.ecaprec");
    let (modules, capture) = capture(&library, &["--record", recording.to_str().unwrap()]);
    run(&library, &nginx, &transfers, 2, "1.1");
    let live = capture.stop();
    live.assert_whole();
    let module = modules.path().join("libecap_openssl.so");
    let replay = |more: &[&str]| {
        let args = ["module", "replay", module.to_str().unwrap(), recording.to_str().unwrap()];
        let output = modules.run(&[&args[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let events = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    // What was known of processes then is not in a recording; all else is.
    let bare = |events: &[Value]| -> Vec<Value> {
        let mut all: Vec<Value> = events.iter().filter(|e| e["event.name"] == "openssl.http").cloned().collect();
        for event in &mut all {
            let map = event.as_object_mut().unwrap();
            map.remove("process.executable.path");
            map.remove("container.id");
        }
        all.sort_by_key(|e| e["ecapture.monotonic_ns"].as_str().unwrap().to_owned());
        all
    };
    let again = events(&replay(&["-o", "json"]));
    assert_eq!(bare(&again).len(), 6);
    assert_eq!(bare(&again), bare(&live.events));
    let raw = events(&replay(&["-o", "json", "--view", "raw"]));
    let streams = ecapture_tests::tls::streams(&raw);
    assert!(streams.values().any(|bytes| bytes.starts_with(b"GET /0?n=0 HTTP/1.1\r\n")), "{:?}", streams.keys());
    let text = replay(&["--path", "/0"]);
    let line = |text: &str| text.lines().filter(|l| l.contains(" GET https://127.0.0.1:")).count();
    assert_eq!((line(&text), text.lines().count()), (2, 2), "{text}");
    assert!(text.contains("/0?n=0 200 ") && text.trim_end().ends_with(" B"), "{text}");
    let bodies = replay(&["--path", "/0", "--body", "all"]);
    assert_eq!(bodies.lines().filter(|l| l.starts_with("    < ")).count(), 2, "{bodies}");
}

#[test]
fn commands_of_the_document() {
    skip_if!("commands_of_the_document", missing());
    let library = Library::installed();
    let (nginx, _) = small(&library);
    let modules = Modules::with(&["openssl"]);
    // A shell that waits, whose children talk: commands for a process are run for it.
    let mut shell = library.command(Path::new("/bin/sh"));
    let talk = format!(
        "while read -r _; do curl -s --http1.1 -d x --resolve example.org:{0}:127.0.0.1 --cacert {1} -k https://example.org:{0}/orders; done",
        nginx.port,
        library.certificate().display()
    );
    let mut waiting = shell
        .args(["-c", &talk])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = waiting.id().to_string();
    let mut orders = waiting.stdin.take().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let commands = ecapture_tests::document::commands("docs/http.md");
    assert_eq!(commands.len(), 7, "{commands:?}");
    for command in commands {
        let words = command.split(' ').skip(1).map(|word| if word == "4711" { &pid } else { word });
        let mut capture = modules.ecapture();
        capture.current_dir(dir.path()).args(words).args(["--libssl", &library.text(), "--duration", "2s"]);
        let mut process =
            capture.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        while process.try_wait().unwrap().is_none() {
            use std::io::Write as _;
            orders.write_all(b"talk\n").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let output = process.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let har = dir.path().join("out.har");
        let shown = std::fs::read_to_string(&har).unwrap_or(shown);
        let _ = std::fs::remove_file(har);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        // On loopback an answer takes less than the document's millisecond.
        assert!(
            shown.contains("/orders") || command.contains("--min-duration"),
            "{command}: {shown} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    drop(orders);
    let _ = waiting.wait();
}

/// The validator is somebody else's. Without it, the rest of the test is done all the same.
fn valid(file: &Path) {
    let packages = ecapture_tests::wheels::wheel("fastjsonschema")
        .and_then(|python| Ok((python, ecapture_tests::wheels::npm("har-schema")?)));
    let (python, schemas) = match packages {
        Ok(packages) => packages,
        Err(reason) => return println!("SKIPPED the validation of HAR: {reason}"),
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/har-check.py");
    let mut command = Command::new("/usr/bin/python3");
    let output = command.arg(script).arg(python).arg(schemas).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_har_file_is_valid_and_has_every_exchange() {
    skip_if!("a_har_file_is_valid_and_has_every_exchange", missing());
    let library = Library::installed();
    let (nginx, mut transfers) = small(&library);
    transfers.extend((0..3).map(|number| ("PUT", format!("/up/{number}"), number)));
    let file = library.dir().join("out.HAR");
    let (modules, capture) = capture(&library, &["-w", "-", "-w", file.to_str().unwrap()]);
    run(&library, &nginx, &transfers, 2, "1.1");
    curl(&library, &nginx, &["-d", "text=1", "-H", "Cookie: a=b; c"]);
    // Ended as by Ctrl-C.
    let finished = capture.stop();
    finished.assert_whole();
    let events: Vec<&Value> = finished.named("openssl.http").collect();
    assert_eq!(events.len(), 2 * (transfers.len() + 2));
    valid(&file);
    let har: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let entries = har["log"]["entries"].as_array().unwrap();
    assert_eq!(entries.len(), events.len());
    for (entry, event) in entries.iter().zip(events) {
        let (request, response) = (&entry["request"], &entry["response"]);
        assert_eq!((&request["method"], &request["url"]), (&event["http.request.method"], &event["url.full"]));
        assert_eq!(response["status"], event["http.response.status_code"]);
        assert_eq!((&entry["_pid"], &entry["_side"]), (&event["process.pid"], &event["ecapture.http.side"]));
        let content = response["content"]["text"].as_str().unwrap_or_default();
        let content = match response["content"]["encoding"].as_str() {
            Some(_) => ecapture_tests::capture::base64(content),
            None => content.as_bytes().to_vec(),
        };
        assert_eq!(content, body(event, "response"));
        let time = entry["time"].as_f64().unwrap();
        let duration = event["ecapture.duration_ns"].as_f64().unwrap() / 1e6;
        assert!((time - duration).abs() < 0.001 || time < duration, "{time} {duration}");
    }
    let form = entries.iter().find(|e| e["request"]["postData"]["text"] == "text=1").expect("the form");
    assert_eq!(form["request"]["cookies"][0], serde_json::json!({"name": "a", "value": "[redacted]"}));
    assert_eq!(form["request"]["postData"]["mimeType"], "application/x-www-form-urlencoded");
    for wrong in [&["--rotate-size", "1MiB"][..], &["--view", "raw"]] {
        let output = modules.run(&[&["tls", "-w", file.to_str().unwrap()], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("a HAR file"), "{output:?}");
    }
}

#[test]
fn a_har_file_without_requests_is_valid() {
    skip_if!("a_har_file_without_requests_is_valid", missing());
    let library = Library::installed();
    let modules = Modules::with(&["openssl"]);
    let output = modules.run(&["tls", "--libssl", &library.text(), "-o", "har", "--duration", "300ms"]);
    assert!(output.status.success(), "{output:?}");
    let file = library.dir().join("empty.har");
    std::fs::write(&file, &output.stdout).unwrap();
    valid(&file);
}

#[test]
fn connections_that_are_joined_in_the_middle_of_a_response() {
    let test = "connections_that_are_joined_in_the_middle_of_a_response";
    skip_if!(test, missing().or_else(|| needs::program("/usr/bin/python3", "python3")));
    let library = Library::installed();
    let (nginx, _) = small(&library);
    std::fs::write(library.dir().join("2"), vec![0xe5; 1 << 20]).unwrap();
    let (connections, requests) = (50, 10);
    let place = library.dir().join("late");
    open(&place);
    let script = place.join("https-late.py");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets/https-late.py"), &script).unwrap();
    let mut client = library.command(Path::new("/usr/bin/python3"));
    client.arg(&script).arg(nginx.port.to_string()).arg(library.certificate());
    let mut client =
        client.args([connections.to_string(), requests.to_string()]).arg(&place).spawn().expect("python3 starts");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !place.join("ready").exists() {
        assert!(std::time::Instant::now() < deadline, "the client is not ready");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let (_modules, capture) = capture(&library, &[]);
    std::fs::write(place.join("go"), b"").unwrap();
    assert!(client.wait().unwrap().success());
    let finished = capture.stop();
    finished.assert_whole();
    let mut seen = BTreeMap::new();
    for event in finished.named("openssl.http") {
        let number: usize = event["url.query"].as_str().unwrap().strip_prefix("n=").unwrap().parse().unwrap();
        let side = event["ecapture.http.side"].as_str().unwrap().to_owned();
        assert_eq!(event["http.response.status_code"], 200);
        assert_eq!(
            (&event["ecapture.http.notes"], &event["ecapture.partial"]),
            (&Value::Null, &Value::Null),
            "{event}"
        );
        assert!(body(event, "response") == nginx.files[number % 2], "{side} {number}: the body differs");
        *seen.entry((side, number)).or_insert(0) += 1;
    }
    for side in ["client", "server"] {
        for number in 0..connections * requests {
            assert_eq!(seen.get(&(side.to_owned(), number)), Some(&1), "{side} {number}");
        }
    }
    assert_eq!(seen.len(), 2 * connections * requests);
    // What was read before the first message is shown as it came.
    assert!(finished.named("openssl.data").all(|event| event["ecapture.payload.base64"].is_string()));
    assert!(finished.named("openssl.data").count() >= connections);
}
