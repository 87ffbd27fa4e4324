//! The library as cargo built it: readable without running it, loadable, and working through its interface only.

use ecapture_plugin_api::plan::{Config, Value};
use ecapture_plugin_api::sdk::testing::Built;
use std::collections::BTreeMap;

fn config() -> Config {
    with("statement_memory", Value::Int(1 << 20))
}

fn with(option: &str, value: Value) -> Config {
    Config::new("text", BTreeMap::from([(option.to_owned(), value)]))
}

#[test]
fn the_file_says_what_it_is() {
    let module = Built::load("mysql");
    assert_eq!(module.notes().manifest, include_str!("../module.toml"));
    let object = module.notes().object("mysql").expect("the eBPF object");
    assert!(object.starts_with(b"\x7fELF") && object.len() > 4096);
    assert_eq!(module.manifest().file_name(), "libecap_mysql.so");
}

#[test]
fn configuration_is_checked() {
    let module = Built::load("mysql");
    assert_eq!(module.notes().build.panic, "unwind");
    assert_eq!(module.manifest().module.aliases, ["mysqld"]);
    let configured = module.configure(&config()).expect("an answer");
    assert_eq!(configured.objects[0].id, "mysql");
    let at: Vec<&str> = configured.attachments.iter().map(|attachment| attachment.to.as_str()).collect();
    assert_eq!(at, ["sched_process_exit"]);
    let refused = module.configure(&with("funcname", Value::Text(String::new()))).expect_err("an empty name");
    assert!(refused.starts_with("funcname: "), "{refused}");
}

#[test]
fn a_file_that_is_no_server_is_unsupported() {
    let module = Built::load("mysql");
    for bytes in [module.bytes(), &module.bytes()[..1000], b"", b"\x7fELF"] {
        let answer = module.detect("/x/mysqld", bytes, &config()).expect("an answer");
        assert!(answer.unsupported.is_some(), "{answer:?}");
    }
}

/// START or END of a COM_QUERY, by the layout that `mysql.h` gives.
fn message(kind: u32, size: usize, packet: &[u8]) -> Vec<u8> {
    let mut data = vec![0; size];
    data[..4].copy_from_slice(&kind.to_le_bytes());
    data[4..8].copy_from_slice(&3_u32.to_le_bytes());
    data[16] = 7;
    data[32..36].copy_from_slice(&u32::try_from(packet.len()).unwrap_or(0).to_le_bytes());
    data.extend_from_slice(packet);
    data
}

#[test]
fn records_become_events_through_the_interface() {
    let start = message(1, 48, b"select 1");
    let (end, running) = (message(2, 104, b""), start.clone());
    let records = [&start[..], &end[..], b"garbage", &start[..20], &running[..]];
    let told = Built::load("mysql").decode(&config(), &records).expect("decoded");
    assert_eq!((told.decoded.events.len(), told.decoded.undecodable.len()), (1, 2));
    assert_eq!(told.finished.events.len(), 2, "what was running at the end");
}
