//! The state machine: messages of the kernel side in, commands that are over out. Pure: no module interface, no clock.
//!
//! A command is over when END says so, or when its own process ends (EXIT). One that left its shell without either
//! (`exit`, `return`, an error, an interrupt) is noticed by what comes next of that process: a command whose stack frame
//! is above, or the process's end. Its status is then what the shell said when it left (HINT), or there is none.
//!
//! What a lost message does: START lost: the command is reported without its text; END or EXIT lost: without a status,
//! as "unknown"; all lost: it is in the host's count of lost records only.
//!
//! Not here: bytes of messages (`record`), columns (`output`).

use crate::open::{Commands, Limits, Open, Text};
use crate::record::{self, Bytes, Id, Message, RecordError, flag};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a status.
    Status(u32),
    /// It left without one.
    Aborted,
    /// It was running when the capture ended.
    Running,
    /// Records were lost, or it could not be followed.
    Unknown,
}

/// A command that is over, or all that will be known of it.
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

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command.
    Command(Finished),
    /// A line.
    Line {
        /// [`flag`]s.
        flags: u32,
        /// The line.
        text: Bytes<'a>,
    },
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
    commands: Commands,
    losses: u64,
}

impl Machine {
    /// Nothing seen yet.
    pub fn new(limits: Limits) -> Self {
        Self { commands: Commands::new(limits), losses: 0 }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// [`RecordError`] if it makes no sense; the state is then as before, but for what the host says was lost.
    pub fn message<'a>(&mut self, input: &Input<'a>, out: &mut impl FnMut(Event<'a>)) -> Result<(), RecordError> {
        if input.lost {
            self.losses += 1;
        }
        if input.stream != 0 {
            return Err(RecordError::Stream(input.stream));
        }
        let now = input.time_ns;
        match record::parse(input.data)? {
            Message::Start { id, flags, sp, caller, text } => {
                self.leave(id.process, caller, out);
                self.start(id, flags, sp, text, out);
            }
            Message::End { id, status } => self.end(id, status, now, out),
            Message::Fork { id, .. } => {
                self.commands.change(id, |open| open.forked = true);
            }
            Message::Hint { id, status } => {
                self.commands.change(id, |open| open.hint = Some((status, now)));
            }
            Message::Args { id, args } => self.args(id, args, input.process, out),
            Message::Exit { owner, status } => self.exit(input.process, owner, status, now, out),
            Message::Line { flags, text } => out(Event::Line { flags, text }),
        }
        Ok(())
    }

    /// The run is over: what is open is still running.
    pub fn finish(&mut self, out: &mut impl FnMut(Event<'static>)) {
        for (id, open) in self.commands.drain() {
            out(Event::Command(Finished { id, open, outcome: Outcome::Running, duration_ns: None }));
        }
    }

    fn start<'a>(&mut self, id: Id, flags: u32, sp: u64, text: Bytes<'_>, out: &mut impl FnMut(Event<'a>)) {
        let open = Open { text: Some(source(text)), flags, sp, losses: self.losses, ..Open::default() };
        if flags & flag::UNFOLLOWED != 0 {
            return out(Event::Command(Finished { id, open, outcome: Outcome::Unknown, duration_ns: None }));
        }
        self.put(id, open, out);
    }

    fn end<'a>(&mut self, id: Id, status: u32, now: u64, out: &mut impl FnMut(Event<'a>)) {
        let open = self.commands.take(id).unwrap_or_default();
        if open.text.is_some() {
            // What ran inside it, and left.
            self.leave(id.process, open.sp.saturating_sub(1), out);
        }
        out(over(id, open, Outcome::Status(status), now));
    }

    fn args<'a>(&mut self, id: Id, args: Bytes<'_>, process: u32, out: &mut impl FnMut(Event<'a>)) {
        let mut open = self.commands.take(id).unwrap_or_else(|| Open { losses: self.losses, ..Open::default() });
        open.args = Some(owned(args));
        open.replaced = process == id.process;
        open.forked = process != id.process;
        self.put(id, open, out);
    }

    fn exit<'a>(&mut self, process: u32, owner: Option<Id>, status: u32, now: u64, out: &mut impl FnMut(Event<'a>)) {
        let inside: Vec<Id> = self.commands.of_process(process).filter(|(_, o)| !o.forked).map(|(id, _)| id).collect();
        for id in inside {
            let Some(open) = self.commands.take(id) else { continue };
            if open.replaced {
                out(over(id, open, Outcome::Status(status), now));
            } else {
                out(self.left(id, open));
            }
        }
        if let Some(id) = owner {
            let open = self.commands.take(id).unwrap_or_default();
            out(over(id, open, Outcome::Status(status), now));
        }
    }

    /// Commands inside this shell process whose frames are at or below `sp` are over.
    fn leave<'a>(&mut self, process: u32, sp: u64, out: &mut impl FnMut(Event<'a>)) {
        let gone = |open: &Open| !open.forked && !open.replaced && open.sp <= sp;
        // Inner ones have lower frames: the first that is still there ends the search. Those with processes of their own,
        // which may be many, are passed by.
        let waiting = |open: &Open| open.forked || open.replaced;
        let latest = self.commands.of_process(process).take_while(|(_, open)| waiting(open) || gone(open));
        let ids: Vec<Id> = latest.filter(|(_, open)| !waiting(open)).map(|(id, _)| id).collect();
        for id in ids {
            let Some(open) = self.commands.take(id) else { continue };
            out(self.left(id, open));
        }
    }

    /// A command of whose end nothing was heard. When it left is known if the shell's status at that moment is.
    fn left<'a>(&self, id: Id, open: Open) -> Event<'a> {
        match open.hint {
            Some((status, then)) => over(id, open, Outcome::Status(status), then),
            None if open.losses == self.losses => over(id, open, Outcome::Aborted, 0),
            None => over(id, open, Outcome::Unknown, 0),
        }
    }

    fn put<'a>(&mut self, id: Id, open: Open, out: &mut impl FnMut(Event<'a>)) {
        for (id, open) in self.commands.put(id, open) {
            out(Event::Command(Finished { id, open, outcome: Outcome::Unknown, duration_ns: None }));
        }
    }
}

/// The text as it was written, from the way bash prints it: inside bash, \x01 stands before each byte of a word that is
/// \x01 or \x7f, and until 5.1 a space before redirections without a word. (A here-document's \x01 is not marked so: two of
/// them side by side are shown as one.)
fn source(text: Bytes<'_>) -> Text {
    const MARK: u8 = 1;
    let printed = text.bytes.strip_prefix(b" ").unwrap_or(text.bytes);
    if !printed.contains(&MARK) {
        return Text { bytes: printed.to_vec(), missing: text.missing };
    }
    let mut bytes = Vec::with_capacity(printed.len());
    let mut rest = printed.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let marked = rest.next_if(|next| byte == MARK && matches!(next, 1 | 0x7f));
        bytes.push(marked.unwrap_or(byte));
    }
    Text { bytes, missing: text.missing }
}

fn owned(text: Bytes<'_>) -> Text {
    Text { bytes: text.bytes.to_vec(), missing: text.missing }
}

fn over<'a>(id: Id, open: Open, outcome: Outcome, now: u64) -> Event<'a> {
    let duration_ns = matches!(outcome, Outcome::Status(_)).then(|| now.checked_sub(id.start_ns)).flatten();
    Event::Command(Finished { id, open, outcome, duration_ns })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
