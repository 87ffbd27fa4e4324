//! Servers that start, restart and are upgraded while a capture runs, and processes that come and go beside them.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

const COMPILER: &str = "/usr/bin/gcc";

/// Texts of the statements of one process, in order.
fn texts(finished: &Finished, pid: u32) -> Vec<&str> {
    finished
        .named("mysql.query")
        .filter(|e| e["process.pid"] == pid)
        .filter_map(|e| e["db.query.text"].as_str())
        .collect()
}

fn numbers(finished: &Finished, pid: u32) -> Vec<u64> {
    let mine = finished.named("evil.said").filter(|e| e["process.pid"] == pid);
    mine.map(|e| e["ecapture.number"].as_u64().expect("a number")).collect()
}

fn whole(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["lost"], &totals["unaccounted"]), (&0.into(), &0.into()), "{totals}");
}

/// A program that says so many numbers, with a pause before each.
fn talk(program: &Path, count: u32, pause: Duration) -> Child {
    let args = [count.to_string(), pause.as_micros().to_string()];
    Command::new(program).args(args).stdin(Stdio::null()).spawn().expect("the target starts")
}

#[test]
fn a_server_restarted_twenty_times_is_captured_from_the_first_statement_on() {
    let name = "a_server_restarted_twenty_times_is_captured_from_the_first_statement_on";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let mut server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let binary = server.binary();
    let args = ["mysql", "--mysqld", binary.to_str().unwrap(), "-o", "json", "--uid", "65534"];
    let capture = Capture::start(&modules, &args);
    let mut pids = Vec::new();
    for round in 0..20 {
        if round > 0 {
            server.restart();
        }
        let mut client = Client::connect(&server.socket()).unwrap();
        for number in 0..5 {
            client.query(format!("select {round}, {number}").as_bytes()).unwrap();
        }
        client.quit().unwrap();
        pids.push(server.pid());
    }
    let finished = capture.stop();
    whole(&finished);
    // The probes are in the file: there is no gap at all.
    for (round, pid) in pids.iter().enumerate() {
        let expected: Vec<String> = (0..5).map(|number| format!("select {round}, {number}")).collect();
        assert_eq!(texts(&finished, *pid), expected, "incarnation {round}");
    }
    assert_eq!(finished.said.matches("mysql on ").count(), 1, "{}", finished.said);
}

#[test]
fn a_server_that_is_killed_in_mid_statement_is_told_and_its_successor_captured() {
    let name = "a_server_that_is_killed_in_mid_statement_is_told_and_its_successor_captured";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let mut server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let binary = server.binary();
    let args = ["mysql", "--mysqld", binary.to_str().unwrap(), "-o", "json", "--uid", "65534"];
    let mut capture = Capture::start(&modules, &args);
    let killed = server.pid();
    let mut client = Client::connect(&server.socket()).unwrap();
    client.query(b"create database shop").unwrap();
    let prepared = client.prepare(b"select sleep(60), ?").unwrap().unwrap();
    // One in a text, one prepared, and one that has sent a result already.
    let socket = server.socket();
    let other = |text: &'static [u8]| {
        let mut client = Client::connect(&socket).unwrap();
        std::thread::spawn(move || client.query(text).is_err())
    };
    let others = [other(b"select sleep(60), 'text'"), other(b"select 1; select sleep(60)")];
    let last = std::thread::spawn(move || client.execute(prepared, &[b"bound"]).is_err());
    std::thread::sleep(Duration::from_millis(500));
    server.crash();
    assert!(last.join().unwrap() && others.into_iter().all(|one| one.join().unwrap()), "they were answered");
    // They are told when it happens, and not at the end of the capture.
    for (text, parameters) in [
        ("select sleep(60), 'text'", Value::Null),
        ("select 1; select sleep(60)", Value::Null),
        ("select sleep(60), ?", "[\"bound\"]".into()),
    ] {
        let event = capture.wait_for(text, Duration::from_secs(10), |e| {
            e["db.query.text"] == text && e["event.name"] != "mysql.prepare"
        });
        assert_eq!((&event["ecapture.outcome"], &event["process.pid"]), (&"aborted".into(), &killed.into()), "{event}");
        assert_eq!(event["db.query.parameters"], parameters);
        let ms = event["ecapture.duration_ns"].as_u64().unwrap() / 1_000_000;
        assert!((400..30_000).contains(&ms), "{ms} ms");
    }
    assert_ne!(server.pid(), killed);
    let mut client = Client::connect(&server.socket()).unwrap();
    for text in ["use shop", "select 'after the crash'"] {
        assert_eq!(client.query(text.as_bytes()).unwrap().error, None, "{text}");
    }
    client.quit().unwrap();
    let finished = capture.stop();
    whole(&finished);
    assert_eq!(texts(&finished, server.pid()), ["use shop", "select 'after the crash'"]);
    assert!(finished.events.iter().all(|e| e["ecapture.outcome"] != "running"), "something is open");
}

#[test]
fn an_upgrade_by_rename_is_captured_without_a_restart_of_the_capture() {
    let name = "an_upgrade_by_rename_is_captured_without_a_restart_of_the_capture";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let mut server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let binary = server.binary();
    let mut capture =
        Capture::start(&modules, &["mysql", "--mysqld", binary.to_str().unwrap(), "-o", "json", "--uid", "65534"]);
    Client::connect(&server.socket()).unwrap().query(b"select 'old'").unwrap();
    // As a package manager does it: a new file beside the old one, then a rename over it.
    let new = server.dir().join("mariadbd.new");
    std::fs::copy(SERVER, &new).unwrap();
    std::fs::rename(&new, &binary).unwrap();
    let renamed = Instant::now();
    // The old one still runs, from a file that has no name any more.
    Client::connect(&server.socket()).unwrap().query(b"select 'old, still'").unwrap();
    capture.wait_for_word("mysql on ", 2, Duration::from_secs(20));
    println!("captured {:?} after the rename", renamed.elapsed());
    // Its file is removed, but in use: it is not let go.
    std::thread::sleep(Duration::from_secs(6));
    Client::connect(&server.socket()).unwrap().query(b"select 'old, later'").unwrap();
    server.restart();
    Client::connect(&server.socket()).unwrap().query(b"select 'new'").unwrap();
    let event = capture
        .wait_for("the new server's statement", Duration::from_secs(10), |e| e["db.query.text"] == "select 'new'");
    assert_eq!(event["process.pid"], server.pid());
    assert_eq!(event["ecapture.target.path"], *binary.display().to_string());
    let finished = capture.stop();
    whole(&finished);
    let all: Vec<&str> = finished.named("mysql.query").filter_map(|e| e["db.query.text"].as_str()).collect();
    assert_eq!(all, ["select 'old'", "select 'old, still'", "select 'old, later'", "select 'new'"]);
}

#[test]
fn a_server_that_is_started_later_is_waited_for_and_the_gap_is_told() {
    let name = "a_server_that_is_started_later_is_waited_for_and_the_gap_is_told";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let mut capture = Capture::start(&modules, &["evil", "-o", "json"]);
    assert!(capture.said.contains("waiting for evil-target"), "{}", capture.said);
    // It speaks every 5 ms for 2 s: what was said before the probes were there is missing, and nothing else.
    let mut target = talk(&program.path(), 400, Duration::from_millis(5));
    let pid = target.id();
    target.wait().unwrap();
    // A second process of the same file has no gap.
    let mut second = talk(&program.path(), 10, Duration::ZERO);
    second.wait().unwrap();
    capture.wait_for("the last number", Duration::from_secs(10), |e| {
        e["process.pid"] == second.id() && e["ecapture.number"] == 9
    });
    let finished = capture.stop();
    whole(&finished);
    let (first, second) = (numbers(&finished, pid), numbers(&finished, second.id()));
    assert_eq!(second, (0..10).collect::<Vec<_>>());
    let missed = first.first().copied().unwrap_or_else(|| panic!("nothing of the first: {}", finished.said));
    assert_eq!(first, (missed..400).collect::<Vec<_>>(), "a hole in the middle");
    let told = finished.said.split("captured from ").nth(1).and_then(|rest| rest.split(" ms").next());
    let told: u64 = told.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("no gap is told: {}", finished.said));
    println!("missed {missed} numbers of one each 5 ms; told: {told} ms");
    // Each number takes 5 ms and a little more, so what is missing fits into the time that is told.
    assert!(missed <= told / 5 + 1, "{missed} numbers missed in {told} ms");
    assert!(told < 2000, "{told} ms");
}

#[test]
fn a_file_that_is_written_to_while_it_is_probed_is_let_go_and_taken_up_anew() {
    let name = "a_file_that_is_written_to_while_it_is_probed_is_let_go_and_taken_up_anew";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let path = program.text();
    let mut capture = Capture::start(&modules, &["evil", "--target", &path, "-o", "json"]);
    program.run(&["3", "0"]);
    // The same inode, other bytes: as `cp` does it, while nobody runs the file.
    let mut bytes = std::fs::read(program.path()).unwrap();
    bytes.extend([0; 64]);
    std::fs::write(program.path(), &bytes).unwrap();
    capture.wait_for_word("evil on ", 2, Duration::from_secs(20));
    assert!(capture.said.contains("written to while it was probed"), "{}", capture.said);
    program.run(&["3", "0"]);
    let finished = capture.stop();
    whole(&finished);
    assert_eq!(finished.named("evil.said").count(), 6);
}

#[test]
fn a_thousand_processes_within_a_second_disturb_nothing() {
    let name = "a_thousand_processes_within_a_second_disturb_nothing";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let mut capture = Capture::start(&modules, &["evil", "--target", &program.text(), "-o", "json"]);
    let began = Instant::now();
    let (mut pids, mut running) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        running.push(talk(&program.path(), 3, Duration::ZERO));
        if running.len() >= 50 {
            for mut one in running.drain(..) {
                pids.push(one.id());
                one.wait().unwrap();
            }
        }
    }
    let took = began.elapsed();
    assert!(running.is_empty());
    let last = *pids.last().unwrap();
    capture.wait_for("the last one's last number", Duration::from_secs(20), |e| {
        e["process.pid"] == last && e["ecapture.number"] == 2
    });
    let broker = memory_kib(capture.pid());
    let finished = capture.stop();
    whole(&finished);
    println!("1000 processes in {took:?}; the broker has {broker} KiB");
    assert_eq!(finished.named("evil.said").count(), 3000);
    for pid in pids {
        assert_eq!(numbers(&finished, pid), [0, 1, 2], "process {pid}");
    }
    assert!(broker < 64 << 10, "{broker} KiB");
}

#[test]
fn files_beyond_the_table_are_refused_and_said_until_there_is_room() {
    let name = "files_beyond_the_table_are_refused_and_said_until_there_is_room";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let dir = tempfile::tempdir().unwrap();
    let mut capture = Capture::start(&modules, &["evil", "-o", "json"]);
    // 70 copies: 70 files, all of them running.
    let mut running = Vec::new();
    for number in 0..70 {
        let place = dir.path().join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        std::fs::copy(program.path(), place.join("evil-target")).unwrap();
        running.push(talk(&place.join("evil-target"), 1_000_000, Duration::from_millis(50)));
    }
    capture.wait_for_word("evil on ", 64, Duration::from_secs(90));
    capture.wait_for_word("64 files are captured from already", 1, Duration::from_secs(10));
    for one in &running[..64] {
        let pid = one.id();
        capture.wait_for("a number of each", Duration::from_secs(10), |e| e["process.pid"] == pid);
    }
    // What ends and is removed makes room for others.
    for (number, one) in running.iter_mut().enumerate().take(64) {
        let _ = one.kill();
        one.wait().unwrap();
        std::fs::remove_file(dir.path().join(number.to_string()).join("evil-target")).unwrap();
    }
    capture.wait_for_word("evil on ", 70, Duration::from_secs(60));
    for one in &mut running[64..] {
        let pid = one.id();
        capture.wait_for("a number of each", Duration::from_secs(10), |e| e["process.pid"] == pid);
        let _ = one.kill();
        one.wait().unwrap();
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    // Numbers are used again, and no event has the name of another file.
    let place = |number: usize| dir.path().join(number.to_string()).join("evil-target").display().to_string();
    let expected: HashMap<u32, String> = running.iter().enumerate().map(|(n, one)| (one.id(), place(n))).collect();
    for event in finished.named("evil.said") {
        let pid = u32::try_from(event["process.pid"].as_u64().unwrap()).unwrap();
        assert_eq!(event["ecapture.target.path"], expected[&pid], "{event}");
    }
}

#[test]
fn no_new_targets_means_none() {
    skip_if!("no_new_targets_means_none", needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let output = modules.run(&["evil", "--no-new-targets"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("E-TARGET") && said.contains("evil-target"), "{said}");
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Times of one process's events never run backwards, whatever the wall clock does: its step is the subject of the unit
/// tests of `event::Clock`, since no test may set the clock of this machine.
#[test]
fn the_monotonic_time_of_events_never_runs_backwards() {
    let name = "the_monotonic_time_of_events_never_runs_backwards";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["evil"]);
    let program = Program::compile("evil-target.c", "evil-target");
    let capture = Capture::start(&modules, &["evil", "--target", &program.text(), "-o", "json"]);
    program.run(&["1000", "10"]);
    let finished = capture.stop();
    whole(&finished);
    let time = |e: &Value| e["ecapture.monotonic_ns"].as_str().unwrap().parse::<u64>().unwrap();
    let times: Vec<u64> = finished.named("evil.said").map(time).collect();
    assert!(times.len() == 1000 && times.is_sorted());
}
