//! However much moves on however many connections, the collector stays small. `cargo xtask soak` moves ten gigabytes and opens as many
//! connections as 20,000 open files allow.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::tls::{Library, NOBODY};
use ecapture_tests::web::Nginx;
use ecapture_tests::{needs, skip_if};

/// What the collector may have beside what it has at the start: `--stream-memory` (64 MiB) and its buffers.
const MORE_KIB: u64 = 96 << 10;

fn missing() -> Option<String> {
    needs::capture()
        .or_else(|| needs::program("/usr/bin/openssl", "openssl"))
        .or_else(|| needs::program("/usr/sbin/nginx", "nginx-light"))
        .or_else(|| needs::program("/usr/bin/curl", "curl"))
        .or_else(|| needs::program("/usr/bin/python3", "python3"))
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// Most memory that was the process's own at a time, in KiB: what it shares with others, as the link, is not counted.
struct Own {
    status: String,
    first: u64,
    most: u64,
}

impl Own {
    fn of(pid: u32) -> Self {
        let mut own = Self { status: format!("/proc/{pid}/status"), first: 0, most: 0 };
        own.look();
        own.first = own.most;
        own
    }

    fn look(&mut self) {
        let text = std::fs::read_to_string(&self.status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        let now = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
        self.most = self.most.max(now);
    }

    fn more(&self) -> u64 {
        self.most.saturating_sub(self.first)
    }
}

fn capture(library: &Library, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let path = library.text();
    let args = ["tls", "--libssl", &path, "-o", "json", "--ring-size", "512MiB", "--no-new-targets"];
    let capture = Capture::start(&modules, &[&args, more].concat());
    (modules, capture)
}

/// Of the system, so that only the server is captured from.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

#[test]
fn a_long_body_takes_no_memory() {
    skip_if!("a_long_body_takes_no_memory", missing());
    let mib = number("ECAPTURE_HTTP_MIB", 192);
    let library = Library::installed();
    let nginx = Nginx::start(&library, 1, 1 << 10);
    std::fs::File::create(library.dir().join("long")).unwrap().set_len(mib << 20).unwrap();
    for view in ["http", "stream"] {
        let to = if view == "http" { "-" } else { "/dev/null" };
        let (_modules, capture) = capture(&library, &["--view", view, "-w", to]);
        let mut own = Own::of(capture.child("collector"));
        let began = Instant::now();
        let mut curl = command("/usr/bin/curl");
        curl.args(["--silent", "--show-error", "--fail", "--http1.1", "--output", "/dev/null", "--cacert"]);
        curl.arg(library.certificate()).arg(format!("https://localhost:{}/long", nginx.port));
        // As fast as it can be had without a loss on a machine that does other things as well.
        let mut curl = curl.args(["--limit-rate", "150M"]).stdin(Stdio::null()).spawn().unwrap();
        let status = loop {
            own.look();
            if let Some(status) = curl.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success());
        let took = began.elapsed();
        let broker = capture.pid();
        let finished = capture.stop();
        assert_eq!(finished.code, Some(0), "{broker}: {}", finished.said);
        println!(
            "{mib} MiB with --view {view} in {:.1} s: {} KiB more than the {} KiB at the start",
            took.as_secs_f64(),
            own.more(),
            own.first
        );
        assert!(own.first > 0 && own.more() < MORE_KIB, "{} KiB more", own.more());
        if view == "http" {
            finished.assert_whole();
            let event = finished.named("openssl.http").next().expect("the exchange");
            assert_eq!(event["http.response.body.size"], mib << 20);
            assert_eq!(event["ecapture.http.response.body.cut"], true);
            assert_eq!(event["ecapture.partial"], serde_json::Value::Null);
        }
    }
}

#[test]
fn many_connections_at_once_take_little_memory() {
    skip_if!("many_connections_at_once_take_little_memory", missing());
    let (connections, requests) = (number("ECAPTURE_HTTP_CONNECTIONS", 500), 2);
    let library = Library::installed();
    let nginx = Nginx::start(&library, 3, 1 << 12);
    let place = library.dir().join("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = place.join("https-late.py");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets/https-late.py"), &script).unwrap();
    let (_modules, capture) = capture(&library, &["--view", "http", "--body", "none"]);
    let mut own = Own::of(capture.child("collector"));
    let began = Instant::now();
    let mut client = command("/usr/bin/python3");
    client.arg(&script).arg(nginx.port.to_string()).arg(library.certificate());
    client.args([connections.to_string(), requests.to_string()]).arg(&place);
    let mut client = client.spawn().unwrap();
    let mut told = false;
    let status = loop {
        own.look();
        if !told && place.join("ready").exists() {
            told = true;
            println!("{connections} connections are open after {:.1} s", began.elapsed().as_secs_f64());
            std::fs::write(place.join("go"), b"").unwrap();
        }
        if let Some(status) = client.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success());
    let finished = capture.stop();
    finished.assert_whole();
    let totals = &finished.end()["ecapture.session.modules"][0];
    println!(
        "{connections} connections, {} requests: {} KiB more than the {} KiB at the start",
        totals["exchanges"],
        own.more(),
        own.first
    );
    assert!(own.first > 0 && own.more() < MORE_KIB, "{} KiB more", own.more());
    // One of each before and two behind the word to go on.
    assert_eq!(totals["exchanges"], connections * (1 + requests), "{totals}");
    for none in ["incomplete", "evicted", "gap_bytes", "unparsed_bytes"] {
        assert_eq!(totals[none], 0, "{none}: {totals}");
    }
}
