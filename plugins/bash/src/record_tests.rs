//! Tests of the bytes: against the header that owns them, and against nonsense.

use super::*;
use proptest::prelude::*;

const HEADER: &str = include_str!("../../../ebpf-objects/src/bash.h");

/// A message with these fields.
fn message(kind: u32, flags: u32, id: Id, value: u32, sp: u64, text: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(kind.to_le_bytes());
    data.extend(flags.to_le_bytes());
    data.extend(id.start_ns.to_le_bytes());
    data.extend(id.process.to_le_bytes());
    data.extend(value.to_le_bytes());
    data.extend(sp.to_le_bytes());
    data.extend((sp + 16).to_le_bytes());
    data.extend((text.len() as u64).to_le_bytes());
    data.extend(text);
    data
}

const ID: Id = Id { process: 7, start_ns: 1000 };

#[test]
fn numbers_are_those_of_the_header() {
    let names = [
        ("START", kind::START),
        ("END", kind::END),
        ("FORK", kind::FORK),
        ("HINT", kind::HINT),
        ("ARGS", kind::ARGS),
        ("EXIT", kind::EXIT),
        ("LINE", kind::LINE),
        ("BACKGROUND", flag::BACKGROUND),
        ("PIPELINE", flag::PIPELINE),
        ("UNFOLLOWED", flag::UNFOLLOWED),
        ("READ", flag::READ),
    ];
    for (name, number) in names {
        let line = format!("\tBASH_{name} = {number},");
        assert!(HEADER.contains(&line), "{line}");
    }
    assert!(HEADER.contains(&format!("sizeof(struct bash_head) == {HEAD},")));
    let body = HEADER.split("struct bash_head {").nth(1).and_then(|rest| rest.split("\n};").next()).unwrap();
    let mut at = 0;
    let mut fields = Vec::new();
    for line in body.lines().filter(|line| line.starts_with("\t__")) {
        let mut words = line.split([' ', ';']).filter(|word| !word.is_empty());
        let size = if words.next() == Some("\t__u64") { 8 } else { 4 };
        fields.push((words.next().unwrap(), at));
        at += size;
    }
    let known = [
        ("kind", 0),
        ("flags", 4),
        ("command", 8),
        ("process", 16),
        ("value", 20),
        ("sp", 24),
        ("caller", 32),
        ("length", 40),
    ];
    assert_eq!((fields.as_slice(), at), (&known[..], HEAD));
}

#[test]
fn every_kind() {
    let text = Bytes { bytes: b"ls", missing: 0 };
    let parsed = |kind, value| parse(Box::leak(message(kind, 2, ID, value, 64, b"ls").into_boxed_slice()));
    assert_eq!(parsed(kind::START, 0), Ok(Message::Start { id: ID, flags: 2, sp: 64, caller: 80, text }));
    assert_eq!(parsed(kind::END, 3), Ok(Message::End { id: ID, status: 3 }));
    assert_eq!(parsed(kind::FORK, 9), Ok(Message::Fork { id: ID, child: 9 }));
    assert_eq!(parsed(kind::HINT, 4), Ok(Message::Hint { id: ID, status: 4 }));
    assert_eq!(parsed(kind::ARGS, 0), Ok(Message::Args { id: ID, args: text }));
    assert_eq!(parsed(kind::LINE, 0), Ok(Message::Line { flags: 2, text }));
    for (status, shown) in [(0, 0), (0x700, 7), (0xff00, 255), (9, 137), (0x80 | 11, 139), (2, 130)] {
        assert_eq!(parsed(kind::EXIT, status), Ok(Message::Exit { owner: Some(ID), status: shown }), "{status:#x}");
    }
}

#[test]
fn what_the_kernel_side_cannot_have_written() {
    let whole = message(kind::START, 0, ID, 0, 64, b"ls -l");
    for len in 0..HEAD {
        assert_eq!(parse(&whole[..len]), Err(RecordError::Short(len)));
    }
    let cut = Message::Start { id: ID, flags: 0, sp: 64, caller: 80, text: Bytes { bytes: b"ls", missing: 3 } };
    assert_eq!(parse(&whole[..HEAD + 2]), Ok(cut));
    let mut long = whole.clone();
    long.push(b'x');
    assert_eq!(parse(&long), Err(RecordError::Long { came: 6, said: 5 }));
    assert_eq!(parse(&message(8, 0, ID, 0, 0, b"")), Err(RecordError::Kind(8)));
    let nobody = Id { process: 7, start_ns: 0 };
    assert_eq!(parse(&message(kind::END, 0, nobody, 0, 0, b"")), Err(RecordError::NoCommand(kind::END)));
    assert_eq!(
        parse(&message(kind::EXIT, 0, nobody, 0, 0, b"")),
        Ok(Message::Exit { owner: None, status: 0 }),
        "a process that is no command's"
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _either = parse(&data);
    }

    #[test]
    fn whatever_is_parsed_was_there(kind in 0u32..9, data in proptest::collection::vec(any::<u8>(), 36..200)) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(&data);
        if let Ok(Message::Start { text, .. } | Message::Args { args: text, .. } | Message::Line { text, .. }) = parse(&bytes) {
            prop_assert_eq!(text.bytes, &bytes[HEAD..]);
        }
    }
}
