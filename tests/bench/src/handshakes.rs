//! What programs lose of their handshakes by having the keys of their connections logged.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::tls::Library;

use crate::stats::Rounds;

const ROUNDS: usize = 7;
const OPENSSL: &str = "/usr/bin/openssl";

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(library: &Library, port: u16) -> Server {
    let mut command = library.command(Path::new(OPENSSL));
    command.args(["s_server", "-www", "-quiet", "-accept", &port.to_string()]);
    command.arg("-cert").arg(library.certificate()).arg("-key").arg(library.key());
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(quiet.spawn().expect("openssl (package openssl)"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

/// New connections a second, and how many, in this many seconds.
fn connect(library: &Library, port: u16, version: &str, seconds: u32) -> (f64, u64) {
    let mut command = library.command(Path::new(OPENSSL));
    command.args(["s_time", "-new", version, "-time", &seconds.to_string(), "-connect", &format!("127.0.0.1:{port}")]);
    let began = Instant::now();
    let output = command.output().expect("openssl (package openssl)");
    let took = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.contains(" connections in ") && line.contains(" real seconds"));
    let count = line.and_then(|line| line.split(' ').next()?.parse::<u64>().ok()).unwrap_or_else(|| panic!("{said}"));
    (count as f64 / took, count)
}

/// Both ends are probed, so each connection is told of twice.
pub fn run() {
    let (library, modules) = (Library::installed(), Modules::with(&["openssl"]));
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let _server = serve(&library, port);
    let keys = library.dir().join("keys");
    println!("openssl s_time and s_server, one connection after the other, {ROUNDS} rounds; handshakes/s");
    for (name, version, lines) in [("TLS 1.2", "-tls1_2", 1), ("TLS 1.3", "-tls1_3", 5)] {
        let (mut nothing, mut logged, mut kept) = (Rounds::default(), Rounds::default(), Rounds::default());
        connect(&library, port, version, 1);
        for _ in 0..ROUNDS {
            let before = connect(&library, port, version, 2).0;
            let _ = std::fs::remove_file(&keys);
            let args = ["tls", "-m", "keylog", "--no-new-targets", "--libssl", &library.text(), "-k"];
            let capture = Capture::start(&modules, &[&args[..], &[keys.to_str().expect("a path")]].concat());
            let (rate, count) = connect(&library, port, version, 2);
            let finished = capture.stop();
            assert_eq!(finished.code, Some(0), "{}", finished.said);
            let text = std::fs::read_to_string(&keys).expect("the key log");
            let written = text.lines().filter(|line| !line.starts_with('#')).count() as u64;
            assert!(written >= lines * count, "{written} lines of {count} connections");
            let base = f64::midpoint(before, connect(&library, port, version, 2).0);
            nothing.push(base);
            logged.push(rate);
            kept.push(100.0 * rate / base);
        }
        println!("  {name}: nothing {nothing}   keylog {logged}   kept {kept} %");
    }
}
