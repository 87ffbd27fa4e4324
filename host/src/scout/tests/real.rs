//! Real files, read only. Where one is missing the test says so and passes.

use super::super::plan::{Cost, FileKind, PointKind, WantedKind};
use super::{ask, placed, probe, symbol};
use std::time::Instant;

fn read(path: &str) -> Option<Vec<u8>> {
    let file = std::fs::read(path).ok();
    if file.is_none() {
        eprintln!("skipped: no {path}");
    }
    file
}

#[test]
fn dispatch_command_of_mariadb() {
    let Some(file) = read("/usr/sbin/mariadbd") else { return };
    let name = "_Z16dispatch_command19enum_server_commandP3THDPcjb";
    for kind in [WantedKind::Entry, WantedKind::Return] {
        let started = Instant::now();
        let answer = ask(&file, probe(kind, symbol(name), 4));
        eprintln!("{kind:?}: {:?}, {:?}", started.elapsed(), answer.placed);
        if answer.failed.first().is_some_and(|f| f.why.contains("no function is named")) {
            eprintln!("skipped: this version has another dispatch_command");
            return;
        }
        let facts = answer.file.as_ref().expect("facts");
        assert_eq!(facts.kind, FileKind::Executable);
        assert!(facts.build_id.is_some());
        let placed = answer.placed.first().expect("a point");
        assert_eq!(placed.cost, Cost::Emulated, "{}", placed.why);
        assert!(placed.instruction.starts_with("push"), "{}", placed.instruction);
    }
}

#[test]
fn read_and_write_of_openssl() {
    let Some(file) = read("/usr/lib/x86_64-linux-gnu/libssl.so.3") else { return };
    for name in ["SSL_read", "SSL_write"] {
        let started = Instant::now();
        let entry = placed(&file, probe(WantedKind::Entry, symbol(name), 3));
        let mut wanted = probe(WantedKind::Return, symbol(name), 0);
        wanted.exit_ok = true;
        let exit = placed(&file, wanted);
        eprintln!("{name}: {:?}, entry {:?}, exit {:?}", started.elapsed(), entry, exit);
        assert_eq!(entry.cost, Cost::Emulated);
        // With the stack protector of distributions there is an exit point; without, a return probe.
        assert_ne!(exit.points[0].kind, PointKind::Entry);
    }
}
