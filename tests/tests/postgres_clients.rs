//! PostgreSQL: clients that cancel, go without a word, say everything at once, come over TLS or by a pooler.

use std::fs::{Permissions, set_permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::read_events;
use ecapture_tests::postgres::log::{captured, compare};
use ecapture_tests::postgres::wire::{EXECUTE, SYNC, Wire, bind, message};
use ecapture_tests::postgres::{
    PGBENCH, POSTGRESQL_13, POSTGRESQL_17, POSTGRESQL_18, PSQL, Postgres, SERVER, Scenario, USER, installed, of_suite,
};
use ecapture_tests::suites::Suite;
use ecapture_tests::{needs, or_skip, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const OPTIONS: &[&str] = &["log_statement=all", "log_line_prefix=%p|", "max_parallel_workers_per_gather=4"];

/// Each is a test of the installed server, and all together are one of each other version.
const SCENARIOS: &[Scenario] = &[cancelled, gone, at_once, tls];

/// Waits until a backend sleeps within `pg_sleep`.
fn until_sleeping(server: &Postgres, backend: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let asked = format!("select wait_event from pg_stat_activity where pid = {backend}");
    while server.psql(&["-c", &asked]).stdout != b"PgSleep\n" {
        assert!(Instant::now() < deadline, "{backend} does not sleep");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A statement that runs is ended by another connection's request with the right key, and by none with a wrong one.
fn cancelled(server: &mut Postgres) {
    let (_modules, mut capture) = server.capture(&[]);
    let (mut wire, other) = (Wire::connect(server), Wire::connect(server));
    let (backend, began) = (wire.backend, Instant::now());
    wire.query("select pg_sleep(30), 'cancelled'");
    until_sleeping(server, backend);
    // Of a connection on which nothing runs.
    other.cancel();
    wire.cancel();
    let error = wire.answer().error.expect("an error");
    assert_eq!(error.0, "57014");
    assert!(began.elapsed() < Duration::from_secs(25), "it slept to its end");
    assert_eq!(wire.ask("select 'goes on'").rows, 1);
    let told = capture.wait_for("the cancelled statement", Duration::from_secs(10), |e| {
        e["db.query.text"] == "select pg_sleep(30), 'cancelled'"
    });
    assert_eq!((&told["ecapture.outcome"], &told["db.response.status_code"]), (&"error".into(), &"57014".into()));
    assert_eq!((&told["ecapture.error.message"], &told["process.pid"]), (&error.1.into(), &backend.into()));
    let slept = told["ecapture.duration_ns"].as_u64().unwrap();
    assert!(u128::from(slept) <= began.elapsed().as_nanos(), "{slept} ns");
    let next = capture.wait_for("the next", Duration::from_secs(10), |e| e["db.query.text"] == "select 'goes on'");
    assert_eq!((&next["ecapture.outcome"], &next["process.pid"]), (&"ok".into(), &backend.into()));
    let finished = capture.stop();
    finished.assert_whole();
    let named: Vec<u64> =
        finished.named("postgres.cancel").map(|e| e["ecapture.cancel.pid"].as_u64().unwrap()).collect();
    assert_eq!(named, [u64::from(other.backend), u64::from(backend)]);
    // Sent by connections of their own, which have no statements.
    assert!(finished.named("postgres.cancel").all(|e| e["process.pid"] != backend && e["ecapture.outcome"] == "ok"));
    drop(other);
}

#[test]
fn a_statement_that_is_cancelled_has_its_error() {
    installed("a_statement_that_is_cancelled_has_its_error", OPTIONS, cancelled);
}

/// Clients that are gone before the answer: the server learns of it when it writes, and not by its first write.
fn gone(server: &mut Postgres) {
    let (_modules, mut capture) = server.capture(&[]);
    let mut wire = Wire::connect(server);
    let short = wire.backend;
    wire.query("select pg_sleep(0.3), 'gone'");
    wire.vanish();
    let quit = |backend: u32| move |e: &Value| e["event.name"] == "postgres.quit" && e["process.pid"] == backend;
    let ended = capture.wait_for("the end of a client that went", Duration::from_secs(10), quit(short));
    assert_eq!(ended["ecapture.outcome"], "aborted");
    // More than any buffer on the way to it has room for.
    let mut wire = Wire::connect(server);
    let long = wire.backend;
    wire.query("select pg_sleep(0.3), repeat('gone', 2500) from generate_series(1, 5000)");
    until_sleeping(server, long);
    wire.vanish();
    capture.wait_for("the end of a client that went", Duration::from_secs(30), quit(long));
    // In a batch: what was asked and not begun is not run.
    let mut wire = Wire::connect(server);
    let batch = wire.backend;
    let none = bind(false, &[]);
    let sleep: (u8, &[u8]) =
        (b'P', b"\0select pg_sleep(0.3), repeat('batch', 1 << 20) from generate_series(1, 30)\0\0\0");
    let next: (u8, &[u8]) = (b'P', b"\0select 'never'\0\0\0");
    wire.say(&[sleep, (b'B', &none), EXECUTE, next, (b'B', &none), EXECUTE, SYNC]);
    until_sleeping(server, batch);
    wire.vanish();
    capture.wait_for("the end of a client that went", Duration::from_secs(30), quit(batch));
    let finished = capture.stop();
    finished.assert_whole();
    let outcome = |backend: u32| {
        let statements = finished.events.iter().filter(move |e| e["process.pid"] == backend);
        let statements = statements.filter(|e| e["db.query.text"].is_string());
        statements.map(|e| (e["ecapture.outcome"].as_str().unwrap(), e["db.response.returned_rows"].as_u64()))
    };
    assert_eq!(outcome(short).collect::<Vec<_>>(), [("ok", Some(1))], "it was answered, into the void");
    assert_eq!(outcome(long).collect::<Vec<_>>(), [("aborted", None)]);
    assert_eq!(outcome(batch).collect::<Vec<_>>(), [("aborted", None), ("skipped", None)]);
}

#[test]
fn clients_that_go_leave_nothing_open() {
    installed("clients_that_go_leave_nothing_open", OPTIONS, gone);
}

/// A client that does not wait: what it asks comes in the same write as the first packet of its connection.
fn at_once(server: &mut Postgres) {
    let (_modules, capture) = server.capture(&[]);
    let query = |text: &str| message(b'Q', format!("{text}\0").as_bytes());
    let mut wires = Vec::new();
    for more in [query("select 'at once'"), [query("select 'at once'"), query("select 2")].concat(), Vec::new()] {
        let mut wire = Wire::connect_saying(server, &more);
        // Of the login, and of each statement.
        wire.answer();
        for _ in more.iter().filter(|byte| **byte == b'Q') {
            assert_eq!(wire.answer().rows, 1);
        }
        assert_eq!(wire.ask("select 'later'").rows, 1);
        wires.push(wire);
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let finished = capture.stop();
    finished.assert_whole();
    for (wire, expected) in
        wires.iter().zip([&["'at once'", "'later'"][..], &["'at once'", "2", "'later'"], &["'later'"]])
    {
        let own: Vec<&Value> = finished.events.iter().filter(|e| e["process.pid"] == wire.backend).collect();
        assert_eq!(own[0]["event.name"], "postgres.connect", "{own:?}");
        let texts: Vec<_> =
            own[1..].iter().map(|e| (e["db.query.text"].as_str().unwrap())["select ".len()..].to_owned()).collect();
        assert_eq!(texts, expected);
        for event in own {
            assert_eq!((&event["user.name"], &event["db.namespace"]), (&USER.into(), &"postgres".into()), "{event}");
            assert_eq!(
                (&event["ecapture.outcome"], &event["network.peer.address"]),
                (&"ok".into(), &"127.0.0.1".into())
            );
        }
    }
}

#[test]
fn clients_that_say_all_at_once_are_known() {
    installed("clients_that_say_all_at_once_are_known", OPTIONS, at_once);
}

/// A PgBouncer in front of a server, with three connections to it for any number of clients.
struct Pooler {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl Pooler {
    /// `mode`: what a client keeps a connection for.
    fn start(server: &Postgres, mode: &str) -> Result<Self, String> {
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
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
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

/// pgbench by a pooler, once with each set of arguments: the statements of each backend are those of the log.
fn pooled(test: &str, pool: &str, loads: &[&[&str]]) {
    skip_if!(test, needs::capture(), needs::program(SERVER, "postgresql-15"), needs::program(PGBENCH, "postgresql-15"));
    let server = Postgres::start_with(OPTIONS);
    let pooler = or_skip!(test, Pooler::start(&server, pool));
    let initialised = server.client(PGBENCH).args(["-i", "-q", "-s", "1"]).output().unwrap();
    assert!(initialised.status.success(), "{}", String::from_utf8_lossy(&initialised.stderr));
    let before = server.log().len();
    let out = server.dir().join("events");
    let (_modules, capture) = server.capture(&["--ring-size", "64MiB", "-w", out.to_str().unwrap()]);
    for more in loads {
        let mut load = server.client(PGBENCH);
        load.env("PGPORT", pooler.port.to_string()).args(["-n", "-t", "30"]).args(*more);
        let output = load.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // A client has its answer before the server's call that sent it returns.
    std::thread::sleep(Duration::from_millis(500));
    let mut finished = capture.stop();
    finished.events = read_events(&out);
    finished.assert_whole();
    let statements = compare(&server, before, &finished.events);
    let backends = captured(&finished.events).len();
    assert!((1..=3).contains(&backends), "{backends} backends");
    let prepared = finished.named("postgres.prepare").count();
    println!("{pool} pooling: {statements} statements on {backends} backends, {prepared} prepared");
    let clients =
        |load: &&[&str]| load.iter().skip_while(|arg| **arg != "-c").nth(1).unwrap().parse::<usize>().unwrap();
    let least: usize = loads.iter().map(|load| clients(load) * 30 * 7).sum();
    assert!(statements >= least, "{statements} of {least}");
    assert_eq!(prepared, if loads[0].contains(&"prepared") { 30 * 3 * 7 } else { 0 });
}

#[test]
fn behind_a_pooler_each_statement_is_its_backends() {
    let test = "behind_a_pooler_each_statement_is_its_backends";
    pooled(
        test,
        "transaction",
        &[&["-M", "simple", "-c", "16", "-j", "2"], &["-M", "extended", "-c", "16", "-j", "2"]],
    );
}

/// Each transaction is a client of its own, whose names of statements are those of the client before it on the same backend.
#[test]
fn behind_a_pooler_prepared_statements_are_those_of_the_client_whose_turn_it_is() {
    let test = "behind_a_pooler_prepared_statements_are_those_of_the_client_whose_turn_it_is";
    // No more clients than connections: pgbench waits for what is prepared, and with it all its other clients.
    pooled(test, "session", &[&["-M", "prepared", "-C", "-c", "3"], &["-M", "extended", "-C", "-c", "3"]]);
}

/// TLS, functions, parallel workers, copies, and a connection that is older than the capture.
fn tls(server: &mut Postgres) {
    skip_if!("tls_functions_copies_and_older_connections", needs::program("/usr/bin/openssl", "openssl"));
    let data = server.data();
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
    let mut older = Wire::connect(server);
    older.ask("select 'before'");
    let (_modules, mut capture) = server.capture(&["--nested"]);
    older.ask("select 'waiting'");
    older.ask("select 'older'");
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
    // psql has its answer before the server has come back from giving it.
    let copied = |e: &Value| e["db.query.text"] == "copy many to stdout";
    capture.wait_for("the copy", Duration::from_secs(10), copied);
    drop(older);
    let finished = capture.stop();
    finished.assert_whole();
    let texts = |name: &'static str, part: &'static str| {
        finished.named(name).filter(move |e| e["db.query.text"].as_str().is_some_and(|text| text.contains(part)))
    };
    // The older connection was waiting in the call that got this statement; the probe at its exit sees it all the same.
    let waited = texts("postgres.query", "'waiting'").next().unwrap();
    assert_eq!((&waited["ecapture.outcome"], &waited["db.response.returned_rows"]), (&"ok".into(), &1.into()));
    assert_eq!(finished.named("postgres.query").filter(|e| e["ecapture.statement.unknown"] == true).count(), 0);
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

#[test]
fn tls_functions_copies_and_older_connections() {
    installed("tls_functions_copies_and_older_connections", OPTIONS, tls);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn clients_of_postgresql_13() {
    of_suite("clients_of_postgresql_13", POSTGRESQL_13, OPTIONS, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn clients_of_postgresql_17() {
    of_suite("clients_of_postgresql_17", POSTGRESQL_17, OPTIONS, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn clients_of_postgresql_18() {
    of_suite("clients_of_postgresql_18", POSTGRESQL_18, OPTIONS, SCENARIOS);
}
