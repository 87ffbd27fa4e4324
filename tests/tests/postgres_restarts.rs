//! PostgreSQL: servers that crash, are stopped or upgraded under a capture, and workers of the capture that die.

use std::process::Stdio;
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, pid};
use ecapture_tests::postgres::log::{captured, said};
use ecapture_tests::postgres::wire::Wire;
use ecapture_tests::postgres::{
    PGBENCH, POSTGRESQL_13, POSTGRESQL_17, POSTGRESQL_18, PSQL, Postgres, SERVER, Scenario, installed, of_suite,
};
use ecapture_tests::{needs, skip_if};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

const LOGGED: &[&str] = &["log_statement=all", "log_line_prefix=%p|", "restart_after_crash=on"];
const SCENARIOS: &[Scenario] = &[crashes];

fn crashes(server: &mut Postgres) {
    let postmaster = server.pid().to_string();
    let modules = Modules::with(&["postgres"]);
    // All backends by the process that starts them.
    let binary = server.binary().display().to_string();
    let mut capture =
        Capture::start(&modules, &["postgres", "--postgres", &binary, "--pid", &postmaster, "-o", "json"]);
    // A backend that is killed in mid-statement: the server ends the others too, and recovers.
    let mut wire = Wire::connect(server);
    wire.query("select pg_sleep(60), 'killed'");
    std::thread::sleep(Duration::from_millis(200));
    kill_process(pid(wire.backend), Signal::KILL).unwrap();
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
    let (_modules, mut capture) = server.capture(&[]);
    let mut wire = Wire::connect(server);
    wire.query("select pg_sleep(60), 'stopped'");
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
fn servers_that_crash_leave_nothing_open() {
    installed("servers_that_crash_leave_nothing_open", LOGGED, crashes);
}

/// Makes the build id look like pointers behind the branches at which whole calls are seen. These are no longer proven to be on
/// the only way to a return, and probes at entries and returns stand in for them.
fn lead_around_exits(modules: &Modules, server: &mut [u8]) {
    const BUILD_ID: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let plan = modules.run(&["module", "plan", "postgres", "--json", "--target", SERVER]);
    let plan: Value = serde_json::from_slice(&plan.stdout).expect("a plan");
    let placed = plan["targets"][0]["scout"]["placed"].as_array().expect("probes");
    let exits = placed.iter().filter(|probe| probe["points"][0]["kind"] == "exit");
    let at = server.windows(BUILD_ID.len()).position(|bytes| bytes == BUILD_ID).expect("a build id") + BUILD_ID.len();
    let id = server[at..at + 20].as_chunks_mut::<8>().0;
    assert_eq!(exits.clone().count(), id.len());
    for (pointer, exit) in id.iter_mut().zip(exits) {
        // Code has the same address as offset in Debian's build; a short jump has two bytes.
        *pointer = (exit["points"][0]["offset"].as_u64().expect("an offset") + 2).to_le_bytes();
    }
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
    let (modules, mut capture) = server.capture(&[]);
    capture.wait_for_word("2 probes", 1, Duration::from_secs(10));
    assert!(server.psql(&["-c", "select 'old file'"]).status.success());
    server.upgrade_binary(|bytes| lead_around_exits(&modules, bytes));
    // The postmaster runs on from the file that has no name any more, and so do the backends that it starts.
    assert!(server.psql(&["-c", "select 'old server, new file'"]).status.success());
    // The new program is another file: its probes are put in place while it starts, and that is said.
    server.restart_at_once();
    capture.wait_for_word("4 probes", 1, Duration::from_secs(10));
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
    let (_modules, mut capture) = server.capture(&["--ring-size", "64MiB"]);
    // Asked before the first kill, answered after it.
    let mut wire = Wire::connect(&server);
    let backend = u64::from(wire.backend);
    capture.wait_for("the connection", Duration::from_secs(10), |e| e["process.pid"] == backend);
    wire.query("select pg_sleep(2), 'in flight'");
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
    let flight: Vec<_> = of(backend).collect();
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
#[ignore = "fetches another suite's packages: part of the long tests"]
fn crashes_of_postgresql_13() {
    of_suite("crashes_of_postgresql_13", POSTGRESQL_13, LOGGED, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn crashes_of_postgresql_17() {
    of_suite("crashes_of_postgresql_17", POSTGRESQL_17, LOGGED, SCENARIOS);
}

#[test]
#[ignore = "fetches another suite's packages: part of the long tests"]
fn crashes_of_postgresql_18() {
    of_suite("crashes_of_postgresql_18", POSTGRESQL_18, LOGGED, SCENARIOS);
}
