use crate::manifest::*;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../example.toml");

fn parse(text: &str) -> Manifest {
    Manifest::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

/// The example with one line replaced gives this complaint; the line's number is found by itself.
#[track_caller]
fn refused(from: &str, to: &str, key: &str, message: &str) {
    let at = EXAMPLE.find(from).unwrap_or_else(|| panic!("{from:?} is not in the example"));
    let text = EXAMPLE.replacen(from, to, 1);
    let error = Manifest::parse(&text).expect_err("refused");
    assert_eq!(error.key, key, "{error}");
    assert!(error.message.contains(message), "{error}");
    let line = 1 + EXAMPLE[..at].matches('\n').count();
    assert!(error.line >= line.saturating_sub(6) && error.line <= line + 2, "line {} for {line}: {error}", error.line);
}

const HEAD: &str =
    "schema = 1\n[module]\nname = \"a\"\nversion = \"1.0.0\"\ntitle = \"A\"\nlicense = \"MIT\"\napi = \"1.0\"\n";

#[test]
fn the_example_is_read() {
    let m = parse(EXAMPLE);
    assert_eq!((m.schema, m.module.name.as_str(), m.module.version.to_string().as_str()), (1, "mysql", "0.1.0"));
    assert_eq!(m.module.aliases, ["mysqld", "mariadb"]);
    assert_eq!(m.module.api, ApiVersion { major: 1, minor: 0 });
    assert_eq!(m.file_name(), "libecap_mysql.so");
    assert_eq!(m.kernel.min, Some(KernelVersion { major: 5, minor: 15 }));
    assert_eq!((m.targets[0].kind, m.targets[1].kind), (TargetKind::Executable, TargetKind::Library));
    assert_eq!(m.targets[0].option.as_deref(), Some("mysqld"));
    assert_eq!(m.default_mode().map(|m| m.name.as_str()), Some("text"));
    assert_eq!(m.config[0].short, Some('m'));
    assert_eq!((m.config[2].min, m.config[2].max), (Some(1024), Some(1 << 20)));
    assert_eq!((m.streams[0].join_max, m.streams[0].ring, m.streams[0].join), (1 << 20, 8 << 20, true));
    assert_eq!(m.events[0].column("db.query.text"), Some(3));
    assert_eq!(m.events[0].columns[2].kind, ColumnType::Duration);
    assert_eq!(m.events[1].columns, []);
    assert_eq!(m.permissions.map_memory, 64 << 20);
}

#[test]
fn defaults() {
    let m = parse(HEAD);
    assert_eq!(m.module.command, "a");
    assert!(m.kernel.btf && m.kernel.min.is_none() && m.kernel.arch.is_empty());
    assert_eq!(m.modes.len(), 1);
    assert!(m.modes[0].default && m.modes[0].name == "text");
    assert_eq!(m.permissions.map_memory, 64 << 20);
    let m = parse(&format!("{HEAD}[[stream]]\nname = \"s\"\n[[mode]]\nname = \"m\"\nhelp = \"h\"\n"));
    assert_eq!((m.streams[0].map.as_str(), m.streams[0].join, m.streams[0].ring), ("ecap_events", false, 8 << 20));
    assert!(m.modes[0].default && m.modes[0].output.is_none());
    let m =
        parse(&format!("{HEAD}[[stream]]\nname = \"s\"\n[[mode]]\nname = \"m\"\nhelp = \"h\"\noutput = \"keylog\"\n"));
    assert_eq!(m.modes[0].output, Some(ModeOutput::Keylog));
}

#[test]
fn the_message_says_line_key_and_what_was_expected() {
    let text = EXAMPLE.replacen("type = \"text\"\nhelp = \"ok", "type = \"strng\"\nhelp = \"ok", 1);
    let line = 1 + text[..text.find("strng").expect("there")].matches('\n').count();
    assert_eq!(
        Manifest::parse(&text).expect_err("refused").to_string(),
        format!(
            "E-MANIFEST: module.toml line {line}: event[0].column[1].type: \"strng\" is not one of text, bytes, u64, \
             i64, bool, duration, id, f64"
        )
    );
}

#[test]
fn a_missing_key_is_complained_of_at_its_table() {
    let error = Manifest::parse(&EXAMPLE.replacen("title = ", "#", 1)).expect_err("refused");
    assert_eq!(error.to_string(), "E-MANIFEST: module.toml line 4: module.title: missing");
    let error = Manifest::parse("").expect_err("refused");
    assert_eq!(error.to_string(), "E-MANIFEST: module.toml line 1: schema: missing");
    let error = Manifest::parse("schema = 1\nmodule = 3").expect_err("refused");
    assert_eq!(error.to_string(), "E-MANIFEST: module.toml line 2: module: expected a table, found integer");
}

#[test]
fn syntax_errors_have_a_line() {
    let error = Manifest::parse("schema = 1\n[module\n").expect_err("refused");
    assert_eq!(error.line, 2, "{error}");
    assert!(error.message.starts_with("not TOML: "), "{error}");
    assert!(!error.to_string().contains('\n'));
    // Once more: a key that is there twice.
    assert!(Manifest::parse("schema = 1\nschema = 1").is_err());
}

#[test]
fn another_schema_is_named() {
    let error = Manifest::parse("schema = 2\nnew = 1").expect_err("refused");
    assert!(error.message.contains("2 is not a schema that is known here"), "{error}");
}

#[test]
fn unknown_keys_are_refused() {
    refused("title = ", "titel = \"\"\ntitle = ", "module.titel", "did you mean \"title\"?");
    refused("[kernel]", "[kernal]", "kernal", "did you mean \"kernel\"?");
    refused("btf = true", "btf = true\ncolour = 1", "kernel.colour", "known here: min, btf, arch");
    refused("id = \"mysql\"", "id = \"mysql\"\npath = \"x\"", "bpf[0].path", "unknown key");
}

#[test]
fn names_are_checked() {
    refused("name = \"mysql\"", "name = \"MySQL\"", "module.name", "is not a name");
    refused("name = \"mysql\"", "name = \"run\"", "module.name", "reserved for the host");
    refused("command = \"mysql\"", "command = \"doctor\"", "module.command", "reserved for the host");
    refused("\"mariadb\"]", "\"help\"]", "module.aliases[1]", "reserved for the host");
    refused("\"mariadb\"]", "\"mysqld\"]", "module.aliases[1]", "there twice");
    refused("\"mariadb\"]", "\"mysql\"]", "module.aliases", "the command itself");
    refused("name = \"db.query.text\"", "name = \"DB.text\"", "event[0].column[3].name", "lower-case");
    refused("name = \"db.query.text\"", "name = \"ecapture.outcome\"", "event[0].column[3].name", "there twice");
    refused("name = \"db.query.text\"", "name = \"process.pid\"", "event[0].column[3].name", "filled in by the host");
    refused("name = \"quit\"", "name = \"query\"", "event[1].name", "there twice");
    refused("name = \"slow\"", "name = \"text\"", "mode[1].name", "there twice");
    refused("name = \"slow\"", "name = \"slow\"\noutput = \"none\"", "mode[1].output", "not one of text, json");
}

#[test]
fn versions_are_checked() {
    for bad in ["1", "1.2", "1.2.3.4", "v1.2.3", "1.2.x", "1.2.3-", "+1.2.3", "1.2.99999999999", "1.2.3-ü"] {
        refused("version = \"0.1.0\"", &format!("version = {bad:?}"), "module.version", "is not a version");
    }
    assert_eq!(parse(&EXAMPLE.replacen("0.1.0", "1.2.3-rc.1", 1)).module.version.to_string(), "1.2.3-rc.1");
    refused("api = \"1.0\"", "api = \"1\"", "module.api", "as \"1.0\"");
    refused("min = \"5.15\"", "min = \"5.15.1\"", "kernel.min", "as \"5.15\"");
    refused("arch = [\"x86_64\"]", "arch = [\"sparc\"]", "kernel.arch[0]", "not one of x86_64, aarch64");
}

#[test]
fn options_are_checked() {
    refused("short = \"m\"", "short = \"p\"", "config[0].short", "-p is a flag of the host");
    refused("short = \"m\"", "short = \"mm\"", "config[0].short", "not one letter");
    refused("name = \"rows\"", "name = \"pid\"", "config[3].name", "--pid is a flag of the host");
    refused("name = \"rows\"", "name = \"mysqld\"", "config[3].name", "there twice");
    refused("default = \"100ms\"", "default = \"100\"", "config[1].default", "not a duration");
    refused("default = \"100ms\"", "default = \"2h\"", "config[1].default", "2h is more than 1h");
    refused("default = \"64KiB\"", "default = 12", "config[2].default", "12 is less than 1KiB");
    refused("min = 1024", "min = \"2MiB\"", "config[2].min", "greater than max");
    refused("default = [\"query\"]", "default = [\"qery\"]", "config[4].default", "did you mean query?");
    refused("default = \"text\"\n", "default = \"txt\"\n", "config[5].default", "did you mean text?");
    refused("values = [\"text\", \"none\"]", "", "config[5].values", "at least one");
    refused("help = \"The server's own", "values = [\"a\"]\nhelp = \"", "config[6].values", "only enum and list");
    refused("help = \"The server's own", "min = 1\nhelp = \"", "config[6].min", "only int, duration and size");
    refused("option = \"mysqld\"", "option = \"rows\"", "target[0].option", "not a [[config]] option of type \"path\"");
}

#[test]
fn streams_targets_and_permissions_are_checked() {
    refused("ring = \"8MiB\"", "ring = \"9MiB\"", "stream[0].ring", "not a power of two");
    refused("ring = \"8MiB\"", "ring = \"4KiB\"", "stream[0].ring", "65536 to 1073741824");
    refused("join = true", "join = false", "stream[0].join_max", "needs join = true");
    refused("map = \"ecap_events\"", "map = \"a b\"", "stream[0].map", "the name of a map");
    refused("\"/usr/sbin/mysqld\"]", "\"sbin/mysqld\"]", "target[0].paths[1]", "absolute");
    refused("\"/usr/sbin/mysqld\"]", "\"/usr/../x\"]", "target[0].paths[1]", "absolute");
    refused("\"mysqld\"]\nsonames", "\"a/b\"]\nsonames", "target[0].names[1]", "is a path");
    refused("sonames = [\"libmysqld.so.*\"]", "", "target[1]", "must be given");
    refused("libmysqld.so.*", "lib*mysqld.so", "target[1].sonames[0]", "at the end");
    refused("\"bpf_get_current_task_btf\"", "\"rm -rf\"", "permissions.helpers[0]", "name of a helper");
    refused("map_memory = \"64MiB\"", "map_memory = -1", "permissions.map_memory", "allowed");
    refused("default = true\n", "default = false\n", "mode[0].default", "no mode is the default");
}

#[test]
fn templates_are_checked_against_the_columns() {
    refused("  {db.query.text}\"", "  {db.qery.text}\"", "event[0].text", "did you mean {db.query.text}?");
    refused("  {db.query.text}\"", "  {db.query.text\"", "event[0].text", "has no }");
}

#[test]
fn texts_are_bounded_and_cannot_drive_a_terminal() {
    refused("\"Statements of", "\"\\u001b[31mStatements of", "module.title", "control characters");
    refused("\"Statements of", &format!("\"{}", "x".repeat(300)), "module.title", "at most 256");
    refused("title = \"Statements of MariaDB and MySQL servers\"", "title = \" \"", "module.title", "empty");
    let error = Manifest::parse(&"#".repeat(MAX_MANIFEST + 1)).expect_err("refused");
    assert_eq!(error.line, 0);
    let many = "[[event]]\nname = \"x\"\n".repeat(MAX_EVENTS + 1);
    let error = Manifest::parse(&format!("{HEAD}{many}")).expect_err("refused");
    assert!(error.message.contains("65 entries"), "{error}");
}

#[test]
fn it_can_be_shown_as_json() {
    let json = serde_json::to_value(parse(EXAMPLE)).expect("serializable");
    assert_eq!(json["module"]["version"], "0.1.0");
    assert_eq!(json["config"][1]["type"], "duration");
    assert_eq!(json["event"], serde_json::Value::Null);
    assert!(json["events"][0]["text"].as_str().expect("text").starts_with("conn {"));
}

/// Changes that a hostile or careless hand makes: cut, repeat, swap, replace.
fn mutate(text: &str, edits: &[(usize, usize, u8, char)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, len, what, with) in edits {
        if chars.is_empty() {
            break;
        }
        let at = at % chars.len();
        let end = (at + len % 40).min(chars.len());
        match what % 4 {
            0 => drop(chars.drain(at..end)),
            1 => {
                let piece: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, piece);
            }
            2 => chars[at] = *with,
            _ => chars.insert(at, *with),
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_manifest_never_panics(
        edits in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>(), prop_oneof![any::<char>(), prop::char::range(' ', '~')]), 1..8)
    ) {
        let text = mutate(EXAMPLE, &edits);
        if let Err(error) = Manifest::parse(&text) {
            let shown = error.to_string();
            prop_assert!(!shown.contains(|c: char| c.is_control()), "{:?}", shown);
            prop_assert!(error.line <= text.matches('\n').count() + 1);
        }
    }

    #[test]
    fn any_template_is_read_or_refused(text in "[a-c\\[\\]{}é. ]{0,40}") {
        if let Ok(template) = Template::parse(&text) {
            prop_assert!(template.render(|_| Some(String::new())).len() <= text.len());
        }
    }
}
