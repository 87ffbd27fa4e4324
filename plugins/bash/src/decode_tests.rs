//! Tests of the state machine: what happened, in the order of the ring, and what is said of it.

use super::*;
use crate::record::kind;
use proptest::prelude::*;

/// A machine and what it said: text, process of the shell, end.
struct Run {
    machine: Machine,
    said: Vec<(String, u32, Outcome)>,
    now: u64,
}

impl Run {
    fn new() -> Self {
        Self { machine: Machine::new(Limits::default()), said: Vec::new(), now: 100 }
    }

    fn feed(&mut self, process: u32, lost: bool, data: &[u8]) -> Result<(), RecordError> {
        let input = Input { stream: 0, process, time_ns: self.now, lost, data };
        let said = &mut self.said;
        self.machine.message(&input, &mut |event| said.push(shown(&event)))
    }

    fn say(&mut self, process: u32, kind: u32, id: (u32, u64), value: u32, sp: u64, text: &str) {
        self.now += 1;
        self.feed(process, false, &bytes(kind, id, value, sp, text)).unwrap();
    }

    /// A command whose shell function has the stack pointer `sp`. Answers its name.
    fn start(&mut self, process: u32, sp: u64, text: &str) -> (u32, u64) {
        let id = (process, self.now + 1);
        self.say(process, kind::START, id, 0, sp, text);
        id
    }

    fn said(&mut self) -> Vec<(String, u32, Outcome)> {
        std::mem::take(&mut self.said)
    }
}

fn shown(event: &Event<'_>) -> (String, u32, Outcome) {
    match event {
        Event::Command(finished) => {
            let text =
                finished.open.text.as_ref().map_or("?".into(), |t| String::from_utf8_lossy(&t.bytes).into_owned());
            (text, finished.id.process, finished.outcome)
        }
        Event::Line { text, .. } => (String::from_utf8_lossy(text.bytes).into_owned(), 0, Outcome::Running),
    }
}

fn bytes(kind: u32, id: (u32, u64), value: u32, sp: u64, text: &str) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(kind.to_le_bytes());
    data.extend([0; 4]);
    data.extend(id.1.to_le_bytes());
    data.extend(id.0.to_le_bytes());
    data.extend(value.to_le_bytes());
    data.extend(sp.to_le_bytes());
    data.extend((sp + 16).to_le_bytes());
    data.extend((text.len() as u64).to_le_bytes());
    data.extend(text.as_bytes());
    data
}

fn ended(text: &str, process: u32, status: u32) -> (String, u32, Outcome) {
    (text.into(), process, Outcome::Status(status))
}

fn other(text: &str, process: u32, outcome: Outcome) -> (String, u32, Outcome) {
    (text.into(), process, outcome)
}

#[test]
fn a_builtin_ends_in_the_shell() {
    let mut run = Run::new();
    let id = run.start(1, 1000, "cd /");
    run.say(1, kind::END, id, 0, 0, "");
    assert_eq!(run.said(), [ended("cd /", 1, 0)]);
    assert_eq!(run.machine.commands.len(), 0);
}

#[test]
fn a_program_ends_with_its_process() {
    let mut run = Run::new();
    let id = run.start(1, 1000, "ls $x");
    run.say(1, kind::FORK, id, 2, 0, "");
    run.say(2, kind::ARGS, id, 0, 0, "ls\0/\0");
    // The next command of the shell does not wait for a job in the background.
    let next = run.start(1, 1000, "jobs");
    run.say(1, kind::END, next, 0, 0, "");
    assert_eq!(run.said(), [ended("jobs", 1, 0)]);
    run.say(2, kind::EXIT, id, 0x200, 0, "");
    assert_eq!(run.said(), [ended("ls $x", 1, 2)]);
}

#[test]
fn what_leaves_is_noticed_by_the_next_and_has_the_status_that_the_shell_gave() {
    let mut run = Run::new();
    let outer = run.start(1, 1000, "f");
    let inner = run.start(1, 500, "return 3");
    run.say(1, kind::HINT, inner, 3, 0, "");
    run.say(1, kind::END, outer, 3, 0, "");
    assert_eq!(run.said(), [ended("return 3", 1, 3), ended("f", 1, 3)]);

    run.start(1, 1000, "f");
    run.start(1, 500, "echo ${x?}");
    run.start(1, 990, "echo next");
    assert_eq!(run.said(), [other("echo ${x?}", 1, Outcome::Aborted), other("f", 1, Outcome::Aborted)]);
}

#[test]
fn a_shell_that_ends_ends_what_it_had_open() {
    let mut run = Run::new();
    let background = run.start(1, 1000, "sleep 9 &");
    run.say(1, kind::FORK, background, 2, 0, "");
    run.start(1, 1000, "f");
    let exit = run.start(1, 500, "exit 4");
    run.say(1, kind::HINT, exit, 4, 0, "");
    run.say(1, kind::EXIT, (0, 0), 0x400, 0, "");
    assert_eq!(run.said(), [ended("exit 4", 1, 4), other("f", 1, Outcome::Aborted)]);
    run.say(2, kind::EXIT, background, 9, 0, "");
    assert_eq!(run.said(), [ended("sleep 9 &", 1, 137)]);
}

#[test]
fn a_shell_that_becomes_a_program_has_that_ones_status() {
    let mut run = Run::new();
    let owner = run.start(1, 1000, "bash -c 'exec ls'");
    run.say(1, kind::FORK, owner, 2, 0, "");
    run.say(2, kind::ARGS, owner, 0, 0, "bash\0-c\0exec ls\0");
    let exec = run.start(2, 800, "exec ls");
    run.say(2, kind::ARGS, exec, 0, 0, "ls\0");
    run.say(2, kind::EXIT, owner, 0x100, 0, "");
    assert_eq!(run.said(), [ended("exec ls", 2, 1), ended("bash -c 'exec ls'", 1, 1)]);
}

#[test]
fn what_was_lost_is_not_made_up() {
    let mut run = Run::new();
    // START lost.
    run.say(1, kind::END, (1, 90), 1, 0, "");
    run.say(3, kind::EXIT, (1, 95), 0, 0, "");
    assert_eq!(run.said(), [ended("?", 1, 1), ended("?", 1, 0)]);
    // END lost.
    run.start(1, 1000, "true");
    let next = run.now + 1;
    run.now = next;
    run.feed(1, true, &bytes(kind::START, (1, next), 0, 1000, "false")).unwrap();
    assert_eq!(run.said(), [other("true", 1, Outcome::Unknown)]);
    // All of the rest lost.
    let said = &mut run.said;
    run.machine.finish(&mut |event| said.push(shown(&event)));
    assert_eq!(run.said(), [other("false", 1, Outcome::Running)]);
}

#[test]
fn texts_are_as_they_were_written() {
    for (printed, written) in [
        ("echo \x01\x01\x01\x7f\x01x", "echo \x01\x7f\x01x"),
        ("echo \x01", "echo \x01"),
        ("echo \x7f\x02", "echo \x7f\x02"),
        (" > out", "> out"),
        ("", ""),
    ] {
        let mut run = Run::new();
        let id = run.start(1, 1000, printed);
        run.say(1, kind::END, id, 0, 0, "");
        assert_eq!(run.said(), [ended(written, 1, 0)]);
    }
}

#[test]
fn nonsense_changes_nothing() {
    let mut run = Run::new();
    run.start(1, 1000, "true");
    assert_eq!(run.feed(1, false, b"?"), Err(RecordError::Short(1)));
    let input = Input { stream: 1, process: 1, time_ns: 0, lost: false, data: b"" };
    assert_eq!(run.machine.message(&input, &mut |_| panic!("an event")), Err(RecordError::Stream(1)));
    assert_eq!((run.machine.commands.len(), run.said().len()), (1, 0));
}

proptest! {
    /// Any messages in any order: no panic, bounded memory, and each that began is reported exactly once.
    #[test]
    fn every_command_is_reported_once(messages in proptest::collection::vec((1u32..8, 0u32..4, 1u64..40, any::<u32>(), 0u64..2000, any::<bool>()), 0..120)) {
        let mut machine = Machine::new(Limits { commands: 8, bytes: 40 });
        let mut begun = std::collections::BTreeMap::<Id, i64>::new();
        let mut over = Vec::new();
        for (now, (kind, process, start, value, sp, lost)) in messages.into_iter().enumerate() {
            let id = Id { process, start_ns: start };
            // A name is given once.
            if kind == kind::START && begun.contains_key(&id) {
                continue;
            }
            let data = bytes(kind, (process, start), value, sp, "text");
            let input = Input { stream: 0, process: value % 4, time_ns: now as u64, lost, data: &data };
            machine.message(&input, &mut |event| over.extend(command(event))).unwrap();
            if kind == kind::START {
                begun.insert(id, 0);
            }
            prop_assert!(machine.commands.len() <= 8);
        }
        machine.finish(&mut |event| over.extend(command(event)));
        for finished in over.iter().filter(|finished| finished.open.text.is_some()) {
            *begun.entry(finished.id).or_default() += 1;
        }
        prop_assert!(begun.values().all(|times| *times == 1), "{begun:?}");
    }

    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let mut machine = Machine::new(Limits::default());
        for data in &data {
            let input = Input { stream: 0, process: 1, time_ns: 1, lost: false, data };
            let _either = machine.message(&input, &mut |_| {});
        }
    }
}

fn command(event: Event<'_>) -> Option<Finished> {
    match event {
        Event::Command(finished) => Some(finished),
        Event::Line { .. } => None,
    }
}
