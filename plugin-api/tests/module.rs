//! The demonstration module, read and loaded as the host does it.

use ecapture_plugin_api::{
    abi::{
        self, HostApiV1, HostApiV1_Ref, ModuleV1_Ref, NO_RECORD, TargetV1,
        abi_stable::{
            prefix_type::PrefixTypeTrait,
            std_types::{RResult, RSlice, RStr},
        },
        call_error, log_level, sink_mut,
    },
    manifest::{Manifest, elf::ModuleNotes},
    plan::{Config, Configured, Detected, Value},
    sdk::testing::{Collected, record},
};
use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

static LOG: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

extern "C" fn log(level: u32, text: RStr<'_>) {
    lines().push((level, text.to_string()));
}

fn lines() -> MutexGuard<'static, Vec<(u32, String)>> {
    LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn logged(text: &str) -> bool {
    lines().iter().any(|(level, line)| *level == log_level::ERROR && line.contains(text))
}

fn file() -> PathBuf {
    let exe = std::env::current_exe().expect("a path");
    let target = exe.parent().and_then(|deps| deps.parent()).expect("in a target directory");
    let path = target.join("examples/libdemo_module.so");
    assert!(path.exists(), "{} is missing: cargo build -p ecapture-plugin-api --examples", path.display());
    path
}

fn module() -> (ModuleV1_Ref, HostApiV1_Ref) {
    let module = abi::load(&file()).unwrap_or_else(|e| panic!("{e}\n{}", e.detail));
    (module, HostApiV1 { log }.leak_into_prefix())
}

fn config(mode: &str) -> String {
    Config::new(mode, [("shout".to_owned(), Value::Bool(true))].into()).to_json()
}

#[test]
fn the_file_is_read_without_running_it() {
    let bytes = std::fs::read(file()).expect("readable");
    let notes = ModuleNotes::read(&bytes).expect("a module");
    let manifest = Manifest::parse(notes.manifest).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(manifest.module.name, "demo_module");
    assert_eq!(Some(notes.build.panic.as_str()), Some("unwind"));
    assert_eq!(notes.build.api, abi::API_VERSION);
    assert!(notes.build.rustc.starts_with("rustc 1."), "{:?}", notes.build);
    assert!(notes.build.target.starts_with(&notes.elf.arch), "{:?}", notes.build);
    let object = notes.object("demo").expect("bundled");
    assert_eq!(object.strip_prefix(b"not an eBPF object"), Some(&[0_u8; 6][..]));
    assert!(notes.elf.needed.iter().any(|n| n.starts_with("libc.so")), "{:?}", notes.elf);
    assert!(notes.elf.glibc.is_some_and(|g| ((2, 2, 0)..(3, 0, 0)).contains(&g)), "{:?}", notes.elf);
    assert!(!notes.elf.executable_stack && notes.elf.runpath.is_none() && !notes.elf.interpreter);
    // What was judged is what runs.
    assert_eq!(module().0.manifest()().as_str(), notes.manifest);
}

#[test]
fn the_cold_path_answers_and_refuses() {
    let (module, host) = module();
    let answer = module.configure()(host, config("text").as_str().into()).unwrap();
    assert_eq!(Configured::from_json(&answer).expect("valid"), Configured::default());
    let error = module.configure()(host, config("refuse").as_str().into()).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (call_error::CONFIG, "shout: needs --mode text"));
    let error = module.configure()(host, "{}".into()).unwrap_err();
    assert_eq!(error.code, call_error::HOST);

    let target = TargetV1 {
        number: 1,
        reserved0: 0,
        path: "/usr/bin/thing".into(),
        bytes: RSlice::from_slice(b"abc"),
        reserved: [0; 4],
    };
    let answer = module.detect()(host, &target, config("text").as_str().into()).unwrap();
    assert!(Detected::from_json(&answer).expect("valid").unsupported.is_some());
    assert!(lines().contains(&(log_level::INFO, "thing has 3 bytes".to_owned())));
    let error = module.detect()(host, &target, config("panic").as_str().into()).unwrap_err();
    assert_eq!(error.code, call_error::PANIC);
    assert!(error.message.contains("demo_module.rs") && error.message.ends_with("detect was told to"), "{error:?}");
}

#[test]
fn records_become_events() {
    let (module, host) = module();
    let mut decoder = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    let mut sink = Collected::default();
    let records = [record(b"one"), record(b""), record(b"two")];
    let done = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink)).unwrap();
    assert_eq!(done, 3);
    assert_eq!(sink.undecodable, [(1, "an empty record".to_owned())]);
    let seen: Vec<_> = sink.events.iter().map(|e| (e.record, e.text(0), e.u64(1))).collect();
    assert_eq!(seen, [(0, Some("ONE".to_owned()), Some(1)), (2, Some("TWO".to_owned()), Some(3))]);
    decoder.tick(1, &mut sink_mut(&mut sink)).unwrap();
    decoder.finish(&mut sink_mut(&mut sink)).unwrap();
    let last = sink.events.last().expect("from finish");
    assert_eq!((last.event, last.record, last.u64(0)), (1, NO_RECORD, Some(3)));
}

#[test]
fn a_sink_that_is_full_stops_the_batch() {
    let (module, host) = module();
    let mut decoder = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    let mut sink = Collected { limit: 2, ..Collected::default() };
    let records = [record(b"1"), record(b"2"), record(b"3")];
    let done = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink)).unwrap();
    assert_eq!((done, sink.events.len()), (2, 2));
}

#[test]
fn panics_stay_inside_and_name_the_record() {
    let (module, host) = module();
    assert_eq!(module.configure()(host, config("panic").as_str().into()).unwrap_err().code, call_error::PANIC);
    assert!(logged("configure was told to"));
    // A payload whose drop panics.
    let error = module.new_decoder()(host, config("panic").as_str().into()).map(drop).unwrap_err();
    assert_eq!(error.code, call_error::PANIC);

    let mut decoder = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    let mut sink = Collected::default();
    let records = [record(b"1"), record(b"panic"), record(b"3")];
    let error = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink)).unwrap_err();
    assert_eq!((error.code, error.record, sink.events.len()), (call_error::PANIC, 1, 1));
    let after = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink));
    assert!(matches!(after, RResult::RErr(e) if e.code == call_error::POISONED));
    drop(decoder);

    let mut decoder = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    assert_eq!(decoder.tick(0, &mut sink_mut(&mut sink)).unwrap_err().code, call_error::PANIC);

    drop(module.new_decoder()(host, config("drop").as_str().into()).unwrap());
    assert!(logged("the drop was told to"));
}

#[test]
fn two_decoders_are_independent() {
    let (module, host) = module();
    let mut first = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    let mut second = module.new_decoder()(host, config("text").as_str().into()).unwrap();
    let mut sink = Collected::default();
    let records = [record(b"x"), record(b"y")];
    first.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink)).unwrap();
    second.decode_batch(RSlice::from_slice(&records[..1]), &mut sink_mut(&mut sink)).unwrap();
    assert_eq!(sink.events.iter().map(|e| e.u64(1)).collect::<Vec<_>>(), [Some(1), Some(2), Some(1)]);
}
