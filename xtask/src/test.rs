//! Runs all checks and counts them. The last lines say how many passed, failed and were skipped, and why.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::{self, cargo, must, shown};
use crate::setup;

/// Everything.
pub fn run() -> Result<()> {
    setup::run()?;
    let mut counts = Counts::default();
    counts.check("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    counts.check("lints", &mut cargo(&clippy))?;
    counts.check(
        "documentation",
        cargo(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    counts.tests(&mut cargo(&["test", "--workspace", "--exclude", "ecapture-tests", "--no-fail-fast"]))?;
    end_to_end(&mut counts, None)?;
    counts.report()
}

/// Only the end-to-end tests whose name has `filter`.
pub fn end_to_end_only(filter: &str) -> Result<()> {
    setup::run()?;
    let mut counts = Counts::default();
    end_to_end(&mut counts, Some(filter))?;
    counts.report()
}

fn end_to_end(counts: &mut Counts, filter: Option<&str>) -> Result<()> {
    let bin = build::for_tests()?;
    let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--no-fail-fast"]);
    command.args(filter).env("ECAPTURE_BIN", bin);
    counts.tests_one_by_one(&mut command)
}

/// What takes longer: long fuzzing, and the end-to-end tests five times over.
pub fn soak() -> Result<()> {
    setup::soak()?;
    let bin = build::for_tests()?;
    let mut counts = Counts::default();
    // The property tests of all parsers, with a hundred times the cases.
    let fuzzed = ["test", "--release", "--workspace", "--exclude", "ecapture-tests", "--lib", "--no-fail-fast"];
    counts.run(cargo(&fuzzed).env("PROPTEST_CASES", "25600"), &["--show-output"])?;
    // The end-to-end tests, again and again: what is rare shows.
    for round in 1..=5 {
        eprintln!("xtask: round {round} of 5");
        let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--no-fail-fast"]);
        counts.tests_one_by_one(command.env("ECAPTURE_BIN", &bin))?;
    }
    // Ten gigabytes of records to be decoded again.
    let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--test", "recordings"]);
    command.args(["one_of_ten_gigabytes"]).env("ECAPTURE_BIN", &bin).env("ECAPTURE_RECORDING_MIB", "10240");
    counts.tests_one_by_one(&mut command)?;
    // Ten minutes of records that no kernel sends, for each module.
    let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--test", "module_check"]);
    command.args(["the_modules_of_this_tree_pass"]).env("ECAPTURE_BIN", &bin).env("ECAPTURE_CHECK_TIME", "600s");
    counts.tests_one_by_one(&mut command)?;
    // A thousand requests of up to 8 MiB, and single calls of up to 16 MiB.
    let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--test", "tls"]);
    command.env("ECAPTURE_BIN", &bin).env("ECAPTURE_TLS_SOAK", "1").env("ECAPTURE_TLS_LENGTHS", "24");
    counts.tests_one_by_one(&mut command)?;
    // Versions of OpenSSL and its kin that are built here: each call, each key. PostgreSQL of other suites.
    for test in ["tls", "keylog", "keylog_kin", "postgres", "postgres_clients", "postgres_restarts"] {
        let mut command = cargo(&["test", "--release", "-p", "ecapture-tests", "--test", test]);
        counts.run(command.env("ECAPTURE_BIN", &bin), &["--show-output", "--test-threads=1", "--ignored"])?;
    }
    // A thousand transfers and their bodies, over HTTP/1.1 and HTTP/2; connections of HTTP/2 joined and torn at every byte.
    let http = ["test", "--release", "-p", "ecapture-tests", "--test", "http"];
    counts.tests_one_by_one(cargo(&http).env("ECAPTURE_BIN", &bin).env("ECAPTURE_TEST_FILES", "170"))?;
    // A thousand requests, on each kind of interface, ten runs of ten.
    let packets = ["test", "--release", "-p", "ecapture-tests", "--test", "pcapng", "requests"];
    for _ in 0..10 {
        counts.tests_one_by_one(cargo(&packets).env("ECAPTURE_BIN", &bin).env("ECAPTURE_TEST_FILES", "500"))?;
    }
    let parsers = ["test", "--release", "-p", "ecapture", "--lib", "stream::"];
    counts.tests_one_by_one(cargo(&parsers).env("ECAPTURE_TEST_SEEDS", "60").env("PROPTEST_CASES", "6000"))?;
    // Ten gigabytes in one body, and as many connections at once as files can be open.
    let memory = ["test", "--release", "-p", "ecapture-tests", "--test", "http_memory"];
    let mut command = cargo(&memory);
    command.env("ECAPTURE_BIN", &bin).env("ECAPTURE_HTTP_MIB", "10240").env("ECAPTURE_HTTP_CONNECTIONS", "9900");
    counts.tests_one_by_one(&mut command)?;
    // Half an hour of captures that come and go.
    let storm = ["test", "--release", "-p", "ecapture-tests", "--test", "tls_storm"];
    counts.tests_one_by_one(cargo(&storm).env("ECAPTURE_BIN", &bin).env("ECAPTURE_SOAK_SECONDS", "1800"))?;
    // Two modules at once, one of them crashing every 20 s, for ten minutes.
    let several = ["test", "--release", "-p", "ecapture-tests", "--test", "several"];
    counts.tests_one_by_one(cargo(&several).env("ECAPTURE_BIN", &bin).env("ECAPTURE_SOAK_SECONDS", "600"))?;
    counts.report()
}

/// The benchmarks; they print ratios.
pub fn bench(parts: &[&str]) -> Result<()> {
    setup::bench()?;
    let bin = build::for_tests()?;
    let run = ["run", "--release", "-p", "ecapture-bench", "--"];
    must(cargo(&run).args(parts).env("ECAPTURE_BIN", bin))
}

#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    failures: Vec<String>,
    /// What took how long.
    times: Vec<(Duration, String)>,
}

/// As many of what took longest are shown.
const LONGEST: usize = 15;

impl Counts {
    /// A check that passes or fails as a whole.
    fn check(&mut self, name: &str, command: &mut Command) -> Result<()> {
        eprintln!("xtask: {name}: {}", shown(command));
        let began = Instant::now();
        let status = command.status().with_context(|| shown(command))?;
        self.times.push((began.elapsed(), name.into()));
        if status.success() {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.into());
        }
        Ok(())
    }

    fn tests(&mut self, command: &mut Command) -> Result<()> {
        self.run(command, &["--show-output"])
    }

    /// End-to-end tests measure losses: side by side they would steal each other's time.
    fn tests_one_by_one(&mut self, command: &mut Command) -> Result<()> {
        self.run(command, &["--show-output", "--test-threads=1"])
    }

    fn run(&mut self, command: &mut Command, test_args: &[&str]) -> Result<()> {
        command.arg("--").args(test_args);
        eprintln!("xtask: {}", shown(command));
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| shown(command))?;
        let (mut results, mut passed) = (0, false);
        // A test program is known by its last test: cargo says its file elsewhere. The first one's time is the build's, too.
        let (mut began, mut last) = (Instant::now(), String::new());
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                // What tests that passed have said would bury what the others say.
                passed = match line.as_str() {
                    "successes:" => true,
                    "failures:" => false,
                    _ => passed && !line.starts_with("test result: "),
                };
                if !passed {
                    println!("{line}");
                }
                if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                    last = name.into();
                }
                if self.read(&line) {
                    results += 1;
                    self.times.push((began.elapsed(), format!("the program whose last test is {last}")));
                    began = Instant::now();
                }
            }
        }
        let status = child.wait()?;
        if !status.success() && self.failures.is_empty() {
            // It did not even build, or a test program died without a result.
            self.failed += 1;
            self.failures.push(format!("{}: {status}", shown(command)));
        }
        if results == 0 {
            bail!("{} ran no test", shown(command));
        }
        Ok(())
    }

    /// Counts one line of a test program; true if it is a result.
    fn read(&mut self, line: &str) -> bool {
        if let Some(skipped) = line.trim().strip_prefix("SKIPPED ") {
            self.skipped.push(skipped.into());
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            self.failures.push(name.into());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return false };
        let number = |word: &str| {
            let at = result.find(word)?;
            result[..at].trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
        true
    }

    fn report(mut self) -> Result<()> {
        // A skipped test returns early, so its program counts it as passed.
        self.passed = self.passed.saturating_sub(self.skipped.len() as u64);
        println!();
        self.times.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        for (took, what) in self.times.iter().take(LONGEST) {
            println!("took {:.0} s: {what}", took.as_secs_f64());
        }
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len());
        if self.failed > 0 {
            bail!("{} checks failed", self.failed);
        }
        Ok(())
    }
}
