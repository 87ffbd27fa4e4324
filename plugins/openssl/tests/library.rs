//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::plan::Config;
use ecapture_plugin_api::sdk::testing::Built;
use std::collections::{BTreeMap, BTreeSet};

fn config(mode: &str) -> Config {
    Config::new(mode, BTreeMap::new())
}

#[test]
fn the_file_says_what_it_is() {
    let module = Built::load("openssl");
    assert_eq!(module.notes().manifest, include_str!("../module.toml"));
    for id in ["openssl", "openssl_keylog"] {
        let notes = module.notes();
        let object = notes.object(id).unwrap_or_else(|| panic!("no eBPF object {id}"));
        assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    }
    let manifest = module.manifest();
    assert_eq!((manifest.file_name().as_str(), manifest.module.aliases.len()), ("libecap_openssl.so", 2));
}

#[test]
fn each_mode_has_its_object_and_what_is_attached_is_what_the_manifest_allows() {
    let module = Built::load("openssl");
    let mut attached = BTreeSet::new();
    for (mode, object) in [("text", "openssl"), ("keylog", "openssl_keylog"), ("pcapng", "openssl_keylog")] {
        let configured = module.configure(&config(mode)).expect("an answer");
        assert_eq!(configured.objects.iter().map(|object| object.id.as_str()).collect::<Vec<_>>(), [object], "{mode}");
        attached.extend(configured.attachments.iter().map(|a| format!("tp_btf/{}", a.to)));
    }
    assert_eq!(attached, module.manifest().permissions.attach.into_iter().collect());
}

#[test]
fn a_file_without_the_library_is_unsupported() {
    let module = Built::load("openssl");
    for mode in ["text", "keylog"] {
        for bytes in [module.bytes(), &module.bytes()[..1000], b"", b"\x7fELF"] {
            let answer = module.detect("/x/libssl.so.3", bytes, &config(mode)).expect("an answer");
            assert!(answer.unsupported.is_some(), "{mode}: {answer:?}");
        }
    }
}

/// Bytes of the call SSL_write, by the layout that `openssl.h` gives.
fn message(bytes: &[u8]) -> Vec<u8> {
    let mut data: Vec<u8> = [0x7f00_u64, 77, 0, bytes.len() as u64, 100].iter().flat_map(|w| w.to_le_bytes()).collect();
    data.extend(6_u32.to_le_bytes());
    data.resize(88, 0);
    data.extend(bytes);
    data
}

#[test]
fn records_become_events_through_the_interface() {
    let (hello, nothing) = (message(b"hello"), message(b""));
    let records = [&hello[..], b"garbage", &hello[..20], &nothing[..]];
    let told = Built::load("openssl").decode(&config("text"), &records).expect("decoded");
    let payloads: Vec<_> = told.decoded.events.iter().map(|event| event.payload.as_slice()).collect();
    assert_eq!((payloads, told.decoded.undecodable.len()), (vec![&b"hello"[..], b""], 2));
    assert_eq!(told.finished.events.len(), 2, "nothing waits for the end");
}
