//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::plan::Config;
use ecapture_plugin_api::sdk::testing::Built;
use std::collections::BTreeMap;

fn config() -> Config {
    Config::new("text", BTreeMap::new())
}

#[test]
fn the_file_says_what_it_is() {
    let module = Built::load("postgres");
    assert_eq!(module.notes().manifest, include_str!("../module.toml"));
    let object = module.notes().object("postgres").expect("the eBPF object");
    assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    assert_eq!(module.manifest().file_name(), "libecap_postgres.so");
}

#[test]
fn what_is_attached_is_what_the_manifest_allows() {
    let module = Built::load("postgres");
    let configured = module.configure(&config()).expect("an answer");
    let attached: Vec<String> = configured.attachments.iter().map(|a| format!("tp_btf/{}", a.to)).collect();
    assert_eq!(attached, module.manifest().permissions.attach);
}

#[test]
fn a_file_that_is_no_server_is_unsupported() {
    let module = Built::load("postgres");
    for bytes in [module.bytes(), &module.bytes()[..1000], b"", b"\x7fELF"] {
        let answer = module.detect("/x/postgres", bytes, &config()).expect("an answer");
        assert!(answer.unsupported.is_some(), "{answer:?}");
    }
}

/// A message of `kind` with what follows its head, by the layout that `postgres.h` gives.
fn message(kind: u32, flags: u32, sequence: u64, rest: &[u8]) -> Vec<u8> {
    let mut data: Vec<u8> = [kind, flags].iter().flat_map(|word| word.to_le_bytes()).collect();
    data.extend([0, 0, sequence].iter().flat_map(|word: &u64| word.to_le_bytes()));
    data.extend(rest);
    data
}

/// What the client said: without an address.
fn asked(flags: u32, sequence: u64, packet: &[u8]) -> Vec<u8> {
    message(1, flags, sequence, &[&[0; 40][..], packet].concat())
}

/// One entry of what it was told.
fn entry(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short");
    let mut data = [&[kind, 0][..], &length.to_le_bytes(), &u32::from(length).to_le_bytes(), body].concat();
    data.resize(data.len().next_multiple_of(8), 0);
    data
}

#[test]
fn records_become_events_through_the_interface() {
    let query = |sequence, text: &[u8]| {
        let length = u32::try_from(text.len() + 4).expect("short");
        asked(1, sequence, &[&b"Q"[..], &length.to_be_bytes(), text].concat())
    };
    let (first, running) = (query(0, b"select 1\0"), query(2, b"select pg_sleep(9)\0"));
    let answer = message(2, 0, 1, &[entry(b'C', b"SELECT 1\0"), entry(b'Z', b"I")].concat());
    let records = [&first[..], &answer[..], b"garbage", &first[..20], &running[..]];
    let told = Built::load("postgres").decode(&config(), &records).expect("decoded");
    assert_eq!((told.decoded.events.len(), told.decoded.undecodable.len()), (1, 2));
    assert_eq!(told.finished.events.len(), 2, "what was running at the end");
}
