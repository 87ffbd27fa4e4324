//! Workers die; the capture goes on. The broker dies; nothing stays behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules, children, pid};
use ecapture_tests::load::Load;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

fn start(server: &Mariadb) -> (Modules, Capture) {
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let capture = Capture::start(&modules, &["mysql", "--pid", &pid, "-o", "json", "--ring-size", "64MiB"]);
    (modules, capture)
}

fn kill_worker(capture: &Capture) {
    let worker = capture.child("worker");
    kill_process(pid(worker), Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while children(capture.pid()).values().any(|child| *child == worker) {
        assert!(Instant::now() < deadline, "the worker does not die");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn four_killed_workers_lose_and_double_nothing_but_what_is_said() {
    skip_if!(
        "four_killed_workers_lose_and_double_nothing_but_what_is_said",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, capture) = start(&server);
    let load = Load::start(&server.socket());
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1500));
        kill_worker(&capture);
    }
    std::thread::sleep(Duration::from_millis(1500));
    let sent = load.finish();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!(totals["restarts"], 4, "{totals}");
    assert_eq!(totals["lost"], 0, "{totals}");
    assert_eq!(totals["undecodable"], 0, "{totals}");
    assert_eq!(totals["produced"], totals["seen"], "{totals}");

    // One event for each statement: with its text, or saying that the text was lost with a decoder.
    let mut texts: HashMap<u64, Vec<&str>> = HashMap::new();
    let mut textless: BTreeMap<u64, u64> = BTreeMap::new();
    for event in finished.named("mysql.query") {
        let id = event["ecapture.connection.id"].as_str().unwrap().parse().unwrap();
        match event["db.query.text"].as_str() {
            Some(text) => texts.entry(id).or_default().push(text),
            None => {
                assert_eq!(event["ecapture.state_lost"], true, "{event}");
                *textless.entry(id).or_default() += 1;
            }
        }
    }
    for (id, sent) in &sent {
        let got = texts.remove(id).unwrap_or_default();
        let numbers: Vec<u64> = got.iter().map(|t| t["select ".len()..].parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "connection {id}: doubled or out of order");
        let without = textless.get(id).copied().unwrap_or(0);
        assert_eq!(numbers.len() as u64 + without, *sent, "connection {id}: {without} without text");
        assert!(without <= 4, "connection {id}: {without} texts lost by 4 kills");
    }
}

#[test]
fn the_sixth_death_within_a_minute_disables_the_module() {
    skip_if!(
        "the_sixth_death_within_a_minute_disables_the_module",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, capture) = start(&server);
    for _ in 0..6 {
        kill_worker(&capture);
    }
    let finished = capture.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("disabled"), "{}", finished.said);
    assert_eq!(finished.end()["ecapture.session.modules"][0]["restarts"], 5);
}

#[test]
fn ctrl_c_and_terminate_end_an_orderly_run() {
    skip_if!(
        "ctrl_c_and_terminate_end_an_orderly_run",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    for signal in [Signal::INT, Signal::TERM] {
        let (_modules, capture) = start(&server);
        Client::connect(&server.socket()).unwrap().query(b"select 1").unwrap();
        capture.signal(signal);
        let finished = capture.wait();
        assert_eq!(finished.code, Some(0), "{signal:?}: {}", finished.said);
        assert_eq!(finished.named("mysql.query").count(), 1, "{signal:?}");
        assert_eq!(finished.named("ecapture.session.start").count(), 1, "{signal:?}");
        let totals = &finished.end()["ecapture.session.modules"][0];
        assert_eq!((&totals["lost"], &totals["unaccounted"]), (&0.into(), &0.into()), "{totals}");
        assert_eq!((&totals["produced"], &totals["events"]), (&totals["seen"], &1.into()), "{totals}");
    }
}

#[test]
fn a_dead_collector_ends_the_run_and_says_so() {
    skip_if!(
        "a_dead_collector_ends_the_run_and_says_so",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, capture) = start(&server);
    kill_process(pid(capture.child("collector")), Signal::KILL).unwrap();
    let finished = capture.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("collector was killed"), "{}", finished.said);
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_anybody() {
    skip_if!(
        "a_second_ctrl_c_does_not_wait_for_anybody",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let server = Mariadb::start();
    let (_modules, capture) = start(&server);
    let family = family(&capture);
    // A worker that does not answer: the orderly end waits for it.
    kill_process(pid(capture.child("worker")), Signal::STOP).unwrap();
    capture.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    capture.signal(Signal::INT);
    let finished = capture.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("E-INTERRUPTED"), "{}", finished.said);
    assert_eq!(finished.named("ecapture.session.start").count(), 1);
    all_gone("the second Ctrl-C", &family, &BTreeSet::new());
}

/// The broker and its children.
fn family(capture: &Capture) -> Vec<u32> {
    children(capture.pid()).into_values().chain([capture.pid()]).collect()
}

/// The eBPF objects that these processes hold, as the kernel says of their descriptors: (kind, id).
fn held(family: &[u32]) -> BTreeSet<(&'static str, u64)> {
    let infos = family.iter().filter_map(|p| std::fs::read_dir(format!("/proc/{p}/fdinfo")).ok()).flatten().flatten();
    let mut found = BTreeSet::new();
    for info in infos {
        let text = std::fs::read_to_string(info.path()).unwrap_or_default();
        for (key, value) in text.lines().filter_map(|l| l.split_once(':')) {
            let kind = match key {
                "prog_id" => "prog",
                "map_id" => "map",
                "link_id" => "link",
                _ => continue,
            };
            found.insert((kind, value.trim().parse().unwrap()));
        }
    }
    found
}

/// Those of the objects that the kernel still has.
fn in_kernel(objects: &BTreeSet<(&'static str, u64)>) -> BTreeSet<(&'static str, u64)> {
    let mut there = BTreeSet::new();
    for kind in ["prog", "map", "link"] {
        let output = Command::new("bpftool").args(["-j", kind, "list"]).output().expect("bpftool");
        let all: Value = serde_json::from_slice(&output.stdout).expect("what bpftool lists");
        there.extend(all.as_array().expect("a list").iter().map(|o| (kind, o["id"].as_u64().expect("an id"))));
    }
    objects.intersection(&there).copied().collect()
}

/// Waits until there is nothing left. The kernel takes its time to free what the last descriptor held.
fn all_gone(after: &str, family: &[u32], objects: &BTreeSet<(&'static str, u64)>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = if objects.is_empty() { BTreeSet::new() } else { in_kernel(objects) };
        let alive: Vec<_> =
            family.iter().filter(|p| std::fs::read_link(format!("/proc/{p}/exe")).is_ok()).copied().collect();
        if left.is_empty() && alive.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "after {after}; left: {left:?}, processes: {alive:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_stays_after_the_end_nor_after_being_killed() {
    let bpftool = needs::program("/usr/sbin/bpftool", "bpftool");
    skip_if!(
        "nothing_stays_after_the_end_nor_after_being_killed",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core"),
        bpftool
    );
    let server = Mariadb::start();
    for end in ["an orderly end", "SIGKILL of the broker", "SIGKILL of all"] {
        let (_modules, capture) = start(&server);
        let family = family(&capture);
        let objects = held(&family);
        for kind in ["prog", "map", "link"] {
            assert!(objects.iter().any(|o| o.0 == kind), "the capture holds no {kind}: {objects:?}");
        }
        assert_eq!(in_kernel(&objects), objects);
        match end {
            "an orderly end" => assert_eq!(capture.stop().code, Some(0)),
            "SIGKILL of the broker" => {
                capture.signal(Signal::KILL);
                drop(capture);
            }
            _ => {
                // The broker last: with it its children would go by themselves.
                for member in &family {
                    kill_process(pid(*member), Signal::KILL).unwrap();
                }
                drop(capture);
            }
        }
        all_gone(end, &family, &objects);
        // The server was not harmed by probes that went away under it.
        Client::connect(&server.socket()).unwrap().query(b"select 1").unwrap();
    }
}
