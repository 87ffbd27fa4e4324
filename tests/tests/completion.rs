//! Shells complete the commands and options of the modules that are there.

use std::process::Command;

use ecapture_tests::capture::Modules;
use ecapture_tests::{needs, skip_if};

fn script(modules: &Modules, shell: &str) -> String {
    let output = modules.run(&["completion", shell]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_modules_and_their_options() {
    skip_if!("bash_completes_modules_and_their_options", needs::program("/bin/bash", "bash"));
    let modules = Modules::with(&["mysql"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completion");
    std::fs::write(&file, script(&modules, "bash")).unwrap();
    let complete = |words: &[&str]| {
        let ask = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _ecapture ecapture '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display(),
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("/bin/bash").args(["--norc", "--noprofile", "-c", &ask]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // The command and its alias.
    assert_eq!(complete(&["ecapture", "mys"]), ["mysql", "mysqld"]);
    assert_eq!(complete(&["ecapture", "mysql", "--mysq"]), ["--mysqld"]);
    assert_eq!(complete(&["ecapture", "mysql", "--out"]), ["--output"]);
    assert_eq!(complete(&["ecapture", "mysql", "--output", "j"]), ["json"]);
}

#[test]
fn every_shell_gets_what_it_can_read() {
    let modules = Modules::with(&["mysql"]);
    for (shell, word, check) in [
        ("bash", "complete -F", "/bin/bash"),
        ("zsh", "#compdef ecapture", "/bin/zsh"),
        ("fish", "complete -c ecapture", "/usr/bin/fish"),
    ] {
        let text = script(&modules, shell);
        assert!(text.contains(word) && text.contains("mysqld"), "{shell}: {text}");
        if std::path::Path::new(check).exists() {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("completion");
            std::fs::write(&file, &text).unwrap();
            let output = Command::new(check).arg("-n").arg(&file).output().unwrap();
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    // Without modules there is a command line all the same.
    assert!(script(&Modules::empty(), "bash").contains("list-modules"));
    let output = modules.run(&["completion", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bash, zsh, fish"));
}
