//! Real files, read only. Where one is missing the test says so and passes.

use super::super::plan::{Behind, Cost, FileKind, Locator, PointKind, WantedKind, WrapperArgument};
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

#[test]
fn what_is_behind_read_and_write_of_openssl() {
    let Some(file) = read("/usr/lib/x86_64-linux-gnu/libssl.so.3") else { return };
    // From 3.3 on flags stand before the place for the written length.
    let flags = file.windows(14).any(|name| name == b"\0SSL_write_ex2");
    let mut found = Vec::new();
    for (name, position) in [("SSL_read", 3), ("SSL_peek", 3), ("SSL_write", if flags { 4 } else { 3 })] {
        let wrappers = vec![name.to_owned(), format!("{name}_ex")];
        let out = Some(WrapperArgument { wrapper: wrappers[1].clone(), argument: 3 });
        let at = Locator::Behind(Behind { wrappers, args: 3, buffer: 1, out });
        let started = Instant::now();
        let entry = placed(&file, probe(WantedKind::Entry, at.clone(), 3));
        let end = placed(&file, probe(WantedKind::Return, at, 0));
        eprintln!("{name}: {:?}, entry {entry:?}, return {end:?}", started.elapsed());
        assert_eq!((entry.out, end.out), (Some(position), Some(position)), "{name}");
        assert_eq!(entry.function_offset, end.function_offset, "{name}");
        let words = format!("behind {name} and {name}_ex");
        assert!(entry.found.as_ref().is_some_and(|found| found.starts_with(&words)), "{:?}", entry.found);
        for wrapper in [name.to_owned(), format!("{name}_ex")] {
            let wrapper = placed(&file, probe(WantedKind::Entry, symbol(&wrapper), 3));
            assert_ne!(wrapper.function_offset, entry.function_offset, "{name}");
        }
        found.push(entry.function_offset);
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 3, "three functions");
}

#[test]
fn whole_calls_of_postgresql() {
    let Some(file) = read("/usr/lib/postgresql/15/bin/postgres") else { return };
    for name in ["secure_read", "secure_write"] {
        let point = placed(&file, probe(WantedKind::Exit, symbol(name), 2));
        eprintln!("{name}: {point:?}");
        assert_eq!((point.points.len(), point.points[0].kind, point.cost), (1, PointKind::Exit, Cost::Emulated));
        assert!(point.instruction.starts_with("jne"), "{}", point.instruction);
    }
}
