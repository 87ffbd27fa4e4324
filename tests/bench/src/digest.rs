//! How many statements a second a digest is made of, and in how much memory: a recording of a million of them, made by hand.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::capture::{bin_dir, children};
use ecapture_tests::memory::Peak;
use ecapture_tests::million::{STATEMENTS, make};

use crate::stats::Rounds;

const ROUNDS: usize = 5;

pub fn run() {
    let file = make();
    let size = file.as_file().metadata().expect("the recording").len();
    println!("{STATEMENTS} statements of mysql, {:.1} MB, {ROUNDS} rounds", size as f64 / 1e6);
    for way in [&["--view", "digest", "-o", "text"][..], &["--view", "digest", "-o", "json"], &["-o", "none"]] {
        let (mut rate, mut memory) = (Rounds::default(), Peak::default());
        for _ in 0..ROUNDS {
            let mut command = Command::new(bin_dir().join("ecapture"));
            command.args(["module", "replay", "-q", "-w", "/dev/null"]).args(way);
            command.arg(bin_dir().join("libecap_mysql.so")).arg(file.path()).stdout(Stdio::null());
            let begin = Instant::now();
            let mut replay = command.spawn().expect("ecapture starts");
            let status = loop {
                if let Some(status) = replay.try_wait().expect("wait") {
                    break status;
                }
                memory.take(std::iter::once(replay.id()).chain(children(replay.id()).into_values()));
                std::thread::sleep(Duration::from_millis(20));
            };
            assert!(status.success());
            rate.push(STATEMENTS as f64 / begin.elapsed().as_secs_f64());
        }
        println!("  module replay {:24} {rate} statements/s, start and end included; {memory}", way.join(" "));
    }
}
