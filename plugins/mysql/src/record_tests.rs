//! Tests of `record`: the layout against its owner, and every wrong length.

use super::*;
use crate::made;
use proptest::prelude::*;

#[test]
fn whole_messages_are_read() {
    let data = made::start(Command::STMT_EXECUTE, 7, 100, Some(3), b"packet", 0);
    let (head, body) = parse(&data).unwrap();
    assert_eq!(head, Head { command: Command::STMT_EXECUTE, thd: 0x7000 + 7, connection: Some(7), start_ns: 100 });
    let Body::Start(start) = body else { panic!("{body:?}") };
    assert_eq!((start.length, start.statement, start.packet), (6, Some(3), &b"packet"[..]));

    let data = made::error(Command::QUERY, 7, 100, 1146, "42S02", b"no table");
    let (_, body) = parse(&data).unwrap();
    assert_eq!(body, Body::Error(Failure { error: 1146, sqlstate: *b"42S02", text: b"no table" }));

    let sent = End { flags: end_flag::OK, affected_rows: 9, insert_id: 4, returned: 1, ..End::default() };
    let data = made::end(Command::QUERY, 7, 100, &sent);
    let (_, body) = parse(&data).unwrap();
    assert_eq!(body, Body::End(sent));
}

#[test]
fn an_unknown_connection_is_none() {
    let mut data = made::end(Command::QUIT, 7, 100, &End::default());
    data[16..24].copy_from_slice(&UNKNOWN_ID.to_le_bytes());
    assert_eq!(parse(&data).unwrap().0.connection, None);
}

#[test]
fn every_cut_of_the_fixed_part_is_refused() {
    for (data, fixed) in [
        (made::start(Command::QUERY, 1, 2, None, b"", 0), START),
        (made::end(Command::QUERY, 1, 2, &End::default()), END),
        (made::error(Command::QUERY, 1, 2, 3, "00000", b""), ERROR),
        (made::parameters(1, 2, 0, true, &[]), PARAMETERS),
    ] {
        assert!(parse(&data[..fixed]).is_ok());
        for len in 0..fixed {
            assert!(matches!(parse(&data[..len]), Err(RecordError::Short { len: l, .. }) if l == len), "{len}");
        }
    }
}

#[test]
fn too_much_is_refused() {
    let mut end = made::end(Command::QUERY, 1, 2, &End::default());
    end.push(0);
    assert_eq!(parse(&end), Err(RecordError::Long { what: "END", len: 105, most: END }));
    let mut start = made::start(Command::QUERY, 1, 2, None, b"abc", 0);
    start.push(b'd');
    assert_eq!(parse(&start), Err(RecordError::Long { what: "packet of START", len: 4, most: 3 }));
    let mut array = made::parameters(1, 2, 0, true, &[[0; PS_PARAM]]);
    array.push(0);
    assert!(matches!(parse(&array), Err(RecordError::Long { what: "array of PARAMETERS", len: 49, most: 48 })));
    let error = made::error(Command::QUERY, 1, 2, 3, "00000", &[b'x'; ERROR_TEXT_MAX + 1]);
    assert!(matches!(parse(&error), Err(RecordError::Long { .. })));
}

#[test]
fn unknown_kinds_and_commands_are_refused() {
    let mut data = made::end(Command::QUERY, 1, 2, &End::default());
    data[0] = 9;
    assert_eq!(parse(&data), Err(RecordError::Kind(9)));
    data[5] = 1;
    assert_eq!(parse(&data), Err(RecordError::Command(0x103)));
}

/// The header that owns the layout, of the tree that this crate is built in.
const HEADER: &str = include_str!("../../../ebpf-objects/src/mysql.h");

#[test]
fn values_are_those_of_the_header() {
    let owner: Vec<&str> = HEADER.split(|c: char| !(c.is_alphanumeric() || "_()<=".contains(c))).collect();
    let has = |name: &str, value: String| {
        let words = [name, "=", &value];
        assert!(owner.windows(3).any(|found| found == words), "{name} = {value} is not in mysql.h");
    };
    has("MYSQL_START", kind::START.to_string());
    has("MYSQL_END", kind::END.to_string());
    has("MYSQL_ERROR", kind::ERROR.to_string());
    has("MYSQL_LOGIN", kind::LOGIN.to_string());
    has("MYSQL_PARAMETERS", kind::PARAMETERS.to_string());
    has("MYSQL_START_VALUES", start_flag::VALUES.to_string());
    has("MYSQL_PARAMETERS_UNKNOWN", parameter_layout::UNKNOWN.to_string());
    has("MYSQL_PARAMETERS_NAMED", parameter_layout::NAMED.to_string());
    has("MYSQL_PARAMETERS_ASKED", parameter_layout::ASKED.to_string());
    has("MYSQL_LOGIN_USER", login_flag::USER.to_string());
    has("MYSQL_LOGIN_DATABASE", login_flag::DATABASE.to_string());
    has("MYSQL_LOGIN_PEER", login_flag::PEER.to_string());
    has("MYSQL_START_STATEMENT", start_flag::STATEMENT.to_string());
    has("MYSQL_END_OK", end_flag::OK.to_string());
    has("MYSQL_END_RESULT_SET", end_flag::RESULT_SET.to_string());
    has("MYSQL_END_FAILED", end_flag::FAILED.to_string());
    has("MYSQL_END_PREPARED", end_flag::PREPARED.to_string());
    has("MYSQL_END_ROWS", end_flag::ROWS.to_string());
    has("MYSQL_END_SUSPENDED", end_flag::SUSPENDED.to_string());
    has("MYSQL_END_START_LOST", end_flag::START_LOST.to_string());
    has("MYSQL_END_NO_STATUS", end_flag::NO_STATUS.to_string());
    has("MYSQL_CONVENTION_MARIADB", convention::MARIADB.to_string());
    has("MYSQL_CONVENTION_MYSQL", convention::MYSQL.to_string());
    has("MYSQL_STATEMENT_MADE", statement::MADE.to_string());
    has("MYSQL_STATEMENT_TOLD", statement::TOLD.to_string());
    has("MYSQL_STATEMENT_LISTED", statement::LISTED.to_string());
    has("MYSQL_EOF_WITH_THD", eof::WITH_THD.to_string());
    has("MYSQL_EOF_WITHOUT_THD", eof::WITHOUT_THD.to_string());
    has("MYSQL_EOF_PARTIAL", eof::PARTIAL.to_string());
    for (name, size) in [
        ("mysql_head", HEAD),
        ("mysql_start", START),
        ("mysql_end", END),
        ("mysql_error", ERROR),
        ("mysql_login", LOGIN),
        ("mysql_parameters", PARAMETERS),
    ] {
        let line = format!("_Static_assert(sizeof(struct {name}) == {size},");
        assert!(HEADER.contains(&line), "{line}");
    }
    assert!(HEADER.contains(&format!("MYSQL_PS_PARAM {PS_PARAM}\n")));
    assert!(HEADER.contains(&format!("MYSQL_ERROR_TEXT_MAX {ERROR_TEXT_MAX} ")));
    assert!(HEADER.contains("MYSQL_UNKNOWN_ID 0xffffffffffffffffULL"));
}

#[test]
fn offsets_are_those_of_the_header() {
    for (structure, field, at) in [
        ("mysql_head", "kind", 0),
        ("mysql_head", "command", 4),
        ("mysql_head", "thd", 8),
        ("mysql_head", "connection", 16),
        ("mysql_head", "start_ns", 24),
        ("mysql_start", "length", 32),
        ("mysql_start", "flags", 36),
        ("mysql_start", "statement", 40),
        ("mysql_start", "product", 44),
        ("mysql_end", "flags", 32),
        ("mysql_end", "statement", 36),
        ("mysql_end", "rows", 40),
        ("mysql_end", "affected_rows", 48),
        ("mysql_end", "insert_id", 56),
        ("mysql_end", "results", 64),
        ("mysql_end", "result_sets", 68),
        ("mysql_end", "errors", 72),
        ("mysql_end", "warnings", 76),
        ("mysql_end", "error", 84),
        ("mysql_end", "sqlstate", 88),
        ("mysql_end", "returned", 96),
        ("mysql_error", "error", 32),
        ("mysql_error", "sqlstate", 40),
        ("mysql_login", "flags", 32),
        ("mysql_login", "port", 36),
        ("mysql_login", "address", 40),
        ("mysql_login", "user", 88),
        ("mysql_login", "database", 488),
    ] {
        assert_eq!(offset_in_header(structure, field), Some(at), "{structure}.{field}");
    }
}

/// A number, or a constant of the header.
fn number(text: &str) -> Option<usize> {
    let defined = || HEADER.split(&format!("#define {text} ")).nth(1)?.split_whitespace().next()?.parse().ok();
    text.parse().ok().or_else(defined)
}

/// Offset of a field by adding up the sizes of those before it. The structures have no padding; their sizes are asserted.
fn offset_in_header(structure: &str, field: &str) -> Option<usize> {
    let body = HEADER.split(&format!("struct {structure} {{")).nth(1)?.split("\n};").next()?;
    let mut at = 0;
    for declaration in body.lines().filter_map(|line| line.split(';').next()).filter(|line| line.starts_with('\t')) {
        let mut words = declaration.split_whitespace();
        let (size, name) = match words.next()? {
            "__u32" => (4, words.next()?),
            "__u64" => (8, words.next()?),
            "__u8" | "char" => (1, words.next()?),
            "struct" => (HEAD, words.nth(1)?),
            _ => continue,
        };
        let (name, count) = match name.split_once('[') {
            Some((name, count)) => (name, number(count.trim_end_matches(']'))?),
            None => (name, 1),
        };
        if name == field {
            return Some(at);
        }
        at += size * count;
    }
    None
}

proptest! {
    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _either = parse(&data);
    }

    #[test]
    fn random_bytes_behind_a_right_head_never_panic(kind in 0u32..5, data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut message = kind.to_le_bytes().to_vec();
        message.extend_from_slice(&[3, 0, 0, 0]);
        message.extend_from_slice(&data);
        let _either = parse(&message);
    }
}
