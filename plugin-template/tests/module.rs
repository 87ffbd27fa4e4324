//! The built module keeps the rules: `ecapture module check`, if there is an ecapture.

use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_plugin_api::sdk::testing::conformance;

const SESSION: &str = "tests/session.ecaprec";

/// cargo builds the library before its tests, beside them.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap_or(Path::new(".")).join("libecap_sqlite.so")
}

#[test]
fn it_keeps_the_rules() {
    match conformance(&built(), &["--level", "robust", "--time", "5s", "--recording", SESSION]) {
        Ok(true) => {}
        Ok(false) => println!("SKIPPED it_keeps_the_rules: no ecapture on the path, and ECAPTURE does not name one"),
        Err(findings) => panic!("{findings}"),
    }
}

/// A recording of a real session gives the events that were agreed on. Made with `ecapture sqlite --record tests/session.ecaprec`;
/// decoded with `ecapture module replay FILE.so tests/session.ecaprec -o json -q > tests/session.jsonl`.
#[test]
fn a_recorded_session_gives_the_events_agreed_on() {
    let program = std::env::var_os("ECAPTURE").unwrap_or_else(|| "ecapture".into());
    let output = Command::new(program).args(["module", "replay", "-q", "-o", "json"]).arg(built()).arg(SESSION).output();
    let Ok(output) = output else {
        println!("SKIPPED a_recorded_session: no ecapture on the path, and ECAPTURE does not name one");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = std::fs::read_to_string("tests/session.jsonl").unwrap();
    let events = String::from_utf8(output.stdout).unwrap();
    // The first and the last line are the host's own: a newer one may count more things.
    let own = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("\"event.name\":\"ecapture.session."));
        lines.map(str::to_owned).collect()
    };
    let (now, then) = (own(&events), own(&expected));
    for (number, (now, then)) in now.iter().zip(&then).enumerate() {
        assert!(now == then, "event {}: {now:.400}\ninstead of {then:.400}", number + 1);
    }
    assert_eq!(now.len(), then.len());
}
