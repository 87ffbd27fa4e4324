//! What a web server loses by having its requests and responses put together, and how fast a recording of it is read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules, bin_dir, read_events};
use ecapture_tests::tls::Library;
use ecapture_tests::web::{Nginx, fetch};

use crate::stats::Rounds;

const ROUNDS: usize = 5;
const WRK: &str = "/usr/bin/wrk";
/// Connections of the load.
const CONNECTIONS: &str = "32";

/// Requests of a run of wrk, and how many a second. It has the system's library, so only the server is captured from.
fn wrk(nginx: &Nginx, seconds: u32) -> (u64, f64) {
    let mut command = Command::new(WRK);
    command.args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{seconds}s")]);
    let output = command.arg(format!("https://127.0.0.1:{}/answer", nginx.port)).output().expect("wrk (package wrk)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("Non-2xx"), "{said}");
    let number = |mark: &str, behind: bool| -> f64 {
        let line = said.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("{said}"));
        let (before, after) = line.split_once(mark).unwrap_or_default();
        let text = if behind { after } else { before };
        text.trim().parse().unwrap_or_else(|_| panic!("{said}"))
    };
    (number(" requests in ", false) as u64, number("Requests/sec:", true))
}

/// What the last line of a session says of its module.
fn totals(file: &Path) -> serde_json::Value {
    let last = read_events(file).pop().expect("the last line");
    last["ecapture.session.modules"][0].clone()
}

/// nginx with files of random bytes and one like a small answer; `None`: there is no load for it.
fn served(library: &Library) -> Option<Nginx> {
    if !Path::new(WRK).exists() {
        println!("SKIPPED: needs wrk (package wrk)");
        return None;
    }
    std::fs::write(library.dir().join("answer"), vec![b'x'; 612]).expect("a file to be served");
    Some(Nginx::start(library, 24, 8 << 20))
}

/// The server's rate.
pub fn run() {
    let library = Library::installed();
    if let Some(nginx) = served(&library) {
        rates(&library, &nginx, &Modules::with(&["openssl"]));
    }
}

/// The parsers' rate.
pub fn replay() {
    let library = Library::installed();
    if let Some(nginx) = served(&library) {
        recordings(&library, &nginx, &Modules::with(&["openssl"]));
    }
}

fn rates(library: &Library, nginx: &Nginx, modules: &Modules) {
    let path = library.text();
    let file = library.dir().join("out");
    let out = file.display().to_string();
    let ways: [(&str, &[&str]); 4] = [
        ("http, JSON file", &["--view", "http", "-o", "json", "-w", &out]),
        ("http, JSON, no bodies", &["--view", "http", "-o", "json", "--body", "none", "-w", &out]),
        ("http, -o none", &["--view", "http", "-o", "none"]),
        ("raw, -o none", &["--view", "raw", "-o", "none"]),
    ];
    let mut results: Vec<(Rounds, Rounds, Rounds)> = ways.iter().map(|_| Default::default()).collect();
    let mut nothing = Rounds::default();
    wrk(nginx, 1);
    for _ in 0..ROUNDS {
        let before = wrk(nginx, 2).1;
        let mut round = Vec::new();
        for (name, way) in ways {
            let _ = std::fs::remove_file(&file);
            let fixed = ["tls", "--libssl", &path, "--no-new-targets", "--ring-size", "256MiB"];
            let capture = Capture::start(modules, &[&fixed, way].concat());
            let (requests, rate) = wrk(nginx, 3);
            let finished = capture.stop();
            assert_eq!(finished.code, Some(0), "{}", finished.said);
            let complete = name.contains("JSON").then(|| {
                let totals = totals(&file);
                let number = |key: &str| totals[key].as_u64().unwrap_or(0);
                // Those that were under way when the load ended are not its requests.
                (number("exchanges") - number("incomplete")).min(requests) as f64 / requests as f64
            });
            round.push((rate, complete));
        }
        let base = f64::midpoint(before, wrk(nginx, 2).1);
        nothing.push(base);
        for ((rate, complete), result) in round.into_iter().zip(&mut results) {
            result.0.push(rate);
            result.1.push(100.0 * rate / base);
            if let Some(complete) = complete {
                result.2.push(100.0 * complete);
            }
        }
    }
    println!("wrk on nginx, {CONNECTIONS} connections, answers of 612 bytes, {ROUNDS} rounds; requests/s");
    println!("  nothing                {nothing}");
    for ((name, _), (rate, kept, complete)) in ways.iter().zip(&results) {
        print!("  {name:22} {rate}   kept {kept} %");
        match name.contains("JSON") {
            true => println!("   complete pairs {complete} %"),
            false => println!(),
        }
    }
}

/// A recording of what happens meanwhile, its requests and the bytes that were moved.
fn record(library: &Library, modules: &Modules, name: &str, work: impl FnOnce()) -> (PathBuf, u64, u64) {
    let (file, out) = (library.dir().join(name), library.dir().join("out"));
    let _ = std::fs::remove_file(&out);
    let (recording, path) = (file.display().to_string(), library.text());
    let fixed = ["tls", "--libssl", &path, "--no-new-targets", "--ring-size", "512MiB", "--view", "http"];
    let outputs = ["-o", "json", "--body", "none", "-w", out.to_str().expect("a path"), "--record", &recording];
    let capture = Capture::start(modules, &[&fixed[..], &outputs].concat());
    work();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let size = |event: &serde_json::Value| {
        let half = |half: &str| event[format!("http.{half}.body.size")].as_u64().unwrap_or(0);
        half("request") + half("response")
    };
    let bytes = read_events(&out).iter().map(size).sum();
    (file, totals(&out)["exchanges"].as_u64().unwrap_or(0), bytes)
}

fn recordings(library: &Library, nginx: &Nginx, modules: &Modules) {
    let small = record(library, modules, "small", || _ = wrk(nginx, 8));
    let large = record(library, modules, "large", || {
        (0..12).for_each(|_| fetch(library, nginx, "--http1.1", 4));
    });
    for (what, (file, exchanges, bytes)) in [("small answers", small), ("bodies up to 8 MiB", large)] {
        let size = file.metadata().expect("the recording").len();
        println!(
            "{what}: {exchanges} requests, {:.1} MB of bodies, {:.1} MB of recording",
            bytes as f64 / 1e6,
            size as f64 / 1e6
        );
        for way in [
            &["-o", "none", "--body", "none"][..],
            &["-o", "none", "--body", "all"],
            &["-o", "json", "--body", "none"],
            &["-o", "json"],
        ] {
            let (mut requests, mut megabytes) = (Rounds::default(), Rounds::default());
            for _ in 0..ROUNDS {
                let mut command = Command::new(bin_dir().join("ecapture"));
                command.args(["module", "replay", "-q", "--view", "http", "-w", "/dev/null"]).args(way);
                command.arg(bin_dir().join("libecap_openssl.so")).arg(&file).stdout(Stdio::null());
                let begin = Instant::now();
                assert!(command.status().expect("ecapture starts").success());
                let seconds = begin.elapsed().as_secs_f64();
                requests.push(exchanges as f64 / seconds);
                megabytes.push(size as f64 / 1e6 / seconds);
            }
            println!("  replay {:26} {requests} requests/s   {megabytes} MB/s", way.join(" "));
        }
    }
}
