//! How many records a second a recording is decoded at, and how long the first level of `module check` takes.

use std::io::BufWriter;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::mariadb::Mariadb;
use ecapture_tests::recording::Writer;
use ecapture_tests::workload;

use crate::stats::Rounds;

const ROUNDS: usize = 5;
/// Longest record of those that are repeated, with its header.
const SHORT: usize = 256;
/// Records of the recording without a server.
const REPEATED: usize = 3_000_000;

pub fn run() {
    short();
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
    measure(&recording, records);
}

fn measure(recording: &Path, records: u64) {
    for format in ["none", "json"] {
        let mut rounds = Rounds::default();
        for _ in 0..ROUNDS {
            rounds.push(records as f64 / seconds(&["replay", "-q", "-w", "/dev/null", "-o", format], Some(recording)));
        }
        println!("  module replay -o {format:<5} {rounds} records/s, start and end included");
    }
}

/// How long `ecapture module ...` takes with the module mysql.
fn seconds(args: &[&str], recording: Option<&Path>) -> f64 {
    let mut command = Command::new(bin_dir().join("ecapture"));
    command.arg("module").args(args).arg(bin_dir().join("libecap_mysql.so")).args(recording).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status().expect("ecapture starts");
    assert!(status.success());
    begin.elapsed().as_secs_f64()
}

/// Without a server: the short records of the golden session, again and again.
fn short() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/mysql/mariadb-10.11.ecaprec");
    let bytes = std::fs::read(golden).expect("the golden recording");
    let (mut at, mut header, mut short) = (8, serde_json::Value::Null, Vec::new());
    while let Some(head) = bytes.get(at..at + 24) {
        let end = at + 8 + u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let rest = bytes.get(at + 24..end).expect("a whole recording");
        match head[8] {
            1 => header = serde_json::from_slice(rest).expect("JSON"),
            2 if rest.len() <= SHORT => short.push(rest.to_vec()),
            _ => {}
        }
        at = end;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let modules = header["modules"].as_array().expect("modules").clone();
    let mut writer = Writer::new(BufWriter::new(file.as_file()), &modules).expect("a recording");
    let times = REPEATED / short.len();
    for _ in 0..times {
        short.iter().for_each(|record| writer.record(0, record).expect("a record"));
    }
    let records = (times * short.len()) as u64;
    writer.end(&[records]).expect("an end");
    let mean = short.iter().map(Vec::len).sum::<usize>() / short.len();
    println!("{records} short records of mysql, {mean} bytes each with their headers");
    measure(file.path(), records);

    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS * 4 {
        rounds.push(seconds(&["check", "--level", "static"], None) * 1e3);
    }
    println!("module check --level static: {rounds} ms from start to exit");
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
