use super::*;
use crate::Decoder;
use crate::record::tests::message;
use ecapture_plugin_api::abi::role;
use ecapture_plugin_api::sdk::testing::{Collected, decode, record};

fn decoded(messages: &[Vec<u8>]) -> Collected {
    let records: Vec<_> = messages.iter().map(|m| record(m)).collect();
    let mut sink = Collected::default();
    decode(&mut Decoder::default(), &records, &mut sink);
    sink
}

#[test]
fn a_call_is_an_event_with_direction_addresses_and_place() {
    let sink = decoded(&[message(6, 7, 2, b"GET /"), message(2, 0, 0, b"answer")]);
    let [sent, received] = sink.events.as_slice() else { panic!("{sink:?}") };
    assert_eq!((sent.event, sent.role, sent.stream_offset), (event::DATA, role::STREAM, 7));
    assert_eq!(sent.payload, b"GET /");
    assert_eq!(sent.text(column::DIRECTION).as_deref(), Some("transmit"));
    assert_eq!(sent.text(column::CALL).as_deref(), Some("SSL_write"));
    assert_eq!(sent.text(column::PEER_ADDRESS).as_deref(), Some("127.0.0.2"));
    assert_eq!((sent.u64(column::PEER_PORT), sent.u64(column::LOCAL_PORT)), (Some(443), Some(40000)));
    assert_eq!(received.text(column::DIRECTION).as_deref(), Some("receive"));
    assert_eq!((received.text(column::PEER_ADDRESS), received.u64(column::PEER_PORT)), (None, None));
    assert_eq!(sent.stream_id, received.stream_id, "one connection");
}

#[test]
fn what_is_only_looked_at_is_no_part_of_the_stream() {
    let sink = decoded(&[message(3, 7, 2, b"look")]);
    assert_eq!((sink.events[0].event, sink.events[0].role), (event::PEEK, role::OUTPUT));
    assert_eq!(sink.events[0].payload, b"look");
}

#[test]
fn a_file_that_is_sent_is_a_gap_of_known_size() {
    let mut bytes = message(9, 100, 2, b"");
    bytes[24..32].copy_from_slice(&5000_u64.to_le_bytes());
    let sink = decoded(&[bytes]);
    let sent = &sink.events[0];
    assert_eq!((sent.event, sent.role, sent.stream_offset), (event::SENDFILE, role::STREAM, 100));
    assert_eq!((sent.u64(column::LENGTH), sent.payload.len()), (Some(5000), 0));
}

#[test]
fn a_long_call_is_several_events_that_follow_one_another() {
    for (length, pieces) in [(PIECE - 1, 1), (PIECE, 1), (PIECE + 1, 2), (2 * PIECE, 2), (2 * PIECE + 1, 3)] {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let sink = decoded(&[message(6, 10, 0, &bytes)]);
        assert_eq!(sink.events.len(), pieces, "{length}");
        let mut at = 10;
        for event in &sink.events {
            assert_eq!(event.stream_offset, at);
            assert_eq!(event.u64(column::LENGTH), Some(length as u64));
            at += event.payload.len() as u64;
        }
        let joined: Vec<u8> = sink.events.iter().flat_map(|e| e.payload.clone()).collect();
        assert_eq!(joined, bytes);
    }
}

#[test]
fn columns_are_those_of_the_manifest() {
    let manifest = ecapture_plugin_api::manifest::Manifest::parse(include_str!("../module.toml")).unwrap();
    let names = [
        (column::DIRECTION, "network.io.direction"),
        (column::CALL, "ecapture.tls.call"),
        (column::LENGTH, "ecapture.tls.length"),
        (column::DURATION, "ecapture.duration_ns"),
        (column::LOCAL_ADDRESS, "network.local.address"),
        (column::LOCAL_PORT, "network.local.port"),
        (column::PEER_ADDRESS, "network.peer.address"),
        (column::PEER_PORT, "network.peer.port"),
        (column::ADDRESS_SOURCE, "ecapture.tls.address_source"),
    ];
    let end = &manifest.events[usize::from(event::END)];
    assert_eq!((end.name.as_str(), end.columns[0].name.as_str()), ("end", "ecapture.connection.state"));
    assert_eq!(manifest.streams[usize::from(ENDED)].name, "end");
    for (number, name) in [(event::DATA, "data"), (event::PEEK, "peek"), (event::SENDFILE, "sendfile")] {
        let declared = &manifest.events[usize::from(number)];
        assert_eq!(declared.name, name);
        assert_eq!(declared.columns.len(), names.len());
        for (number, name) in names {
            assert_eq!(declared.columns[usize::from(number)].name, name);
        }
    }
}
