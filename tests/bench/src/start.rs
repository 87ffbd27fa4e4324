//! From the start of the program to the first breakpoint in a running server.

use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::mariadb::Mariadb;

use crate::peer::{Bpftrace, Place, first_probe};
use crate::stats::Rounds;

const ROUNDS: usize = 11;

pub fn run() {
    let server = Mariadb::start();
    let modules = Modules::with(&["mysql"]);
    let place = Place::new(server.pid(), &server.binary(), first_probe(&modules, "mysql", &server.binary()));
    let pid = server.pid().to_string();
    let output = server.dir().join("bpftrace.txt");
    let program = format!(
        "uprobe:{}:_Z16dispatch_command19enum_server_commandP3THDPcjb {{ printf(\"%s\\n\", str(arg2)) }}",
        server.binary().display()
    );
    let (mut ours, mut all, mut theirs, mut stop) =
        (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let capture = Capture::spawn(&modules, &["mysql", "--pid", &pid]);
        place.wait(true);
        ours.push(begin.elapsed().as_secs_f64() * 1e3);
        let capture = capture.until_ready();
        all.push(begin.elapsed().as_secs_f64() * 1e3);
        let begin = Instant::now();
        drop(capture.stop());
        stop.push(begin.elapsed().as_secs_f64() * 1e3);
        place.wait(false);

        let begin = Instant::now();
        let mut peer = Bpftrace::start(&program, &output);
        place.wait(true);
        theirs.push(begin.elapsed().as_secs_f64() * 1e3);
        peer.stop("");
        place.wait(false);
    }
    println!("from start, ms ({ROUNDS} rounds)");
    println!("  ecapture, first breakpoint   {ours}   {:.2} x bpftrace", ours.median() / theirs.median());
    println!("  ecapture, all its probes     {all}");
    println!("  bpftrace, its one breakpoint {theirs}");
    println!("  ecapture, Ctrl-C to exit     {stop}");
}
