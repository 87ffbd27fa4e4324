//! Shells complete the commands and options of the modules that are there.

use std::process::Command;

use ecapture_tests::capture::{Modules, bin_dir};
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

/// What a shell says to a script that has the completion of `modules` as its first argument.
fn asked(shell: &str, args: &[&str], modules: &Modules, name: &str, ask: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completion");
    std::fs::write(&file, script(modules, name)).unwrap();
    let ask = ask.replace("FILE", file.to_str().unwrap());
    let output = Command::new(shell).args(args).args(["-c", &ask]).env("HOME", dir.path()).output().unwrap();
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn fish_completes_modules_and_their_options() {
    skip_if!("fish_completes_modules_and_their_options", needs::program("/usr/bin/fish", "fish"));
    let modules = Modules::with(&["mysql"]);
    let complete = |line: &str| {
        let ask = format!("source FILE; complete --do-complete '{line}'");
        let said = asked("/usr/bin/fish", &["--no-config"], &modules, "fish", &ask);
        said.iter().filter_map(|l| l.split('\t').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("ecapture mysq"), ["mysql", "mysqld"]);
    assert_eq!(complete("ecapture mysql --mysq"), ["--mysqld"]);
    assert_eq!(complete("ecapture mysql --rotate-k"), ["--rotate-keep"]);
    assert_eq!(complete("ecapture mysql --output js"), ["json"]);
    assert_eq!(complete("ecapture doc"), ["doctor"]);
}

#[test]
fn zsh_reads_its_script_and_knows_whose_it_is() {
    skip_if!("zsh_reads_its_script_and_knows_whose_it_is", needs::program("/bin/zsh", "zsh"));
    let modules = Modules::with(&["mysql"]);
    let ask = "autoload -U compinit && compinit -u -D && source FILE && print -r -- ${_comps[ecapture]}; \
        whence -w _ecapture; zsh -n FILE && print parsed";
    assert_eq!(asked("/bin/zsh", &["-f"], &modules, "zsh", ask), ["_ecapture", "_ecapture: function", "parsed"]);
}

#[test]
fn every_shell_has_a_script_that_it_can_parse() {
    let modules = Modules::with(&["mysql"]);
    for (shell, word, check) in [
        ("bash", "complete -F", "/bin/bash"),
        ("zsh", "#compdef ecapture", "/bin/zsh"),
        ("fish", "complete -c ecapture", "/usr/bin/fish"),
    ] {
        let text = script(&modules, shell);
        assert!(text.contains(word) && text.contains("mysqld"), "{shell}: {text}");
        if let Some(reason) = needs::program(check, shell) {
            println!("{} every_shell_has_a_script_that_it_can_parse ({shell}): {reason}", needs::SKIPPED);
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("completion");
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(check).arg("-n").arg(&file).output().unwrap();
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Without modules there is a command line all the same.
    assert!(script(&Modules::empty(), "bash").contains("list-modules"));
    let output = modules.run(&["completion", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bash, zsh, fish"));
}

#[test]
fn an_alias_that_two_modules_want_is_the_first_ones() {
    let modules = Modules::with(&["mysql"]);
    // The same module under another name: "aysql" comes before "mysql", and both want "mysqld".
    let mut bytes = std::fs::read(bin_dir().join("libecap_mysql.so")).unwrap();
    for (from, to) in [("\nname = \"mysql\"", "\nname = \"aysql\""), ("command = \"mysql\"", "command = \"aysql\"")] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("name and command of the module");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    std::fs::write(modules.path().join("libecap_aysql.so"), &bytes).unwrap();
    let said = |args: &[&str]| {
        let output = modules.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let list = said(&["--list-modules"]);
    assert!(list.contains("the alias \"mysqld\" of module mysql belongs to module aysql"), "{list}");
    let both =
        list.lines().filter(|l| (l.starts_with("aysql ") || l.starts_with("mysql ")) && l.contains(" ok ")).count();
    assert_eq!(both, 2, "losing an alias is no reason to be refused: {list}");
    let help = said(&["--help"]);
    let line = |name: &str| help.lines().find(|l| l.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{help}"));
    assert!(line("aysql ").contains("mysqld") && !line("mysql ").contains("[alias"), "{help}");
    assert!(said(&["help", "mysqld"]).contains("Usage: ecapture aysql"), "{help}");
    assert!(said(&["module", "info", "mysqld"]).contains("aysql"));
    assert_eq!(said(&["completion", "bash"]).matches("ecapture,mysqld)").count(), 1);
}
