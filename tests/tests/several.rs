//! Several modules in one run: one that crashes does not stop, delay or disorder the others.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::bash::{Bash, SHELL};
use ecapture_tests::capture::{Capture, Finished, Modules, pid};
use ecapture_tests::load::Load;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

const COMPILER: &str = "/usr/bin/gcc";

/// How long the long test takes: `cargo xtask soak` sets ten minutes.
fn soak() -> Duration {
    let seconds = std::env::var("ECAPTURE_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// A program that says numbers, stopped when dropped.
struct Talker(Child);

impl Talker {
    fn start(program: &Program, microseconds: u32) -> Self {
        let args = ["1000000000".to_owned(), microseconds.to_string()];
        Self(Command::new(program.path()).args(args).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn monotonic(event: &Value) -> u64 {
    event["ecapture.monotonic_ns"].as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no time in {event}"))
}

fn totals<'a>(finished: &'a Finished, module: &str) -> &'a Value {
    let all = finished.end()["ecapture.session.modules"].as_array().unwrap();
    all.iter().find(|t| t["name"] == module).unwrap_or_else(|| panic!("no totals of {module}: {all:?}"))
}

/// Each connection's statements, all of them, once, in order.
fn complete(finished: &Finished, sent: &HashMap<u64, u64>) {
    let mut next: HashMap<u64, u64> = HashMap::new();
    for event in finished.named("mysql.query") {
        let id = event["ecapture.connection.id"].as_str().unwrap().parse().unwrap();
        let next = next.entry(id).or_default();
        assert_eq!(event["db.query.text"], format!("select {next}"), "connection {id}");
        *next += 1;
    }
    assert_eq!(&next, sent);
}

fn start(server: &Mariadb, talker: &Talker) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql", "evil"]);
    let pids = format!("{},{}", server.pid(), talker.0.id());
    let capture = Capture::start(&modules, &["run", "mysql", "evil", "--pid", &pids, "-o", "json"]);
    (modules, capture)
}

#[test]
fn one_module_crashes_again_and_again_and_the_others_events_are_complete_and_in_order() {
    let name = "one_module_crashes_again_and_again_and_the_others_events_are_complete_and_in_order";
    let (server_there, gcc) = (needs::program(SERVER, "mariadb-server-core"), needs::program(COMPILER, "gcc"));
    skip_if!(name, needs::capture(), server_there, gcc);
    let (server, program) = (Mariadb::start(), Program::compile("evil-target.c", "evil-target"));
    let (length, began) = (soak(), Instant::now());
    // The test keeps every event: a long run has longer pauses, so that they fit into memory.
    let slower = u32::try_from(length.as_secs() / 60).unwrap_or(1).max(1);
    let talker = Talker::start(&program, 500 * slower);
    let (_modules, capture) = start(&server, &talker);
    // Every 20 s; three times in a short run.
    let every = Duration::from_secs(20).min(length / 4);
    let load = Load::with_pause(&server.socket(), Duration::from_micros(200) * slower);
    let mut crashes = 0;
    while began.elapsed() + every < length {
        std::thread::sleep(every);
        kill_process(pid(capture.worker_of("evil")), Signal::ABORT).unwrap();
        crashes += 1;
    }
    std::thread::sleep(Duration::from_secs(2));
    let sent = load.finish();
    drop(talker);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert!(crashes >= 3);

    let (mysql, evil) = (totals(&finished, "mysql"), totals(&finished, "evil"));
    complete(&finished, &sent);
    assert_eq!((&mysql["lost"], &mysql["restarts"], &mysql["late"]), (&0.into(), &0.into(), &0.into()), "{mysql}");
    assert_eq!(mysql["produced"], mysql["seen"], "{mysql}");
    let times: Vec<u64> = finished.named("mysql.query").map(monotonic).collect();
    assert!(times.is_sorted(), "statements of one module out of the order of time");

    // The one that crashed has lost nothing either, but the records at which it died twice.
    assert_eq!(evil["restarts"], crashes, "{evil}");
    assert_eq!((&evil["lost"], &evil["produced"]), (&0.into(), &evil["seen"]), "{evil}");
    let numbers: Vec<u64> = finished.named("evil.said").map(|e| e["ecapture.number"].as_u64().unwrap()).collect();
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "numbers that came twice");
    let missing = distinct.last().unwrap() - distinct.first().unwrap() + 1 - numbers.len() as u64;
    assert_eq!(evil["undecodable"], missing, "{evil}");

    // All events together are in order, but for those that are counted as late.
    let all: Vec<u64> = finished.events.iter().filter(|e| e["ecapture.module"].is_string()).map(monotonic).collect();
    let (mut newest, mut behind) = (0, 0);
    for time in all {
        behind += u64::from(time < newest);
        newest = newest.max(time);
    }
    let late = mysql["late"].as_u64().unwrap() + evil["late"].as_u64().unwrap();
    assert!(behind <= late, "{behind} events out of order, {late} counted as late");
    println!("{:?}: {crashes} crashes; mysql {mysql}; evil {evil}", began.elapsed());
}

#[test]
fn a_disabled_module_leaves_the_others_alone_and_the_end_says_so() {
    let name = "a_disabled_module_leaves_the_others_alone_and_the_end_says_so";
    let (server_there, gcc) = (needs::program(SERVER, "mariadb-server-core"), needs::program(COMPILER, "gcc"));
    skip_if!(name, needs::capture(), server_there, gcc);
    let (server, program) = (Mariadb::start(), Program::compile("evil-target.c", "evil-target"));
    let talker = Talker::start(&program, 500);
    let (_modules, mut capture) = start(&server, &talker);
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"select 'before'").unwrap();
    let mut dead = BTreeSet::new();
    while dead.len() < 6 {
        let worker = capture.worker_of("evil");
        if dead.insert(worker) {
            kill_process(pid(worker), Signal::ABORT).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its probes are gone, and nobody waits for its time any more.
    std::thread::sleep(Duration::from_secs(1));
    client.query(b"select 'after'").unwrap();
    let asked = Instant::now();
    capture.wait_for("the statement after", Duration::from_secs(10), |e| e["db.query.text"] == "select 'after'");
    assert!(asked.elapsed() < Duration::from_secs(2), "held back for {:?}", asked.elapsed());
    let finished = capture.stop();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("E-MODULE: disabled before the end: the module evil"), "{}", finished.said);
    assert_eq!(finished.named("mysql.query").count(), 2);
    assert!(finished.said.contains("evil: disabled before the end"), "{}", finished.said);
    let (mysql, evil) = (totals(&finished, "mysql"), totals(&finished, "evil"));
    assert_eq!((&evil["restarts"], &evil["unaccounted"], &mysql["unaccounted"]), (&5.into(), &0.into(), &0.into()));
    // Nobody decoded what came after the last death; it is counted.
    assert_ne!(evil["abandoned"], 0, "{evil}");
}

#[test]
fn a_worker_that_is_stopped_does_not_hold_back_the_others() {
    let name = "a_worker_that_is_stopped_does_not_hold_back_the_others";
    let (server_there, gcc) = (needs::program(SERVER, "mariadb-server-core"), needs::program(COMPILER, "gcc"));
    skip_if!(name, needs::capture(), server_there, gcc);
    let (server, program) = (Mariadb::start(), Program::compile("evil-target.c", "evil-target"));
    let talker = Talker::start(&program, 500);
    let (_modules, mut capture) = start(&server, &talker);
    capture.wait_for("a number", Duration::from_secs(10), |e| e["event.name"] == "evil.said");
    let stopped = capture.worker_of("evil");
    kill_process(pid(stopped), Signal::STOP).unwrap();
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"select 'meanwhile'").unwrap();
    let asked = Instant::now();
    capture.wait_for("the statement", Duration::from_secs(9), |e| e["db.query.text"] == "select 'meanwhile'");
    println!("held back for {:?} by a worker that hangs", asked.elapsed());
    // It is found out, and what it had not said comes late, and is counted so.
    let started = Instant::now();
    while capture.worker_of("evil") == stopped {
        assert!(started.elapsed() < Duration::from_secs(30), "the worker is not started again:\n{}", capture.said);
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let evil = totals(&finished, "evil");
    assert_eq!((&evil["restarts"], &evil["unaccounted"]), (&1.into(), &0.into()), "{evil}");
    assert_eq!(evil["produced"], evil["seen"], "{evil}");
    assert_eq!(totals(&finished, "mysql")["late"], 0);
}

#[test]
fn statements_of_a_server_and_commands_of_a_shell_in_one_run() {
    let name = "statements_of_a_server_and_commands_of_a_shell_in_one_run";
    let (server_there, shell_there) = (needs::program(SERVER, "mariadb-server-core"), needs::program(SHELL, "bash"));
    skip_if!(name, needs::capture(), server_there, shell_there);
    let (server, shell) = (Mariadb::start(), Bash::installed());
    let silent = Stdio::null;
    let mut process = shell.command().stdin(Stdio::piped()).stdout(silent()).stderr(silent()).spawn().unwrap();
    let modules = Modules::with(&["mysql", "bash"]);
    let pids = format!("{},{}", server.pid(), process.id());
    let capture = Capture::start(&modules, &["run", "mysql", "bash", "--pid", &pids, "-o", "json"]);
    let mut client = Client::connect(&server.socket()).unwrap();
    let mut commands = process.stdin.take().unwrap();
    for number in 0..50 {
        client.query(format!("select {number}").as_bytes()).unwrap();
        writeln!(commands, ": {number}").unwrap();
    }
    drop(commands);
    process.wait().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let texts = |event: &str, column: &str| -> Vec<String> {
        finished.named(event).filter_map(|e| Some(e[column].as_str()?.to_owned())).collect()
    };
    let expected = |word: &str| (0..50).map(|number| format!("{word} {number}")).collect::<Vec<_>>();
    assert_eq!(texts("mysql.query", "db.query.text"), expected("select"));
    assert_eq!(texts("bash.command", "ecapture.command.text"), expected(":"));
    let times: Vec<u64> = finished.events.iter().filter(|e| e["ecapture.module"].is_string()).map(monotonic).collect();
    assert!(times.is_sorted(), "events out of the order of time");
    for module in ["mysql", "bash"] {
        let totals = totals(&finished, module);
        assert_eq!((&totals["lost"], &totals["late"], &totals["unaccounted"]), (&0.into(), &0.into(), &0.into()));
    }
}

#[test]
fn what_cannot_be_had_is_said_with_the_module_that_lacks_it() {
    let name = "what_cannot_be_had_is_said_with_the_module_that_lacks_it";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql", "evil"]);
    let own = server.pid().to_string();
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&["run"], 2, &["<NAME>"]),
        (&["run", "mysql", "nothing"], 2, &["E-USAGE", "nothing"]),
        (&["run", "mysql", "mysqld"], 2, &["E-USAGE", "mysql is named twice"]),
        (&["run", "mysql", "--funcname", "x"], 2, &["--funcname"]),
        (&["run", "mysql", "evil", "--no-children", "--pid", &own], 1, &["E-TARGET", "evil", "leave the module out"]),
        (&["run", "mysql", "evil", "--pid", "4194304"], 1, &["E-TARGET", "4194304"]),
    ];
    for (args, code, words) in cases {
        let output = modules.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: no {word:?} in: {said}");
        }
    }
}
