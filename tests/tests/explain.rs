//! `ecapture NAME --explain`: the verdict on real processes, and what a capture with the same options then sees.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ecapture_tests::bash::{Bash, SHELL};
use ecapture_tests::capture::Modules;
use ecapture_tests::engine::Group;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::target::Program;
use ecapture_tests::{document, needs, skip_if};
use serde_json::Value;

const COMPILER: &str = "/usr/bin/gcc";
const NOBODY: u32 = 65534;

/// A process that ends with the test.
struct Waiting(Child);

impl Waiting {
    fn start(command: &mut Command) -> Self {
        let child = Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        // Until it waits for a line, with all that it maps.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(format!("/proc/{}/stat", child.0.id())).unwrap().contains(") S ") {
            assert!(Instant::now() < deadline, "the program does not wait for a line");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// A shell that reads lines.
    fn shell(bash: &Bash) -> Self {
        Self::start(bash.command().args(["-c", "while read -r line; do eval \"$line\"; done"]))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What is said of one process, as text and as JSON, with the same exit code.
fn explain(modules: &Modules, args: &[&str], code: i32) -> (String, Value) {
    let output = modules.run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}{said}", text(&output));
    let json = modules.run(&[args, &["--json"]].concat());
    assert_eq!(json.status.code(), Some(code), "{args:?}");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["schema"], 1);
    (text(&output), json)
}

fn kinds(json: &Value) -> Vec<&str> {
    json["processes"][0]["causes"].as_array().unwrap().iter().map(|c| c["kind"].as_str().unwrap()).collect()
}

/// The text with what differs from run to run taken out.
fn shape(text: &str, instead: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut line = instead.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        for (start, end) in [("  build id  ", "ID"), ("  version   ", "VERSION"), ("  note      ", "NOTE")] {
            if line.starts_with(start) {
                line = format!("{start}{end}");
            }
        }
        // One line for all probes, and for all notes.
        if line.starts_with("    ") && !line.starts_with("    why") && !line.starts_with("    do") {
            line = "    PROBE".into();
        }
        if let Some((_, rest)) = line.split_once("  probes    ") {
            let numbers: Vec<&str> = rest.split(' ').collect();
            assert_eq!((numbers[0], numbers[1], numbers[3]), (numbers[2], "of", "placed"), "{text}");
            line = "  probes    ALL".into();
        }
        if !out.ends_with(&format!("{line}\n")) {
            out += &line;
            out.push('\n');
        }
    }
    out
}

#[test]
fn a_server_that_is_captured() {
    skip_if!("a_server_that_is_captured", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let (modules, server) = (Modules::with(&["mysql"]), Mariadb::start());
    let (pid, binary) = (server.pid().to_string(), server.binary().display().to_string());
    let instead = [(pid.as_str(), "PID"), (binary.as_str(), "BINARY")];
    let (said, json) = explain(&modules, &["mysql", "--explain", &pid], 0);
    let golden = "process PID (mariadbd): captured\n  runs      BINARY\n  uses      BINARY (program)\n  build id  ID\n  version   \
                  VERSION\n  note      NOTE\n  probes    ALL\n    PROBE\n";
    let without_notes = golden.replace("  note      NOTE\n", "");
    let shaped = shape(&said, &instead);
    assert!(shaped == golden || shaped == without_notes, "{said}");
    assert!(said.contains("MariaDB 1"), "{said}");
    assert_eq!(kinds(&json), Vec::<&str>::new());
    assert_eq!((&json["processes"][0]["captured"], &json["files"][0]["usable"]), (&true.into(), &true.into()));
    assert!(json["files"][0]["scout"]["placed"][0]["function"].is_string(), "{json}");
    // The same when the file is given, and when it is given under another name.
    let link = server.dir().join("link");
    std::os::unix::fs::symlink(server.binary(), &link).unwrap();
    explain(&modules, &["mysql", "--explain", &pid, "--mysqld", link.to_str().unwrap()], 0);
    // All processes: it stands under its file, and the rest is counted.
    let output = modules.run(&["mysql", "--explain"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("{binary} (program, process {pid})\n")), "{said}");
    assert!(said.contains(&format!("  process {pid} (mariadbd): captured\n")), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains(" none of: mariadbd, mysqld") && last.contains(" other process"), "{said}");
    // One named process that is not captured makes the whole a failure.
    let both = format!("{pid},{}", std::process::id());
    let (said, json) = explain(&modules, &["mysql", "--explain", &both], 1);
    assert!(said.contains(": captured\n") && said.contains(": not captured\n"), "{said}");
    assert_eq!(json["processes"].as_array().unwrap().len(), 2);
}

#[test]
fn each_filter_that_leaves_it_out_is_named() {
    let name = "each_filter_that_leaves_it_out_is_named";
    skip_if!(name, needs::capture(), needs::program(SHELL, "bash"));
    let (modules, bash) = (Modules::with(&["bash"]), Bash::installed());
    let shell = Waiting::shell(&bash);
    let (pid, me) = (shell.pid(), std::process::id().to_string());
    let other = Waiting::shell(&bash).pid();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--uid", "0"], &["uid"]),
        (&["--uid", "0,65534"], &[]),
        (&["--comm", "zsh"], &["comm"]),
        (&["--comm", "bash"], &[]),
        (&["--pid", &me], &[]),
        (&["--pid", &me, "--no-children"], &["pid"]),
        (&["--pid", &pid, "--no-children", "--uid", "0", "--comm", "zsh"], &["uid", "comm"]),
        (&["--container", "abcd"], &[]),
    ];
    assert_ne!(other, pid);
    for (filters, wanted) in cases {
        let args = [&["bash", "--explain", &pid][..], filters].concat();
        if filters[0] == "--container" {
            // As a capture has it.
            let output = modules.run(&args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && said.contains("E-TARGET"), "{said}");
            continue;
        }
        let (said, json) = explain(&modules, &args, i32::from(!wanted.is_empty()));
        assert_eq!(kinds(&json), wanted, "{filters:?}: {said}");
        for option in wanted {
            let line = format!("  why       --{option} leaves it out: ");
            assert!(said.contains(&line) && said.contains("\n  do        "), "{filters:?}: {said}");
        }
    }
    // Without a process that is named, the filters are heeded as well.
    let said = text(&modules.run(&["bash", "--explain", "--uid", "0"]));
    let lines: Vec<&str> = said.lines().skip_while(|l| !l.contains(&format!("process {pid} (bash)"))).take(2).collect();
    assert!(lines[0].ends_with(": not captured") && lines[1].contains("--uid leaves it out"), "{said}");
}

#[test]
fn a_control_group_that_leaves_it_out_is_named() {
    let name = "a_control_group_that_leaves_it_out_is_named";
    skip_if!(name, needs::capture(), needs::program(SHELL, "bash"), Group::missing());
    let (modules, bash) = (Modules::with(&["bash"]), Bash::installed());
    let (group, shell) = (Group::new("explain"), Waiting::shell(&bash));
    let args = ["bash", "--explain", &shell.pid(), "--cgroup", &group.text()];
    let (said, json) = explain(&modules, &args, 1);
    assert_eq!(kinds(&json), ["cgroup"], "{said}");
    std::fs::write(group.path().join("cgroup.procs"), shell.pid()).unwrap();
    explain(&modules, &args, 0);
    drop(shell);
}

#[test]
fn a_stripped_static_program_is_no_target() {
    skip_if!("a_stripped_static_program_is_no_target", needs::capture(), needs::program(COMPILER, "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("own.c"), dir.path().join("own"));
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { char c; return (int)read(0, &c, 1); }\n").unwrap();
    let built = Command::new(COMPILER).args(["-static", "-s", "-o"]).arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
    let process = Waiting::start(&mut Command::new(&program));
    let (pid, path) = (process.pid(), program.display().to_string());
    let (modules, instead) = (Modules::with(&["openssl"]), [(pid.as_str(), "PID"), (path.as_str(), "PROGRAM")]);
    let (said, json) = explain(&modules, &["tls", "--explain", &pid], 1);
    let wanted = "libssl.so.*";
    assert!(said.contains(wanted), "{said}");
    let start = "process PID (own): not captured\n  runs      PROGRAM\n  why       it uses none of: ";
    let end = "; it maps no library, so what it uses is linked into it\n  do        if it has the functions linked in: \
               --program PROGRAM\n";
    let shaped = shape(&said, &instead);
    assert!(shaped.starts_with(start) && shaped.ends_with(end), "{said}");
    assert_eq!(kinds(&json), ["none"]);
    // What is advised leads on: now the file is looked at, and it is said what is wrong with it.
    let (said, json) = explain(&modules, &["tls", "--explain", &pid, "--program", &path], 1);
    assert_eq!(kinds(&json), ["file"], "{said}");
    assert!(said.contains("E-DETECT") && json["files"][0]["why"]["code"] == "E-DETECT", "{said}");
}

#[test]
fn a_file_that_was_replaced_by_an_upgrade() {
    skip_if!("a_file_that_was_replaced_by_an_upgrade", needs::capture(), needs::program(SHELL, "bash"));
    let (modules, bash) = (Modules::with(&["bash"]), Bash::installed());
    let shell = Waiting::shell(&bash);
    let (pid, binary) = (shell.pid(), bash.text());
    explain(&modules, &["bash", "--explain", &pid, "--bash", &binary], 0);
    // As package managers do it: the new file is renamed over the old one.
    let new = bash.home().join("new");
    std::fs::copy(SHELL, &new).unwrap();
    std::fs::rename(&new, bash.binary()).unwrap();
    let (said, json) = explain(&modules, &["bash", "--explain", &pid, "--bash", &binary], 1);
    assert_eq!(kinds(&json), ["deleted"], "{said}");
    assert_eq!(json["processes"][0]["deleted"], true);
    assert!(said.contains(&format!("  runs      {binary} (deleted)\n")), "{said}");
    let advice = format!("  do        restart process {pid}, or --bash /proc/{pid}/exe\n");
    assert!(said.contains(&advice), "{said}");
    // Both halves of the advice are true.
    explain(&modules, &["bash", "--explain", &pid, "--bash", &format!("/proc/{pid}/exe")], 0);
    let again = Waiting::shell(&bash);
    explain(&modules, &["bash", "--explain", &again.pid(), "--bash", &binary], 0);
    // Without a path, the process itself leads to the file that it runs.
    let (said, _) = explain(&modules, &["bash", "--explain", &pid], 0);
    assert!(said.contains("was replaced or removed since it was started"), "{said}");
    // Another shell than the one that was given.
    let third = Bash::installed();
    let (said, json) = explain(&modules, &["bash", "--explain", &again.pid(), "--bash", &third.text()], 1);
    assert_eq!(kinds(&json), ["other-file"], "{said}");
    assert!(said.contains(&format!("  do        --bash {binary}\n")), "{said}");
}

#[test]
fn a_library_that_was_replaced_by_an_upgrade() {
    let name = "a_library_that_was_replaced_by_an_upgrade";
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
    skip_if!(name, needs::capture(), needs::program(LIBRARY, "libssl3"), needs::program(COMPILER, "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("user.c"), dir.path().join("user"));
    let own = dir.path().join("libssl.so.3");
    std::fs::copy(LIBRARY, &own).unwrap();
    let code = "#include <dlfcn.h>\n#include <unistd.h>\nint main(int n, char **v) { char c; return !dlopen(v[1], RTLD_NOW) || \
                write(1, \"x\", 1) != 1 || read(0, &c, 1) < 0; }\n";
    std::fs::write(&source, code).unwrap();
    assert!(Command::new(COMPILER).arg("-o").args([&program, &source]).arg("-ldl").status().unwrap().success());
    let mut child = Command::new(&program).arg(&own).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let process = Waiting(child);
    let modules = Modules::with(&["openssl"]);
    let (said, _) = explain(&modules, &["tls", "--explain", &process.pid()], 0);
    assert!(said.contains(&format!("  uses      {} (library)\n", own.display())), "{said}");
    let new = dir.path().join("new");
    std::fs::copy(LIBRARY, &new).unwrap();
    std::fs::rename(&new, &own).unwrap();
    // What it maps can still be captured from, through the mapping.
    let (said, _) = explain(&modules, &["tls", "--explain", &process.pid()], 0);
    assert!(said.contains("was replaced or removed since the process opened it"), "{said}");
    // But not by its path, which leads to another file.
    let path = own.to_str().unwrap();
    let (said, json) = explain(&modules, &["tls", "--explain", &process.pid(), "--libssl", path], 1);
    assert_eq!(kinds(&json), ["deleted"], "{said}");
    assert!(said.contains(&format!("  do        restart process {}\n", process.pid())), "{said}");
}

#[test]
fn a_similar_program_and_a_child_are_pointed_at() {
    skip_if!("a_similar_program_and_a_child_are_pointed_at", needs::capture(), needs::program(COMPILER, "gcc"));
    let modules = Modules::with(&["mysql", "bash"]);
    let program = Program::compile("evil-target.c", "mysql-router");
    let source = program.path().with_extension("c");
    std::fs::write(&source, "#include <unistd.h>\nint main(void) { char c; return (int)read(0, &c, 1); }\n").unwrap();
    assert!(Command::new(COMPILER).arg("-o").args([program.path(), source]).status().unwrap().success());
    let process = Waiting::start(&mut Command::new(program.path()));
    let (said, json) = explain(&modules, &["mysql", "--explain", &process.pid()], 1);
    assert!(said.contains(&format!("  similar   {}\n", program.text())), "{said}");
    assert!(said.contains(&format!("  do        if that is the one: --mysqld {}\n", program.text())), "{said}");
    assert_eq!(json["processes"][0]["similar"][0], program.text());
    // This test is the parent of a shell.
    let bash = Bash::installed();
    let shell = Waiting::shell(&bash);
    let (said, _) = explain(&modules, &["bash", "--explain", &std::process::id().to_string()], 1);
    assert!(said.contains("  do        its child ") && said.contains("/bash"), "{said}");
    drop(shell);
}

#[test]
fn processes_that_are_none_and_words_that_make_no_sense() {
    skip_if!("processes_that_are_none_and_words_that_make_no_sense", needs::capture());
    let modules = Modules::with(&["mysql"]);
    let said = |args: &[&str], code: i32| {
        let output = modules.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    };
    // In the words of a capture.
    assert_eq!(said(&["mysql", "--explain", "4194304"], 1), said(&["mysql", "--pid", "4194304"], 1));
    assert!(said(&["mysql", "--explain", "4194304"], 1).contains("E-TARGET: mysql: no process has the id 4194304"));
    assert!(said(&["mysql", "--explain", "--mysqld", "/nowhere/at/all"], 1).contains("E-TARGET"));
    said(&["mysql", "--explain", "0"], 2);
    said(&["mysql", "--explain", "mariadbd"], 2);
    assert!(said(&["mysql", "--json"], 2).contains("--explain"));
    // A thread of the kernel runs no file.
    let (told, json) = explain(&modules, &["mysql", "--explain", "2"], 1);
    assert!(told.contains("not captured") && kinds(&json) == ["none"], "{told}");
}

#[test]
fn without_root_it_says_what_it_cannot_see() {
    let name = "without_root_it_says_what_it_cannot_see";
    skip_if!(name, needs::capture(), needs::program(SHELL, "bash"));
    let (modules, bash) = (Modules::with(&["bash"]), Bash::installed());
    std::fs::set_permissions(modules.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (own, root) = (Waiting::shell(&bash), Waiting::start(Command::new(bash.binary()).args(["-c", "read -r line"])));
    // A place that nobody may run programs from would be a failure of this test, not of the program.
    let place = tempfile::Builder::new().prefix("ecapture-explain-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = place.path().join("ecapture");
    std::fs::copy(ecapture_tests::capture::bin_dir().join("ecapture"), &program).unwrap();
    let run = |pid: &str| {
        let mut command = Command::new(&program);
        command.arg("--modules-dir").arg(modules.path()).arg("--allow-untrusted").args(["bash", "--explain", pid]);
        command.uid(NOBODY).gid(NOBODY).output().unwrap()
    };
    for (pid, words) in [
        (own.pid(), [": captured\n", "probes    ", "capturing needs privileges that this process does not have"]),
        (
            root.pid(),
            [": not captured\n", "cannot look at it: Permission denied", "do        run it as root on the host"],
        ),
    ] {
        let output = run(&pid);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
    }
}

#[test]
fn every_command_of_the_document_runs() {
    let name = "every_command_of_the_document_runs";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let (modules, server) = (Modules::with(&["mysql", "openssl"]), Mariadb::start());
    let pid = server.pid().to_string();
    let commands = document::commands("docs/explain.md");
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command
            .split(' ')
            .skip(1)
            .map(|w| if w == "4711" || w == "4711,4712" { pid.as_str() } else { w })
            .collect();
        let output = modules.run(&words);
        let said = text(&output);
        let code = if command.contains("--uid") { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{command}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("captured"), "{command}: {said}");
    }
    // The words for scripts are those that there are.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/explain.md")).unwrap();
    for kind in
        ["pid", "uid", "comm", "cgroup", "container", "file", "deleted", "closed", "other-file", "limit", "none"]
    {
        assert!(text.contains(&format!("| `{kind}` |")), "docs/explain.md does not explain {kind}");
    }
}

#[test]
fn a_run_that_saw_nothing_says_what_tells_more() {
    skip_if!("a_run_that_saw_nothing_says_what_tells_more", needs::capture(), needs::program(SHELL, "bash"));
    let modules = Modules::with(&["bash"]);
    let bash = Bash::installed();
    let binary = bash.text();
    let run = |more: &[&str]| {
        let output = modules.run(&[&["bash", "--bash", &binary, "--duration", "200ms"], more].concat());
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&[]);
    let wanted = "bash: its probes were in 1 file, and no call of those that were asked for came by; `ecapture bash --explain [PID]`";
    assert!(said.contains(wanted), "{said}");
    // Whoever runs another bash meanwhile is told apart from that one.
    assert!(
        said.contains(&format!("ecapture:   no process uses any of: {binary}"))
            || said.contains("which is another file than"),
        "{said}"
    );
    assert!(!run(&["--quiet"]).contains("--explain"));
    // The verdicts themselves, of what was asked for.
    let mut idle = Command::new(&binary).args(["-c", "read line"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let (own, others) = (idle.id(), other.id());
    let said = run(&["--pid", &format!("{own},{others}")]);
    let captured = format!("process {own} (bash): it would have been captured, and called nothing (uses {binary})");
    assert!(said.contains(&captured), "{said}");
    assert!(said.contains(&format!("process {others} (sleep): not captured: it uses none of: {binary}")), "{said}");
    other.kill().unwrap();
    other.wait().unwrap();
    drop(idle.stdin.take());
    idle.wait().unwrap();
}
