use super::*;

#[test]
fn an_answer_goes_there_and_back() {
    let text = r#"{"schema":1,"version":{"product":"MariaDB","text":"10.11.14","how":"string"},
        "probes":[{"object":"mysql","program":"mysql_command","kind":"entry","at":{"symbol":"f"},"args":4},
                  {"object":"mysql","program":"r","kind":"return","at":{"symbol_offset":["g",16]},"arg":7,"required":false,"group":"g"},
                  {"object":"mysql","program":"r","kind":"entry","at":{"function_at":4096}},
                  {"object":"mysql","program":"r","kind":"entry","at":{"callee_of_strings":{"strings":["a","b"],"min":2}}}],
        "layout":"00ff10","notes":["n"],"later":"ignored"}"#;
    let answer = Detected::from_json(text).expect("valid");
    assert_eq!(answer.layout.0, [0, 255, 16]);
    assert!(answer.probes[0].required && answer.probes[0].args == 4 && answer.probes[0].arg == 0);
    assert!(!answer.probes[1].required);
    assert_eq!(answer.probes[1].at, Locator::SymbolOffset("g".into(), 16));
    assert_eq!(Detected::from_json(&answer.to_json()).expect("valid"), answer);
}

#[test]
fn unsupported_stands_alone() {
    let answer = Detected::from_json(r#"{"unsupported":"too old; needs 5.7"}"#).expect("valid");
    assert_eq!(answer.unsupported.as_deref(), Some("too old; needs 5.7"));
    let both =
        r#"{"schema":1,"unsupported":"x","probes":[{"object":"o","program":"p","kind":"entry","at":{"symbol":"f"}}]}"#;
    assert!(Detected::from_json(both).is_err());
}

#[test]
fn limits_and_names_are_checked() {
    let refused = |text: &str, at: &str| {
        let error = Detected::from_json(text).expect_err("refused").to_string();
        assert!(error.starts_with(at), "{error}");
    };
    let probe = |key: &str| {
        format!(
            r#"{{"schema":1,"probes":[{{"object":"o","program":"p","kind":"entry","at":{{"symbol":"f"}},{key}}}]}}"#
        )
    };
    refused(&probe(r#""args":17"#), "probes[0].args");
    refused(&probe(r#""group":"""#), "probes[0].group");
    refused(r#"{"schema":2}"#, "schema 2");
    refused(r#"{"schema":1,"layout":"0"}"#, "not valid: an odd number of hex digits");
    refused(&format!(r#"{{"schema":1,"layout":"{}"}}"#, "00".repeat(MAX_LAYOUT + 1)), "layout");
    refused(&format!(r#"{{"schema":1,"notes":["{}"]}}"#, "x".repeat(MAX_ANSWER)), "1048");
    let strings = r#"{"schema":1,"probes":[{"object":"o","program":"p","kind":"entry","at":{"callee_of_strings":{"strings":["a"],"min":2}}}]}"#;
    refused(strings, "probes[0].at.min");
    let grouped = |fallbacks: &str| probe(r#""group":"g""#).replace("]}", &format!(r#"],"fallbacks":{fallbacks}}}"#));
    refused(&grouped(r#"{"g":"g"}"#), "fallbacks.g");
    refused(&grouped(r#"{"g":"nobody"}"#), "fallbacks.g");
    refused(&grouped(r#"{"nobody":"g"}"#), "fallbacks.nobody");
}

#[test]
fn only_attachments_can_be_optional() {
    let configured = |optional: &str| {
        format!(
            r#"{{"schema":1,"objects":[{{"id":"o"}}],"optional":["{optional}"],
                "attachments":[{{"object":"o","program":"p","kind":"tp_btf","to":"t"}}]}}"#
        )
    };
    let answer = Configured::from_json(&configured("p")).expect("valid");
    assert_eq!(Configured::from_json(&answer.to_json()).expect("valid"), answer);
    let error = Configured::from_json(&configured("q")).expect_err("refused").to_string();
    assert!(error.starts_with("optional"), "{error}");
}

#[test]
fn wrappers_are_checked() {
    let probe = |behind: &str, arg: u32| {
        format!(
            r#"{{"schema":1,"probes":[{{"object":"o","program":"p","kind":"entry","at":{{"behind":{behind}}},"arg":{arg}}}]}}"#
        )
    };
    let whole = r#"{"wrappers":["a","b"],"args":3,"buffer":1,"out":{"wrapper":"b","argument":3}}"#;
    let answer = Detected::from_json(&probe(whole, 0x00ff_ffff)).expect("valid");
    let out = Some(WrapperArgument { wrapper: "b".into(), argument: 3 });
    let behind = Behind { wrappers: vec!["a".into(), "b".into()], args: 3, buffer: 1, out };
    assert_eq!(answer.probes[0].at, Locator::Behind(behind));
    assert_eq!(Detected::from_json(&answer.to_json()).expect("valid"), answer);

    let refused = |text: &str, key: &str| {
        let error = Detected::from_json(text).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("probes[0].{key}: ")), "{error}");
    };
    refused(&probe(whole, 0x0100_0000), "arg");
    let without = whole.replace(r#","out":{"wrapper":"b","argument":3}"#, "");
    Detected::from_json(&probe(&without, 0x0100_0000)).expect("the whole number is the module's");
    let many = format!(r#"["b"{}]"#, (0..8).map(|i| format!(r#","{i}""#)).collect::<String>());
    for (from, to, key) in [
        (r#"["a","b"]"#, "[]", "at.wrappers"),
        (r#"["a","b"]"#, r#"["b","b"]"#, "at.wrappers"),
        (r#"["a","b"]"#, r#"["b",""]"#, "at.wrappers"),
        (r#"["a","b"]"#, many.as_str(), "at.wrappers"),
        (r#""args":3"#, r#""args":0"#, "at.args"),
        (r#""args":3"#, r#""args":7"#, "at.args"),
        (r#""buffer":1"#, r#""buffer":3"#, "at.buffer"),
        (r#""wrapper":"b""#, r#""wrapper":"c""#, "at.out.wrapper"),
        (r#""argument":3"#, r#""argument":6"#, "at.out.argument"),
    ] {
        refused(&probe(&whole.replace(from, to), 0), key);
    }
}

#[test]
fn fields_are_checked() {
    let probe = |field: &str, arg: u32| {
        format!(
            r#"{{"schema":1,"probes":[{{"object":"o","program":"p","kind":"entry","arg":{arg},"at":{{"callee_of_strings":{{"strings":["a"],"min":1,"field":{field}}}}}}}]}}"#
        )
    };
    let whole = r#"{"argument":0,"bytes":32}"#;
    let answer = Detected::from_json(&probe(whole, 0)).expect("valid");
    let field = Some(Field { argument: 0, bytes: 32, most: 1 });
    assert_eq!(answer.probes[0].at, Locator::CalleeOfStrings { strings: vec!["a".into()], min: 1, field });
    assert_eq!(Detected::from_json(&answer.to_json()).expect("valid"), answer);
    let refused = |text: &str, key: &str| {
        let error = Detected::from_json(text).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("probes[0].{key}:")), "{error}");
    };
    refused(&probe(whole, 1), "arg");
    for (from, to, key) in
        [(":0", ":6", "at.field.argument"), (":32", ":15", "at.field.bytes"), (":32", ":4097", "at.field.bytes")]
    {
        refused(&probe(&whole.replace(from, to), 0), key);
    }
    let several = |most: u8| format!(r#"{{"argument":0,"bytes":32,"most":{most}}}"#);
    let answer = Detected::from_json(&probe(&several(4), 0)).expect("valid");
    assert!(answer.to_json().contains(r#""most":4"#));
    for most in [0, 5] {
        refused(&probe(&several(most), 0), "at.field.most");
    }
}

#[test]
fn configured_is_checked() {
    let text = r#"{"schema":1,"objects":[{"id":"o","programs":["a"],"globals":{"x":18446744073709551615,"y":-1,"z":"00ff"}}],
        "attachments":[{"object":"o","program":"a","kind":"tp_btf","to":"sched_process_fork"}],"services":["packets"]}"#;
    let answer = Configured::from_json(text).expect("valid");
    assert_eq!(answer.objects[0].globals["x"], GlobalValue::Unsigned(u64::MAX));
    assert_eq!(answer.objects[0].globals["y"], GlobalValue::Signed(-1));
    assert_eq!(answer.objects[0].globals["z"], GlobalValue::Bytes(Hex(vec![0, 255])));
    assert_eq!(Configured::from_json(&answer.to_json()).expect("valid"), answer);

    let bad = text.replace(r#""object":"o""#, r#""object":"other""#);
    assert!(Configured::from_json(&bad).expect_err("refused").to_string().starts_with("attachments[0].object"));
    let bad = text.replace("tp_btf", "kprobe");
    assert!(Configured::from_json(&bad).expect_err("refused").to_string().contains("kprobe"));
    assert!(Configured::from_json("{}").is_err(), "schema is required");
}
