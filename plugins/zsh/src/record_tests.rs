//! Tests of the bytes: against the header that owns them, and against nonsense.

use super::*;
use proptest::prelude::*;

const HEADER: &str = include_str!("../../../ebpf-objects/src/zsh.h");

/// A message with these fields; context eval, format of 5.9.
pub fn message(kind: u32, start_ns: u64, sp: u64, words: u32, value: u32, code: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(kind.to_le_bytes());
    data.extend([0, 0, 5, format::V5_9]);
    data.extend(start_ns.to_le_bytes());
    data.extend(sp.to_le_bytes());
    data.extend((code.len() as u64).to_le_bytes());
    data.extend(words.to_le_bytes());
    data.extend(value.to_le_bytes());
    data.extend([0; 8]);
    data.extend(code);
    data
}

#[test]
fn numbers_are_those_of_the_header() {
    let kinds = [("START", kind::START), ("END", kind::END), ("EXEC", kind::EXEC), ("EXIT", kind::EXIT)];
    for (name, number) in kinds {
        assert!(HEADER.contains(&format!("ZSH_{name} = {number}")), "{name}");
    }
    for (name, number) in CONTEXTS.iter().zip(1..) {
        assert!(HEADER.contains(&format!("\tZSH_{} = {number},", name.to_uppercase())), "{name}");
    }
    assert!(HEADER.contains(&format!("ZSH_UNFOLLOWED = {UNFOLLOWED},")));
    assert!(HEADER.contains(&format!("ZSH_FORMAT_5_8 = {},", format::V5_8)));
    assert!(HEADER.contains(&format!("ZSH_FORMAT_5_9 = {},", format::V5_9)));
    assert!(HEADER.contains(&format!("sizeof(struct zsh_head) == {HEAD},")));
    let body = HEADER.split("struct zsh_head {").nth(1).and_then(|rest| rest.split("\n};").next()).unwrap();
    let mut at = 0;
    let mut fields = Vec::new();
    for line in body.lines().filter(|line| line.starts_with("\t__")) {
        let mut words = line.split([' ', ';']).filter(|word| !word.is_empty());
        let size = words.next().and_then(|word| word.strip_prefix("\t__u")).unwrap().parse::<usize>().unwrap() / 8;
        fields.push((words.next().unwrap(), at));
        at += size;
    }
    let known = [
        ("kind", 0),
        ("flags", 4),
        ("context", 6),
        ("format", 7),
        ("start_ns", 8),
        ("sp", 16),
        ("length", 24),
        ("words", 32),
        ("value", 36),
        ("reserved", 40),
    ];
    assert_eq!(fields, known);
    assert_eq!(at, HEAD);
}

#[test]
fn whole_messages_are_read() {
    let code = b"\x01\0\0\0\x02\0\0\0text\0";
    let start = message(kind::START, 9, 77, 2, 0, code);
    let Message::Start { start_ns, unfollowed, context, sp, program, missing } = parse(&start).unwrap() else {
        panic!("no START");
    };
    assert_eq!((start_ns, unfollowed, context, sp, missing), (9, false, Some("eval"), 77, 0));
    assert_eq!((program.words.len(), program.strings, program.function_words), (8, &b"text\0"[..], 4));
    assert_eq!(parse(&message(kind::END, 9, 0, 0, 3, b"")), Ok(Message::End { start_ns: 9, status: 3 }));
    assert_eq!(parse(&message(kind::EXEC, 0, 0, 0, 0, b"")), Ok(Message::Exec));
    assert_eq!(parse(&message(kind::EXIT, 0, 0, 0, 0x300, b"")), Ok(Message::Exit { status: 3 }));
    assert_eq!(parse(&message(kind::EXIT, 0, 0, 0, 9, b"")), Ok(Message::Exit { status: 137 }));
}

#[test]
fn wrong_ones_are_refused() {
    let whole = message(kind::START, 9, 77, 1, 0, b"\0\0\0\0");
    for len in 0..HEAD {
        assert_eq!(parse(&whole[..len]), Err(RecordError::Short(len)));
    }
    let cut = parse(&whole[..HEAD + 2]).unwrap();
    assert!(matches!(cut, Message::Start { missing: 2, program, .. } if program.words.len() == 2));
    assert_eq!(parse(&[&whole[..], b"x"].concat()), Err(RecordError::Long { came: 5, said: 4 }));
    let words = message(kind::START, 9, 77, 2, 0, b"\0\0\0\0");
    assert_eq!(parse(&words), Err(RecordError::Words { words: 2, said: 4 }));
    assert_eq!(parse(&message(7, 0, 0, 0, 0, b"")), Err(RecordError::Kind(7)));
}

proptest! {
    #[test]
    fn anything_is_read_without_harm(data in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u32..6) {
        let mut data = data;
        if let Some(head) = data.first_chunk_mut::<4>() {
            *head = kind.to_le_bytes();
        }
        let _ = parse(&data);
    }
}
