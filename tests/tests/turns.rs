//! Worker and collector get the processor when they need it, and give it back.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};

const NORMAL: u32 = 0;
const REAL_TIME: u32 = 2;

/// Scheduling policy and real-time priority: fields 41 and 40 of proc_pid_stat(5).
fn policy(pid: u32) -> (u32, u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u32> =
        stat.rsplit_once(')').unwrap().1.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    (fields[38], fields[37])
}

/// The reason why nothing can be a real-time process here.
fn no_real_time() -> Option<String> {
    let tried = Command::new("chrt").args(["--rr", "1", "true"]).stderr(Stdio::null()).status();
    (!tried.is_ok_and(|status| status.success())).then(|| "needs CAP_SYS_NICE and real-time processor time".into())
}

#[test]
fn children_take_turns_and_give_them_up() {
    let test = "children_take_turns_and_give_them_up";
    skip_if!(test, needs::capture(), needs::program("/usr/bin/gcc", "gcc"), no_real_time());
    let (modules, program) = (Modules::with(&["bench"]), Program::compile("burst.c", "ecapture-burst"));
    let mut target = Command::new(program.path()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let (path, pid) = (program.text(), target.id().to_string());
    let args = ["bench", "--burst", &path, "--pid", &pid, "-o", "none"];
    let capture = Capture::start(&modules, &args);
    let children = ["worker", "collector"].map(|role| capture.child(role));
    let wait_for = |wanted: (u32, u32), patience: Duration| {
        let deadline = Instant::now() + patience;
        children.iter().all(|pid| {
            while policy(*pid) != wanted && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            policy(*pid) == wanted
        })
    };
    assert!(wait_for((REAL_TIME, 1), Duration::from_secs(5)), "no turn: {:?}", children.map(policy));
    // Four million records a second for three seconds, 64 for each hit: far more than a quarter of a processor for both.
    target.stdin.take().unwrap().write_all(b"200000 16000\n").unwrap();
    let mut normal = [0; 2];
    while target.try_wait().unwrap().is_none() {
        for (pid, seen) in children.iter().zip(&mut normal) {
            *seen += u32::from(policy(*pid) == (NORMAL, 0));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(normal.iter().all(|seen| *seen > 0), "kept for as long as there was work: {normal:?}");
    // The next turn, when there is nothing to do.
    assert!(wait_for((REAL_TIME, 1), Duration::from_secs(20)), "no second turn: {:?}", children.map(policy));
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert!(!finished.said.contains("restart"), "{}", finished.said);
}

#[test]
fn without_real_time_there_is_none() {
    let test = "without_real_time_there_is_none";
    skip_if!(test, needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let (modules, program) = (Modules::with(&["evil"]), Program::compile("evil-target.c", "evil-target"));
    let args = ["evil", "--target", &program.text(), "--no-real-time", "-o", "json"];
    let capture = Capture::start(&modules, &args);
    // Time for many turns.
    std::thread::sleep(Duration::from_millis(1500));
    for role in ["worker", "collector"] {
        assert_eq!(policy(capture.child(role)), (NORMAL, 0), "{role}");
    }
    program.run(&["100", "0"]);
    let finished = capture.stop();
    finished.assert_whole();
    assert_eq!(finished.named("evil.said").count(), 100);
}
