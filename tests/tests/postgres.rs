//! PostgreSQL: what clients say is what the module tells, held against the server's own log; and clients that behave badly.

use std::collections::BTreeMap;
use std::fs::{Permissions, set_permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules, pid, read_events, text_bytes};
use ecapture_tests::postgres::{PGBENCH, PSQL, Postgres, SERVER, USER, logged};
use ecapture_tests::suites::Suite;
use ecapture_tests::wheels::wheel;
use ecapture_tests::{needs, or_skip, skip_if};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const LOGGED: &[&str] = &["log_statement=all", "log_line_prefix=%p|", "max_connections=100"];

fn start(server: &Postgres, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["postgres"]);
    let binary = server.binary().display().to_string();
    let mut args = vec!["postgres", "--postgres", &binary, "-o", "json"];
    args.extend(more);
    let capture = Capture::start(&modules, &args);
    (modules, capture)
}

type Statement = (String, Vec<Option<String>>);

/// Statements of each backend in their order, with what was bound.
fn captured(events: &[Value]) -> BTreeMap<u64, Vec<Statement>> {
    let mut all: BTreeMap<u64, Vec<Statement>> = BTreeMap::new();
    for event in events {
        if !matches!(event["event.name"].as_str(), Some("postgres.query" | "postgres.execute")) {
            continue;
        }
        assert!(event["ecapture.server.pid"].is_null(), "{event}");
        let text = event["db.query.text"].as_str().unwrap_or_else(|| panic!("no text in {event}")).to_owned();
        let values = event["db.query.parameters"].as_str().unwrap_or("[]");
        let values: Vec<Option<String>> = serde_json::from_str(values).unwrap();
        all.entry(event["process.pid"].as_u64().unwrap()).or_default().push((text, values));
    }
    all
}

/// The same from the server's log.
fn said(log: &str) -> BTreeMap<u64, Vec<Statement>> {
    let mut all: BTreeMap<u64, Vec<Statement>> = BTreeMap::new();
    for statement in logged(log) {
        all.entry(statement.pid).or_default().push((statement.text, statement.parameters));
    }
    all
}

/// Every backend's statements are those of the log from `before` bytes on.
fn compare(server: &Postgres, before: usize, finished: &Finished) -> usize {
    let (expected, found) = (said(&server.log()[before..]), captured(&finished.events));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (pid, expected) in &expected {
        for (number, (expected, found)) in expected.iter().zip(&found[pid]).enumerate() {
            assert_eq!(found, expected, "statement {number} of {pid}");
        }
        assert_eq!(found[pid].len(), expected.len(), "{pid}");
    }
    expected.values().map(Vec::len).sum()
}

#[test]
fn every_statement_of_pgbench_is_the_one_in_the_servers_log() {
    skip_if!(
        "every_statement_of_pgbench_is_the_one_in_the_servers_log",
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PGBENCH, "postgresql-15")
    );
    let server = Postgres::start_with(LOGGED);
    let before = server.log().len();
    let out = server.dir().join("events");
    let (_modules, capture) = start(&server, &["--ring-size", "64MiB", "-w", out.to_str().unwrap()]);
    let run = |args: &[&str]| {
        let output = server.client(PGBENCH).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["-i", "-q", "-s", "1"]);
    for mode in ["simple", "extended", "prepared"] {
        run(&["-n", "-M", mode, "-c", "32", "-j", "2", "-t", "30"]);
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    let statements = compare(&server, before, &finished);
    assert!(statements > 3 * 32 * 30 * 7, "{statements}");
    let failed = finished.events.iter().filter(|e| e["ecapture.outcome"] == "error").count();
    assert_eq!(failed, 0);
    // Of each transaction one row of one select, and four changes of a row.
    let own = |e: &&Value, words: &[&str]| {
        let text = e["db.query.text"].as_str().unwrap_or_default();
        e["event.name"] != "postgres.prepare" && words.iter().any(|word| text.starts_with(word))
    };
    let selects: Vec<&Value> = finished.events.iter().filter(|e| own(e, &["SELECT abalance"])).collect();
    assert_eq!(selects.len(), 3 * 32 * 30);
    assert!(selects.iter().all(|e| e["db.response.returned_rows"] == 1 && e["ecapture.outcome"] == "ok"));
    let changes = ["UPDATE pgbench", "INSERT INTO pgbench_history"];
    let changes: Vec<&Value> = finished.events.iter().filter(|e| own(e, &changes)).collect();
    assert_eq!(changes.len(), 4 * 3 * 32 * 30);
    assert!(changes.iter().all(|e| e["ecapture.rows_affected"] == 1 && e["ecapture.outcome"] == "ok"));
    let copy = finished.named("postgres.query").find(|e| e["ecapture.copy.direction"] == "in").unwrap();
    assert_eq!((&copy["ecapture.copy.rows"], &copy["ecapture.rows_affected"]), (&100_000.into(), &100_000.into()));
    assert!(copy["ecapture.copy.bytes"].as_u64().unwrap() > 1_000_000, "{copy}");
    assert_eq!(finished.named("postgres.connect").count(), finished.named("postgres.quit").count());
    println!("{statements} statements; {}", finished.end()["ecapture.session.modules"][0]);
}

const TYPED: &str = r#"
import datetime, decimal, sys, uuid, psycopg
c = psycopg.connect(f"host=127.0.0.1 port={sys.argv[1]} user=test dbname=postgres application_name=typed", autocommit=True)
values = [True, False, 5, -70000, 5000000000, 1.5, 1e300, decimal.Decimal("12.50"), decimal.Decimal("-0.00012"), "it's \u00e4",
    b"\x00\xff", datetime.date(2020, 2, 29), datetime.time(1, 2, 3, 4000), datetime.datetime(2020, 1, 2, 3, 4, 5, 678),
    datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc), datetime.timedelta(days=3, seconds=5),
    uuid.UUID(int=7), None, [1, 2, None], ["a", "b c", ""]]
own = (datetime.time, datetime.datetime, datetime.timedelta, uuid.UUID, list)
for value in values:
    c.execute("select %b", (value,))
    # Of these psycopg's own text differs from the server's.
    if not isinstance(value, own):
        c.execute("select %t", (value,))
for n in range(8):
    c.execute("select %s::int + 1", (n,), prepare=True)
try:
    c.execute("select 1 / %s::int", (0,))
except psycopg.errors.DivisionByZero:
    pass
with c.pipeline():
    for n in range(20):
        c.execute("select %s::int * 2", (n,))
c.close()
"#;

#[test]
fn typed_parameters_are_what_the_server_takes_them_for() {
    skip_if!(
        "typed_parameters_are_what_the_server_takes_them_for",
        needs::capture(),
        needs::program(SERVER, "postgresql-15")
    );
    let packages = ["psycopg", "psycopg-binary", "typing_extensions"].map(wheel);
    if let Some(Err(reason)) = packages.iter().find(|package| package.is_err()) {
        println!("{} typed_parameters_are_what_the_server_takes_them_for: {reason}", needs::SKIPPED);
        return;
    }
    let path: Vec<String> = packages.iter().flatten().map(|package| package.display().to_string()).collect();
    let server = Postgres::start_with(LOGGED);
    let before = server.log().len();
    let (_modules, capture) = start(&server, &[]);
    let output = server
        .client("/usr/bin/python3")
        .env("PYTHONPATH", path.join(":"))
        .args(["-c", TYPED, &server.port().to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.assert_whole();
    // A statement that fails as its value is bound has no line of its own in the log.
    finished.events.retain(|e| e["ecapture.outcome"] != "skipped");
    let statements = compare(&server, before, &finished);
    assert!(statements >= 20 + 13 + 8 + 20, "{statements}");
    let failed: Vec<&Value> = finished.events.iter().filter(|e| e["ecapture.outcome"] == "error").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["db.response.status_code"], "22012");
    assert_eq!(failed[0]["db.query.parameters"], "[\"0\"]");
    // One that was asked to be, and one that was executed often.
    let prepared: Vec<&Value> = finished.named("postgres.prepare").map(|e| &e["db.query.text"]).collect();
    assert_eq!(prepared, ["select $1::int + 1", "select $1::int * 2"]);
    assert!(
        finished
            .named("postgres.execute")
            .filter(|e| e["ecapture.outcome"] == "ok")
            .all(|e| e["db.response.returned_rows"] == 1)
    );
    let connect = finished.named("postgres.connect").next().unwrap();
    assert_eq!((&connect["user.name"], &connect["db.namespace"]), (&USER.into(), &"postgres".into()));
    assert_eq!(
        (&connect["ecapture.application.name"], &connect["network.peer.address"]),
        (&"typed".into(), &"127.0.0.1".into())
    );
}

/// The same on a version of another suite: statements, values, and what the server's memory says of the client.
fn of_suite(test: &str, suite: Suite, series: &'static str) {
    skip_if!(test, needs::capture(), needs::program(PGBENCH, "postgresql-15"));
    let server = match Postgres::of(suite, series, LOGGED) {
        Ok(server) => server,
        Err(reason) => return println!("{} {test}: {reason}", needs::SKIPPED),
    };
    let before = server.log().len();
    let out = server.dir().join("events");
    let (_modules, capture) = start(&server, &["--ring-size", "64MiB", "-w", out.to_str().unwrap(), "--nested"]);
    let run = |args: &[&str]| {
        let output = server.client(PGBENCH).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["-i", "-q", "-s", "1"]);
    for mode in ["simple", "extended", "prepared"] {
        run(&["-n", "-M", mode, "-c", "32", "-j", "2", "-t", "20"]);
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    let statements = compare(&server, before, &finished);
    assert!(statements > 3 * 32 * 20 * 7, "{statements}");
    let connect = finished.named("postgres.connect").next().unwrap();
    assert_eq!((&connect["user.name"], &connect["network.peer.address"]), (&USER.into(), &"127.0.0.1".into()));
    let copy = finished.named("postgres.query").find(|e| e["ecapture.copy.direction"] == "in").unwrap();
    assert_eq!(copy["ecapture.copy.rows"], 100_000);
    println!("{series}: {statements} statements; {}", finished.end()["ecapture.session.modules"][0]);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_13() {
    of_suite("postgresql_13", Suite::Bullseye, "13");
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_17() {
    of_suite("postgresql_17", Suite::Trixie, "17");
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn postgresql_18() {
    of_suite("postgresql_18", Suite::Sid, "18");
}

/// The protocol, byte for byte.
struct Wire(TcpStream);

impl Wire {
    fn connect(server: &Postgres) -> Self {
        let mut wire = Self(TcpStream::connect(("127.0.0.1", server.port())).unwrap());
        wire.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = b"\0\x03\0\0user\0test\0database\0postgres\0\0";
        wire.send(&[&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat());
        wire.until(b'Z');
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn say(&mut self, messages: &[(u8, &[u8])]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        self.send(&bytes);
    }

    /// Types of the messages up to one of this type, and the last body.
    fn until(&mut self, kind: u8) -> (Vec<u8>, Vec<u8>) {
        let mut kinds = Vec::new();
        loop {
            let mut header = [0; 5];
            self.0.read_exact(&mut header).unwrap();
            let length = u32::from_be_bytes(header[1..].try_into().unwrap());
            let mut body = vec![0; usize::try_from(length - 4).unwrap()];
            self.0.read_exact(&mut body).unwrap();
            kinds.push(header[0]);
            if header[0] == kind {
                return (kinds, body);
            }
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

/// A Bind of unnamed portal and statement.
fn bind(binary: bool, values: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1, 0, u8::from(binary)];
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    body.extend([0, 0]);
    body
}

const SYNC: (u8, &[u8]) = (b'S', b"");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");

#[test]
fn portals_batches_and_odd_values_are_told_apart() {
    skip_if!(
        "portals_batches_and_odd_values_are_told_apart",
        needs::capture(),
        needs::program(SERVER, "postgresql-15")
    );
    let server = Postgres::start();
    let (_modules, capture) = start(&server, &[]);
    let mut wire = Wire::connect(&server);
    // A portal in pieces.
    let none = bind(false, &[]);
    let three: (u8, &[u8]) = (b'E', b"\0\0\0\0\x03");
    wire.say(&[(b'P', b"\0select generate_series(1, 7)\0\0\0"), (b'B', &none), three, three, three, SYNC]);
    assert_eq!(wire.until(b'Z').0.iter().filter(|kind| **kind == b's').count(), 2);
    // A thousand parameters.
    let numbers: Vec<String> = (1..=1000).map(|n| n.to_string()).collect();
    let text = format!("\0select ${}::text\0\0\0", numbers.join("::text || $"));
    let values: Vec<&[u8]> = numbers.iter().map(|n| n.as_bytes()).collect();
    wire.say(&[(b'P', text.as_bytes()), (b'B', &bind(false, &values)), EXECUTE, SYNC]);
    wire.until(b'Z');
    // A type that is not decoded, and one whose type is the server's to say.
    let point = [1.5_f64.to_be_bytes(), 2.0_f64.to_be_bytes()].concat();
    wire.say(&[(b'P', b"\0select $1\0\0\x01\0\0\x02\x58"), (b'B', &bind(true, &[&point])), EXECUTE, SYNC]);
    wire.until(b'Z');
    wire.say(&[(b'P', b"open\0select $1::int8\0\0\0"), (b'D', b"Sopen\0"), SYNC]);
    wire.until(b'Z');
    let mut named = bind(true, &[&[0, 0, 0, 0, 0, 0, 1, 0]]);
    named.splice(1..2, *b"open\0");
    wire.say(&[(b'B', &named), EXECUTE, SYNC]);
    wire.until(b'Z');
    // Bytes that are no text in the server's encoding.
    wire.say(&[(b'Q', b"select '\xff\xfe'\0")]);
    wire.until(b'Z');
    wire.say(&[(b'P', b"\0select $1::text\0\0\0"), (b'B', &bind(false, &[b"\xff"])), EXECUTE, SYNC]);
    wire.until(b'Z');
    // 500 executions in one go, one of which fails, and with it the rest of its batch.
    let mut many = Vec::new();
    for n in 0..500 {
        let value = if n == 400 { "0" } else { "1" };
        many.extend(message(b'P', b"\0select 1/$1::int\0\0\0"));
        many.extend(message(b'B', &bind(false, &[value.as_bytes()])));
        many.extend(message(b'E', EXECUTE.1));
        if n == 299 {
            many.extend(message(b'S', b""));
        }
    }
    many.extend(message(b'S', b""));
    wire.send(&many);
    wire.until(b'Z');
    wire.until(b'Z');
    wire.say(&[(b'X', b"")]);
    drop(wire);
    let finished = capture.stop();
    finished.assert_whole();
    let executed: Vec<&Value> = finished.named("postgres.execute").collect();
    let rows: Vec<_> = executed[..3]
        .iter()
        .map(|e| (e["ecapture.outcome"].as_str(), e["db.response.returned_rows"].as_u64()))
        .collect();
    assert_eq!(rows, [(Some("suspended"), Some(3)), (Some("suspended"), Some(3)), (Some("ok"), Some(1))]);
    assert_eq!(executed[1]["ecapture.portal.limit"], 3);
    let thousand: Vec<String> = serde_json::from_str(executed[3]["db.query.parameters"].as_str().unwrap()).unwrap();
    assert_eq!(thousand, numbers);
    assert_eq!(executed[4]["db.query.parameters"], r#"["oid 600 \\x3ff80000000000004000000000000000"]"#);
    assert_eq!(
        (&executed[5]["db.query.parameters"], &executed[5]["ecapture.statement.name"]),
        (&r#"["256"]"#.into(), &"open".into())
    );
    let bad = finished.named("postgres.query").next().unwrap();
    assert_eq!(
        (text_bytes(bad, "db.query.text"), &bad["db.response.status_code"]),
        (b"select '\xff\xfe'".to_vec(), &"22021".into())
    );
    let bound = finished.named("postgres.bind").next().unwrap();
    assert_eq!(
        (&bound["db.response.status_code"], &bound["db.query.parameters"]),
        (&"22021".into(), &r#"["\\xff"]"#.into())
    );
    let batch = executed.iter().filter(|e| e["db.query.text"] == "select 1/$1::int");
    let outcomes = batch.fold(BTreeMap::new(), |mut all, e| {
        *all.entry(e["ecapture.outcome"].as_str().unwrap()).or_insert(0) += 1;
        all
    });
    // The server folds the constant as it binds it: the error is the Bind's, and the Execute of the 401st is skipped.
    assert_eq!(outcomes, [("ok", 400), ("skipped", 100)].into());
}

#[test]
fn a_statement_of_64_mib_is_cut_and_says_so() {
    skip_if!("a_statement_of_64_mib_is_cut_and_says_so", needs::capture(), needs::program(SERVER, "postgresql-15"));
    let server = Postgres::start_with(&[]);
    let (_modules, capture) = start(&server, &[]);
    let mut wire = Wire::connect(&server);
    let size = 64 << 20;
    let text = [&b"select 1 /* "[..], &vec![b'x'; size], b" */\0"].concat();
    wire.say(&[(b'Q', &text)]);
    wire.until(b'Z');
    wire.say(&[(b'Q', b"select 2\0")]);
    wire.until(b'Z');
    let finished = capture.stop();
    let queries: Vec<&Value> = finished.named("postgres.query").collect();
    assert_eq!(queries.len(), 2, "{}", finished.said);
    let kept = text_bytes(queries[0], "db.query.text");
    let missing = queries[0]["ecapture.truncated_bytes"].as_u64().unwrap();
    assert!(text.starts_with(&kept) && kept.len() >= 1 << 20 && kept.len() < (1 << 20) + 8192, "{}", kept.len());
    assert_eq!(u64::try_from(kept.len()).unwrap() + missing, u64::try_from(text.len()).unwrap());
    assert_eq!((&queries[0]["ecapture.partial"], &queries[0]["ecapture.outcome"]), (&true.into(), &"ok".into()));
    assert_eq!(
        (&queries[1]["db.query.text"], &queries[1]["ecapture.truncated_bytes"]),
        (&"select 2".into(), &Value::Null)
    );
}

/// A PgBouncer in front of a server, with three connections to it for any number of clients.
struct Pooler {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl Pooler {
    fn start(server: &Postgres) -> Result<Self, String> {
        let root = Suite::Bookworm.root(&["pgbouncer"])?;
        let dir = tempfile::tempdir().unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        // Of the libraries those that the machine may not have.
        for library in std::fs::read_dir(root.path().join("usr/lib/x86_64-linux-gnu")).unwrap().flatten() {
            let name = library.file_name().into_string().unwrap();
            if ["libcares", "libevent"].iter().any(|own| name.starts_with(own)) && library.path().is_file() {
                std::fs::copy(library.path(), dir.path().join(name)).unwrap();
            }
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 3\nmax_client_conn = 64\n",
            server.port()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(root.path().join("usr/sbin/pgbouncer"));
        command.arg("--quiet").arg(file).env_clear().env("LD_LIBRARY_PATH", dir.path()).uid(65534).gid(65534);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "pgbouncer does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, port, _dir: dir })
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn behind_a_pooler_each_statement_is_its_backends() {
    let test = "behind_a_pooler_each_statement_is_its_backends";
    skip_if!(test, needs::capture(), needs::program(SERVER, "postgresql-15"), needs::program(PGBENCH, "postgresql-15"));
    let server = Postgres::start_with(LOGGED);
    let pooler = or_skip!(test, Pooler::start(&server));
    let initialised = server.client(PGBENCH).args(["-i", "-q", "-s", "1"]).output().unwrap();
    assert!(initialised.status.success(), "{}", String::from_utf8_lossy(&initialised.stderr));
    let before = server.log().len();
    let out = server.dir().join("events");
    let (_modules, capture) = start(&server, &["--ring-size", "64MiB", "-w", out.to_str().unwrap()]);
    for mode in ["simple", "extended"] {
        let mut load = server.client(PGBENCH);
        load.env("PGPORT", pooler.port.to_string()).args(["-n", "-M", mode, "-c", "16", "-j", "2", "-t", "30"]);
        let output = load.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    let statements = compare(&server, before, &finished);
    assert!(statements >= 2 * 16 * 30 * 7, "{statements}");
    let backends = captured(&finished.events).len();
    assert!((1..=3).contains(&backends), "{backends} backends for 16 clients");
    println!("{statements} statements of 16 clients on {backends} backends");
}

#[test]
fn clients_that_go_and_servers_that_crash_leave_nothing_open() {
    skip_if!(
        "clients_that_go_and_servers_that_crash_leave_nothing_open",
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15")
    );
    let mut server = Postgres::start_with(&["restart_after_crash=on"]);
    let postmaster = server.pid().to_string();
    let modules = Modules::with(&["postgres"]);
    // All backends by the process that starts them.
    let binary = server.binary().display().to_string();
    let mut capture =
        Capture::start(&modules, &["postgres", "--postgres", &binary, "--pid", &postmaster, "-o", "json"]);
    // A statement that is cancelled.
    let mut wire = Wire::connect(&server);
    wire.say(&[(b'Q', b"select pg_backend_pid()\0")]);
    let row = wire.until(b'D').1;
    let backend: u32 = std::str::from_utf8(&row[6..]).unwrap().parse().unwrap();
    wire.until(b'Z');
    let canceller = server.psql(&["-c", &format!("select pg_cancel_backend({backend})")]);
    assert!(canceller.status.success());
    // One whose client is gone before the answer.
    wire.say(&[(b'Q', b"select pg_sleep(0.3), 'gone'\0")]);
    wire.0.shutdown(Shutdown::Both).unwrap();
    drop(wire);
    let gone = capture.wait_for("the end of a client that went", Duration::from_secs(10), |e| {
        e["event.name"] == "postgres.quit" && e["process.pid"] == backend
    });
    assert_eq!(gone["ecapture.outcome"], "aborted");
    // A request to cancel, on a connection of its own.
    let mut cancel = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let request = [16_u32.to_be_bytes(), 80_877_102_u32.to_be_bytes(), backend.to_be_bytes(), [0; 4]].concat();
    cancel.write_all(&request).unwrap();
    capture.wait_for("the cancel request", Duration::from_secs(10), |e| {
        e["event.name"] == "postgres.cancel" && e["ecapture.cancel.pid"] == backend
    });
    // A backend that is killed in mid-statement: the server ends the others too, and recovers.
    let mut wire = Wire::connect(&server);
    wire.say(&[(b'Q', b"select pg_backend_pid()\0")]);
    let row = wire.until(b'D').1;
    let killed: i32 = std::str::from_utf8(&row[6..]).unwrap().parse().unwrap();
    wire.until(b'Z');
    wire.say(&[(b'Q', b"select pg_sleep(60), 'killed'\0")]);
    std::thread::sleep(Duration::from_millis(200));
    kill_process(pid(u32::try_from(killed).unwrap()), Signal::KILL).unwrap();
    let event = capture.wait_for("the killed statement", Duration::from_secs(10), |e| {
        e["db.query.text"] == "select pg_sleep(60), 'killed'"
    });
    assert_eq!(event["ecapture.outcome"], "aborted");
    let recovered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        server.psql(&["-c", "select 'recovered'"]).status.success()
    });
    assert!(recovered, "{}", server.log());
    capture.wait_for("a statement after the crash", Duration::from_secs(10), |e| {
        e["db.query.text"] == "select 'recovered'" && e["ecapture.outcome"] == "ok"
    });
    capture.stop().assert_whole();
    // The whole server is stopped at once and started again, in the middle of a statement.
    let (_modules, mut capture) = start(&server, &[]);
    let mut wire = Wire::connect(&server);
    wire.say(&[(b'Q', b"select pg_sleep(60), 'stopped'\0")]);
    std::thread::sleep(Duration::from_millis(200));
    server.restart_at_once();
    let event = capture.wait_for("the stopped statement", Duration::from_secs(10), |e| {
        e["db.query.text"] == "select pg_sleep(60), 'stopped'"
    });
    assert!(matches!(event["ecapture.outcome"].as_str(), Some("aborted" | "error")), "{event}");
    assert!(server.psql(&["-c", "select 'again'"]).status.success());
    capture
        .wait_for("a statement of the new server", Duration::from_secs(10), |e| e["db.query.text"] == "select 'again'");
    capture.stop().assert_whole();
}

#[test]
fn an_upgrade_of_the_servers_file_hides_nothing() {
    skip_if!(
        "an_upgrade_of_the_servers_file_hides_nothing",
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15")
    );
    let mut server = Postgres::start_with(LOGGED);
    let (_modules, mut capture) = start(&server, &[]);
    assert!(server.psql(&["-c", "select 'old file'"]).status.success());
    server.upgrade_binary();
    // The postmaster runs on from the file that has no name any more, and so do the backends that it starts.
    assert!(server.psql(&["-c", "select 'old server, new file'"]).status.success());
    // The new program is another file: its probes are put in place while it starts, and that is said.
    server.restart_at_once();
    capture.wait_for_word("4 probes", 2, Duration::from_secs(10));
    let from = server.log().len();
    for number in 0..20 {
        assert!(server.psql(&["-c", &format!("select {number}")]).status.success());
    }
    let finished = capture.stop();
    let texts: Vec<&str> =
        finished.named("postgres.query").filter_map(|event| event["db.query.text"].as_str()).collect();
    for text in ["select 'old file'", "select 'old server, new file'"] {
        assert_eq!(texts.iter().filter(|t| **t == text).count(), 1, "{text}");
    }
    let (expected, found) = (said(&server.log()[from..]), captured(&finished.events));
    assert_eq!(expected.len(), 20);
    for (pid, expected) in expected {
        assert_eq!(found.get(&pid), Some(&expected), "{pid}");
    }
    finished.assert_whole();
}

/// The decoder's state dies with its worker: what was asked and not answered by then is told without its text, and says so.
#[test]
fn killed_workers_lose_texts_and_say_so() {
    skip_if!(
        "killed_workers_lose_texts_and_say_so",
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PGBENCH, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15")
    );
    let server = Postgres::start_with(LOGGED);
    let script = server.dir().join("script.sql");
    std::fs::write(&script, "select :client_id, 'under way';\n").unwrap();
    let (_modules, mut capture) = start(&server, &["--ring-size", "64MiB"]);
    // Asked before the first kill, answered after it.
    let mut wire = Wire::connect(&server);
    wire.say(&[(b'Q', b"select pg_backend_pid()\0")]);
    let row = wire.until(b'D').1;
    let backend: u64 = std::str::from_utf8(&row[6..]).unwrap().parse().unwrap();
    wire.until(b'Z');
    capture.wait_for("the connection", Duration::from_secs(10), |e| e["process.pid"] == backend);
    wire.say(&[(b'Q', b"select pg_sleep(2), 'in flight'\0")]);
    std::thread::sleep(Duration::from_millis(300));
    let before = server.log().len();
    let script = script.display().to_string();
    let mut load = server
        .client(PGBENCH)
        .args(["-n", "-c", "4", "-T", "3", "-f", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(700));
        kill_process(pid(capture.child("worker")), Signal::KILL).unwrap();
    }
    wire.until(b'Z');
    assert!(load.wait().unwrap().success());
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["restarts"], &totals["lost"], &totals["undecodable"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(totals["produced"], totals["seen"], "{totals}");
    let of = |pid: u64| {
        let events = finished.events.iter().filter(move |e| e["process.pid"] == pid);
        events.filter(|e| matches!(e["event.name"].as_str(), Some("postgres.query" | "postgres.execute")))
    };
    // Its outcome is told.
    let flight: Vec<_> = of(backend).skip(1).collect();
    assert_eq!(flight.len(), 1, "{flight:?}");
    assert_eq!(
        (&flight[0]["ecapture.outcome"], &flight[0]["ecapture.command.tag"]),
        (&"ok".into(), &"SELECT 1".into())
    );
    assert_eq!(
        (&flight[0]["ecapture.statement.unknown"], &flight[0]["ecapture.state_lost"]),
        (&true.into(), &true.into())
    );
    let mut whole = 0;
    for (pid, expected) in said(&server.log()[before..]) {
        let with = of(pid).filter(|e| e["db.query.text"].is_string()).count();
        let without: Vec<_> = of(pid).filter(|e| !e["db.query.text"].is_string()).collect();
        assert!(without.iter().all(|e| e["ecapture.state_lost"] == true), "{pid}: {without:?}");
        // One statement is under way on a connection at a time: none is missing, none twice.
        assert!(without.len() <= 2, "{pid}: {without:?}");
        assert_eq!(with + without.len(), expected.len(), "{pid}");
        whole += with;
    }
    assert!(whole > 1000, "{whole}");
}

#[test]
fn tls_functions_copies_and_older_connections() {
    skip_if!(
        "tls_functions_copies_and_older_connections",
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15"),
        needs::program("/usr/bin/openssl", "openssl")
    );
    let server = Postgres::start_with(&["max_parallel_workers_per_gather=4"]);
    let data = server.dir().join("data");
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let status = Command::new("/usr/bin/openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    for file in [&key, &certificate] {
        chown(file, Some(65534), Some(65534)).unwrap();
        set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    }
    assert!(server.psql(&["-c", "alter system set ssl = on", "-c", "select pg_reload_conf()"]).status.success());
    // A connection that is there before the capture.
    let mut older = Wire::connect(&server);
    older.say(&[(b'Q', b"select 'before'\0")]);
    older.until(b'Z');
    let (_modules, capture) = start(&server, &["--nested"]);
    older.say(&[(b'Q', b"select 'unseen'\0")]);
    older.until(b'Z');
    older.say(&[(b'Q', b"select 'older'\0")]);
    older.until(b'Z');
    let function =
        "create function f(n int) returns int language plpgsql as $$ begin perform 'inner ' || n; return n; end $$";
    let output = server
        .client(PSQL)
        .env("PGSSLMODE", "require")
        .args(["-X", "-q", "-A", "-t", "-c", function, "-c", "select f(1)"])
        .args(["-c", "create table many as select n from generate_series(1, 200000) n"])
        .args(["-c", "alter table many set (parallel_workers = 4)", "-c", "set parallel_setup_cost = 0"])
        .args(["-c", "set parallel_tuple_cost = 0", "-c", "select count(*), 'parallel' from many"])
        .args(["-c", "select n from many", "-c", "copy many to stdout"])
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(older);
    let finished = capture.stop();
    finished.assert_whole();
    let texts = |name: &'static str, part: &'static str| {
        finished.named(name).filter(move |e| e["db.query.text"].as_str().is_some_and(|text| text.contains(part)))
    };
    // The older connection was waiting in the call that got this statement.
    let unknown: Vec<&Value> =
        finished.named("postgres.query").filter(|e| e["ecapture.statement.unknown"] == true).collect();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!((&unknown[0]["ecapture.outcome"], &unknown[0]["db.response.returned_rows"]), (&"ok".into(), &1.into()));
    let older = texts("postgres.query", "'older'").next().unwrap();
    assert!(older["user.name"].is_null() && older["db.namespace"].is_null());
    // What was said under TLS.
    assert_eq!(texts("postgres.query", "select f(1)").count(), 1);
    assert_eq!(
        texts("postgres.nested", "inner").count(),
        1,
        "{:?}",
        finished.named("postgres.nested").collect::<Vec<_>>()
    );
    assert_eq!(finished.named("postgres.nested").count(), 1);
    // Its workers ran it as well.
    assert_eq!(texts("postgres.query", "'parallel'").count(), 1);
    let made = texts("postgres.query", "create table many").next().unwrap();
    assert_eq!((&made["ecapture.rows_affected"], &made["db.response.returned_rows"]), (&200_000.into(), &Value::Null));
    let many = texts("postgres.query", "select n from many").next().unwrap();
    assert_eq!(many["db.response.returned_rows"], 200_000);
    let copy = texts("postgres.query", "copy many").next().unwrap();
    assert_eq!((&copy["ecapture.copy.direction"], &copy["ecapture.copy.rows"]), (&"out".into(), &200_000.into()));
    assert_eq!(copy["ecapture.copy.bytes"], (1..=200_000_u32).map(|n| n.to_string().len() + 1).sum::<usize>());
}
