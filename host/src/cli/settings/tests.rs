//! Files and variables, good and bad; and anything at all.

use proptest::prelude::*;

use super::file::parse;
use super::*;

fn manifest() -> Manifest {
    let text = r#"
        schema = 1
        [module]
        name = "mysql"
        version = "0.1.0"
        title = "t"
        license = "Apache-2.0"
        api = "1.0"
        aliases = ["mysqld"]
        [[target]]
        kind = "executable"
        names = ["mariadbd"]
        [[mode]]
        name = "text"
        help = "h"
        default = true
        [[mode]]
        name = "slow"
        help = "h"
        output = "json"
        [[bpf]]
        id = "mysql"
        [[config]]
        name = "server"
        type = "path"
        help = "h"
        [[config]]
        name = "memory"
        type = "size"
        help = "h"
        default = "1MiB"
        [[config]]
        name = "words"
        type = "list"
        help = "h"
        [[config]]
        name = "loud"
        type = "bool"
        help = "h"
        [[stream]]
        name = "s"
        map = "m"
        [[event]]
        name = "e"
        text = "{x}"
        [[event.column]]
        name = "x"
        type = "text"
        help = "h"
        [permissions]
        programs = ["uprobe"]
    "#;
    Manifest::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Settings, Failure> {
    let file = (!file.is_empty()).then(|| (PathBuf::from("/etc/x.toml"), file.to_owned()));
    let variables = variables.iter().map(|(name, value)| (OsString::from(*name), OsString::from(*value)));
    Settings::of(&Known::with(vec![manifest()]), file, variables)
}

fn command() -> Command {
    crate::cli::command::capture_command(&manifest(), &[])
}

fn merged(settings: &Settings, flags: &[&str]) -> Merged {
    let matches = command().try_get_matches_from(["mysql"].iter().chain(flags)).unwrap();
    settings.merge(command(), Some(&manifest()), &matches).unwrap()
}

fn option<'m>(merged: &'m Merged, name: &str) -> (&'m str, String) {
    let option = merged.options.iter().find(|o| o.name == name).unwrap_or_else(|| panic!("no {name}"));
    let first = option.values.as_ref().and_then(|v| v.first()).map_or("", String::as_str);
    (first, option.source.to_string())
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = "[common]\noutput = \"hex\"\ncount = 3\n\n[module.mysql]\nmemory = \"2MiB\"\n";
    let all = load(file, &[("ECAPTURE_OUTPUT", "json"), ("ECAPTURE_MYSQL_MEMORY", "3MiB")]).unwrap();
    let seen = merged(&all, &["--output", "none", "--memory", "4MiB"]);
    assert_eq!(option(&seen, "output"), ("none", "command line".into()));
    assert_eq!(option(&seen, "memory"), ("4MiB", "command line".into()));
    let seen = merged(&all, &[]);
    assert_eq!(option(&seen, "output"), ("json", "ECAPTURE_OUTPUT".into()));
    assert_eq!(option(&seen, "memory"), ("3MiB", "ECAPTURE_MYSQL_MEMORY".into()));
    let seen = merged(&load(file, &[]).unwrap(), &[]);
    assert_eq!(option(&seen, "output"), ("hex", "/etc/x.toml:2".into()));
    assert_eq!(option(&seen, "count"), ("3", "/etc/x.toml:3".into()));
    assert_eq!(option(&seen, "memory"), ("2MiB", "/etc/x.toml:6".into()));
    assert_eq!(seen.matches.get_one::<u64>("count"), Some(&3));
    let seen = merged(&load("", &[]).unwrap(), &[]);
    assert_eq!(option(&seen, "output"), ("text", "default".into()));
    assert_eq!(option(&seen, "memory"), ("1MiB", "default".into()));
    assert_eq!(option(&seen, "mode"), ("text", "default".into()));
    assert_eq!(option(&seen, "pid"), ("", "default".into()));
    let seen = merged(&load("", &[]).unwrap(), &["--mode", "slow"]);
    assert_eq!(option(&seen, "output"), ("json", "default".into()), "the mode's own");
    let seen = merged(&load("", &[]).unwrap(), &["--mode", "slow", "--output", "text"]);
    assert_eq!(option(&seen, "output"), ("text", "command line".into()));
}

#[test]
fn every_kind_of_value_arrives() {
    let file = "[common]\nquiet = true\nmultiline = false\nverbose = 2\npid = [1, 2]\nuid = 0\nwrite = ['/a', '-']\n\
        duration = 1.5\n[module.mysql]\nwords = ['a', 'b']\nloud = true\nmode = 'slow'\nserver = '/x'\n";
    let seen = merged(&load(file, &[]).unwrap(), &[]).matches;
    assert!(seen.get_flag("quiet") && !seen.get_flag("multiline"));
    assert_eq!(seen.get_count("verbose"), 2);
    assert_eq!(seen.get_many::<u32>("pid").unwrap().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(seen.get_many::<u32>("uid").unwrap().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(seen.get_many::<String>("write").unwrap().collect::<Vec<_>>(), ["/a", "-"]);
    assert_eq!(seen.get_one::<std::time::Duration>("duration").unwrap().as_millis(), 1500);
    assert_eq!(seen.get_one::<String>("mode").unwrap(), "slow");
    assert_eq!(seen.get_many::<String>("module.words").unwrap().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(seen.get_one::<String>("module.loud").unwrap(), "true");
    let variables = [("ECAPTURE_PID", "3,4"), ("ECAPTURE_QUIET", "false"), ("ECAPTURE_MYSQL_WORDS", "c,d")];
    let settings = load(file, &variables).unwrap();
    let seen = merged(&settings, &[]).matches;
    assert!(!seen.get_flag("quiet"), "a variable can take back what the file says");
    assert_eq!(seen.get_many::<u32>("pid").unwrap().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(seen.get_many::<String>("module.words").unwrap().collect::<Vec<_>>(), ["c", "d"]);
    let (mode, given) = settings.of_module(&manifest());
    assert_eq!((mode.as_deref(), given["words"].as_slice()), (Some("slow"), &["c,d".to_owned()][..]));
    // What the flags say replaces a list, it does not add to it.
    let seen = merged(&settings, &["--pid", "9"]).matches;
    assert_eq!(seen.get_many::<u32>("pid").unwrap().copied().collect::<Vec<_>>(), [9]);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_place() {
    for (file, at, words) in [
        ("[comon]\n", "1:2", "unknown section [comon]; did you mean [common]?"),
        ("\n\n  [mysql]\nserver = '/x'\n", "3:4", "did you mean [module.mysql]?"),
        ("[mysqld]\n", "1:2", "did you mean [module.mysql]?"),
        ("[module.mysq]\n", "1:9", "there is no module \"mysq\"; did you mean [module.mysql]?"),
        ("[module.mysqld]\n", "1:9", "did you mean [module.mysql]?"),
        ("[module.postgres]\n", "1:9", "there is no module \"postgres\"; sections are [common] and [module.NAME]"),
        ("[elsewhere]\n", "1:2", "sections are [common] and [module.NAME]"),
        ("[common]\noutptu = 'json'\n", "2:1", "unknown key \"outptu\" in [common]; did you mean \"output\"?"),
        ("[common]\n output = 'xml'\n", "2:11", "possible values: text, json, hex, har, keylog, pcapng, none"),
        ("[common]\nöutput = 'json'\n", "2:1", ""),
        ("[common]\ncount = 'x'\n", "2:9", "\"count\" in [common]"),
        ("[common]\ncount = [1, 2]\n", "2:9", "takes one value, not 2"),
        ("[common]\nquiet = 'yes'\n", "2:9", "\"yes\" is not true or false"),
        ("[common]\nverbose = 99\n", "2:11", "not a number from 0 to 9"),
        ("[common]\nring-size = 12\n", "2:13", "128KiB to 1GiB"),
        ("[common]\nmodules-dir = '/x'\n", "2:1", "only --modules-dir on the command line"),
        ("[common]\nallow-untrusted = true\n", "2:1", "only --allow-untrusted on the command line"),
        ("[module.mysql]\nserve = '/x'\n", "2:1", "unknown key \"serve\" in [module.mysql]; did you mean \"server\"?"),
        ("[module.mysql]\nserver = 'x'\n", "2:10", "not an absolute path"),
        ("[module.mysql]\nmemory = 'lots'\n", "2:10", "is not a size"),
        ("[module.mysql]\nmode = 'x'\n", "2:8", "expected one of text, slow"),
        ("[module.mysql]\nserver = { a = 1 }\n", "2:1", "not a table"),
        ("[module.mysql.more]\nx = 1\n", "1:15", "not a table"),
        ("output = 'json'\n", "1:1", "stands in no section"),
        ("[[common]]\n", "1:3", "stands in no section"),
        ("[module]\nmysql = 1\n", "2:1", "stands in no section"),
        ("[common]\noutput = 1979-05-27\n", "2:10", "expected a text"),
        ("[common]\ncount = 99999999999999999999\n", "2:9", "more than 64 bits"),
        ("[common]\noutput = 'json\n", "2:15", ""),
        ("[common]\na = 1\na = 2\n", "3:1", "duplicate key"),
    ] {
        let failure = load(file, &[]).map(|_| ()).unwrap_err();
        assert_eq!((failure.code, failure.exit), ("E-CONFIG", Exit::Usage), "{file:?}");
        assert!(failure.message.starts_with(&format!("/etc/x.toml:{at}: ")), "{file:?}: {failure}");
        assert!(failure.message.contains(words), "{file:?}: {failure}");
        assert!(!failure.message.contains('\n'), "{file:?}: {failure}");
    }
}

#[test]
fn what_is_wrong_in_a_variable_is_said_with_its_name() {
    for (name, value, words) in [
        ("ECAPTURE_OUTPUT", "xml", "possible values: text, json, hex, har, keylog, pcapng, none"),
        ("ECAPTURE_QUIET", "maybe", "not true or false"),
        ("ECAPTURE_PID", "1,x", "'x'"),
        ("ECAPTURE_RING_SIZE", "12", "128KiB to 1GiB"),
        ("ECAPTURE_MYSQL_MEMORY", "lots", "is not a size"),
        ("ECAPTURE_MYSQL_MODE", "fast", "expected one of text, slow"),
    ] {
        let failure = load("", &[(name, value)]).map(|_| ()).unwrap_err();
        assert_eq!((failure.code, failure.exit), ("E-CONFIG", Exit::Usage));
        assert!(failure.message.contains(&format!("the environment variable {name}: ")), "{failure}");
        assert!(failure.message.contains(words), "{name}: {failure}");
    }
    // Set to nothing is not set.
    assert_eq!(option(&merged(&load("", &[("ECAPTURE_OUTPUT", "")]).unwrap(), &[]), "output").1, "default");
}

#[test]
fn variables_that_are_no_options_are_told_when_they_look_like_one() {
    let notes = |name: &str| load("", &[(name, "x")]).unwrap().notes;
    assert_eq!(
        notes("ECAPTURE_OUTPTU"),
        ["the environment variable ECAPTURE_OUTPTU is no option's; did you mean ECAPTURE_OUTPUT?"]
    );
    assert!(notes("ECAPTURE_MODULES_DIR")[0].contains("only --modules-dir says that"));
    assert!(notes("ECAPTURE_CONFIG")[0].contains("only --config says that"));
    assert_eq!(notes("ECAPTURE_BIN"), [""; 0]);
    assert_eq!(notes("ECAPTURE_BLESS"), [""; 0]);
}

#[test]
fn what_is_shown_is_a_file_that_says_the_same() {
    let file = "[common]\noutput = 'hex'\nwrite = [\"/a\\nb\", '-']\nverbose = 1\n[module.mysql]\nwords = ['a']\n";
    let first = merged(&load(file, &[]).unwrap(), &["--count", "7"]);
    let shown = crate::cli::show::text(&first.options);
    assert!(shown.contains("count = \"7\"") && shown.contains("# command line"), "{shown}");
    assert!(shown.contains("# /etc/x.toml:2") && shown.contains("# not set"), "{shown}");
    let second = merged(&load(&shown, &[]).unwrap_or_else(|e| panic!("{e}\n{shown}")), &[]);
    let values = |merged: &Merged| merged.options.iter().map(|o| o.values.clone()).collect::<Vec<_>>();
    assert_eq!(values(&first), values(&second), "{shown}");
    let json: Value = serde_json::from_str(&crate::cli::show::json(&first.options).unwrap()).unwrap();
    let options = json["options"].as_array().unwrap();
    let of = |name: &str| options.iter().find(|o| o["name"] == name).unwrap()["source"].clone();
    assert_eq!(of("count"), serde_json::json!({ "kind": "flag" }));
    assert_eq!(of("output"), serde_json::json!({ "kind": "file", "file": "/etc/x.toml", "line": 2, "column": 1 }));
    assert_eq!(of("duration"), serde_json::json!({ "kind": "default" }));
}

#[test]
fn the_hosts_options_are_kept_from_modules() {
    use ecapture_plugin_api::manifest::{RESERVED_LONG, RESERVED_SHORT};
    for arg in crate::cli::command::common_args() {
        let long = arg.get_long().unwrap();
        assert!(RESERVED_LONG.contains(&long), "{long}");
        assert!(arg.get_short().is_none_or(|short| RESERVED_SHORT.contains(&short)), "{long}");
    }
    for option in COMMAND_LINE_ONLY {
        assert!(RESERVED_LONG.contains(&option), "{option}");
    }
}

/// Pieces of which files are made, and some that do not fit anywhere.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[common]\n".to_owned()),
        Just("[module.mysql]\n".to_owned()),
        Just("[[module]]\n".to_owned()),
        Just("output = \"json\"\n".to_owned()),
        Just("pid = [1, 2]\n".to_owned()),
        Just("server = '/x'\n".to_owned()),
        Just("memory = 0x10\n".to_owned()),
        Just("quiet = true\n".to_owned()),
        Just("x.y.z = nan\n".to_owned()),
        Just("a = [[[[{ b = 1 }]]]]\n".to_owned()),
        Just("\"\\u0000\" = '''\n'''\n".to_owned()),
        "[\\PC\n\\[\\]='\".{}#]{0,20}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_file_panics(text in "\\PC*", cut in 0usize..200) {
        let _ = parse(&text);
        let _ = load(text.chars().take(cut).collect::<String>().as_str(), &[]);
    }

    #[test]
    fn no_file_of_real_pieces_panics(text in pieces()) {
        if let Ok(settings) = load(&text, &[]) {
            // What passed the checks is a command line.
            merged(&settings, &[]);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_variable_panics(value in "\\PC*") {
        for name in ["ECAPTURE_PID", "ECAPTURE_VERBOSE", "ECAPTURE_WRITE", "ECAPTURE_MYSQL_WORDS", "ECAPTURE_DURATION"] {
            if let Ok(settings) = load("", &[(name, &value)]) {
                merged(&settings, &[]);
            }
        }
    }
}
