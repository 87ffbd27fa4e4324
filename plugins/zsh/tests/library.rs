//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::abi::abi_stable::prefix_type::PrefixTypeTrait;
use ecapture_plugin_api::abi::abi_stable::std_types::{RResult, RSlice, RStr, RString};
use ecapture_plugin_api::abi::{
    EventSink, EventV1, HostApiV1, HostApiV1_Ref, ModuleError, ModuleV1_Ref, RecordV1, TargetV1, load, sink_mut,
};
use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::manifest::elf::ModuleNotes;
use ecapture_plugin_api::plan::{Config, Configured, Detected};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Beside this test's program, or one folder up.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("path of the test's program");
    let folders = program.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("libecap_zsh.so")).find(|path| path.is_file());
    found.expect("libecap_zsh.so, which cargo builds with this test")
}

extern "C" fn log(_: u32, _: RStr<'_>) {}

fn host() -> HostApiV1_Ref {
    HostApiV1 { log }.leak_into_prefix()
}

fn module() -> ModuleV1_Ref {
    load(&library()).unwrap_or_else(|error| panic!("{error:?}"))
}

fn text(result: RResult<RString, ModuleError>) -> String {
    result.into_result().unwrap_or_else(|error| panic!("{error:?}")).into_string()
}

fn config() -> String {
    Config::new("text", BTreeMap::new()).to_json()
}

#[test]
fn the_file_says_what_it_is() {
    let bytes = std::fs::read(library()).expect("read the library");
    let notes = ModuleNotes::read(&bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(notes.manifest, include_str!("../module.toml"));
    let object = notes.object("zsh").expect("the eBPF object");
    assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    let manifest = Manifest::parse(notes.manifest).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.file_name(), "libecap_zsh.so");
}

#[test]
fn what_is_attached_is_what_the_manifest_allows() {
    let manifest = Manifest::parse(include_str!("../module.toml")).unwrap_or_else(|error| panic!("{error}"));
    let configured = text(module().configure()(host(), config().as_str().into()));
    let configured = Configured::from_json(&configured).expect("an answer that the host takes");
    let attached: Vec<String> = configured.attachments.iter().map(|a| format!("tp_btf/{}", a.to)).collect();
    assert_eq!(attached, manifest.permissions.attach);
}

#[test]
fn a_file_that_is_no_shell_is_unsupported() {
    let bytes = std::fs::read(library()).expect("read the library");
    let target = |bytes| TargetV1 {
        number: 1,
        reserved0: 0,
        path: RStr::from_str("/x/zsh"),
        bytes: RSlice::from_slice(bytes),
        reserved: [0; 4],
    };
    for bytes in [&bytes[..], &bytes[..1000], b"", b"\x7fELF"] {
        let answer = text(module().detect()(host(), &target(bytes), config().as_str().into()));
        let answer = Detected::from_json(&answer).expect("an answer that the host takes");
        assert!(answer.unsupported.is_some(), "{answer:?}");
    }
}

/// Counts.
#[derive(Default)]
struct Count {
    events: usize,
    undecodable: usize,
}

impl EventSink for Count {
    fn emit(&mut self, _: &EventV1<'_>) -> bool {
        self.events += 1;
        true
    }

    fn undecodable(&mut self, _: u32, _: RStr<'_>) {
        self.undecodable += 1;
    }
}

/// START (of the command `a`) or END, by the layout that `zsh.h` gives.
fn message(kind: u32, start_ns: u64, sp: u64) -> Vec<u8> {
    let mut data = vec![0; 48];
    if kind == 1 {
        let words = [1 | 50 << 5, 1, 6 | 1 << 5, u32::from(b'a') << 3 | 2, 0];
        data[24] = 20;
        data[32] = 5;
        data.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
    }
    data[..4].copy_from_slice(&kind.to_le_bytes());
    data[6..8].copy_from_slice(&[1, 2]);
    data[8..16].copy_from_slice(&start_ns.to_le_bytes());
    data[16..24].copy_from_slice(&sp.to_le_bytes());
    data
}

#[test]
fn records_become_events_through_the_interface() {
    let module = module();
    let mut decoder = module.new_decoder()(host(), config().as_str().into())
        .into_result()
        .unwrap_or_else(|error| panic!("{error:?}"));
    let (start, end, running) = (message(1, 5, 100), message(2, 5, 0), message(1, 6, 100));
    let data = [&start[..], &end[..], b"garbage", &start[..20], &running[..]];
    let records: Vec<_> = data
        .iter()
        .map(|data| RecordV1 {
            stream: 0,
            flags: 0,
            target: 1,
            process: 1,
            thread: 1,
            time_ns: 5,
            lost_before: 0,
            missing: 0,
            data: RSlice::from_slice(data),
            reserved: [0; 2],
        })
        .collect();
    let mut count = Count::default();
    let done = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut count)).into_result();
    assert_eq!(done.ok(), Some(5));
    assert_eq!((count.events, count.undecodable), (1, 2));
    assert!(decoder.finish(&mut sink_mut(&mut count)).is_ok());
    assert_eq!(count.events, 2, "what was running at the end");
}
