//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::plan::Config;
use ecapture_plugin_api::sdk::testing::Built;
use std::collections::BTreeMap;

fn config() -> Config {
    Config::new("text", BTreeMap::new())
}

#[test]
fn the_file_says_what_it_is() {
    let module = Built::load("bash");
    assert_eq!(module.notes().manifest, include_str!("../module.toml"));
    let object = module.notes().object("bash").expect("the eBPF object");
    assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    assert_eq!(module.manifest().file_name(), "libecap_bash.so");
}

#[test]
fn what_is_attached_is_what_the_manifest_allows() {
    let module = Built::load("bash");
    let configured = module.configure(&config()).expect("an answer");
    let attached: Vec<String> = configured.attachments.iter().map(|a| format!("tp_btf/{}", a.to)).collect();
    assert_eq!(attached, module.manifest().permissions.attach);
}

#[test]
fn a_file_that_is_no_shell_is_unsupported() {
    let module = Built::load("bash");
    for bytes in [module.bytes(), &module.bytes()[..1000], b"", b"\x7fELF"] {
        let answer = module.detect("/x/bash", bytes, &config()).expect("an answer");
        assert!(answer.unsupported.is_some(), "{answer:?}");
    }
}

/// START or END, by the layout that `bash.h` gives.
fn message(kind: u32, command: u64, text: &[u8]) -> Vec<u8> {
    let mut data = vec![0; 48];
    data[..4].copy_from_slice(&kind.to_le_bytes());
    data[8..16].copy_from_slice(&command.to_le_bytes());
    data[16] = 1;
    data[40..].copy_from_slice(&(text.len() as u64).to_le_bytes());
    data.extend_from_slice(text);
    data
}

#[test]
fn records_become_events_through_the_interface() {
    let (start, end, running) = (message(1, 5, b"cd /"), message(2, 5, b""), message(1, 6, b"sleep 9"));
    let records = [&start[..], &end[..], b"garbage", &start[..20], &running[..]];
    let told = Built::load("bash").decode(&config(), &records).expect("decoded");
    assert_eq!((told.decoded.events.len(), told.decoded.undecodable.len()), (1, 2));
    assert_eq!(told.finished.events.len(), 2, "what was running at the end");
}
