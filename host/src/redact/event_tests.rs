//! Tests of `event`: what of an event is taken out, and what is left as it is.

use super::*;
use crate::event::{Column, ColumnType, Schema};
use crate::redact::RedactOptions;
use crate::sink::samples;

const COLUMNS: [(&str, ColumnType); 5] = [
    ("db.system.name", ColumnType::Text),
    ("db.query.text", ColumnType::Text),
    ("db.query.parameters", ColumnType::Text),
    ("ecapture.error.message", ColumnType::Text),
    ("user.name", ColumnType::Text),
];

fn through(options: &RedactOptions, texts: [&str; 4]) -> (Vec<String>, Vec<&'static str>) {
    let columns = COLUMNS.iter().map(|(name, ty)| Column::new(name, *ty).unwrap()).collect();
    let mut schema = Schema::new("mysql").unwrap();
    schema.push("query", "{db.query.text}", columns).unwrap();
    let fields: Vec<Field<'_>> = (0..)
        .zip(["mysql"].into_iter().chain(texts))
        .map(|(column, text)| Field { column, value: Value::Text(text.as_bytes()) })
        .collect();
    let sample = samples::schema();
    let event = Event {
        schema: schema.event(0).unwrap(),
        fields: &fields,
        flags: Flags(1 << 30 | 1),
        ..samples::event(&sample, &[])
    };
    let mut told = None;
    Redactor::new(options).unwrap().event(&event, |event| {
        let text = |field: &Field<'_>| match field.value {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(event.flags.partial());
        told = Some((event.fields.iter().skip(1).map(text).collect(), event.flags.redacted().names().collect()));
    });
    told.unwrap()
}

#[test]
fn what_is_found_in_one_column_is_in_no_other() {
    let sql = "CREATE USSR u IDENTIFIED BY 'S3cret'";
    let (texts, kinds) = through(&RedactOptions::default(), [sql, "[]", "near 'S3cret' at line 1", "bob"]);
    assert_eq!(texts, ["CREATE USSR u IDENTIFIED BY '[redacted]'", "[]", "near '[redacted]' at line 1", "bob"]);
    assert_eq!(kinds, ["password"]);
    let (texts, kinds) = through(&RedactOptions::default(), ["SET PASSWORD = ?", "[\"S3cret\", 1]", "", ""]);
    assert_eq!(texts[1], "[\"[redacted]\",\"[redacted]\"]");
    assert_eq!(kinds, ["password"]);
    let show = RedactOptions { show_secrets: true, ..RedactOptions::default() };
    assert_eq!(
        through(&show, [sql, "", "", ""]),
        (vec![sql.into(), String::new(), String::new(), String::new()], vec![])
    );
}

/// As the modules mysql and postgres make them.
#[test]
fn parameters_of_real_servers() {
    let of = |sql: &str, parameters: &str| {
        let (texts, kinds) = through(&RedactOptions::default(), [sql, parameters, "", "bob"]);
        assert!(!texts[0].contains("S3cret"), "{texts:?}");
        (texts[1].clone(), kinds)
    };
    let all = |count: usize| format!("[{}]", vec!["\"[redacted]\""; count].join(","));
    for (sql, parameters, count) in [
        ("SET PASSWORD = ?", r#"["S3cret"]"#, 1),
        ("SET PASSWORD FOR 'u'@'%' = PASSWORD(?)", r#"["S3cret"]"#, 1),
        ("UPDATE users SET password = ?, seen = ? WHERE id = ?", r#"["S3cret","2024-02-29 23:59:58.123456",42]"#, 3),
        ("INSERT INTO t VALUES (AES_ENCRYPT(?, ?))", r#"[{"text":"S3cr","missing":2},{"hex":"ff00"}]"#, 2),
        ("SELECT id FROM users WHERE name = ? AND pwd_hash = crypt(?, pwd_hash)", r#"["bob","S3cret"]"#, 2),
        ("SELECT crypt($1, gen_salt('bf'))", r#"["S3cret"]"#, 1),
        ("SELECT pgp_sym_encrypt($1, $2)", r#"["S3cret",null]"#, 2),
        ("UPDATE u SET password = $1 WHERE id = $2", r#"["S3cret","oid 600 \\x3ff8"]"#, 2),
        ("INSERT INTO api (token, owner) VALUES (?, ?)", r#"["plain","bob"]"#, 2),
        ("INSERT INTO api (token, owner) VALUES ($1, $2)", r#"["plain","bob"]"#, 2),
        ("INSERT INTO api (id, owner) VALUES (?, ?) /* token */", r#"["plain","bob"]"#, 0),
        ("ALTER USER u IDENTIFIED BY ?", r#"[[1,"S3cret"],[2,{"default":true}]]"#, 2),
        // Cut by somebody.
        ("SET PASSWORD = ?", r#"["S3cre"#, 0),
    ] {
        let (text, kinds) = of(sql, parameters);
        match count {
            0 if parameters.ends_with(']') => assert_eq!((text.as_str(), kinds.len()), (parameters, 0), "{sql}"),
            0 => assert_eq!(text, "[redacted]"),
            _ => assert_eq!((text, kinds), (all(count), vec!["password"]), "{sql}"),
        }
    }
    // The statement says nothing; the value does.
    for (parameters, without) in [
        (r#"["ALTER ROLE r PASSWORD 'S3cret'",7]"#, r#"["ALTER ROLE r PASSWORD '[redacted]",7]"#),
        (
            r#"["{\"user\": \"u\", \"password\": \"S3cret\"}"]"#,
            r#"["{\"user\": \"u\", \"password\": \"[redacted]\"}"]"#,
        ),
        (r#"["host=h password=S3cret dbname=d","x"]"#, r#"["host=h password=[redacted] dbname=d","x"]"#),
        (r#"["postgresql://u:S3cret@h/d"]"#, r#"["postgresql://u:[redacted]@h/d"]"#),
        (r#"["the password (1) is identified by a number"]"#, r#"["the password (1) is identified by a number"]"#),
    ] {
        assert_eq!(of("SELECT dblink_exec('c', $1)", parameters).0, without);
    }
}

/// Messages of programs that know no SQL are not read as such.
#[test]
fn messages_of_other_modules_are_prose() {
    let columns = vec![Column::new("ecapture.error.message", ColumnType::Text).unwrap()];
    let mut schema = Schema::new("bash").unwrap();
    schema.push("line", "", columns).unwrap();
    let said = "see passwd(1): you are identified by an address";
    let fields = [Field { column: 0, value: Value::Text(said.as_bytes()) }];
    let sample = samples::schema();
    let event = Event { schema: schema.event(0).unwrap(), fields: &fields, ..samples::event(&sample, &[]) };
    let mut seen = 0;
    Redactor::default().event(&event, |event| {
        assert_eq!(event.value(0), Some(Value::Text(said.as_bytes())));
        seen += 1;
    });
    assert_eq!(seen, 1);
}

/// What is not changed is not copied.
#[test]
fn bodies_of_exchanges_are_shared() {
    let message = |name: &str, value: &str| Message {
        headers: vec![
            Header { name: Some(b"Host".to_vec()), value: Some(b"h".to_vec()) },
            Header { name: Some(name.into()), value: Some(value.into()) },
        ],
        trailers: vec![Header { name: None, value: Some(b"unknown".to_vec()) }],
        body: crate::stream::body::Body { bytes: b"card=42".to_vec(), ..Default::default() }.into(),
        ..Message::default()
    };
    let exchange = Exchange {
        request: Some(crate::stream::exchange::Request {
            target: b"/a?token=S3cret".to_vec(),
            authority: Some(b"u:S3cret@h".to_vec()),
            message: message("Cookie", "a=S3cret"),
            ..Default::default()
        }),
        response: Some(crate::stream::exchange::Response { message: message("X-Plain", "x"), ..Default::default() }),
        ..Exchange::default()
    };
    let mut kinds = Kinds::default();
    let without = Redactor::default().exchange(&exchange, &mut kinds).unwrap();
    let (request, response) = (without.request.unwrap(), without.response.unwrap());
    assert_eq!(
        (request.target, request.authority.unwrap()),
        (b"/a?token=[redacted]".to_vec(), b"[redacted]@h".to_vec())
    );
    assert_eq!(request.message.headers[1].value.as_deref(), Some(&b"a=[redacted]"[..]));
    assert_eq!(response.message.trailers[0].value.as_deref(), Some(REDACTED));
    assert_eq!(response.message.headers[1].value.as_deref(), Some(&b"x"[..]));
    let asked = exchange.request.as_ref().unwrap();
    assert!(Arc::ptr_eq(&request.message.body, &asked.message.body));
    let own = RedactOptions { patterns: vec!["card=([0-9]+)".into()], ..RedactOptions::default() };
    let without = Redactor::new(&own).unwrap().exchange(&exchange, &mut kinds).unwrap();
    assert_eq!(without.response.unwrap().message.body.bytes, b"card=[redacted]");
    assert_eq!(asked.message.body.bytes, b"card=42");
    // Nothing in it: not even its heads are copied.
    let mut plain = exchange.clone();
    plain.request = None;
    plain.response.as_mut().unwrap().message.trailers.clear();
    assert!(Redactor::default().exchange(&plain, &mut kinds).is_none());
}

#[test]
fn literals_and_own_expressions() {
    let literals = RedactOptions { literals: true, ..RedactOptions::default() };
    let sql = "select 'x', 17 from t";
    let (texts, kinds) = through(&literals, [sql, "[\"a\", [1]]", "Duplicate entry 'x'", "bob"]);
    assert_eq!(texts, ["select ?, ? from t", "[\"?\",\"?\"]", "Duplicate entry ?", "bob"]);
    assert_eq!(kinds, ["literal"]);
    let own = RedactOptions { patterns: vec!["b(o)b".into(), "1\\d".into()], ..RedactOptions::default() };
    let (texts, kinds) = through(&own, [sql, "", "", "bob"]);
    assert_eq!((texts[0].as_str(), texts[3].as_str()), ("select 'x', [redacted] from t", "b[redacted]b"));
    assert_eq!(kinds, ["pattern"]);
}
