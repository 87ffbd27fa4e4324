//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::plan::Config;
use ecapture_plugin_api::sdk::testing::Built;
use std::collections::BTreeMap;

fn config() -> Config {
    Config::new("text", BTreeMap::new())
}

#[test]
fn the_file_says_what_it_is() {
    let module = Built::load("zsh");
    assert_eq!(module.notes().manifest, include_str!("../module.toml"));
    let object = module.notes().object("zsh").expect("the eBPF object");
    assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    assert_eq!(module.manifest().file_name(), "libecap_zsh.so");
}

#[test]
fn what_is_attached_is_what_the_manifest_allows() {
    let module = Built::load("zsh");
    let configured = module.configure(&config()).expect("an answer");
    let attached: Vec<String> = configured.attachments.iter().map(|a| format!("tp_btf/{}", a.to)).collect();
    assert_eq!(attached, module.manifest().permissions.attach);
}

#[test]
fn a_file_that_is_no_shell_is_unsupported() {
    let module = Built::load("zsh");
    for bytes in [module.bytes(), &module.bytes()[..1000], b"", b"\x7fELF"] {
        let answer = module.detect("/x/zsh", bytes, &config()).expect("an answer");
        assert!(answer.unsupported.is_some(), "{answer:?}");
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
    let (start, end, running) = (message(1, 5, 100), message(2, 5, 0), message(1, 6, 100));
    let records = [&start[..], &end[..], b"garbage", &start[..20], &running[..]];
    let told = Built::load("zsh").decode(&config(), &records).expect("decoded");
    assert_eq!((told.decoded.events.len(), told.decoded.undecodable.len()), (1, 2));
    assert_eq!(told.finished.events.len(), 2, "what was running at the end");
}
