//! The state machine: messages of the kernel side in, statements that are over out. Pure: no module interface, no clock.
//!
//! The protocol answers in the order in which it was asked, so what is told belongs to the oldest that waits. After an error
//! in a batch the server ignores everything up to the Sync that ends it.
//!
//! What a lost record does: all that waits is reported as `unknown`, and up to the next ReadyForQuery events say that
//! something before them was lost.

use crate::answer::{Answer, Direction};
use crate::asked::{Fields, Message as Asked};
use crate::event::{Client, Finished, Kind, Outcome, Text};
use crate::record::{self, Body, Entry, Head, Peer, RecordError, flag};
use crate::session::{self, Item, Session, Statements, What};
use crate::told::{Failure, Tag};
use ecapture_plugin_api::sdk::bounded::{Bound, Bounded};
use std::sync::Arc;

/// One message with what the host says about it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Number of the stream.
    pub stream: u16,
    /// Where the probe fired.
    pub process: u32,
    /// When.
    pub time_ns: u64,
    /// First record of a decoder that was made anew.
    pub restarted: bool,
    /// The message.
    pub data: &'a [u8],
}

/// The decoder's state.
#[derive(Debug)]
pub struct Machine {
    sessions: Bounded<u32, Session>,
    statements: Statements,
    restarted: bool,
}

/// More backends than any server has.
const MOST_SESSIONS: usize = 1 << 16;
/// Bodies are cut here by the kernel side.
const MOST_BODY: usize = 1024;

impl Machine {
    /// Nothing seen yet; so much memory for texts of prepared statements.
    pub fn new(statement_memory: usize) -> Self {
        let bound = Bound { entries: MOST_SESSIONS, bytes: usize::MAX };
        Self { sessions: Bounded::new(bound), statements: session::statements(statement_memory), restarted: false }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// [`RecordError`] if it makes no sense; the state is then as before.
    pub fn message(&mut self, message: &Message<'_>, out: &mut impl FnMut(Finished)) -> Result<(), RecordError> {
        if message.stream != 0 {
            return Err(RecordError::Stream(message.stream));
        }
        self.restarted |= message.restarted;
        let (head, body) = record::parse(message.data)?;
        let process = message.process;
        if self.sessions.touch(&process).is_none() {
            // One that neither began before our eyes nor is older than the capture was known to a decoder that died.
            let lost = self.restarted && head.sequence > 1;
            let session = Session::new(process, head.sequence.saturating_sub(1), lost);
            for (_, evicted) in self.sessions.insert(process, session, 1) {
                self.statements.remove_range((evicted.process, 0)..=(evicted.process, u64::MAX));
            }
        }
        let Self { sessions, statements, .. } = self;
        let Some(session) = sessions.touch(&process) else { return Ok(()) };
        let anew = head.sequence == 1 && session.sequence > 1;
        if anew {
            // The process that had this number is gone, and so is the record that said so.
            abort(session, None, out);
            statements.remove_range((process, 0)..=(process, u64::MAX));
            *session = Session::new(process, 0, false);
        } else if head.sequence != session.sequence.wrapping_add(1) || head.has(flag::LOST) {
            session.lose(out);
            session.reader.lose_step();
        }
        session.sequence = head.sequence;
        match body {
            Body::Asked(bytes, peer) => asked(session, statements, &head, message.time_ns, bytes, peer, out),
            Body::Told(entries) => {
                for entry in record::entries(entries) {
                    told(session, statements, &head, message.time_ns, &entry, out);
                }
            }
            Body::Nested(text) => nested(session, text, out),
            Body::Ended => {
                abort(session, Some(message.time_ns), out);
                sessions.remove(&process);
                statements.remove_range((process, 0)..=(process, u64::MAX));
            }
        }
        Ok(())
    }

    /// The run is over: what waits is still running.
    pub fn finish(&mut self, out: &mut impl FnMut(Finished)) {
        for mut session in self.sessions.drain() {
            let mut running = true;
            for item in std::mem::take(&mut session.waiting) {
                // What waits behind it has not begun.
                let shown = running && matches!(item.what, What::Query(_) | What::Execute(..) | What::Call);
                if shown {
                    session.finish(item, Outcome::Running, None, out);
                }
                running &= !shown;
            }
        }
    }

    /// Connections that are known.
    #[cfg(test)]
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }
}

const CODE_CANCEL: u32 = 80_877_102;

fn asked(
    session: &mut Session,
    statements: &mut Statements,
    head: &Head,
    time_ns: u64,
    bytes: &[u8],
    peer: Option<Peer>,
    out: &mut impl FnMut(Finished),
) {
    let mut reader = std::mem::take(&mut session.reader);
    let mut peer = peer;
    reader.take(head, time_ns, bytes, |message| match message.kind {
        0 => starts(session, &message, peer.take(), out),
        _ => session.asked(&message, statements, out),
    });
    session.reader = reader;
}

/// A packet of the begin of a connection.
fn starts(session: &mut Session, message: &Asked, peer: Option<Peer>, out: &mut impl FnMut(Finished)) {
    let mut fields = Fields(&message.body);
    let code = fields.u32().unwrap_or(0);
    if code == CODE_CANCEL {
        let client = Arc::new(Client { peer, ..Client::default() });
        out(Finished { cancels: fields.u32(), client, ..session.blank(Kind::Cancel, Outcome::Ok) });
        return;
    }
    if code >> 16 != 3 {
        return;
    }
    let mut client = Client { peer, ..Client::default() };
    while !fields.0.is_empty() {
        let (name, value) = (fields.text(), fields.text());
        match name {
            b"user" => client.user = Some(value.to_vec()),
            b"database" => client.database = Some(value.to_vec()),
            b"application_name" => client.application = Some(value.to_vec()),
            b"" => break,
            _ => {}
        }
    }
    // As the server does it.
    if client.database.as_ref().is_none_or(Vec::is_empty) {
        client.database = client.user.clone();
    }
    session.client = Arc::new(client);
    session.known = true;
    session.connecting_ns = Some(message.time_ns);
}

/// One message of the server. Those that may go on in the next record are held until it is clear.
fn told(
    session: &mut Session,
    statements: &mut Statements,
    head: &Head,
    time_ns: u64,
    entry: &Entry<'_>,
    out: &mut impl FnMut(Finished),
) {
    let now = (time_ns, head.copy_bytes);
    if entry.more
        && let Some((_, length, body)) = &mut session.held
    {
        let room = MOST_BODY.saturating_sub(body.len());
        body.extend(entry.body.iter().take(room));
        if body.len() < usize::try_from(*length).unwrap_or(usize::MAX) {
            return;
        }
    }
    if let Some((kind, _, body)) = session.held.take() {
        answered(session, statements, now, kind, &body, out);
    }
    if entry.more {
        return;
    }
    match entry.kind {
        b'D' => current(session, |item| item.answer.sent(entry.counts().0)),
        b'd' => current(session, |item| item.answer.copied_out(entry.counts().1)),
        b'C' | b'E' | b't' if entry.body.len() < usize::try_from(entry.length).unwrap_or(usize::MAX) => {
            session.held = Some((entry.kind, entry.length, entry.body.to_vec()));
        }
        kind => answered(session, statements, now, kind, entry.body, out),
    }
}

/// What is being answered: the oldest that waits, or something that began before the capture.
fn current(session: &mut Session, change: impl FnOnce(&mut Item)) {
    if session.waiting.is_empty() {
        session.waiting.push_back(Item {
            what: What::Query(None),
            time_ns: 0,
            missing: 0,
            copied: 0,
            answer: Answer::default(),
            failure: None,
        });
    }
    if let Some(item) = session.waiting.front_mut() {
        change(item);
    }
}

fn answered(
    session: &mut Session,
    statements: &mut Statements,
    now: (u64, u64),
    kind: u8,
    body: &[u8],
    out: &mut impl FnMut(Finished),
) {
    match kind {
        b'1' => pop_if(session, |what| matches!(what, What::Parse { .. }), now, out),
        b'2' => pop_if(session, |what| matches!(what, What::Bind(_)), now, out),
        b'3' => pop_if(session, |what| matches!(what, What::Close), now, out),
        b'n' | b'T' => pop_if(session, |what| matches!(what, What::Describe(_)), now, out),
        b't' => {
            if let Some(Item { what: What::Describe(Some(name)), .. }) = session.waiting.front() {
                let name = name.clone();
                session.described(&name, body, statements);
            }
        }
        b'C' => {
            current(session, |item| item.answer.complete(&Tag::parse(body)));
            finish_execute(session, Outcome::Ok, now, out);
        }
        b'I' => finish_execute(session, Outcome::Ok, now, out),
        b's' => finish_execute(session, Outcome::Suspended, now, out),
        b'G' => current(session, |item| item.answer.copies(Direction::In)),
        b'H' => current(session, |item| item.answer.copies(Direction::Out)),
        b'W' => current(session, |item| item.answer.copies(Direction::Both)),
        b'E' => failed(session, statements, now, Failure::parse(body), out),
        b'Z' => ready(session, now, body.first() == Some(&b'I'), out),
        _ => {}
    }
}

fn pop_if(session: &mut Session, wanted: impl Fn(&What) -> bool, now: (u64, u64), out: &mut impl FnMut(Finished)) {
    if session.waiting.front().is_some_and(|item| wanted(&item.what))
        && let Some(item) = session.waiting.pop_front()
    {
        session.finish(item, Outcome::Ok, Some(now), out);
    }
}

/// The answer to an Execute is one; that to a Query goes on up to ReadyForQuery.
fn finish_execute(session: &mut Session, outcome: Outcome, now: (u64, u64), out: &mut impl FnMut(Finished)) {
    if session.waiting.front().is_some_and(|item| matches!(item.what, What::Execute(..)))
        && let Some(item) = session.waiting.pop_front()
    {
        session.finish(item, outcome, Some(now), out);
    }
}

fn failed(
    session: &mut Session,
    statements: &mut Statements,
    now: (u64, u64),
    failure: Failure,
    out: &mut impl FnMut(Finished),
) {
    if let Some(began) = session.connecting_ns.filter(|_| failure.is_fatal()) {
        session.connecting_ns = None;
        let duration_ns = now.0.checked_sub(began);
        out(Finished { duration_ns, failure: Some(failure), ..session.blank(Kind::Connect, Outcome::Error) });
        session.known = false;
        return;
    }
    if failure.is_fatal() {
        session.fatal = Some(failure.clone());
    }
    match session.waiting.front().map(|item| &item.what) {
        // Between statements: the server ends the connection.
        None if failure.is_fatal() => {}
        None | Some(What::Query(_) | What::Call) => current(session, |item| item.failure = Some(failure)),
        Some(what) => {
            let at_sync = *what == What::Sync;
            let Some(mut item) = session.waiting.pop_front() else { return };
            if let What::Parse { name, before, .. } = &item.what {
                session.not_prepared(name, *before, statements);
            }
            item.failure = Some(failure);
            session.finish(item.clone(), Outcome::Error, Some(now), out);
            if at_sync {
                // Its ReadyForQuery is still to come.
                session.waiting.push_front(Item { failure: None, ..item });
                return;
            }
            session.skipping = true;
            while session.waiting.front().is_some_and(|item| item.what != What::Sync) {
                let Some(item) = session.waiting.pop_front() else { break };
                if let What::Parse { name, before, .. } = &item.what {
                    session.not_prepared(name, *before, statements);
                }
                session.finish(item, Outcome::Skipped, None, out);
            }
            session.skipping = session.waiting.is_empty();
        }
    }
}

fn ready(session: &mut Session, now: (u64, u64), idle: bool, out: &mut impl FnMut(Finished)) {
    if let Some(began) = session.connecting_ns.take() {
        out(Finished { duration_ns: now.0.checked_sub(began), ..session.blank(Kind::Connect, Outcome::Ok) });
        return;
    }
    while let Some(item) = session.waiting.pop_front() {
        let last = matches!(item.what, What::Query(_) | What::Call | What::Sync);
        let outcome = match (&item.failure, last) {
            (Some(_), true) => Outcome::Error,
            (None, true) => Outcome::Ok,
            // The record with its answer was lost.
            _ => Outcome::Unknown,
        };
        // A Sync that failed was reported when it did.
        session.finish(item, outcome, Some(now), out);
        if last {
            break;
        }
    }
    session.lost = false;
    if idle {
        session.idle();
    }
}

fn nested(session: &mut Session, text: &[u8], out: &mut impl FnMut(Finished)) {
    // The statement itself is started in the same way as those inside of it.
    let own = session.waiting.front().and_then(|item| match &item.what {
        What::Query(text) => text.as_ref().map(|text| text.bytes.clone()),
        _ => None,
    });
    let shown = own.as_deref().map(|own| own.get(..text.len()).unwrap_or(own));
    if shown == Some(text) || session.runs(text) {
        return;
    }
    let text = Some(Text { bytes: text.into(), missing: 0 });
    out(Finished { text, ..session.blank(Kind::Nested, Outcome::Running) });
}

/// The connection is gone.
fn abort(session: &mut Session, end: Option<u64>, out: &mut impl FnMut(Finished)) {
    if session.held.as_ref().is_some_and(|held| held.0 == b'E')
        && let Some((.., body)) = session.held.take()
    {
        session.fatal = Some(Failure::parse(&body));
    }
    let now = end.map(|end| (end, 0));
    let mut first = true;
    for mut item in std::mem::take(&mut session.waiting) {
        let runs = matches!(item.what, What::Query(_) | What::Execute(..) | What::Call);
        let unseen = !first && runs;
        if first && item.failure.is_none() {
            item.failure = session.fatal.clone();
        }
        let outcome = match item.failure {
            Some(_) => Outcome::Error,
            None if unseen => Outcome::Skipped,
            None => Outcome::Aborted,
        };
        first &= !runs;
        if runs {
            session.finish(item, outcome, now, out);
        }
    }
    if let Some(began) = session.connecting_ns.take() {
        let duration_ns = end.and_then(|end| end.checked_sub(began));
        out(Finished { duration_ns, ..session.blank(Kind::Connect, Outcome::Aborted) });
    } else if session.known || session.terminated {
        let outcome = match (&session.fatal, session.terminated) {
            (Some(_), _) => Outcome::Error,
            (None, true) => Outcome::Ok,
            (None, false) => Outcome::Aborted,
        };
        out(Finished { failure: session.fatal.take(), ..session.blank(Kind::Quit, outcome) });
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
