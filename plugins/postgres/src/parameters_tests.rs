use super::*;
use proptest::prelude::*;

fn bind(formats: &[u16], values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(formats.len()).unwrap().to_be_bytes().to_vec();
    for format in formats {
        body.extend(format.to_be_bytes());
    }
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend(*bytes);
            }
        }
    }
    body
}

fn json(formats: &[u16], types: &[u32], values: &[Option<&[u8]>]) -> String {
    let values = read(&mut Fields(&bind(formats, values)), types);
    assert!(!values.partial);
    values.json
}

#[test]
fn text_is_taken_as_it_is() {
    assert_eq!(json(&[], &[23], &[Some(b"17"), None, Some(b"")]), r#"["17",null,""]"#);
    assert_eq!(json(&[0], &[], &[Some("\"\u{e4}\\\n\x01".as_bytes())]), "[\"\\\"\u{e4}\\\\\\n\\u0001\"]");
    assert_eq!(json(&[], &[], &[Some(b"\xff\xfe")]), r#"["\\xfffe"]"#);
    assert_eq!(json(&[], &[], &[]), "[]");
}

#[test]
fn binary_values_of_the_known_types() {
    let cases: &[(u32, &[u8], &str)] = &[
        (16, &[1], "t"),
        (16, &[0], "f"),
        (17, &[0xde, 0xad], r"\xdead"),
        (20, &[255; 8], "-1"),
        (21, &[0x80, 0], "-32768"),
        (23, &[0, 0, 1, 0], "256"),
        (26, &[255; 4], "4294967295"),
        (25, b"a b", "a b"),
        (701, &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0], "1.5"),
        (1700, &[0, 2, 0, 0, 0, 0, 0, 2, 0, 12, 0x13, 0x88], "12.50"),
        (1082, &[0, 0, 0, 0], "2000-01-01"),
        (1083, &[0, 0, 0, 0, 0, 0xf, 0x42, 0x40], "00:00:01"),
        (1184, &[0; 8], "2000-01-01 00:00:00+00"),
        (1186, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 13], "1 year 1 mon 1 day"),
        (2950, &[0x11; 16], "11111111-1111-1111-1111-111111111111"),
        (3802, b"\x01{\"a\": 1}", "{\"a\": 1}"),
        (869, &[2, 32, 0, 4, 127, 0, 0, 1], "127.0.0.1"),
        (869, &[2, 8, 0, 4, 10, 0, 0, 0], "10.0.0.0/8"),
        (650, &[2, 32, 1, 4, 10, 0, 0, 1], "10.0.0.1/32"),
        (
            1007,
            &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255],
            "{7,NULL}",
        ),
        (1009, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25], "{}"),
    ];
    for (oid, bytes, text) in cases {
        assert_eq!(decode(*oid, bytes), *text, "{oid}");
    }
}

#[test]
fn what_is_not_known_or_not_of_its_type_is_shown_as_bytes() {
    assert_eq!(decode(600, &[0, 0x11]), r"oid 600 \x0011");
    assert_eq!(decode(0, b""), r"oid 0 \x");
    // Too long, too short, or no such value.
    assert_eq!(decode(23, &[0; 5]), r"oid 23 \x0000000000");
    assert_eq!(decode(20, &[0; 7]), r"oid 20 \x00000000000000");
    assert_eq!(decode(1083, &[255; 8]), r"oid 1083 \xffffffffffffffff");
    assert_eq!(decode(3802, b"\x02x"), r"oid 3802 \x0278");
    assert_eq!(decode(1700, &[0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), r"oid 1700 \x0001000000000000ffff");
}

#[test]
fn what_is_cut_is_shown_as_far_as_it_came() {
    let whole = bind(&[], &[Some(b"first"), Some(b"second")]);
    let values = read(&mut Fields(&whole[..whole.len() - 3]), &[]);
    assert_eq!((values.json.as_str(), values.partial, values.count), (r#"["first","sec"]"#, true, 2));
    let values = read(&mut Fields(&[]), &[]);
    assert_eq!((values.json.as_str(), values.partial), ("[]", true));
}

#[test]
fn a_thousand_parameters() {
    let texts: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let values: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
    let expected = format!("[{}]", texts.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(","));
    assert_eq!(json(&[], &[], &values), expected);
}

proptest! {
    #[test]
    fn any_bytes_of_any_type_are_some_text(oid in prop_oneof![any::<u32>(), 0_u32..4000], bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode(oid, &bytes);
    }

    #[test]
    fn any_body_gives_a_json_array(body in proptest::collection::vec(any::<u8>(), 0..300), types in proptest::collection::vec(0_u32..4000, 0..8)) {
        let json = read(&mut Fields(&body), &types).json;
        prop_assert!(json.starts_with('[') && json.ends_with(']'));
        prop_assert!(json.chars().all(|c| c >= ' '));
    }
}
