//! Recordings made by hand, as docs/recordings.md tells: of another version, of several modules, of ten gigabytes. Neither kernel
//! nor root is needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{bin_dir, children};
use ecapture_tests::recording::{MAX_BODY, Writer, crc32, module, record};
use serde_json::{Value, json};

fn evil() -> PathBuf {
    bin_dir().join("libecap_evil.so")
}

fn ecapture(args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(bin_dir().join("ecapture")).arg("module").args(args).output().unwrap()
}

fn replay(recording: &Path) -> (Output, Vec<Value>) {
    let output = ecapture(&["replay", evil().to_str().unwrap(), recording.to_str().unwrap(), "-o", "json"]);
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let events = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let events = events.filter(|e| e["event.name"] == "evil.said").collect();
    (output, events)
}

fn said(number: u64) -> Vec<u8> {
    record(2_000_000_000 + number, 0, &number.to_le_bytes())
}

#[test]
fn one_of_another_version_and_other_options_is_decoded_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.ecaprec");
    let options = json!({"behaviour": "good", "gone": 1, "limit": -5});
    let mut writer = Writer::new(File::create(&file).unwrap(), &[module("evil", "0.0.9", "text", options)]).unwrap();
    (0..20).for_each(|n| writer.record(0, &said(n)).unwrap());
    writer.end(&[20]).unwrap();
    let (output, events) = replay(&file);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), events.len()), (Some(0), 20), "{text}");
    for words in ["made with evil 0.0.9, decoded with 0.1.0", "--gone of the recording", "--limit of the recording"] {
        assert!(text.contains(words), "no {words:?} in: {text}");
    }
    // What the header says, and not what this machine is.
    assert_eq!(events[0]["time"], "2023-11-14T22:13:21.000000000Z");
    assert_eq!((&events[0]["process.pid"], &events[0]["process.user.id"]), (&4711.into(), &1000.into()));

    let file = dir.path().join("mode.ecaprec");
    let modules = [module("evil", "0.1.0", "keylog", json!({}))];
    Writer::new(File::create(&file).unwrap(), &modules).unwrap().end(&[0]).unwrap();
    let (output, _) = replay(&file);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("E-RECORDING") && text.contains("mode keylog"), "{text}");
}

#[test]
fn each_module_finds_its_own_records_and_targets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.ecaprec");
    let modules = [module("other", "1.0.0", "text", json!({})), module("evil", "0.1.0", "text", json!({}))];
    let mut writer = Writer::new(File::create(&file).unwrap(), &modules).unwrap();
    for number in 0..10 {
        writer.record(0, &record(2_000_000_000 + number, 0, b"of the other, and no number")).unwrap();
        writer.record(1, &said(number)).unwrap();
    }
    // Targets that came late: a new number, one of another module, and one that two files had.
    writer.block(5, 1, 1, b"/usr/bin/late").unwrap();
    writer.block(5, 0, 2, b"/of/the/other").unwrap();
    writer.block(5, 1, 3, b"/usr/bin/this").unwrap();
    writer.block(5, 1, 3, b"/usr/bin/that").unwrap();
    for target in 1..4 {
        writer.record(1, &record(3_000_000_000, target, &100_u64.to_le_bytes())).unwrap();
    }
    writer.end(&[10, 13]).unwrap();
    let (output, events) = replay(&file);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let numbers: Vec<_> = events.iter().map(|e| e["ecapture.number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..10).chain([100; 3]).collect::<Vec<_>>());
    let paths: Vec<_> = events.iter().map(|e| e["ecapture.target.path"].as_str()).collect();
    let expected = [vec![Some("/usr/bin/first"); 10], vec![Some("/usr/bin/late"), None, None]].concat();
    assert_eq!(paths, expected);

    // And a check of the module decodes its records, not those of number 0.
    let (evil, file) = (evil(), file.to_str().unwrap().to_owned());
    let output = ecapture(&["check", "--json", evil.to_str().unwrap(), "--recording", &file]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(report["done"].to_string().contains("two.ecaprec: 13 events"), "{report:#}");
}

#[test]
fn a_check_is_not_made_of_a_recording_that_is_cut_or_of_another_module() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("good.ecaprec");
    let mut writer = Writer::new(File::create(&file).unwrap(), &[module("evil", "0.1.0", "text", json!({}))]).unwrap();
    (0..20).for_each(|n| writer.record(0, &said(n)).unwrap());
    writer.end(&[20]).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let other = dir.path().join("other.ecaprec");
    Writer::new(File::create(&other).unwrap(), &[module("other", "1.0.0", "text", json!({}))])
        .unwrap()
        .end(&[0])
        .unwrap();
    for (file, words) in [(file, "cut at byte"), (other, "of module other, not of evil")] {
        let output = ecapture(&["check", evil().to_str().unwrap(), "--recording", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("E-RECORDING") && text.contains(words), "{text}");
    }
}

/// Most memory that a process had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn one_of_ten_gigabytes_is_decoded_in_constant_memory() {
    const BYTES: u64 = 10 << 30;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("large.ecaprec");
    // Records are real and take disk: `cargo xtask soak` asks for more of them.
    let real: u64 = std::env::var("ECAPTURE_RECORDING_MIB").map_or(128, |mib| mib.parse().unwrap()) << 20;
    let holes = BYTES.saturating_sub(real) / MAX_BODY as u64;
    let each = real / (holes + 1) / 112;
    let crc = crc32(0, &vec![0; MAX_BODY]);
    let modules = [module("evil", "0.1.0", "text", json!({}))];
    let mut writer = Writer::new(BufWriter::new(File::create(&file).unwrap()), &modules).unwrap();
    let mut count = 0;
    for _ in 0..=holes {
        for _ in 0..each {
            writer.record(0, &said(count)).unwrap();
            count += 1;
        }
        writer.hole(crc).unwrap();
    }
    let mut out = writer.end(&[count]).unwrap();
    assert!(out.stream_position().unwrap() > BYTES, "{count} records");

    let mut command = Command::new(bin_dir().join("ecapture"));
    command.args(["module", "replay", "-o", "none"]).arg(evil()).arg(&file);
    let began = Instant::now();
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut peaks: BTreeMap<String, u64> = BTreeMap::new();
    while process.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(900), "it does not come to an end");
        let broker = ("broker".to_owned(), process.id());
        for (role, pid) in children(process.id()).into_iter().chain([broker]) {
            let most = peaks.entry(role).or_default();
            *most = peak(pid).unwrap_or(0).max(*most);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    println!("{count} records in 10 GiB, {:.1} s, KiB: {peaks:?}, {text}", began.elapsed().as_secs_f64());
    let digits: String = text.chars().filter(|c| *c != ',').collect();
    assert!(digits.contains(&format!("{count} ")), "not {count} messages: {text}");
    assert!(peaks.len() >= 3, "{peaks:?}");
    // The link is 32 MiB, and all of it counts for both ends.
    assert!(peaks.values().all(|kib| *kib < 128 << 10), "{peaks:?}");
}
