//! Sequences of messages and what they become.

use super::*;
use crate::record::{kind, tests_message as message};
use proptest::prelude::*;

struct Play {
    machine: Machine,
    out: Vec<Finished>,
}

impl Play {
    fn new(limits: Limits) -> Self {
        Self { machine: Machine::new(limits), out: Vec::new() }
    }

    fn send(&mut self, process: u32, time_ns: u64, lost: bool, data: &[u8]) {
        let input = Input { stream: 0, process, time_ns, lost, data };
        let out = &mut self.out;
        self.machine.message(&input, &mut |finished| out.push(finished)).unwrap();
    }

    /// `a`, `b` or whatever the letter is.
    fn start(&mut self, process: u32, at: u64, sp: u64, letter: u8) {
        let words = [1 | 50 << 5, 1, 6 | 1 << 5, u32::from(letter) << 3 | 2, 0];
        let code: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        self.send(process, at, false, &message(kind::START, at, sp, 5, 0, &code));
    }

    fn end(&mut self, process: u32, of: u64, at: u64, status: u32) {
        self.send(process, at, false, &message(kind::END, of, 0, 0, status, b""));
    }

    fn told(&mut self) -> Vec<(String, Outcome, Option<u64>)> {
        let text =
            |f: &Finished| f.open.text.as_ref().map_or("?".into(), |t| String::from_utf8(t.bytes.clone()).unwrap());
        self.out.drain(..).map(|f| (text(&f), f.outcome, f.duration_ns)).collect()
    }
}

fn known(text: &str, status: u32, duration: u64) -> (String, Outcome, Option<u64>) {
    (text.into(), Outcome::Status(status), Some(duration))
}

fn unknown(text: &str) -> (String, Outcome, Option<u64>) {
    (text.into(), Outcome::Unknown, None)
}

#[test]
fn programs_nest_and_end() {
    let mut play = Play::new(Limits::default());
    play.start(7, 10, 1000, b'a');
    play.start(7, 20, 900, b'b');
    play.start(8, 21, 900, b'x');
    play.end(7, 20, 25, 1);
    play.end(7, 10, 30, 0);
    play.end(8, 21, 31, 2);
    assert_eq!(play.told(), [known("b", 1, 5), known("a", 0, 20), known("x", 2, 10)]);
}

#[test]
fn the_end_of_a_process_is_the_end_of_all_it_ran() {
    let mut play = Play::new(Limits::default());
    play.start(7, 10, 1000, b'a');
    play.start(7, 20, 900, b'b');
    play.send(7, 40, false, &message(kind::EXIT, 0, 0, 0, 0x500, b""));
    assert_eq!(play.told(), [known("b", 5, 20), known("a", 5, 30)]);
    // By exec it may become a shell again, whose stack is elsewhere.
    play.start(7, 50, 1000, b'a');
    play.send(7, 51, false, &message(kind::EXEC, 0, 0, 0, 0, b""));
    play.start(7, 60, 5000, b'b');
    play.end(7, 60, 65, 0);
    assert_eq!(play.told(), [known("b", 0, 5)]);
    play.send(7, 70, false, &message(kind::EXIT, 0, 0, 0, 0, b""));
    assert_eq!(play.told(), [known("a", 0, 20)]);
}

#[test]
fn lost_messages_are_told_by_what_follows() {
    let mut play = Play::new(Limits::default());
    play.end(7, 10, 30, 1);
    assert_eq!(play.told(), [known("?", 1, 20)]);
    play.start(7, 40, 1000, b'a');
    play.start(7, 50, 1000, b'b');
    assert_eq!(play.told(), [unknown("a")], "its end was lost");
    play.start(7, 60, 900, b'c');
    play.end(7, 50, 70, 0);
    assert_eq!(play.told(), [unknown("c"), known("b", 0, 20)]);
    play.start(7, 80, 1000, b'd');
    play.start(8, 81, 1000, b'e');
    play.send(9, 90, true, &message(kind::EXEC, 0, 0, 0, 0, b""));
    play.start(8, 91, 900, b'f');
    play.machine.finish(&mut |finished| play.out.push(finished));
    let outcomes: Vec<_> = play.out.iter().map(|finished| finished.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Unknown, Outcome::Running]);
}

#[test]
fn what_is_not_followed_is_told_at_once() {
    let mut play = Play::new(Limits::default());
    let mut data = message(kind::START, 10, 1000, 0, 0, b"");
    data[4] = 1;
    play.send(7, 10, false, &data);
    assert_eq!(play.told(), [unknown("")]);
}

#[test]
fn the_oldest_gives_way() {
    let mut play = Play::new(Limits { programs: 2, bytes: 100 });
    for n in 0..4 {
        play.start(n, u64::from(n) + 1, 1000, b'a' + u8::try_from(n).unwrap());
    }
    assert_eq!(play.told(), [unknown("a"), unknown("b")]);
    let mut play = Play::new(Limits { programs: 10, bytes: 2 });
    for n in 0..3 {
        play.start(n, u64::from(n) + 1, 1000, b'a');
    }
    assert_eq!(play.told(), [unknown("a")]);
}

proptest! {
    #[test]
    fn any_order_of_messages_ends_every_program_once(
        steps in proptest::collection::vec((1u32..5, 0u32..3, 0u64..8, 0u64..4, any::<bool>()), 0..60),
    ) {
        let mut play = Play::new(Limits { programs: 4, bytes: 1000 });
        let mut begun = 0;
        for (now, (kind, process, of, sp, lost)) in (100u64..).zip(steps) {
            let start = kind == kind::START;
            begun += usize::from(start);
            play.send(process, now, lost, &message(kind, if start { now } else { 100 + of }, sp * 100, 0, 0, b""));
        }
        play.machine.finish(&mut |finished| play.out.push(finished));
        prop_assert_eq!(play.out.iter().filter(|f| f.open.text.is_some()).count(), begun);
    }
}
