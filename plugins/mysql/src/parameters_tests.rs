//! Every type of the binary protocol, every way in which a packet can be wrong, and that what is written is what is read.

use super::*;
use proptest::prelude::*;

const NONE: LongData = LongData::new();

fn packet(bytes: &[u8]) -> Packet<'_> {
    Packet { bytes, missing: 0 }
}

/// COM_STMT_EXECUTE with types: (type, flag, value or NULL).
fn sent(parameters: &[(u8, u8, Option<&[u8]>)]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut nulls = vec![0; parameters.len().div_ceil(8)];
    for (number, (_, _, value)) in parameters.iter().enumerate() {
        nulls[number / 8] |= u8::from(value.is_none()) << (number % 8);
    }
    out.extend(nulls);
    out.push(1);
    out.extend(parameters.iter().flat_map(|(code, flag, _)| [*code, *flag]));
    out.extend(parameters.iter().filter_map(|(_, _, value)| *value).flatten());
    out
}

fn read(bytes: &[u8], count: usize) -> Execution {
    execute(packet(bytes), Known { count: u16::try_from(count).unwrap(), types: None, long: &NONE })
}

fn one(code: u8, flag: u8, value: &[u8]) -> String {
    let read = read(&sent(&[(code, flag, Some(value))]), 1).parameters;
    assert_eq!((read.unknown, read.missing), (false, 0), "{read:?}");
    read.json.unwrap().to_string()
}

fn strange(code: u8, value: &[u8]) {
    let read = read(&sent(&[(code, 0, Some(value))]), 1).parameters;
    assert_eq!((read.json, read.unknown), (None, true), "{code} {value:?}");
}

#[test]
fn integers() {
    assert_eq!((one(1, 0, &[0x80]), one(1, 0x80, &[0x80])), ("[-128]".into(), "[128]".into()));
    assert_eq!((one(2, 0, &[0xff, 0xff]), one(2, 0x80, &[0xff, 0xff])), ("[-1]".into(), "[65535]".into()));
    assert_eq!(
        (one(3, 0, &[0, 0, 0, 0x80]), one(3, 0x80, &[0xff; 4])),
        ("[-2147483648]".into(), "[4294967295]".into())
    );
    assert_eq!((one(8, 0, &[0xff; 8]), one(8, 0x80, &[0xff; 8])), ("[-1]".into(), "[18446744073709551615]".into()));
}

#[test]
fn floats() {
    assert_eq!(one(4, 0, &1.1_f32.to_le_bytes()), "[1.1]");
    assert_eq!(one(5, 0, &(-2.5e300_f64).to_le_bytes()), "[-2.5e300]");
    assert_eq!(one(5, 0, &0_f64.to_le_bytes()), "[0.0]");
    assert_eq!(one(5, 0, &f64::NAN.to_le_bytes()), "[\"NaN\"]");
    assert_eq!(one(4, 0, &f32::NEG_INFINITY.to_le_bytes()), "[\"-inf\"]");
}

#[test]
fn dates_and_times() {
    let date = [0xe8, 0x07, 2, 29];
    let at = |len: u8, more: &[u8]| [&[len][..], &date, more].concat();
    assert_eq!(one(10, 0, &at(4, &[])), "[\"2024-02-29\"]");
    assert_eq!(one(10, 0, &[0]), "[\"0000-00-00\"]");
    assert_eq!(one(12, 0, &[0]), "[\"0000-00-00 00:00:00\"]");
    assert_eq!(one(12, 0, &at(4, &[])), "[\"2024-02-29 00:00:00\"]");
    assert_eq!(one(7, 0, &at(7, &[1, 2, 3])), "[\"2024-02-29 01:02:03\"]");
    assert_eq!(one(12, 0, &at(11, &[23, 59, 59, 0x3f, 0x42, 0x0f, 0])), "[\"2024-02-29 23:59:59.999999\"]");
    assert_eq!(one(12, 0, &at(13, &[1, 2, 3, 0, 0, 0, 0, 0xb6, 0xff])), "[\"2024-02-29 01:02:03.000000-01:14\"]");
    assert_eq!(one(11, 0, &[0]), "[\"00:00:00\"]");
    assert_eq!(one(11, 0, &[8, 1, 34, 0, 0, 0, 22, 59, 59]), "[\"-838:59:59\"]");
    assert_eq!(one(11, 0, &[12, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0]), "[\"01:02:03.000004\"]");
    strange(12, &[5, 1, 2, 3, 4, 5]);
    strange(11, &[7, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn texts_and_bytes() {
    for code in [0, 15, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255] {
        assert_eq!(one(code, 0, b"\x0512.50"), "[\"12.50\"]", "type {code}");
    }
    assert_eq!(one(253, 0, b"\x00"), "[\"\"]");
    assert_eq!(one(253, 0, b"\x09a\"b\\c\n\x01\xc3\xa4"), r#"["a\"b\\c\n\u0001ä"]"#);
    assert_eq!(one(252, 0, b"\x03\xff\x00a"), r#"[{"hex":"ff0061"}]"#);
    let long = vec![b'x'; 300];
    assert_eq!(one(253, 0, &[&[0xfc, 0x2c, 1][..], &long].concat()).len(), 304);
    assert_eq!(one(253, 0, &[&[0xfd, 0x2c, 1, 0][..], &long].concat()).len(), 304);
    assert_eq!(one(253, 0, &[&[0xfe, 0x2c, 1, 0, 0, 0, 0, 0, 0][..], &long].concat()).len(), 304);
    // Longer than the packet, and no length at all.
    strange(253, b"\x05abc");
    strange(253, b"\xfbabc");
    strange(253, b"\xff");
    strange(253, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff");
}

#[test]
fn types_without_a_form_stop_the_reading() {
    for code in [6, 9, 13, 14, 16, 17, 18, 19, 100, 242] {
        strange(code, &[1, 2, 3, 4]);
    }
    let read = read(&sent(&[(3, 0, Some(&[7, 0, 0, 0])), (16, 0, Some(b"\x01")), (3, 0, Some(&[8, 0, 0, 0]))]), 3);
    let parameters = read.parameters;
    assert_eq!((parameters.json.as_deref(), parameters.unknown), (Some("[7]"), true), "what came before is known");
}

#[test]
fn nulls_are_bits() {
    let mut parameters = vec![(253, 0, Some(&b"\x01a"[..])); 18];
    for number in [0, 7, 8, 17] {
        // Whatever its type is: the server does not look.
        parameters[number] = (6, 0, None);
    }
    let json = read(&sent(&parameters), 18).parameters.json.unwrap();
    let want: Vec<_> = (0..18).map(|n| if [0, 7, 8, 17].contains(&n) { "null" } else { "\"a\"" }).collect();
    assert_eq!(&*json, format!("[{}]", want.join(",")));
}

#[test]
fn types_are_sent_once() {
    let first = read(&sent(&[(3, 0x80, Some(&[1, 0, 0, 0]))]), 1);
    let types = first.types.unwrap();
    assert_eq!(&*types, &[Type { code: 3, unsigned: true }]);
    let again = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let known = Known { count: 1, types: Some(&types), long: &NONE };
    let second = execute(packet(&again), known);
    assert_eq!(
        (second.parameters.json.as_deref(), second.types, second.types_lost),
        (Some("[4294967295]"), None, false)
    );
    let without = read(&again, 1);
    assert_eq!((without.parameters, without.types_lost), (Parameters::unknown(), false));
}

#[test]
fn long_data_replaces_the_value() {
    let mut piece = Long::default();
    piece.append(b"ab", 0, 100);
    piece.append(b"cd", 0, 100);
    let long = LongData::from([(1, piece)]);
    let mut bytes = sent(&[(3, 0, Some(&[1, 0, 0, 0])), (252, 0, Some(b"")), (3, 0, Some(&[2, 0, 0, 0]))]);
    let known = Known { count: 3, types: None, long: &long };
    assert_eq!(execute(packet(&bytes), known).parameters.json.as_deref(), Some("[1,\"abcd\",2]"));
    bytes[9] = 2;
    assert_eq!(execute(packet(&bytes), known).parameters.json.as_deref(), Some("[1,\"abcd\",2]"), "NULL as well");
}

#[test]
fn pieces_are_kept_up_to_a_bound() {
    let mut long = Long::default();
    long.append(b"abcdef", 0, 4);
    long.append(b"gh", 3, 4);
    assert_eq!(long, Long { bytes: b"abcd".to_vec(), missing: 7 });
    let long = LongData::from([(0, long)]);
    let known = Known { count: 1, types: None, long: &long };
    let read = execute(packet(&sent(&[(252, 0, Some(b""))])), known).parameters;
    assert_eq!((read.json.as_deref(), read.missing), (Some(r#"[{"text":"abcd","missing":7}]"#), 7));
}

#[test]
fn a_cut_packet_gives_what_it_has() {
    let whole = sent(&[(3, 0, Some(&[1, 0, 0, 0])), (253, 0, Some(b"\x05abcde")), (3, 0, Some(&[2, 0, 0, 0]))]);
    let cut = |len: usize| {
        let missing = (whole.len() - len) as u64;
        let known = Known { count: 3, types: None, long: &NONE };
        let read = execute(Packet { bytes: &whole[..len], missing }, known).parameters;
        (read.json.map(|json| json.to_string()), read.unknown, read.missing)
    };
    let len = whole.len();
    assert_eq!(cut(len), (Some("[1,\"abcde\",2]".into()), false, 0));
    assert_eq!(cut(len - 4), (Some("[1,\"abcde\"]".into()), true, 4));
    assert_eq!(cut(len - 6), (Some(r#"[1,{"text":"abc","missing":2}]"#.into()), true, 6));
    assert_eq!(cut(len - 9), (Some(r#"[1,{"text":"","missing":5}]"#.into()), true, 9));
    assert_eq!(cut(len - 10), (Some("[1]".into()), true, 10));
    assert_eq!(cut(17), (None, true, (len - 17) as u64));
    assert_eq!(cut(12), (None, true, (len - 12) as u64), "inside the types");
    assert_eq!(cut(0), (None, true, len as u64));
}

#[test]
fn json_has_a_bound_and_what_is_beyond_is_counted() {
    let text = [&[0xfd, 0, 0, 0x10][..], &vec![b'x'; 1 << 20]].concat();
    let read =
        read(&sent(&[(3, 0, Some(&[1, 0, 0, 0])), (253, 0, Some(&text)), (3, 0, Some(&[2, 0, 0, 0]))]), 3).parameters;
    let json = read.json.unwrap();
    assert!(json.len() <= JSON_MAX, "{}", json.len());
    assert!(json.starts_with("[1,{\"text\":\"xxx") && json.contains("\",\"missing\":"), "{}", &json[json.len() - 40..]);
    let shown = json.bytes().filter(|byte| *byte == b'x').count() - 1;
    assert!(shown > JSON_MAX - 200);
    // What does not fit, and the parameter behind it.
    assert_eq!((read.missing, read.unknown), ((1 << 20) - shown as u64 + 4, true));
}

#[test]
fn a_thousand_and_the_most() {
    for count in [1000, 65_535] {
        let value = 7_i8.to_le_bytes();
        let read = read(&sent(&vec![(1, 0, Some(&value[..])); count]), count).parameters;
        assert_eq!(&*read.json.unwrap(), format!("[{}]", vec!["7"; count].join(",")));
    }
}

#[test]
fn rows_of_a_bulk_execution() {
    let long = LongData::new();
    let known = |types| Known { count: 2, types, long: &long };
    let head = [1, 0, 0, 0, 128, 0, 3, 0, 253, 0];
    let rows = [0, 5, 0, 0, 0, 0, 1, b'a', 1, 2, 3, 0, 0];
    let read = bulk_execute(packet(&[&head[..], &rows].concat()), known(None));
    let json = read.parameters.json.as_deref();
    assert_eq!(json, Some(r#"[[5,"a"],[null,{"default":true}],[{"ignore":true},""]]"#));
    let types = read.types.unwrap();
    let again = [&[1, 0, 0, 0, 0, 0][..], &rows[..8]].concat();
    let read = bulk_execute(packet(&again), known(Some(&types)));
    assert_eq!(read.parameters.json.as_deref(), Some(r#"[[5,"a"]]"#));
    let read = bulk_execute(packet(&again), known(None));
    assert_eq!(read.parameters, Parameters::unknown());
    // Half a row, and an indicator that does not exist.
    let read = bulk_execute(packet(&[&head[..], &rows[..9]].concat()), known(None)).parameters;
    assert_eq!((read.json.as_deref(), read.unknown), (Some(r#"[[5,"a"],[null]]"#), true));
    let read = bulk_execute(packet(&[&head[..], &[4]].concat()), known(None)).parameters;
    assert_eq!((read.json, read.unknown), (None, true));
}

#[derive(Debug, Clone)]
struct Made {
    code: u8,
    flag: u8,
    bytes: Vec<u8>,
    json: String,
}

fn quoted(text: &str) -> String {
    let mut out = Json::new(usize::MAX);
    out.bytes(text.as_bytes(), 0).unwrap();
    out.into_text().0
}

fn value() -> impl Strategy<Value = Option<Made>> {
    let made = |code, flag, bytes: Vec<u8>, json: String| Made { code, flag, bytes, json };
    let some = prop_oneof![
        any::<i64>().prop_map(move |n| made(8, 0, n.to_le_bytes().into(), n.to_string())),
        any::<u32>().prop_map(move |n| made(3, 0x80, n.to_le_bytes().into(), n.to_string())),
        any::<i16>().prop_map(move |n| made(2, 0, n.to_le_bytes().into(), n.to_string())),
        any::<u8>().prop_map(move |n| made(1, 0x80, vec![n], n.to_string())),
        (-1e9..1e9).prop_map(move |n: f64| made(5, 0, n.to_le_bytes().into(), format!("{n:?}"))),
        "\\PC{0,60}".prop_map(move |text: String| {
            let bytes = [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
            made(253, 0, bytes, quoted(&text))
        }),
        (0u16..9999, 1u8..13, 1u8..32).prop_map(move |(y, m, d)| {
            let [low, high] = y.to_le_bytes();
            made(10, 0, vec![4, low, high, m, d], format!("\"{y:04}-{m:02}-{d:02}\""))
        }),
    ];
    proptest::option::weighted(0.9, some)
}

proptest! {
    #[test]
    fn what_was_sent_is_read(values in proptest::collection::vec(value(), 1..40)) {
        let parameters: Vec<_> = values.iter().map(|value| match value {
            Some(made) => (made.code, made.flag, Some(&made.bytes[..])),
            None => (6, 0, None),
        }).collect();
        let read = read(&sent(&parameters), parameters.len()).parameters;
        let json: Vec<_> = values.iter().map(|v| v.as_ref().map_or("null", |made| &made.json)).collect();
        prop_assert_eq!(&*read.json.unwrap(), format!("[{}]", json.join(",")));
        prop_assert_eq!((read.unknown, read.missing), (false, 0));
    }

    #[test]
    fn anything_is_read_without_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        typed in any::<bool>(),
        count in 0u16..30,
        missing in 0u64..3,
        codes in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..30),
    ) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.get_mut(9 + usize::from(count).div_ceil(8)) {
            *byte = u8::from(typed);
        }
        let types: Vec<_> = codes.iter().map(|(code, unsigned)| Type { code: *code, unsigned: *unsigned }).collect();
        let known = Known { count, types: (types.len() == usize::from(count)).then_some(&types), long: &NONE };
        for read in [execute, bulk_execute] {
            let read = read(Packet { bytes: &bytes, missing }, known);
            if let Some(json) = read.parameters.json {
                prop_assert!(serde_json::from_str::<Vec<serde_json::Value>>(&json).is_ok(), "{}", json);
            }
        }
    }
}
