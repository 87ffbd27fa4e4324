//! What bash runs is what is captured: every simple command with its text, arguments and status, in order; and each line
//! that is typed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::bash::{Bash, OTHERS, Ran, SHELL, captured, compare, expected};
use ecapture_tests::capture::{Capture, Finished, Modules, text_bytes};
use ecapture_tests::{needs, skip_if};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bash").join(name)
}

/// A capture of everything that runs this copy of the shell.
fn start(shell: &Bash, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["bash"]);
    let options = shell.options();
    let own: Vec<&str> = options.iter().map(String::as_str).collect();
    let capture = Capture::start(&modules, &[&["bash", "-o", "json"], &own[..], more].concat());
    (modules, capture)
}

/// Nothing lost, nothing cut, nothing unaccounted for.
fn whole(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let end = finished.end();
    let totals = &end["ecapture.session.modules"][0];
    let counts = ["lost", "partial", "faults", "cut", "undecodable", "truncated_bytes", "state_full", "orphans"];
    for key in counts.iter().chain(&["columns_refused", "sink_lost", "restarts", "unaccounted"]) {
        assert_eq!(totals[key], 0, "{key} in {end}");
    }
    assert_eq!(totals["produced"], totals["seen"], "{end}");
}

/// Runs the shell with these arguments under a capture; answers its process id too.
fn run(shell: &Bash, args: &[&str], stdin: Stdio) -> (Finished, u64) {
    let (_modules, capture) = start(shell, &[]);
    let mut command = shell.command();
    command.args(args).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("bash starts");
    let pid = u64::from(process.id());
    process.wait().expect("wait");
    (capture.stop(), pid)
}

fn shells() -> Vec<Bash> {
    let others = std::env::var(OTHERS).unwrap_or_default();
    let others = others.split(':').filter(|path| !path.is_empty()).map(|path| Bash::of(Path::new(path)));
    std::iter::once(Bash::installed()).chain(others).collect()
}

#[test]
fn a_script_of_two_hundred_lines() {
    skip_if!("a_script_of_two_hundred_lines", needs::capture(), needs::program(SHELL, "bash"));
    let list = expected(&std::fs::read_to_string(fixture("script.expected")).unwrap());
    for shell in shells() {
        for file in ["script.sh", "script.input", "script.sourced"] {
            std::fs::copy(fixture(file), shell.home().join(file)).unwrap();
        }
        let (finished, pid) = run(&shell, &["script.sh"], Stdio::null());
        whole(&finished);
        compare(&list, &captured(&finished.events), pid);
        println!("{}", finished.end()["ecapture.session.modules"][0]);
    }
}

/// What one shell without subshells ran.
fn own(shell: &Bash, args: &[&str], stdin: Stdio) -> Vec<Ran> {
    let (finished, pid) = run(shell, args, stdin);
    whole(&finished);
    let mut captured = captured(&finished.events);
    let own = captured.remove(&pid).unwrap_or_default();
    assert!(captured.is_empty(), "{captured:?}");
    own
}

#[test]
fn command_strings_and_standard_input() {
    skip_if!("command_strings_and_standard_input", needs::capture(), needs::program(SHELL, "bash"));
    for shell in shells() {
        // The shell itself becomes the program.
        let alone = own(&shell, &["-c", "/bin/false --help x"], Stdio::null());
        assert_eq!(alone, [Ran::program("1", "/bin/false --help x", &["/bin/false", "--help", "x"])]);
        let last = own(&shell, &["-c", "cd /; printf %s; exec /bin/test \"$0\" = \"$1\"", "a b", "c"], Stdio::null());
        let test = Ran::program("1", "exec /bin/test \"$0\" = \"$1\"", &["/bin/test", "a b", "=", "c"]);
        assert_eq!(last, [Ran::builtin("0", "cd /"), Ran::builtin("0", "printf %s"), test]);
        // Nothing is run of what cannot be parsed.
        assert_eq!(own(&shell, &["-c", "echo 'never"], Stdio::null()), []);
        let failed = own(&shell, &["-c", "exec /no/such/program"], Stdio::null());
        assert_eq!(failed, [Ran::builtin("127", "exec /no/such/program")]);

        std::fs::write(shell.home().join("stdin"), "read line\nthat is read\necho \"$line\"\nexit 3\n").unwrap();
        let stdin = std::fs::File::open(shell.home().join("stdin")).unwrap();
        let read = own(&shell, &[], stdin.into());
        assert_eq!(
            read,
            [Ran::builtin("0", "read line"), Ran::builtin("0", "echo \"$line\""), Ran::builtin("3", "exit 3")]
        );
    }
}

#[test]
fn what_ends_a_shell_early_has_the_status_that_the_shell_had() {
    skip_if!(
        "what_ends_a_shell_early_has_the_status_that_the_shell_had",
        needs::capture(),
        needs::program(SHELL, "bash")
    );
    let shell = Bash::installed();
    let none = |text| Ran::builtin("aborted", text);
    let cases: [(&str, &[Ran]); 6] = [
        // The function never came to an end; eval left with the status of what it ran.
        ("f() { eval 'exit 4'; }; f", &[none("f"), Ran::builtin("4", "eval 'exit 4'"), Ran::builtin("4", "exit 4")]),
        ("set -e; f() { false; }; f", &[Ran::builtin("0", "set -e"), none("f"), Ran::builtin("1", "false")]),
        ("set -u; : $x", &[Ran::builtin("0", "set -u"), Ran::builtin("1", ": $x")]),
        (": ${x:?no}; echo never", &[Ran::builtin("1", ": ${x:?no}")]),
        ("kill -KILL $$; echo never", &[none("kill -KILL $$")]),
        (
            "f() { return 300; }; f; exit 257",
            &[Ran::builtin("44", "f"), Ran::builtin("44", "return 300"), Ran::builtin("1", "exit 257")],
        ),
    ];
    for (script, expected) in cases {
        let mut ran = own(&shell, &["-c", script], Stdio::null());
        // What has no duration is put where it was said, which is after what ran inside.
        let mut expected = expected.to_vec();
        ran.sort();
        expected.sort();
        assert_eq!(ran, expected, "{script}");
    }
}

#[test]
fn five_thousand_commands_in_a_loop() {
    skip_if!("five_thousand_commands_in_a_loop", needs::capture(), needs::program(SHELL, "bash"));
    let shell = Bash::installed();
    let script =
        "for ((i = 0; i < 5000; i++)); do : \"$i\"; done\nfor ((i = 0; i < 1000; i++)); do /bin/true $i; done\n";
    std::fs::write(shell.home().join("script"), script).unwrap();
    let ran = own(&shell, &["script"], Stdio::null());
    assert_eq!(ran.len(), 6000);
    assert!(ran[..5000].iter().all(|ran| *ran == Ran::builtin("0", ": \"$i\"")));
    for (n, ran) in ran[5000..].iter().enumerate() {
        assert_eq!(*ran, Ran::program("0", "/bin/true $i", &["/bin/true", &n.to_string()]));
    }
}

#[test]
fn every_byte_of_a_command_line_of_a_mebibyte() {
    skip_if!("every_byte_of_a_command_line_of_a_mebibyte", needs::capture(), needs::program(SHELL, "bash"));
    let shell = Bash::installed();
    let script = |body: &[u8]| {
        std::fs::write(shell.home().join("script"), body).unwrap();
        own(&shell, &["script"], Stdio::null())
    };
    // One word for a builtin; many for a program, each as long as Linux allows less a little.
    let word: Vec<u8> = (0..1 << 20).map(|n: u32| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let line = [b": ", &word[..]].concat();
    assert_eq!(script(&line), [Ran { status: "0".into(), text: line.clone(), args: None }]);
    let program = |size: usize| {
        let args: Vec<Vec<u8>> = word[..size].chunks(130_000).map(<[u8]>::to_vec).collect();
        let line = [b"/bin/true ", &args.join(&b' ')[..]].concat();
        (line, [vec![b"/bin/true".to_vec()], args].concat())
    };
    let (line, args) = program(1_000_000);
    assert_eq!(script(&line), [Ran { status: "0".into(), text: line.clone(), args: Some(args) }]);
    // Text and arguments of one event have just under 2 MiB; what is beyond is said.
    let (line, args) = program(1 << 20);
    std::fs::write(shell.home().join("script"), &line).unwrap();
    let (finished, _) = run(&shell, &["script"], Stdio::null());
    let event = finished.named("bash.command").next().unwrap();
    assert_eq!(text_bytes(event, "ecapture.command.text"), line);
    let shown = text_bytes(event, "process.command_args");
    let args = args.join(&0);
    assert!(args.starts_with(&shown) && shown.len() > 900_000, "{}", shown.len());
    // The NUL behind the last argument was never shown.
    assert_eq!(event["ecapture.truncated_bytes"], args.len() + 1 - shown.len());
    assert_eq!(event["ecapture.partial"], true);
    // Around the sizes in which records are made.
    for size in [255, 256, 257, 65_407, 65_408, 65_409, 130_000] {
        let line = [b": ", &word[..size]].concat();
        assert_eq!(script(&line), [Ran { status: "0".into(), text: line.clone(), args: None }], "{size}");
    }
    // Every byte that a command line can have.
    let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'\'').collect();
    let line = [b"/bin/true '", &every[..], b"'"].concat();
    let args = vec![b"/bin/true".to_vec(), every];
    assert_eq!(script(&line), [Ran { status: "0".into(), text: line.clone(), args: Some(args) }]);
}

#[test]
fn functions_nest_deeper_than_the_kernel_follows_returns() {
    skip_if!("functions_nest_deeper_than_the_kernel_follows_returns", needs::capture(), needs::program(SHELL, "bash"));
    let shell = Bash::installed();
    let script = "f() { [ $1 = 0 ] || { f $(($1 - 1)); return $(($1 % 256)); }; }\nf 100\n:\n";
    std::fs::write(shell.home().join("script"), script).unwrap();
    let ran = own(&shell, &["script"], Stdio::null());
    let count = |ran: &[Ran], status: &str, text: &str| {
        ran.iter().filter(|r| r.text == text.as_bytes() && r.status == status).count()
    };
    assert_eq!(ran[0], Ran::builtin("100", "f 100"));
    for level in 1..=100 {
        // Each call but the outermost is that of the function one level up.
        let calls = count(&ran, &(level - 1).to_string(), "f $(($1 - 1))");
        let returns = count(&ran, &level.to_string(), "return $(($1 % 256))");
        assert_eq!((calls, returns), (1, 1), "level {level}");
    }
    assert_eq!(ran.len(), 1 + 101 + 100 + 100 + 1);

    // Deeper than this module follows: it says so, and goes on.
    std::fs::write(shell.home().join("script"), script.replace("f 100", "f 200")).unwrap();
    let (finished, pid) = run(&shell, &["script"], Stdio::null());
    let totals = &finished.end()["ecapture.session.modules"][0];
    let unfollowed = totals["state_full"].as_u64().unwrap();
    assert!(unfollowed > 0 && totals["lost"] == 0, "{totals}");
    let ran = captured(&finished.events).remove(&pid).unwrap();
    assert_eq!(ran.len(), 1 + 201 + 200 + 200 + 1);
    let unknown = ran.iter().filter(|ran| ran.status == "unknown").count();
    assert_eq!(unknown as u64, unfollowed);
    assert_eq!((count(&ran, "200", "f 200"), count(&ran, "0", ":")), (1, 1));
}

#[test]
fn only_the_processes_and_users_asked_for() {
    skip_if!("only_the_processes_and_users_asked_for", needs::capture(), needs::program(SHELL, "bash"));
    let shell = Bash::installed();
    // A shell that runs before the capture begins, and waits for a line.
    let mut command = shell.command();
    command.args(["-c", "while read line; do eval \"$line\"; done"]);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("bash starts");
    let pid = running.id().to_string();
    for (more, seen) in [(&["--pid", &pid][..], true), (&["--uid", "65534"], true), (&["--uid", "0"], false)] {
        let (_modules, mut capture) = start(&shell, more);
        let mut stdin = running.stdin.as_ref().unwrap();
        std::io::Write::write_all(&mut stdin, b"(/bin/true child)\n(exit 2) | :\n").unwrap();
        if seen {
            capture.wait_for("exit 2", Duration::from_secs(20), |e| e["ecapture.command.text"] == "exit 2");
            capture.wait_for("child", Duration::from_secs(20), |e| e["ecapture.command.text"] == "/bin/true child");
        } else {
            std::thread::sleep(Duration::from_millis(500));
        }
        let other = shell.run(&["-c", ": other"]);
        assert!(other.success());
        let finished = capture.stop();
        whole(&finished);
        let all: Vec<Ran> = captured(&finished.events).into_values().flatten().collect();
        let has = |ran: &Ran| all.contains(ran);
        assert_eq!(has(&Ran::program("0", "/bin/true child", &["/bin/true", "child"])), seen, "{more:?}: {all:?}");
        assert_eq!(has(&Ran::builtin("2", "exit 2")), seen, "{more:?}: {all:?}");
        assert_eq!(has(&Ran::builtin("0", ": other")), seen && more[0] == "--uid", "{more:?}: {all:?}");
    }
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn a_session_at_a_terminal() {
    skip_if!("a_session_at_a_terminal", needs::capture(), needs::program(SHELL, "bash"));
    const PROMPT: &str = "ready> ";
    const MORE: &str = "more> ";
    for shell in shells() {
        let (_modules, capture) = start(&shell, &[]);
        let mut session = shell.session([PROMPT, MORE]);
        session.wait_for(PROMPT);
        session.line("echo typed 'and quoted'", PROMPT);
        for line in ["for word in a b", "do"] {
            session.line(line, MORE);
        }
        session.line("  echo \"$word\"", MORE);
        session.line("done", PROMPT);
        session.line("/bin/false | cat", PROMPT);
        session.line("cat << END", MORE);
        session.line("a here-document", MORE);
        session.line("END", PROMPT);
        // History: what is typed is not what runs.
        session.line("!echo", PROMPT);
        // A line for a running command is no command.
        session.press(b"read -e answer\r");
        session.wait_for("answer\r\n");
        session.line("an answer", PROMPT);
        // Interrupted, stopped and killed.
        session.press(b"/bin/sleep 60\r");
        session.wait_until_runs("sleep");
        session.press(b"\x03");
        session.wait_for(PROMPT);
        session.press(b"/bin/sleep 61\r");
        session.wait_until_runs("sleep");
        session.press(b"\x1a");
        session.wait_for(PROMPT);
        session.line("kill -CONT %1; kill %1; wait %1", PROMPT);
        // Given up half-way: neither a line nor a command.
        session.press(b"never run");
        session.wait_for("never run");
        session.wait_until_idle();
        session.press(b"\x03");
        session.wait_for(PROMPT);
        session.press(b"exit 3\r");
        let status = session.wait();
        assert_eq!(status.code(), Some(3));
        let finished = capture.stop();
        whole(&finished);

        let lines: Vec<(String, &str)> = finished
            .named("bash.line")
            .map(|e| {
                (
                    String::from_utf8(text_bytes(e, "ecapture.line.text")).unwrap(),
                    e["ecapture.line.reader"].as_str().unwrap(),
                )
            })
            .collect();
        let typed = [
            ("echo typed 'and quoted'", "prompt"),
            ("for word in a b", "prompt"),
            ("do", "prompt"),
            ("  echo \"$word\"", "prompt"),
            ("done", "prompt"),
            ("/bin/false | cat", "prompt"),
            ("cat << END", "prompt"),
            ("a here-document", "prompt"),
            ("END", "prompt"),
            ("!echo", "prompt"),
            ("read -e answer", "prompt"),
            ("an answer", "builtin"),
            ("/bin/sleep 60", "prompt"),
            ("/bin/sleep 61", "prompt"),
            ("kill -CONT %1; kill %1; wait %1", "prompt"),
            ("exit 3", "prompt"),
        ];
        assert_eq!(lines, typed.map(|(line, reader)| (line.to_owned(), reader)));

        let own = captured(&finished.events);
        assert_eq!(own.len(), 1, "{own:?}");
        let ran = [
            Ran::builtin("0", "echo typed 'and quoted'"),
            Ran::builtin("0", "echo \"$word\""),
            Ran::builtin("0", "echo \"$word\""),
            Ran::program("1|", "/bin/false", &["/bin/false"]),
            Ran::program("0|", "cat", &["cat"]),
            Ran::program("0", "cat <<END\na here-document\nEND\n", &["cat"]),
            Ran::builtin("0", "echo typed 'and quoted'"),
            Ran::builtin("0", "read -e answer"),
            Ran::program("130", "/bin/sleep 60", &["/bin/sleep", "60"]),
            Ran::program("143", "/bin/sleep 61", &["/bin/sleep", "61"]),
            Ran::builtin("0", "kill -CONT %1"),
            Ran::builtin("0", "kill %1"),
            Ran::builtin("143", "wait %1"),
            Ran::builtin("3", "exit 3"),
        ];
        assert_eq!(own.values().next().map(Vec::as_slice), Some(&ran[..]));
    }
}

#[test]
fn a_shell_without_symbols_is_refused_with_what_to_do() {
    skip_if!(
        "a_shell_without_symbols_is_refused_with_what_to_do",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc"),
        needs::program("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev")
    );
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("bash.c"), dir.path().join("bash"));
    // As bash-static has it.
    let text =
        "const char *volatile sccs = \"@(#)Bash version 5.2.15(1) release GNU\";\nint main(void) { return !*sccs; }\n";
    std::fs::write(&source, text).unwrap();
    let gcc = Command::new("gcc").args(["-static", "-s", "-o"]).arg(&program).arg(&source).status().unwrap();
    assert!(gcc.success());
    let modules = Modules::with(&["bash"]);
    for (file, words) in [
        (
            program.as_path(),
            &["this bash has no symbols", "linked statically and stripped", "bash-static", "--bash"][..],
        ),
        (Path::new("/bin/true"), &["no bash", "execute_command_internal", "--bash"]),
    ] {
        let output = modules.run(&["bash", "--bash", file.to_str().unwrap(), "--duration", "1s"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("E-DETECT"), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}
