use super::*;
use crate::Decoder;
use ecapture_plugin_api::abi::role;
use ecapture_plugin_api::sdk::testing::{Collected, decode as decode_all, record};
use proptest::prelude::*;

/// Debian's libssl is read here, not probed.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

fn message(label: &str, length: usize, unread: u16, place: u16) -> Vec<u8> {
    let mut out = vec![0; 160];
    out[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    out[12..14].copy_from_slice(&unread.to_le_bytes());
    out[14..16].copy_from_slice(&place.to_le_bytes());
    out[16..48].copy_from_slice(&[0xa1; 32]);
    out[48..48 + length.min(64)].fill(0x5e);
    out[112..112 + label.len()].copy_from_slice(label.as_bytes());
    out
}

fn decoded(messages: &[Vec<u8>]) -> Collected {
    let records: Vec<_> = messages
        .iter()
        .map(|m| {
            let mut record = record(m);
            record.stream = stream::SECRETS;
            record
        })
        .collect();
    let mut sink = Collected::default();
    decode_all(&mut Decoder::default(), &records, &mut sink);
    sink
}

#[test]
fn a_secret_is_a_line_of_a_key_log() {
    for length in [1, 32, 48, 64] {
        let sink = decoded(&[message("EXPORTER_SECRET", length, 0, 0)]);
        let [seen] = sink.events.as_slice() else { panic!("{sink:?}") };
        assert_eq!((seen.event, seen.role), (event::SECRET, role::SECRET));
        let line = format!("EXPORTER_SECRET {} {}", "a1".repeat(32), "5e".repeat(length));
        assert_eq!(String::from_utf8_lossy(&seen.payload), line);
        assert_eq!(seen.text(column::LABEL).as_deref(), Some("EXPORTER_SECRET"));
        assert_eq!(seen.text(column::RANDOM), Some("a1".repeat(32)));
        assert_eq!(seen.text(column::SECRET), Some("5e".repeat(length)));
    }
}

#[test]
fn a_label_that_was_not_in_memory_is_known_by_its_place() {
    let sink = decoded(&[message("", 48, 1, 1), message("", 32, 1, 8)]);
    let labels: Vec<_> = sink.events.iter().map(|e| e.text(column::LABEL).unwrap()).collect();
    assert_eq!(labels, ["CLIENT_RANDOM", "EXPORTER_SECRET"]);
}

#[test]
fn a_connection_without_keys_is_a_comment() {
    let ssl = 0x7f00_1000_u64.to_le_bytes();
    let messages = [&ssl[..], &ssl[..7]].map(|bytes| {
        let mut record = record(bytes);
        record.stream = stream::UNSEEN;
        record
    });
    let (mut sink, mut decoder) = (Collected::default(), Decoder::default());
    decode_all(&mut decoder, &messages, &mut sink);
    let [told] = sink.events.as_slice() else { panic!("{sink:?}") };
    assert_eq!((told.event, told.role, decoder.unseen), (event::KEYS_NOT_SEEN, role::SECRET, 1));
    let line = String::from_utf8_lossy(&told.payload).into_owned();
    assert!(line.starts_with("# keys not seen: process ") && line.contains(&told.u64(CONNECTION).unwrap().to_string()));
}

#[test]
fn what_is_no_secret_is_undecodable() {
    let good = message("CLIENT_RANDOM", 48, 0, 0);
    let refused = [
        (message("", 48, 1, 0), "not in memory"),
        (message("", 48, 1, 11), "not in memory"),
        (message("", 48, 0, 1), "no label"),
        (message("CLIENT RANDOM", 48, 0, 0), "no label"),
        (message("CLIENT_RANDOM", 0, 0, 0), "0 bytes"),
        (message("CLIENT_RANDOM", 65, 0, 0), "65 bytes"),
        (message("CLIENT_RANDOM", 48, 2, 0), "client random"),
        (message("CLIENT_RANDOM", 48, 4, 0), "secret of a connection"),
        (good[..159].to_vec(), "159 bytes"),
    ];
    for (bytes, why) in refused {
        let error = parse(&bytes).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(decoded(&[bytes]).events.is_empty());
    }
    assert_eq!(parse(&good).unwrap().secret.len(), 48);
}

#[test]
fn the_systems_library_has_every_label_in_a_place_of_its_own() {
    let Ok(bytes) = std::fs::read(LIBSSL) else {
        eprintln!("SKIPPED the_systems_library_has_every_label_in_a_place_of_its_own: no {LIBSSL}");
        return;
    };
    let found = detect(&bytes).unwrap();
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.version.unwrap().product, "OpenSSL");
    assert_eq!(found.layout.0.len(), 96);
    let [secrets, uses @ ..] = found.probes.as_slice() else { panic!("no probes") };
    assert!(secrets.required && uses.iter().all(|p| !p.required && p.group.is_some()));
    let behind = uses.iter().filter(|p| matches!(p.at, Locator::Behind(_))).count();
    assert_eq!((behind, found.fallbacks["SSL_write"].as_str()), (4, "write"), "entry and return of each");
    let numbers = found.layout.0.chunks(4).map(|entry| entry[2]).filter(|n| *n > 0);
    assert_eq!(numbers.collect::<std::collections::BTreeSet<u8>>().len(), LABELS.len());
}

#[test]
fn a_place_that_could_be_two_labels_is_none() {
    let (row, missing) = row(&[(0x10, 1), (0x20, 2), (0x20, 3), (0x30, 4)]);
    assert_eq!(row[..8], [0x10, 0, 1, 0, 0x30, 0, 4, 0]);
    assert!(row[8..].iter().all(|b| *b == 0));
    assert!(missing.contains(&LABELS[1]) && missing.contains(&LABELS[2]) && !missing.contains(&LABELS[3]));
    let many: Vec<_> = (0..100).map(|at| (at, 1)).collect();
    assert_eq!(super::row(&many).0.len(), 96);
}

#[test]
fn a_program_without_tls_is_refused_with_what_to_do() {
    let why = detect(&std::fs::read("/usr/bin/env").unwrap()).unwrap_err();
    assert!(why.contains("0 of the labels"), "{why}");
    assert!(detect(b"#!/bin/sh\n").unwrap_err().contains("not a program"));
}

#[test]
fn columns_are_those_of_the_manifest() {
    let manifest = ecapture_plugin_api::manifest::Manifest::parse(include_str!("../module.toml")).unwrap();
    let declared = &manifest.events[usize::from(event::SECRET)];
    assert_eq!((declared.name.as_str(), declared.columns.len()), ("secret", 3));
    let names = [
        (column::LABEL, "ecapture.tls.secret.label"),
        (column::RANDOM, "ecapture.tls.client_random"),
        (column::SECRET, "ecapture.tls.secret"),
    ];
    for (number, name) in names {
        assert_eq!(declared.columns[usize::from(number)].name, name);
    }
    assert_eq!(manifest.streams[usize::from(stream::SECRETS)].name, "secrets");
    assert_eq!(manifest.streams[usize::from(stream::UNSEEN)].name, "unseen");
    let unseen = &manifest.events[usize::from(event::KEYS_NOT_SEEN)];
    assert_eq!(unseen.name, "keys_not_seen");
    assert_eq!(unseen.columns[usize::from(CONNECTION)].name, "ecapture.connection.id");
    assert!(manifest.mode(MODE).is_some());
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 150..170)) {
        let _ = parse(&bytes);
    }
}

#[test]
fn the_kernel_side_knows_which_keys_follow_others() {
    let follows: Vec<bool> = LABELS.iter().map(|label| label.ends_with("_N")).collect();
    let first = follows.iter().position(|follows| *follows).unwrap();
    assert!(follows[first..].iter().all(|follows| *follows));
    let header = include_str!("../../../ebpf-objects/src/openssl_keylog.h");
    assert!(header.contains(&format!("#define OPENSSL_NEXT {}\n", first + 1)));
}
