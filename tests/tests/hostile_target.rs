//! A target cannot harm the capture of others.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};

#[test]
fn a_page_that_nobody_fills_holds_up_nobody_else() {
    let name = "a_page_that_nobody_fills_holds_up_nobody_else";
    skip_if!(name, needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let program = Program::compile("uffd.c", "mariadbd");
    let target = program.path();
    let modules = Modules::with(&["mysql"]);
    let mut capture = Capture::start(&modules, &["mysql", "--mysqld", target.to_str().unwrap(), "-o", "json"]);

    let mut stuck = Command::new(&target).arg("stuck").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stuck.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        assert_eq!(stuck.wait().unwrap().code(), Some(77));
        skip_if!(name, Some("needs userfaultfd"));
    }
    // Its statement has been said, and it still lives on its page: now others speak.
    let spoken = Command::new(&target).arg("200").uid(65534).gid(65534).status();
    let spoken = spoken.or_else(|_| Command::new(&target).arg("200").status()).unwrap();
    assert!(spoken.success());
    let event = capture.wait_for("the last statement", Duration::from_secs(3), |e| e["db.query.text"] == "select 199");
    assert_ne!(event["process.pid"], stuck.id());
    assert!(stuck.try_wait().unwrap().is_none(), "the stuck process is still there");

    let finished = capture.stop();
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    let others: Vec<_> = finished.named("mysql.query").filter(|e| e["process.pid"] != stuck.id()).collect();
    assert_eq!(others.len(), 200);
    let own: Vec<_> = finished.named("mysql.query").filter(|e| e["process.pid"] == stuck.id()).collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["ecapture.truncated_bytes"], 1000, "{}", own[0]);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["faults"], &totals["fault_bytes"], &totals["lost"]), (&1.into(), &1000.into(), &0.into()));
}
