//! What zsh runs is what is captured: every input with its text and status, in order.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::suites::Suite;
use ecapture_tests::zsh::{Ran, SHELL, Zsh, captured, compare, expected};
use ecapture_tests::{needs, or_skip, skip_if};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zsh").join(name)
}

/// A capture of everything that runs this copy of the shell.
fn start(shell: &Zsh, more: &[&str]) -> (Modules, Capture) {
    let modules = Modules::with(&["zsh"]);
    // Texts are compared byte for byte.
    let fixed = ["zsh", "-o", "json", "--show-secrets", "--zsh", &shell.text()];
    let capture = Capture::start(&modules, &[&fixed[..], more].concat());
    (modules, capture)
}

/// Runs the shell with these arguments under a capture in which nothing is lost; its status, and what it ran.
fn run(shell: &Zsh, args: &[&str], stdin: Stdio) -> (Option<i32>, Vec<Ran>) {
    let (_modules, capture) = start(shell, &[]);
    let mut process = shell.command().args(args).stdin(stdin).spawn().expect("zsh starts");
    let pid = u64::from(process.id());
    let status = process.wait().expect("wait");
    let finished = capture.stop();
    finished.assert_whole();
    (status.code(), captured(&finished.events, pid))
}

fn install(shell: &Zsh, files: &[&str]) {
    for file in files {
        std::fs::copy(fixture(file), shell.home().join(file)).unwrap();
    }
}

/// With the shell that is installed.
fn installed(test: &str, scenario: fn(&Zsh)) {
    skip_if!(test, needs::capture(), needs::program(SHELL, "zsh"));
    scenario(&Zsh::installed());
}

/// With zsh 5.8, of Debian 11: its code has another form.
fn of_5_8(test: &str, scenario: fn(&Zsh)) {
    skip_if!(test, needs::capture());
    let shell = or_skip!(test, Zsh::of_bullseye());
    let plan = Modules::with(&["zsh"]).run(&["module", "plan", "zsh", "--target", &shell.text()]);
    let plan = format!("{}{}", String::from_utf8_lossy(&plan.stdout), String::from_utf8_lossy(&plan.stderr));
    assert!(plan.contains("zsh 5.8") && !plan.contains("no function"), "{plan}");
    scenario(&shell);
}

fn script(shell: &Zsh) {
    let list = expected(&std::fs::read_to_string(fixture("script.expected")).unwrap());
    install(shell, &["script.zsh", "sourced.zsh"]);
    let (status, ran) = run(shell, &["script.zsh"], Stdio::null());
    compare(&list, &ran);
    assert_eq!(status, Some(6));
    println!("{} inputs", ran.len());
}

#[test]
fn a_script_of_over_a_hundred_lines() {
    installed("a_script_of_over_a_hundred_lines", script);
}

#[test]
fn the_script_in_zsh_5_8() {
    of_5_8("the_script_in_zsh_5_8", script);
}

/// What zsh itself says of the script's inputs, by its hook preexec, and of all functions that come with it.
#[test]
fn texts_are_those_that_zsh_itself_gives() {
    skip_if!("texts_are_those_that_zsh_itself_gives", needs::capture(), needs::program(SHELL, "zsh"));
    let shell = Zsh::installed();
    install(&shell, &["script.zsh", "sourced.zsh", "preexec.zsh", "functions.zsh"]);
    let both = ["preexec.zsh", "script.zsh"].map(|file| std::fs::read_to_string(shell.home().join(file)).unwrap());
    std::fs::write(shell.home().join("both.zsh"), both.concat()).unwrap();
    let (_, ran) = run(&shell, &["both.zsh"], Stdio::null());
    let top: Vec<String> = ran
        .iter()
        .filter(|ran| ran.context == "toplevel")
        .map(|ran| String::from_utf8_lossy(&ran.text).into_owned())
        .collect();
    let hook = texts(&shell.home().join("said"));
    assert!(hook.len() > 70, "{}", hook.len());
    // The definition of the hook comes before the hook. A space at the very end is not kept.
    for (captured, said) in top[1..].iter().zip(&hook) {
        assert_eq!(captured, said.strip_suffix(' ').filter(|_| said.contains('=')).unwrap_or(said));
    }
    assert_eq!(top.len(), hook.len() + 1);

    let (_modules, capture) = start(&shell, &["--ring-size", "64MiB"]);
    let functions = functions(capture, shell.command().arg("functions.zsh"), &shell.home());
    assert!(functions > 1000, "{functions}");
    println!("{} inputs, {functions} functions", top.len());
}

/// Texts in a file, each with a NUL behind it.
fn texts(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let texts = bytes.strip_suffix(b"\0").expect("a NUL").split(|byte| *byte == 0);
    texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Runs functions.zsh, and compares; the number of functions.
fn functions(capture: Capture, command: &mut Command, home: &Path) -> usize {
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = u64::from(process.id());
    assert!(process.wait().unwrap().code().is_some());
    let finished = capture.stop();
    finished.assert_whole();
    let ran = captured(&finished.events, pid).into_iter();
    let evaluated: Vec<Ran> = ran.filter(|ran| ran.context == "eval").collect();
    let texts = texts(&home.join("texts"));
    for (number, (ran, text)) in evaluated.iter().zip(&texts).enumerate() {
        let own = String::from_utf8_lossy(&ran.text);
        let differ = own.lines().zip(text.lines()).find(|(own, zsh)| own != zsh);
        assert!(own == *text, "function {number}: captured, zsh's: {differ:?}, lengths {} {}", own.len(), text.len());
        assert_eq!(ran.status, "0", "function {number}");
    }
    assert_eq!(evaluated.len(), texts.len());
    texts.len()
}

/// Debian 13 and what comes after it: built with CET, and the latter of a newer version of zsh.
#[test]
fn newer_builds() {
    for (suite, version) in [(Suite::Trixie, "zsh 5.9 "), (Suite::Sid, "zsh 5.9")] {
        skip_if!("newer_builds", needs::capture());
        let root = or_skip!("newer_builds", suite.root(&["zsh"])).copy(&["usr/bin/zsh"]);
        let home = root.path().join("home");
        for dir in [root.path(), &home] {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
        }
        std::fs::copy(fixture("functions.zsh"), home.join("functions.zsh")).unwrap();
        // Where the script sends what it does not want; the root has no devices.
        std::fs::create_dir_all(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/null"), "").unwrap();
        std::fs::set_permissions(root.path().join("dev/null"), PermissionsExt::from_mode(0o666)).unwrap();
        let binary = root.path().join("usr/bin/zsh");
        let modules = Modules::with(&["zsh"]);
        let plan = modules.run(&["module", "plan", "zsh", "--target", binary.to_str().unwrap()]);
        let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert!(plan.contains(version) && !plan.contains("Single") && !plan.contains("no function"), "{plan}");
        let path = binary.to_str().unwrap();
        let args = ["zsh", "-o", "json", "--show-secrets", "--zsh", path, "--ring-size", "64MiB"];
        let capture = Capture::start(&modules, &args);
        let mut command = Command::new("chroot");
        command.arg("--userspec=65534:65534").arg(root.path());
        command.args(["/usr/bin/zsh", "-fc", "cd /home; . ./functions.zsh 5"]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let functions = functions(capture, &mut command, &home);
        assert!(functions > 200, "{functions}");
        println!("{suite:?}: {functions} functions");
    }
}

fn strings_and_standard_input(shell: &Zsh) {
    let cmd = |status: &str, text: &str| Ran::new(status, "cmdarg", text);
    for (script, code, expected) in [
        ("true", 0, vec![cmd("0", "true")]),
        ("cd /; false", 1, vec![cmd("1", "cd /\nfalse")]),
        // The shell itself becomes the program.
        ("/bin/sh -c 'exit 4'", 4, vec![cmd("4", "/bin/sh -c 'exit 4'")]),
        ("exec /bin/sh -c 'exit 5'", 5, vec![cmd("5", "exec /bin/sh -c 'exit 5'")]),
        ("exec /no/such/program", 127, vec![cmd("127", "exec /no/such/program")]),
        ("f() { exit 9 }; f; echo never", 9, vec![cmd("9", "f () {\n\texit 9\n}\nf\necho never")]),
        ("eval 'exit 3'", 3, vec![cmd("3", "eval 'exit 3'"), Ran::new("3", "eval", "exit 3")]),
        ("set -e; false; true", 1, vec![cmd("1", "set -e\nfalse\ntrue")]),
        // Nothing is run of what cannot be parsed.
        ("echo 'never", 1, vec![]),
        ("if true", 1, vec![]),
        ("", 0, vec![]),
        ("# a comment", 0, vec![]),
    ] {
        let (status, ran) = run(shell, &["-c", script], Stdio::null());
        compare(&expected, &ran);
        if !script.starts_with(['e', 'i', '#']) {
            assert_eq!(status, Some(code), "{script}");
        }
    }
    // Killed: as the shell that waits for it would say.
    let (status, ran) = run(shell, &["-c", "kill -KILL $$"], Stdio::null());
    compare(&[cmd("137", "kill -KILL $$")], &ran);
    assert_eq!(status, None);

    std::fs::write(shell.home().join("stdin"), "read line\nthat is read\necho \"$line\"\nexit 3\n").unwrap();
    let stdin = std::fs::File::open(shell.home().join("stdin")).unwrap();
    let (status, ran) = run(shell, &[], stdin.into());
    let top = |status: &str, text: &str| Ran::new(status, "toplevel", text);
    compare(&[top("0", "read line"), top("0", "echo \"$line\""), top("3", "exit 3")], &ran);
    assert_eq!(status, Some(3));
}

#[test]
fn command_strings_and_standard_input() {
    installed("command_strings_and_standard_input", strings_and_standard_input);
}

#[test]
fn command_strings_and_standard_input_of_zsh_5_8() {
    of_5_8("command_strings_and_standard_input_of_zsh_5_8", strings_and_standard_input);
}

fn compiled(shell: &Zsh) {
    std::fs::write(shell.home().join("lib.zsh"), "echo one\nf() { [[ $1 == (a|b)* ]] && echo two }\nf a\n").unwrap();
    for option in ["", "-M", "-R"] {
        let script = format!("zcompile {option} lib.zsh; . ./lib.zsh");
        let (_, ran) = run(shell, &["-c", script.trim()], Stdio::null());
        let text = "echo one\nf () {\n\t[[ $1 == (a|b)* ]] && echo two\n}\nf a";
        assert!(ran.contains(&Ran::new("0", "filecode", text)), "{option}: {ran:?}");
    }
}

#[test]
fn compiled_files_are_shown_as_well() {
    installed("compiled_files_are_shown_as_well", compiled);
}

#[test]
fn compiled_files_of_zsh_5_8() {
    of_5_8("compiled_files_of_zsh_5_8", compiled);
}

#[test]
fn functions_nest_deeper_than_the_kernel_follows_returns() {
    skip_if!("functions_nest_deeper_than_the_kernel_follows_returns", needs::capture(), needs::program(SHELL, "zsh"));
    let shell = Zsh::installed();
    let script =
        "f() {\n  if (( $1 )); then f $(($1 - 1)); return $(($1 % 256)); fi\n  eval 'false || : bottom'\n}\nf 150\n:\n";
    std::fs::write(shell.home().join("script"), script).unwrap();
    let (_, ran) = run(&shell, &["script"], Stdio::null());
    let top = |status: &str, text: &str| Ran::new(status, "toplevel", text);
    compare(&[top("150", "f 150"), Ran::new("0", "eval", "false || : bottom"), top("0", ":")], &ran[1..]);

    // Inputs inside one another, more than are followed: it says so, and goes on.
    let script = "g() { if (( $1 )); then eval \"g $(($1 - 1))\"; fi }\ng 100\n:\n";
    std::fs::write(shell.home().join("script"), script).unwrap();
    let (_modules, capture) = start(&shell, &[]);
    let mut process = shell.command().arg("script").spawn().unwrap();
    let pid = u64::from(process.id());
    process.wait().unwrap();
    let finished = capture.stop();
    let totals = &finished.end()["ecapture.session.modules"][0];
    let ran = captured(&finished.events, pid);
    let unknown = ran.iter().filter(|ran| ran.status == "unknown").count();
    assert_eq!((totals["state_full"].as_u64(), &totals["lost"]), (Some(37), &0.into()), "{totals}");
    assert_eq!((unknown, ran.len()), (37, 103), "{ran:#?}");
    assert_eq!(ran.last(), Some(&top("0", ":")));
}

#[test]
fn twenty_thousand_inputs_and_one_of_a_mebibyte() {
    skip_if!("twenty_thousand_inputs_and_one_of_a_mebibyte", needs::capture(), needs::program(SHELL, "zsh"));
    let shell = Zsh::installed();
    let script = "for ((i = 0; i < 20000; i++)) { eval \": $i\" }";
    let (_modules, capture) = start(&shell, &["--ring-size", "64MiB"]);
    let mut process = shell.command().args(["-c", script]).spawn().unwrap();
    let pid = u64::from(process.id());
    process.wait().unwrap();
    let finished = capture.stop();
    finished.assert_whole();
    let ran = captured(&finished.events, pid);
    let texts: Vec<String> = ran.iter().map(|ran| String::from_utf8_lossy(&ran.text).into_owned()).collect();
    assert_eq!(texts.len(), 20_001);
    for (number, text) in texts[1..].iter().enumerate() {
        assert_eq!(*text, format!(": {number}"));
    }

    // All bytes but NUL, in quotes.
    let mut line = b": '".to_vec();
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'\'').collect();
    while line.len() < 900_000 {
        line.extend(&bytes);
    }
    line.push(b'\'');
    std::fs::write(shell.home().join("script"), [&line[..], b"\n"].concat()).unwrap();
    let (_, ran) = run(&shell, &["script"], Stdio::null());
    assert_eq!(ran.len(), 1);
    assert!(ran[0].text == line, "{} bytes of {}", ran[0].text.len(), line.len());

    // Longer than is shown: cut, and said to be.
    let line = [b": '".to_vec(), vec![b'x'; 3 << 20], b"'\n:\n".to_vec()].concat();
    std::fs::write(shell.home().join("script"), line).unwrap();
    let (_modules, capture) = start(&shell, &[]);
    assert!(shell.command().arg("script").status().unwrap().success());
    let finished = capture.stop();
    assert_eq!(finished.end()["ecapture.session.modules"][0]["cut"], 1);
    let cut = finished.named("zsh.command").find(|event| event["ecapture.truncated_bytes"].as_u64() > Some(0));
    let cut = cut.expect("one that is cut");
    assert!(cut["ecapture.truncated_bytes"].as_u64() > Some(2 << 20), "{}", cut["ecapture.truncated_bytes"]);
    assert_eq!(cut["process.exit.code"], 0);
}

#[test]
fn only_the_processes_and_users_asked_for() {
    skip_if!("only_the_processes_and_users_asked_for", needs::capture(), needs::program(SHELL, "zsh"));
    let shell = Zsh::installed();
    // A shell that runs before the capture begins, and waits for a line.
    let mut command = shell.command();
    let mut running =
        command.args(["-c", "while read line; do eval \"$line\"; done"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = running.id().to_string();
    for (more, seen) in [(&["--pid", &pid][..], true), (&["--uid", "65534"], true), (&["--uid", "0"], false)] {
        let (_modules, mut capture) = start(&shell, more);
        let mut stdin = running.stdin.as_ref().unwrap();
        std::io::Write::write_all(&mut stdin, b"(eval false)\n").unwrap();
        if seen {
            for text in ["false", "(\n\teval false\n)"] {
                capture.wait_for(text, Duration::from_secs(20), |event| event["ecapture.command.text"] == text);
            }
        } else {
            std::thread::sleep(Duration::from_millis(500));
        }
        assert!(shell.command().args(["-c", ": other"]).status().unwrap().success());
        let finished = capture.stop();
        finished.assert_whole();
        let has = |text: &str| finished.named("zsh.command").any(|event| event["ecapture.command.text"] == text);
        assert_eq!((has("false"), has(": other")), (seen, seen && more[0] == "--uid"), "{more:?}");
    }
    running.kill().unwrap();
    running.wait().unwrap();
}

fn session(shell: &Zsh) {
    const PROMPT: &str = "ready> ";
    const MORE: &str = "more> ";
    let (_modules, capture) = start(shell, &[]);
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
    // Edited away and typed anew; an error; nothing.
    session.press(b"echo never run\x15echo run\r");
    session.wait_for("\n");
    session.wait_for(PROMPT);
    session.line("echo )", PROMPT);
    session.line("", PROMPT);
    // A widget and completion evaluate for themselves.
    session.line("w() { eval ': inside a widget' }; zle -N w; bindkey '^Xw' w", PROMPT);
    session.press(b"echo wi\x18wdget\r");
    session.wait_for("\n");
    session.wait_for(PROMPT);
    // Interrupted, stopped and killed.
    session.press(b"/bin/sleep 60\r");
    session.wait_until_runs("sleep");
    session.press(b"\x03");
    session.wait_for(PROMPT);
    session.press(b"/bin/sleep 61\r");
    session.wait_until_runs("sleep");
    session.press(b"\x1a");
    session.wait_for(PROMPT);
    session.line("kill %1; wait %1", PROMPT);
    // Given up half-way: neither a line nor a command.
    session.press(b"never run");
    session.wait_for("never run");
    session.wait_until_idle();
    session.press(b"\x03");
    session.wait_for(PROMPT);
    session.press(b"exit 3\r");
    assert_eq!(session.wait().code(), Some(3));
    let finished = capture.stop();
    finished.assert_whole();

    let pid = finished.named("zsh.command").last().unwrap()["ecapture.shell.pid"].as_u64().unwrap();
    let top = |status: &str, text: &str| Ran::new(status, "toplevel", text);
    let expected = [
        top("0", "echo typed 'and quoted'"),
        top("0", "for word in a b\ndo\n\techo \"$word\"\ndone"),
        top("0", "/bin/false | cat"),
        top("0", "cat <<END\na here-document\nEND"),
        top("0", "echo typed 'and quoted'"),
        top("0", "echo run"),
        top("0", "w () {\n\teval ': inside a widget'\n}\nzle -N w\nbindkey '^Xw' w"),
        top("0", "echo widget"),
        top("130", "/bin/sleep 60"),
        top("148", "/bin/sleep 61"),
        top("143", "kill %1\nwait %1"),
        top("3", "exit 3"),
    ];
    compare(&expected, &captured(&finished.events, pid));
}

#[test]
fn a_session_at_a_terminal() {
    installed("a_session_at_a_terminal", session);
}

#[test]
fn a_session_at_a_terminal_of_zsh_5_8() {
    of_5_8("a_session_at_a_terminal_of_zsh_5_8", session);
}

#[test]
fn a_shell_that_is_none_is_refused_with_what_to_do() {
    skip_if!("a_shell_that_is_none_is_refused_with_what_to_do", needs::capture());
    let output = Modules::with(&["zsh"]).run(&["zsh", "--zsh", "/bin/true", "--duration", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["E-DETECT", "no zsh", "execode", "zsh-static", "--zsh"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}
