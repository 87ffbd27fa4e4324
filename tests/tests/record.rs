//! What is recorded can be decoded again, without a kernel and without root, and gives the events that were there.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules, bin_dir, read_events};
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if, workload};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

fn module(name: &str) -> String {
    bin_dir().join(format!("libecap_{name}.so")).to_str().unwrap().to_owned()
}

fn replay(module: &str, recording: &Path, more: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(bin_dir().join("ecapture")).args(["module", "replay", module]);
    command.arg(recording).args(more).output().unwrap()
}

/// Events without what a replay cannot know (which program a process was) and what a decoder that was started again does not
/// know of connections that are older than itself: who logged in.
fn comparable(events: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut events: Vec<Value> = events.into_iter().collect();
    for event in &mut events {
        for key in ["process.executable.path", "user.name", "db.namespace"] {
            event.as_object_mut().unwrap().remove(key);
        }
    }
    events
}

#[test]
fn a_replay_gives_the_events_that_were_there_each_time_and_without_root() {
    let name = "a_replay_gives_the_events_that_were_there_each_time_and_without_root";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let server = Mariadb::start();
    let (live, recording) = (server.dir().join("live"), server.dir().join("recording"));
    let modules = Modules::with(&["mysql"]);
    let pid = server.pid().to_string();
    let files = [live.to_str().unwrap(), recording.to_str().unwrap()];
    let args = ["mysql", "--pid", &pid, "-o", "json", "--ring-size", "64MiB", "-w", files[0], "--record", files[1]];
    let capture = Capture::start(&modules, &args);
    let _ = workload::run(&server.socket(), 8, 200, 256 << 10);
    // A worker that is killed sends records again, and they are not in the file twice.
    kill_process(ecapture_tests::capture::pid(capture.child("worker")), Signal::KILL).unwrap();
    let _ = workload::run(&server.socket(), 4, 50, 1 << 10);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let live = read_events(&live);
    let totals = &live.last().unwrap()["ecapture.session.modules"][0];
    assert_eq!((&totals["restarts"], &totals["lost"], &totals["unaccounted"]), (&1.into(), &0.into(), &0.into()));

    let once = replay(&module("mysql"), &recording, &["-o", "json", "-q"]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let again = replay(&module("mysql"), &recording, &["-o", "json", "-q"]);
    assert!(once.stdout == again.stdout, "two replays differ");
    let replayed: Vec<Value> =
        String::from_utf8(once.stdout.clone()).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = &replayed.last().unwrap()["ecapture.session.modules"][0];
    assert_eq!((&end["produced"], &end["seen"]), (&totals["produced"], &totals["produced"]), "{end}");
    // Up to the worker's death: after it the live decoder did not know any more what was prepared before.
    let (live, replayed) = (comparable(live), comparable(replayed));
    assert_eq!(live.len(), replayed.len());
    assert_eq!(live[0], replayed[0]);
    let same = live.iter().zip(&replayed).filter(|(a, b)| a == b).count();
    assert!(same * 100 > live.len() * 95, "{same} of {} events are the same", live.len());

    // As nobody, who may read the file.
    std::fs::set_permissions(&recording, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(server.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (own, file) = (server.dir().join("ecapture"), server.dir().join("libecap_mysql.so"));
    std::fs::copy(bin_dir().join("ecapture"), &own).unwrap();
    std::fs::copy(module("mysql"), &file).unwrap();
    let nobody = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(own)
        .args(["module", "replay", "-o", "json", "-q"])
        .args([&file, &recording])
        .output()
        .unwrap();
    assert!(nobody.status.success(), "{}", String::from_utf8_lossy(&nobody.stderr));
    assert!(nobody.stdout == again.stdout, "another replay as nobody");
}

/// A small recording of the fixture.
fn recorded(dir: &Path, count: u32) -> (std::path::PathBuf, u64) {
    let recording = dir.join("recording");
    let modules = Modules::with(&["evil"]);
    let target = Program::compile("evil-target.c", "evil-target");
    let args = ["evil", "--target", &target.text(), "-o", "json", "--record", recording.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    target.run(&[&count.to_string(), "0"]);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    (recording, finished.named("evil.said").count() as u64)
}

#[test]
fn a_recording_that_is_cut_gives_what_is_whole_and_says_so() {
    skip_if!("a_recording_that_is_cut_gives_what_is_whole_and_says_so", needs::capture());
    let dir = tempfile::tempdir().unwrap();
    let (recording, events) = recorded(dir.path(), 500);
    assert_eq!(events, 500);
    let whole = std::fs::read(&recording).unwrap();
    let cut = dir.path().join("cut");
    let mut before = 0;
    for part in 1..8 {
        std::fs::write(&cut, &whole[..whole.len() * part / 8]).unwrap();
        let output = replay(&module("evil"), &cut, &["-o", "json", "-q"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("E-RECORDING") && said.contains("cut at byte"), "{said}");
        let lines = String::from_utf8(output.stdout).unwrap().lines().filter(|l| l.contains("evil.said")).count();
        assert!(lines > before && lines < 500, "{lines} events of {part}/8");
        before = lines;
    }
    for (bytes, words) in [(&b""[..], "no recording"), (b"ECAPREC\x02", "later version"), (&whole[..20], "cut at byte")]
    {
        std::fs::write(&cut, bytes).unwrap();
        let output = replay(&module("evil"), &cut, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("E-RECORDING") && said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_recording_of_another_module_is_refused() {
    skip_if!("a_recording_of_another_module_is_refused", needs::capture());
    let dir = tempfile::tempdir().unwrap();
    let (recording, _) = recorded(dir.path(), 10);
    let output = replay(&module("mysql"), &recording, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("E-RECORDING") && said.contains("of module evil, not of mysql"), "{said}");
    let output = replay(&module("evil"), Path::new("/nowhere/recording"), &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/recording"));
    let output = replay("/nowhere/libecap_evil.so", &recording, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_costs_the_recording_and_not_the_events() {
    skip_if!("a_full_disk_costs_the_recording_and_not_the_events", needs::capture());
    let modules = Modules::with(&["evil"]);
    let target = Program::compile("evil-target.c", "evil-target");
    let args = ["evil", "--target", &target.text(), "-o", "json", "--record", "/dev/full"];
    let capture = Capture::start(&modules, &args);
    target.run(&["100", "0"]);
    let finished = capture.stop();
    assert_eq!(finished.named("evil.said").count(), 100);
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("/dev/full") && finished.said.contains("No space left"), "{}", finished.said);
}

#[test]
fn a_program_that_came_while_it_was_recorded_has_its_name_in_a_replay() {
    let name = "a_program_that_came_while_it_was_recorded_has_its_name_in_a_replay";
    skip_if!(name, needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("recording");
    let modules = Modules::with(&["evil"]);
    let target = Program::compile("evil-target.c", "evil-target");
    let mut capture = Capture::start(&modules, &["evil", "-o", "json", "--record", recording.to_str().unwrap()]);
    let mut process = Command::new(target.path()).args(["400", "5000"]).spawn().unwrap();
    capture.wait_for("its last number", Duration::from_secs(20), |e| e["ecapture.number"] == 399);
    process.wait().unwrap();
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let output = replay(&module("evil"), &recording, &["-o", "json", "-q"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let replayed: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let live: Vec<&Value> = finished.named("evil.said").collect();
    let replayed: Vec<&Value> = replayed.iter().filter(|e| e["event.name"] == "evil.said").collect();
    assert!(!live.is_empty() && live[0]["ecapture.target.path"] == target.text(), "{:?}", live.first());
    assert_eq!(live, replayed);
}
