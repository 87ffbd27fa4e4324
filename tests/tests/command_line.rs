//! The program as a user meets it: mistyped, misplaced, unprivileged.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::mariadb::SERVER;
use ecapture_tests::{needs, skip_if};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Runs the program and checks its exit code and what it says.
fn expect(modules: &Modules, args: &[&str], code: i32, words: &[&str]) -> String {
    let output = modules.run(args);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: no {word:?} in: {said}");
    }
    said
}

#[test]
fn slips_of_the_hand() {
    let modules = Modules::with(&["mysql"]);
    expect(&modules, &["--no-such-flag"], 2, &["--no-such-flag"]);
    expect(&modules, &["mysql", "--durration", "1s"], 2, &["--duration"]);
    expect(&modules, &["mysqll"], 2, &["E-USAGE", "did you mean mysql?"]);
    expect(&modules, &["nothing-like-it"], 2, &["E-USAGE", "--list-modules"]);
    expect(&modules, &["module", "info", "nothing"], 2, &["E-USAGE"]);
    expect(&modules, &["mysql", "--pid", "no"], 2, &["--pid"]);
    expect(&modules, &["mysql", "--pid", "0"], 2, &["--pid"]);
    expect(&modules, &["mysql", "--uid", "-1"], 2, &[]);
    expect(&modules, &["mysql", "--duration", "5 parsecs"], 2, &["--duration"]);
    expect(&modules, &["mysql", "--ring-size", "12"], 2, &["--ring-size", "128KiB"]);
    expect(&modules, &["mysql", "--count", "0"], 2, &["--count"]);
    expect(&modules, &["mysql", "-o", "xml"], 2, &["text, json, hex, har, keylog, pcapng, none"]);
    expect(&modules, &["mysql", "--statement_memory", "lots"], 2, &["E-CONFIG", "statement_memory"]);
    expect(&modules, &["mysql", "--mysqld", "relative/path"], 2, &["E-CONFIG", "mysqld"]);
    expect(
        &modules,
        &["module", "plan", "mysql", "--mode", "nothing", "--target", "/bin/true"],
        2,
        &["no mode", "text"],
    );
    // Nothing at all shows the help.
    expect(&modules, &[], 2, &["Usage", "mysql"]);
}

#[test]
fn help_and_version() {
    let modules = Modules::with(&["mysql"]);
    expect(&modules, &["--version"], 0, &["ecapture 0."]);
    expect(&modules, &["--help"], 0, &["--list-modules", "mysql", "Exit codes"]);
    expect(
        &modules,
        &["help", "mysql"],
        0,
        &["--mysqld", "Options of every module", "Options of this module", "mysqld"],
    );
    expect(&modules, &["mysqld", "--help"], 0, &["--statement_memory"]);
}

#[test]
fn places_of_modules_that_are_none() {
    let modules = Modules::empty();
    let at = |name: &str| modules.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "text").unwrap();
    std::os::unix::fs::symlink(modules.path(), at("link")).unwrap();
    for (args, words) in [
        (&["--modules-dir", &at("file")][..], &["E-USAGE", "is not a directory"][..]),
        (&["--modules-dir", &at("link")], &["E-USAGE", "is a symbolic link"]),
        (&["--modules-dir", ""], &["E-USAGE"]),
        (&["--modules-dir"], &["--modules-dir"]),
        // It would weaken the modules that are installed.
        (&["--allow-untrusted"], &["E-USAGE", "--modules-dir"]),
    ] {
        let output = std::process::Command::new(bin_dir().join("ecapture")).arg("--list-modules").args(args).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{args:?}: no {word:?} in: {}", said(&output));
        }
    }
}

#[test]
fn a_refused_module_says_so_wherever_it_is_named() {
    let modules = Modules::empty();
    std::fs::write(modules.path().join("libecap_mysql.so"), "text".repeat(100)).unwrap();
    for (args, code) in [
        (&["mysql"][..], 3),
        (&["mysql", "--help"], 3),
        (&["help", "mysql"], 3),
        (&["module", "plan", "mysql", "--target", "/bin/true"], 3),
        // To tell why is what this is for.
        (&["module", "info", "mysql"], 0),
        (&["module", "info", "mysql", "--json"], 0),
    ] {
        expect(&modules, args, code, &["E-ELF", "not an ELF file"]);
    }
}

/// The command line is part of what scripts stand on: a change shows here.
#[test]
fn the_command_line_is_the_listed_one() {
    let modules = Modules::with(&["mysql"]);
    let mut listing = String::new();
    for args in [
        &["--help"][..],
        &["mysql", "--help"],
        &["run", "--help"],
        &["config", "--help"],
        &["doctor", "--help"],
        &["module", "--help"],
        &["module", "info", "--help"],
        &["module", "plan", "--help"],
    ] {
        let output = modules.ecapture().args(args).env("COLUMNS", "120").output().unwrap();
        listing += &format!("$ ecapture {}\n{}\n", args.join(" "), String::from_utf8_lossy(&output.stdout));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("listings/command-line.txt");
    if std::env::var_os("ECAPTURE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &listing).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        listed == listing,
        "the command line has changed. If that is meant: name it in CHANGELOG.md and run this test with ECAPTURE_BLESS=1.\n{listing}"
    );
}

#[test]
fn targets_that_are_none() {
    skip_if!("targets_that_are_none", needs::capture());
    let modules = Modules::with(&["mysql"]);
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let text = text.to_str().unwrap();
    let (empty, cut, pipe) = (dir.path().join("empty"), dir.path().join("cut"), dir.path().join("pipe"));
    std::fs::write(&empty, "").unwrap();
    let bash = std::fs::read("/bin/bash").unwrap();
    std::fs::write(&cut, &bash[..bash.len() / 2]).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o644), 0).unwrap();
    for (file, code, words) in [
        (&empty, "E-DETECT", "not an ELF file"),
        (&cut, "E-DETECT", "cut short"),
        // Nobody writes to it: whoever opens it to read waits for ever.
        (&pipe, "E-TARGET", "not a regular file"),
        (&Path::new("/dev/zero").into(), "E-TARGET", "not a regular file"),
    ] {
        expect(&modules, &["mysql", "--mysqld", file.to_str().unwrap()], 1, &[code, words]);
    }
    expect(&modules, &["mysql", "--mysqld", "/nowhere/at/all"], 1, &["E-TARGET", "/nowhere/at/all"]);
    expect(&modules, &["mysql", "--mysqld", "/"], 1, &["E-TARGET", "not a regular file"]);
    expect(&modules, &["mysql", "--mysqld", text], 1, &["E-DETECT"]);
    expect(&modules, &["mysql", "--mysqld", "/bin/bash"], 1, &["E-DETECT", "dispatch_command"]);
    expect(&modules, &["mysql", "--mysqld", SERVER, "--funcname", "nothing"], 1, &["E-DETECT", "nothing"]);
    expect(&modules, &["mysql", "--pid", "4194304"], 1, &["E-TARGET", "4194304"]);
    let me = std::process::id().to_string();
    expect(&modules, &["mysql", "--pid", &me, "--no-children"], 1, &["E-TARGET", "mariadbd"]);
}

#[test]
fn types_of_the_kernel_that_are_not_there() {
    skip_if!("types_of_the_kernel_that_are_not_there", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let modules = Modules::with(&["mysql"]);
    let args = ["mysql", "--mysqld", SERVER, "--btf", "/nowhere/btf"];
    expect(&modules, &args, 4, &["E-KERNEL", "/nowhere/btf", "--btf"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    skip_if!("outputs_that_cannot_be_written", needs::capture());
    let modules = Modules::with(&["mysql"]);
    expect(&modules, &["mysql", "-w", "/nowhere/at/all"], 1, &["E-OUTPUT", "/nowhere/at/all"]);
    expect(&modules, &["mysql", "-w", "/"], 1, &["E-OUTPUT"]);
    expect(&modules, &["mysql", "-w", ""], 1, &["E-OUTPUT"]);
    // Opening a pipe that nobody reads would wait for ever.
    let pipe = modules.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o644), 0).unwrap();
    expect(&modules, &["mysql", "-w", pipe.to_str().unwrap()], 1, &["E-OUTPUT", "start the reader first"]);
}

#[test]
fn without_privilege_each_missing_one_is_named() {
    skip_if!("without_privilege_each_missing_one_is_named", needs::capture());
    let modules = Modules::with(&["mysql"]);
    std::fs::set_permissions(modules.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A copy: the build may lie where only root may look.
    let program = modules.path().join("ecapture");
    std::fs::copy(bin_dir().join("ecapture"), &program).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("--modules-dir").arg(modules.path()).arg("--allow-untrusted").args(args).uid(65534).gid(65534);
        command.output().unwrap()
    };
    let refused = as_nobody(&["mysql", "--mysqld", "/nowhere"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        assert!(said(&refused).contains(capability), "{}", said(&refused));
    }
    // Looking needs none.
    let plan = as_nobody(&["module", "plan", "mysql", "--target", "/bin/true"]);
    assert!(said(&plan).contains("E-DETECT"), "{}", said(&plan));
    assert_eq!(as_nobody(&["--list-modules"]).status.code(), Some(0));

    skip_if!(
        "without_privilege_each_missing_one_is_named (one by one)",
        needs::program("/usr/bin/setpriv", "util-linux")
    );
    for (drop, name) in
        [("-bpf,-sys_admin", "CAP_BPF"), ("-perfmon,-sys_admin", "CAP_PERFMON"), ("-sys_ptrace", "CAP_SYS_PTRACE")]
    {
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set", drop, "--inh-caps", drop])
            .arg(&program)
            .arg("--modules-dir")
            .arg(modules.path())
            .args(["--allow-untrusted", "mysql", "--mysqld", "/nowhere"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(4), "{drop}: {}", said(&output));
        assert!(said(&output).contains(name), "{drop}: {}", said(&output));
    }
}

#[test]
fn what_a_module_says_of_itself_and_of_a_file() {
    skip_if!("what_a_module_says_of_itself_and_of_a_file", needs::program(SERVER, "mariadb-server-core"));
    let modules = Modules::with(&["mysql"]);
    expect(&modules, &["module", "info", "mysql"], 0, &["MariaDB", "query", "uretprobe"]);
    let info: Value = serde_json::from_slice(&modules.run(&["module", "info", "mysql", "--json"]).stdout).unwrap();
    assert_eq!(info["manifest"]["module"]["name"], "mysql");
    expect(
        &modules,
        &["module", "plan", "mysql", "--target", SERVER],
        0,
        &["MariaDB 10.", "mysql_command", "Emulated"],
    );
    let output = modules.run(&["module", "plan", "mysql", "--target", SERVER, "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["targets"][0]["detected"]["version"]["product"], "MariaDB");
    assert_eq!(plan["targets"][0]["scout"]["failed"], Value::Array(Vec::new()));
}
