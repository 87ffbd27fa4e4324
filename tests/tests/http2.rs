//! HTTP/2 as programs speak it that no one here wrote: every stream is told with its request and its response on both sides, from the
//! beginning and from the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::tls::Library;
use ecapture_tests::web::Nginx;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

const H2LOAD: &str = "/usr/bin/h2load";
const NGHTTPD: &str = "/usr/sbin/nghttpd";

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!(
            $test,
            needs::capture(),
            needs::program("/usr/bin/openssl", "openssl"),
            needs::program("/usr/sbin/nginx", "nginx-light"),
            needs::program(H2LOAD, "nghttp2-client")
        )
    };
}

fn capture(library: &Library, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let path = library.text();
    let args = ["tls", "--libssl", &path, "--view", "http", "--body", "none", "-o", "json", "--ring-size", "256MiB"];
    let capture = Capture::start(&modules, &[&args, more].concat());
    (modules, capture)
}

/// h2load, asking for the files in turn.
fn h2load(library: &Library, nginx: &Nginx, args: &[&str]) -> Command {
    let list = library.dir().join("uris");
    let uris: Vec<String> =
        (0..nginx.files.len()).map(|file| format!("https://127.0.0.1:{}/{file}?of={file}", nginx.port)).collect();
    std::fs::write(&list, uris.join("\n")).unwrap();
    let mut command = library.command(Path::new(H2LOAD));
    command.args(args).arg("-i").arg(&list);
    command
}

fn text<'e>(event: &'e Value, key: &str) -> Option<&'e str> {
    event[key].as_str()
}

/// What is said of an exchange is right, as far as it is said.
fn nothing_is_wrong(event: &Value, nginx: &Nginx) {
    assert_eq!(event["network.protocol.version"], "2", "{event:.600}");
    for (key, only) in [
        ("http.request.method", "GET"),
        ("url.scheme", "https"),
        ("server.address", "127.0.0.1"),
        ("ecapture.http.request.body.text", ""),
    ] {
        assert!(text(event, key).is_none_or(|value| value == only), "{key}: {event:.600}");
    }
    if let (Some(path), Some(query)) = (text(event, "url.path"), text(event, "url.query")) {
        let file: usize = path.strip_prefix('/').unwrap().parse().unwrap();
        assert_eq!(query, format!("of={file}"));
        let body = event["http.response.body.size"].as_u64().unwrap_or_default();
        let whole = event["ecapture.http.response.incomplete"].is_null() && event["http.response.status_code"] == 200;
        assert!(!whole || body == nginx.files[file].len() as u64, "{event:.900}");
    }
    let agents = event["http.request.header.user-agent"].as_array();
    let right =
        |agent: &Value| agent.is_null() || agent.as_str().is_some_and(|agent| agent.starts_with("h2load nghttp2/"));
    assert!(agents.is_none_or(|agents| agents.iter().all(right)), "{event:.900}");
    let lengths = event["http.response.header.content-length"].as_array();
    let known = |length: &Value| nginx.files.iter().any(|file| *length == *file.len().to_string());
    assert!(lengths.is_none_or(|all| all.iter().all(|length| length.is_null() || known(length))), "{event:.900}");
}

fn whole(event: &Value) -> bool {
    let halves = ["request", "response"].map(|half| event[format!("ecapture.http.{half}.incomplete")].is_null());
    halves == [true, true] && event["http.response.status_code"] == 200 && text(event, "url.path").is_some()
}

fn sides(finished: &Finished) -> BTreeMap<String, usize> {
    let mut sides = BTreeMap::new();
    for event in finished.named("openssl.http").filter(|event| whole(event)) {
        *sides.entry(text(event, "ecapture.http.side").unwrap_or("unknown").to_owned()).or_default() += 1;
    }
    sides
}

#[test]
fn every_stream_of_h2load_is_there_on_both_sides() {
    skip_unless_possible!("every_stream_of_h2load_is_there_on_both_sides");
    let library = Library::installed();
    let nginx = Nginx::start(&library, 30, 1 << 16);
    let (_modules, capture) = capture(&library, &[]);
    let output = h2load(&library, &nginx, &["-n", "1000", "-c", "10", "-m", "10"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("1000 succeeded, 0 failed"), "{said}");
    let finished = capture.stop();
    finished.assert_whole();
    finished.named("openssl.http").for_each(|event| nothing_is_wrong(event, &nginx));
    assert_eq!(sides(&finished), BTreeMap::from([("client".to_owned(), 1000), ("server".to_owned(), 1000)]));
    let files: BTreeSet<&str> = finished.named("openssl.http").filter_map(|event| text(event, "url.path")).collect();
    assert_eq!(files.len(), 30);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!(
        (&totals["exchanges"], &totals["incomplete"], &totals["gap_bytes"]),
        (&2000.into(), &0.into(), &0.into())
    );
}

/// nghttpd, with a private copy of the library.
struct Nghttpd(std::process::Child, u16);

impl Nghttpd {
    fn start(library: &Library, args: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").port();
        let mut command = library.command(Path::new(NGHTTPD));
        command.args(args).arg("-d").arg(library.dir()).args(["-a", "127.0.0.1", &port.to_string()]);
        let process = command.arg(library.key()).arg(library.certificate()).stdout(Stdio::null()).spawn();
        let process = process.expect("nghttpd starts");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "nghttpd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(process, port)
    }
}

impl Drop for Nghttpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nghttp_and_nghttpd_with_pushes_trailers_and_uploads() {
    let test = "nghttp_and_nghttpd_with_pushes_trailers_and_uploads";
    skip_unless_possible!(test);
    skip_if!(test, needs::program(NGHTTPD, "nghttp2-server"));
    let library = Library::installed();
    for (file, size) in [("a", 70_000), ("b", 10), ("c", 300_000)] {
        std::fs::write(library.dir().join(file), vec![b'x'; size]).unwrap();
    }
    let server = Nghttpd::start(&library, &["--push=/a=/c", "--trailer=sum: 1", "--echo-upload", "--padding=100"]);
    let (_modules, capture) = capture(&library, &[]);
    let url = |path: &str| format!("https://127.0.0.1:{}/{path}", server.1);
    let nghttp = |args: &[&str]| {
        let mut command = library.command(Path::new("/usr/bin/nghttp"));
        let output = command.args(["--null-out", "--no-verify-peer", "--padding=50"]).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    // Ten streams on a connection, of which the first are answered with more than was asked for.
    nghttp(&["--multiply=10", &url("b")]);
    nghttp(&[&url("a"), &url("b"), &url("nothing")]);
    let body = library.dir().join("c");
    nghttp(&["--data", body.to_str().unwrap(), "--trailer=end: here", &url("up")]);
    let finished = capture.stop();
    finished.assert_whole();
    let mut seen: BTreeMap<(String, String, bool), usize> = BTreeMap::new();
    for event in finished.named("openssl.http") {
        let pushed = text(event, "ecapture.http.notes").is_some_and(|notes| notes.contains("pushed by the server"));
        assert_eq!((&event["ecapture.partial"], &event["url.scheme"]), (&Value::Null, &"https".into()), "{event:.900}");
        let path = text(event, "url.path").unwrap_or_else(|| panic!("{event:.900}")).to_owned();
        let (status, size) = (&event["http.response.status_code"], event["http.response.body.size"].as_u64());
        match path.as_str() {
            "/a" => assert_eq!((status, size), (&200.into(), Some(70_000)), "{event:.900}"),
            "/b" => assert_eq!((status, size), (&200.into(), Some(10)), "{event:.900}"),
            "/c" => assert_eq!((status, size), (&200.into(), Some(300_000)), "{event:.900}"),
            "/up" => {
                assert_eq!((status, size), (&200.into(), Some(300_000)), "{event:.900}");
                assert_eq!(event["http.request.body.size"], 300_000);
                assert_eq!(event["ecapture.http.request.trailer.end"][0], "here", "{event:.900}");
            }
            _ => assert_eq!(status, 404, "{event:.900}"),
        }
        if status == 200 {
            assert_eq!(event["ecapture.http.response.trailer.sum"][0], "1", "{event:.900}");
        }
        *seen.entry((text(event, "ecapture.http.side").unwrap_or("unknown").to_owned(), path, pushed)).or_default() +=
            1;
    }
    let mut expected = BTreeMap::new();
    for side in ["client", "server"] {
        for (path, pushed, count) in
            [("/a", false, 1), ("/b", false, 11), ("/c", true, 1), ("/nothing", false, 1), ("/up", false, 1)]
        {
            expected.insert((side.to_owned(), path.to_owned(), pushed), count);
        }
    }
    assert_eq!(seen, expected);
}

#[test]
fn joining_fifty_connections_in_the_middle() {
    skip_unless_possible!("joining_fifty_connections_in_the_middle");
    let library = Library::installed();
    let nginx = Nginx::start(&library, 30, 1 << 12);
    // Fifty connections, one request at a time on each, some thousand in a second.
    let mut load = h2load(&library, &nginx, &["-n", "1000000", "-c", "50", "-m", "2", "--rps", "40"]);
    let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let (_modules, capture) = capture(&library, &[]);
    std::thread::sleep(Duration::from_secs(3));
    let finished = capture.stop();
    load.kill().unwrap();
    load.wait().unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let exchanges: Vec<&Value> = finished.named("openssl.http").collect();
    exchanges.iter().for_each(|event| nothing_is_wrong(event, &nginx));
    let both = sides(&finished);
    println!("{} exchanges, whole: {both:?}", exchanges.len());
    // By connection and side: the first ones lack something, and the last ones were under way at the end.
    let mut connections: BTreeMap<(&str, u64), Vec<bool>> = BTreeMap::new();
    for event in &exchanges {
        let Some(side) = text(event, "ecapture.http.side") else { continue };
        let ports = [&event["network.local.port"], &event["network.peer.port"]].map(|port| port.as_u64().unwrap_or(0));
        let client = if ports[0] == u64::from(nginx.port) { ports[1] } else { ports[0] };
        connections.entry((side, client)).or_default().push(whole(event));
    }
    let known: Vec<_> = connections.iter().filter(|((_, port), _)| *port != 0).collect();
    assert!(known.len() >= 98, "{} ends of 50 connections", known.len());
    for ((side, port), whole) in known {
        assert!(whole.len() > 20, "{side} of {port}: {} exchanges", whole.len());
        let without_ends = &whole[5..whole.len() - 4];
        assert!(without_ends.iter().all(|whole| *whole), "{side} of {port}: {whole:?}");
    }
}
