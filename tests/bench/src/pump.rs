//! How many records a second go from the kernel through a module to an output.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules};
use tempfile::TempDir;

use crate::peer::{Bpftrace, Place, first_probe, lines};
use crate::stats::Rounds;

/// Records of one hit, as in bench.bpf.c.
const BURST: u64 = 64;
const ROUNDS: usize = 5;
/// Text that every event has.
const MARK: &str = "select * from orders";

/// The program that is captured from, waiting for orders.
struct Source {
    process: Child,
    answers: BufReader<ChildStdout>,
    file: PathBuf,
}

impl Source {
    fn start(dir: &Path) -> Self {
        let file = dir.join("ecapture-burst");
        if !file.exists() {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/targets/burst.c");
            let status = Command::new("gcc").args(["-O1", "-o"]).arg(&file).arg(source).status().expect("gcc");
            assert!(status.success(), "gcc failed");
        }
        let mut process =
            Command::new(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the source starts");
        let answers = BufReader::new(process.stdout.take().expect("stdout"));
        Self { process, answers, file }
    }

    /// `hits` calls, `pause_ns` apart; gives the seconds that it took.
    fn run(&mut self, hits: u64, pause_ns: u64) -> f64 {
        let order = format!("{hits} {pause_ns}\n");
        self.process.stdin.as_mut().expect("stdin").write_all(order.as_bytes()).expect("an order");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim().parse::<f64>().expect("nanoseconds") / 1e9
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What one capture gave.
#[derive(Debug, Default)]
struct Flow {
    /// Records a second that the source made.
    made: f64,
    /// Records a second up to the end of the program, everything written.
    through: f64,
    lost: u64,
}

fn capture(modules: &Modules, dir: &TempDir, args: &[&str], hits: u64, pause: u64) -> Flow {
    let mut source = Source::start(dir.path());
    let (file, pid) = (source.file.display().to_string(), source.process.id().to_string());
    let totals = dir.path().join("totals.jsonl");
    let _ = std::fs::remove_file(&totals);
    let running = Capture::start(modules, &[&["bench", "--burst", &file, "--pid", &pid], args].concat());
    let begin = Instant::now();
    let made = source.run(hits, pause);
    let finished = running.stop();
    let through = begin.elapsed().as_secs_f64();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let records = hits * BURST;
    let none_lost = finished.said.contains("none lost") && finished.said.contains(&thousands(records));
    let lost = if none_lost { 0 } else { lost_in(&finished.said) };
    let flow = Flow { made: records as f64 / made, through: records as f64 / through, lost };
    if !none_lost {
        println!("  {}", finished.said.lines().last().unwrap_or_default());
    }
    flow
}

fn thousands(value: u64) -> String {
    crate::stats::grouped(value as f64)
}

/// The number before " lost" in the summary; 1 if there is none, since something is not as it should be.
fn lost_in(said: &str) -> u64 {
    let before = said.rsplit_once(" lost").map_or("", |(before, _)| before);
    let number = before.rsplit(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap_or_default();
    number.replace(',', "").parse().unwrap_or(1)
}

pub fn run() {
    let modules = Modules::with(&["bench"]);
    let dir = tempfile::Builder::new().prefix("ecapture-bench-").tempdir().expect("temporary directory");
    let json = dir.path().join("events.jsonl");
    let text = dir.path().join("events.txt");
    let (json_arg, text_arg) = (json.display().to_string(), text.display().to_string());
    let contenders: [(&str, Vec<&str>); 4] = [
        ("decoded, counted, no events", vec!["-o", "none", "--mode", "count"]),
        ("decoded, an event each, -o none", vec!["-o", "none"]),
        ("decoded, an event each, JSON file", vec!["-o", "json", "-w", &json_arg]),
        ("decoded, an event each, text file", vec!["-o", "text", "-w", &text_arg]),
    ];

    println!("flat out, 1,920,000 records of 128 B into a ring of 512 MiB, records/s until the program has ended");
    let hits = 30_000;
    let mut through = vec![Rounds::default(); contenders.len()];
    let (mut made, mut lost) = (Rounds::default(), 0);
    for _ in 0..ROUNDS {
        for ((_, args), rounds) in contenders.iter().zip(&mut through) {
            let flow = capture(&modules, &dir, &[&args[..], &["--ring-size", "512MiB"]].concat(), hits, 0);
            made.push(flow.made);
            rounds.push(flow.through);
            lost += flow.lost;
        }
        assert_eq!(lines(&json, MARK), hits * BURST, "lines in the JSON file");
        assert_eq!(lines(&text, MARK), hits * BURST, "lines in the text file");
    }
    println!("  the source makes                    {made}");
    for ((name, _), rounds) in contenders.iter().zip(&through) {
        println!("  {name:<35} {rounds}");
    }
    println!("  lost in all rounds together: {lost}");

    println!("sustained, default ring (16 MiB), 3 s at a fixed rate: lost records in {ROUNDS} rounds");
    for (name, args, pause) in [
        ("1,000,000/s, -o none", &contenders[1].1, 64_000),
        ("2,000,000/s, -o none", &contenders[1].1, 32_000),
        ("300,000/s, JSON file", &contenders[2].1, 213_333),
        ("1,000,000/s, JSON file", &contenders[2].1, 64_000),
    ] {
        let (mut lost, mut made) = (Rounds::default(), Rounds::default());
        for _ in 0..ROUNDS {
            let flow = capture(&modules, &dir, args, 3_000_000_000 / pause, pause);
            lost.push(flow.lost as f64);
            made.push(flow.made);
        }
        println!("  {name:<25} made {made}, lost {lost}");
    }
}

/// Both write lines of text to a file; what is compared is the share that gets there, and the speed.
pub fn beside_bpftrace() {
    let modules = Modules::with(&["bench"]);
    let dir = tempfile::Builder::new().prefix("ecapture-bench-").tempdir().expect("temporary directory");
    println!("beside bpftrace, both writing text lines to a file: share of the records that is in the file");
    let output = dir.path().join("bpftrace.txt");
    let text = dir.path().join("events.txt");
    let text_arg = text.display().to_string();
    for (name, pause, hits) in [("100,000/s", 640_000, 3_125), ("300,000/s", 213_333, 4_690), ("flat out", 0, 4_690)] {
        let (mut ours, mut theirs, mut speed) = (Rounds::default(), Rounds::default(), Rounds::default());
        for _ in 0..3 {
            let records = (hits * BURST) as f64;
            capture(&modules, &dir, &["-o", "text", "-w", &text_arg, "--ring-size", "16MiB"], hits, pause);
            ours.push(100.0 * lines(&text, MARK) as f64 / records);

            let mut source = Source::start(dir.path());
            let place = Place::new(source.process.id(), &source.file, first_probe(&modules, "bench", &source.file));
            let program = format!(
                "uprobe:{}:burst {{ unroll({BURST}) {{ printf(\"%llu %d {MARK} where id=1\\n\", arg0, tid) }} }}",
                source.file.display()
            );
            let mut peer = Bpftrace::start(&program, &output);
            place.wait(true);
            let begin = Instant::now();
            source.run(hits, pause);
            let seen = peer.stop(MARK) as f64;
            speed.push(seen / begin.elapsed().as_secs_f64());
            theirs.push(100.0 * seen / records);
        }
        println!("  {name:<12} ecapture {ours} %   bpftrace {theirs} %, {speed} lines/s");
    }
}
