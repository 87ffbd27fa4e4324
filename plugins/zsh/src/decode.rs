//! The state machine: messages of the kernel side in, programs that have run out. Pure: no module interface, no clock.
//!
//! A program is over when END says so, or when its process ends (EXIT): `exit`, and what the shell became by exec. One of
//! which neither came (the record was lost) is noticed by the next program whose stack frame is above.
//!
//! Not here: bytes of messages (`record`), texts (`text`), columns (`output`).

use crate::open::{Id, Limits, Open, Programs, Text};
use crate::record::{self, Message, Program, RecordError};
use crate::text;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a status.
    Status(u32),
    /// It was running when the capture ended.
    Running,
    /// Records were lost, or it could not be followed.
    Unknown,
}

/// A program that is over, or all that will be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Which: its shell and when it began.
    pub id: Id,
    /// What is known.
    pub open: Open,
    /// Its end.
    pub outcome: Outcome,
    /// From its beginning to its end.
    pub duration_ns: Option<u64>,
}

/// One joined message with what the host says about it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Number of the stream.
    pub stream: u16,
    /// Process that it comes from.
    pub process: u32,
    /// When.
    pub time_ns: u64,
    /// Records were lost before it, or what they had taught.
    pub lost: bool,
    /// The message.
    pub data: &'a [u8],
}

/// The decoder's state.
#[derive(Debug)]
pub struct Machine {
    programs: Programs,
    losses: u64,
}

impl Machine {
    /// Nothing seen yet.
    pub fn new(limits: Limits) -> Self {
        Self { programs: Programs::new(limits), losses: 0 }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// [`RecordError`] if it makes no sense; the state is then as before, but for what the host says was lost.
    pub fn message(&mut self, input: &Input<'_>, out: &mut impl FnMut(Finished)) -> Result<(), RecordError> {
        if input.lost {
            self.losses += 1;
        }
        if input.stream != 0 {
            return Err(RecordError::Stream(input.stream));
        }
        let process = input.process;
        match record::parse(input.data)? {
            Message::Start { start_ns, unfollowed, context, sp, program, missing } => {
                self.leave(process, sp, out);
                let text = Some(made(&program, missing));
                let id = Id { process, start_ns };
                let open = Open { text, context, sp, losses: self.losses };
                if unfollowed {
                    out(Finished { id, open, outcome: Outcome::Unknown, duration_ns: None });
                } else {
                    for (id, open) in self.programs.put(id, open) {
                        out(Finished { id, open, outcome: Outcome::Unknown, duration_ns: None });
                    }
                }
            }
            Message::End { start_ns, status } => {
                let id = Id { process, start_ns };
                let open = self.programs.take(id).unwrap_or_default();
                if open.text.is_some() {
                    // What ran inside it, and whose end was lost.
                    self.leave(process, open.sp.saturating_sub(1), out);
                }
                out(over(id, open, status, input.time_ns));
            }
            Message::Exec => self.programs.replaced(process),
            Message::Exit { status } => {
                let all: Vec<Id> = self.programs.of_process(process).map(|(id, _)| id).collect();
                for id in all {
                    let Some(open) = self.programs.take(id) else { continue };
                    out(over(id, open, status, input.time_ns));
                }
            }
        }
        Ok(())
    }

    /// The run is over: what is open is still running, unless its end may have been lost.
    pub fn finish(&mut self, out: &mut impl FnMut(Finished)) {
        for (id, open) in self.programs.drain() {
            let outcome = if open.losses == self.losses { Outcome::Running } else { Outcome::Unknown };
            out(Finished { id, open, outcome, duration_ns: None });
        }
    }

    /// Programs of this process whose frames are at or below `sp` are over.
    fn leave(&mut self, process: u32, sp: u64, out: &mut impl FnMut(Finished)) {
        let gone = self.programs.of_process(process).take_while(|(_, open)| open.sp <= sp);
        let ids: Vec<Id> = gone.map(|(id, _)| id).collect();
        for id in ids {
            let Some(open) = self.programs.take(id) else { continue };
            out(Finished { id, open, outcome: Outcome::Unknown, duration_ns: None });
        }
    }
}

fn made(program: &Program<'_>, missing: u64) -> Text {
    let made = text::text(program);
    Text { bytes: made.text, partial: made.stopped.is_some() || missing > 0, missing }
}

fn over(id: Id, open: Open, status: u32, now: u64) -> Finished {
    Finished { id, open, outcome: Outcome::Status(status), duration_ns: now.checked_sub(id.start_ns) }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
