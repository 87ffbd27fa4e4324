use super::*;

fn manifest() -> Manifest {
    Manifest::parse(include_str!("../example.toml")).unwrap_or_else(|e| panic!("{e}"))
}

fn given(list: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    list.iter().map(|(k, v)| ((*k).to_owned(), v.iter().map(|t| (*t).to_owned()).collect())).collect()
}

#[track_caller]
fn refused(name: &str, texts: &[&str], expected: &str) {
    let error = manifest().check_config(&given(&[(name, texts)])).expect_err("refused");
    assert_eq!(error.to_string(), format!("E-CONFIG: --{name}: {expected}"));
}

#[test]
fn defaults_are_filled_in() {
    let values = manifest().check_config(&BTreeMap::new()).expect("valid");
    assert_eq!(values["slower-than"], Value::Int(100_000_000));
    assert_eq!(values["longest"], Value::Int(65536));
    assert_eq!(values["kinds"], Value::List(vec!["query".into()]));
    assert_eq!(values["internal"], Value::Bool(false));
    assert!(!values.contains_key("mysqld") && !values.contains_key("rows"));
}

#[test]
fn values_have_their_type() {
    let values = manifest()
        .check_config(&given(&[
            ("mysqld", &["/opt/mysqld"]),
            ("slower-than", &["1.5s"]),
            ("rows", &["-1"]),
            ("kinds", &["query, execute", "prepare"]),
            ("internal", &["true"]),
        ]))
        .expect("valid");
    assert_eq!(values["mysqld"], Value::Text("/opt/mysqld".into()));
    assert_eq!(values["slower-than"], Value::Int(1_500_000_000));
    assert_eq!(values["rows"], Value::Int(-1));
    assert_eq!(values["kinds"], Value::List(vec!["query".into(), "execute".into(), "prepare".into()]));
    assert_eq!(values["internal"], Value::Bool(true));
}

#[test]
fn what_does_not_fit_is_refused() {
    refused("slower-than", &["5"], "\"5\" is not a duration, as 100ms or 5s");
    refused("slower-than", &["2h"], "2h is more than 1h");
    refused("longest", &["1"], "1 is less than 1KiB");
    refused("rows", &["-2"], "-2 is less than -1");
    refused("rows", &["x"], "\"x\" is not an integer of 64 bits");
    refused("rows", &["1", "2"], "given twice");
    refused("rows", &[], "needs a value");
    refused("parameters", &["non"], "\"non\" is not one of text, none; did you mean none?");
    refused("kinds", &["query,ping"], "\"ping\" is not one of query, prepare, execute");
    refused("mysqld", &["mysqld"], "\"mysqld\" is not an absolute path");
    refused("mysqld", &["/a\0b"], "contains a NUL byte");
    refused("internal", &["yes"], "\"yes\" is not true or false");
    refused("row", &["1"], "no such option of mysql; did you mean --rows?");
    refused("nothing", &["1"], "no such option of mysql");
}
