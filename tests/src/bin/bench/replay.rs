//! How many records a second a recording is decoded at, and what it costs a run to make one.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::mariadb::Mariadb;
use ecapture_tests::workload;

use crate::stats::Rounds;

const ROUNDS: usize = 5;

pub fn run() {
    let server = Mariadb::start();
    let recording = server.dir().join("recording");
    let modules = Modules::with(&["mysql"]);
    let (pid, file) = (server.pid().to_string(), recording.display().to_string());
    let args = ["mysql", "--pid", &pid, "-o", "json", "--ring-size", "256MiB", "--record", &file, "-w", "/dev/null"];
    let capture = Capture::start(&modules, &args);
    // Texts of some 100 bytes: records of 256 bytes in the ring.
    for _ in 0..4 {
        let _ = workload::run(&server.socket(), 16, 2_000, 64);
    }
    let finished = capture.stop();
    assert!(finished.said.contains("none lost"), "{}", finished.said);
    let bytes = recording.metadata().expect("the recording").len();
    let records = records(&recording);
    println!(
        "{records} records of mysql, {:.1} MB: {:.0} bytes each",
        bytes as f64 / 1e6,
        bytes as f64 / records as f64
    );
    for format in ["none", "json"] {
        let mut rounds = Rounds::default();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let status = Command::new(bin_dir().join("ecapture"))
                .args(["module", "replay", "-q", "-w", "/dev/null", "-o", format])
                .arg(bin_dir().join("libecap_mysql.so"))
                .arg(&recording)
                .status()
                .expect("ecapture starts");
            assert!(status.success());
            rounds.push(records as f64 / begin.elapsed().as_secs_f64());
        }
        println!("  module replay -o {format:<5} {rounds} records/s, start and end included");
    }
}

/// Blocks of kind 2: see docs/recordings.md.
fn records(recording: &Path) -> u64 {
    let bytes = std::fs::read(recording).expect("the recording");
    let (mut at, mut records) = (8, 0);
    while let Some(head) = bytes.get(at..at + 9) {
        records += u64::from(head[8] == 2);
        at += 8 + u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    }
    records
}
