//! Tests of `array`: what MySQL makes of a packet, and what it can't have made.

use super::*;
use crate::parameters::{Long, LongData};
use proptest::prelude::*;

const BASE: u64 = 0x7f00_0000_1000;

/// An entry as the server writes it; the last 16 bytes are a name's, which nothing reads.
fn entry(code: u8, unsigned: bool, null: bool, value: u64, length: u64) -> [u8; PS_PARAM] {
    let mut out = [0xaa; PS_PARAM];
    out[..16].fill(0);
    (out[0], out[4], out[8]) = (u8::from(null), code, u8::from(unsigned));
    out[16..24].copy_from_slice(&value.to_le_bytes());
    out[24..32].copy_from_slice(&length.to_le_bytes());
    out
}

/// Type, whether unsigned, and the value with the size of what says its length.
type Sent<'a> = (u8, bool, Option<(usize, &'a [u8])>);

/// Values one behind the other, each with so many bytes before it that say its length; what the first has is not captured.
fn made(values: &[Sent<'_>]) -> (Vec<[u8; PS_PARAM]>, Vec<u8>) {
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    for (code, unsigned, value) in values {
        entries.push(match value {
            None => entry(*code, *unsigned, true, 0, 0),
            Some((before, value)) => {
                if !bytes.is_empty() {
                    bytes.extend(vec![0xee; *before]);
                }
                let at = BASE + u64::try_from(bytes.len()).unwrap();
                bytes.extend_from_slice(value);
                entry(*code, *unsigned, false, at, u64::try_from(value.len()).unwrap())
            }
        });
    }
    (entries, bytes)
}

fn array(entries: &[[u8; PS_PARAM]], new_types: bool) -> Array<'_> {
    Array { base: BASE, count: u32::try_from(entries.len()).unwrap(), new_types, entries }
}

fn known(count: u16, types: Option<&[Type]>) -> Known<'_> {
    static NONE: LongData = LongData::new();
    Known { count, types, long: &NONE }
}

fn packet(bytes: &[u8], missing: u64) -> Packet<'_> {
    Packet { bytes, missing }
}

fn json(execution: &Execution) -> &str {
    execution.parameters.json.as_deref().unwrap_or("none")
}

#[test]
fn values_are_where_the_array_says() {
    let (entries, bytes) = made(&[
        (1, false, Some((0, &[0xff]))),
        (8, true, Some((0, &[0xff; 8]))),
        (3, false, None),
        (12, false, Some((1, &[0xe8, 7, 2, 29, 23, 59, 58]))),
        (10, false, Some((1, &[]))),
        (11, false, Some((1, &[1, 1, 0, 0, 0, 2, 3, 4]))),
        (253, false, Some((3, b"tea"))),
        (252, false, Some((9, &[0xff, 0]))),
        (5, false, Some((0, &1.5_f64.to_le_bytes()))),
        (242, false, Some((1, &[0x80]))),
    ]);
    let read = execute_array(&array(&entries, true), packet(&bytes, 0), known(10, None));
    let all = r#"[-1,18446744073709551615,null,"2024-02-29 23:59:58","0000-00-00","-26:03:04","tea",{"hex":"ff00"},1.5,{"hex":"80"}]"#;
    assert_eq!((json(&read), read.parameters.unknown, read.parameters.missing), (all, false, 0));
    // The types that were sent before, which the array does not have again.
    let types = read.types.unwrap();
    let blank: Vec<_> = entries.iter().map(|e| [&e[..4], &[0; 8], &e[12..]].concat().try_into().unwrap()).collect();
    let read = execute_array(&array(&blank, false), packet(&bytes, 0), known(10, Some(&types)));
    assert_eq!((json(&read), &read.types), (all, &None));
    let read = execute_array(&array(&blank, false), packet(&bytes, 0), known(10, None));
    assert_eq!(read.parameters, Parameters::unknown());
    // Attributes of the query are behind the parameters, and not among them.
    let read = execute_array(&array(&entries, true), packet(&bytes, 0), known(2, None));
    assert_eq!((json(&read), read.types.as_ref().unwrap().len()), ("[-1,18446744073709551615]", 2));
    assert_eq!(execute_array(&array(&entries, true), packet(&bytes, 0), known(0, None)), Execution::default());
    // Fewer than the statement has.
    let read = execute_array(&array(&entries, true), packet(&bytes, 0), known(11, None));
    assert_eq!((read.parameters, read.types_lost), (Parameters::unknown(), true));
}

#[test]
fn what_was_sent_ahead_is_not_in_the_packet() {
    let mut entries = made(&[(252, false, Some((1, b""))), (3, false, Some((0, &[7, 0, 0, 0])))]).0;
    entries[0] = entry(252, false, false, 0, 0);
    let long = LongData::from([(0, Long { bytes: b"long".to_vec(), missing: 3 })]);
    let known = Known { count: 2, types: None, long: &long };
    let read = execute_array(&array(&entries, true), packet(&[7, 0, 0, 0], 0), known);
    assert_eq!((json(&read), read.parameters.missing), (r#"[{"text":"long","missing":3},7]"#, 3));
}

#[test]
fn what_did_not_come_is_counted() {
    let (entries, bytes) = made(&[(253, false, Some((1, b"0123456789"))), (3, false, Some((0, &[1, 0, 0, 0])))]);
    let read = execute_array(&array(&entries, true), packet(&bytes[..4], 10), known(2, None));
    assert_eq!(json(&read), r#"[{"text":"0123","missing":6}]"#);
    assert_eq!((read.parameters.unknown, read.parameters.missing), (true, 10));
    // Half of the array.
    let half = Array { count: 2, ..array(&entries[..1], true) };
    let read = execute_array(&half, packet(&bytes, 0), known(2, None));
    assert_eq!((read.parameters.json, read.parameters.unknown, read.types_lost), (None, true, true));
    let types = [Type { code: 253, unsigned: false }, Type { code: 3, unsigned: false }];
    let half = Array { count: 2, ..array(&entries[..1], false) };
    let read = execute_array(&half, packet(&bytes, 0), known(2, Some(&types)));
    assert_eq!((json(&read), read.parameters.unknown), (r#"["0123456789"]"#, true));
}

/// A server that has another structure there, or a plugin whose values are in no packet.
#[test]
fn an_array_that_no_packet_makes_is_not_shown() {
    let four = 1_i32.to_le_bytes();
    let (good, bytes) = made(&[(3, false, Some((0, &four))), (3, false, Some((0, &four)))]);
    let with = |index: usize, entry: [u8; PS_PARAM]| {
        let mut entries = good.clone();
        entries[index] = entry;
        let read = execute_array(&array(&entries, true), packet(&bytes, 0), known(2, None));
        (json(&read).to_owned(), read.parameters.unknown)
    };
    assert_eq!(with(0, good[0]), ("[1,1]".to_owned(), false));
    let none = ("none".to_owned(), true);
    let mut strange = good[0];
    strange[0] = 2;
    assert_eq!(with(0, strange), none, "a flag that is none");
    strange = good[0];
    strange[5] = 1;
    assert_eq!(with(0, strange), none, "a type beyond all");
    assert_eq!(with(0, entry(3, false, false, BASE - 1, 4)), none, "before the packet");
    assert_eq!(with(0, entry(253, false, false, BASE, 9)), none, "longer than the packet");
    assert_eq!(with(0, entry(253, false, false, BASE, u64::MAX)), none);
    assert_eq!(with(0, entry(3, false, false, 0, 0)), none, "no value");
    assert_eq!(with(0, entry(9, false, false, BASE, 4)), none, "a type without a form");
    let one = ("[1]".to_owned(), true);
    assert_eq!(with(1, entry(3, false, false, BASE, 4)), one, "over the one before");
    assert_eq!(with(1, entry(3, false, false, BASE + 4, 3)), one, "a number that is short");
    assert_eq!(with(1, entry(2, false, false, BASE + 4, 4)), one, "a number that is long");
    let far = [(253, false, Some((0, &b"a"[..]))), (253, false, Some((10, &b"b"[..])))];
    let (entries, bytes) = made(&far);
    let read = execute_array(&array(&entries, true), packet(&bytes, 0), known(2, None));
    assert_eq!((json(&read), read.parameters.unknown), (r#"["a"]"#, true), "far behind the one before");
    let nowhere = Array { base: 0, ..array(&entries, true) };
    assert_eq!(json(&execute_array(&nowhere, packet(&bytes, 0), known(2, None))), "none");
}

proptest! {
    #[test]
    fn anything_is_read_without_harm(
        entries in proptest::collection::vec((any::<[u8; 16]>(), 0..80_u64, 0..80_u64, any::<bool>()), 0..12),
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        missing in 0_u64..30,
        count in 0_u16..12,
        new_types in any::<bool>(),
    ) {
        let entries: Vec<[u8; PS_PARAM]> = entries.iter().map(|(head, at, length, plain)| {
            let mut entry = entry(head[4], head[8] & 1 == 1, head[0] & 1 == 1, BASE + at, *length);
            if !plain {
                entry[..16].copy_from_slice(head);
            }
            entry
        }).collect();
        let types = vec![Type { code: 253, unsigned: false }; count.into()];
        let read = execute_array(&array(&entries, new_types), packet(&bytes, missing), known(count, Some(&types)));
        if let Some(json) = read.parameters.json {
            prop_assert!(serde_json::from_str::<Vec<serde_json::Value>>(&json).is_ok(), "{}", json);
        }
    }
}
