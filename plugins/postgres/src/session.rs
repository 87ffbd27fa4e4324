//! One connection: what was asked and is not answered, prepared statements, portals, who the client is.
//!
//! Not here: what an answer does (`machine`), bytes of messages (`asked`, `told`).

use crate::answer::{Answer, Direction};
use crate::asked::{Fields, Message, Reader};
use crate::event::{Client, Finished, Kind, Outcome, Text};
use crate::parameters::{self, Values};
use crate::told::Failure;
use ecapture_plugin_api::sdk::bounded::{Bound, Bounded};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A statement as it was prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Its text.
    pub text: Text,
    /// Types of its parameters, as far as they are known; 0 is not known.
    pub types: Vec<u32>,
}

/// Prepared statements of all connections: by process, and a number that is never used again.
pub type Statements = Bounded<(u32, u64), Arc<Prepared>>;

/// Most prepared statements.
pub const MOST_STATEMENTS: usize = 1 << 20;

/// With so much memory for texts.
pub fn statements(bytes: usize) -> Statements {
    Bounded::new(Bound { entries: MOST_STATEMENTS, bytes })
}

/// What a portal is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portal {
    name: Arc<[u8]>,
    statement: Arc<[u8]>,
    prepared: Option<Arc<Prepared>>,
    parameters: Arc<Values>,
    /// Bytes that the message that bound the values lacks.
    missing: u64,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A text statement; `None` if it began before the capture.
    Query(Option<Text>),
    /// FunctionCall.
    Call,
    /// Preparing, and what had the name before.
    Parse {
        /// The statement's name.
        name: Arc<[u8]>,
        /// Its text.
        text: Text,
        /// What had this name.
        before: Option<u64>,
    },
    /// Binding.
    Bind(Portal),
    /// Describing: the name, if it is of a statement.
    Describe(Option<Arc<[u8]>>),
    /// Executing, with a limit or 0.
    Execute(Option<Portal>, u32),
    /// Closing.
    Close,
    /// The end of a batch.
    Sync,
}

/// Something that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub what: What,
    /// When its first byte was read; 0 if that is not known.
    pub time_ns: u64,
    /// Bytes that its message lacks.
    pub missing: u64,
    /// CopyData of the client before it, in bytes.
    pub copied: u64,
    /// What came so far.
    pub answer: Answer,
    /// The error that came.
    pub failure: Option<Failure>,
}

/// More is a client that does not wait for anything, and a server that does not read ahead of it: not to be met.
const MOST_WAITING: usize = 1 << 16;
/// Portals that are remembered; a transaction's end ends them all.
const MOST_PORTALS: usize = 4096;
/// Names of prepared statements.
const MOST_NAMES: usize = 1 << 17;

/// A statement under its name, and a portal.
type Ignored = (Option<(Arc<[u8]>, Arc<Prepared>)>, Option<Portal>);

/// One connection.
#[derive(Debug, Default)]
pub struct Session {
    /// The backend.
    pub process: u32,
    /// Who.
    pub client: Arc<Client>,
    /// The client's side, in pieces.
    pub reader: Reader,
    /// Number of the last record.
    pub sequence: u64,
    /// What waits for an answer.
    pub waiting: VecDeque<Item>,
    /// When the startup packet came, while the login lasts.
    pub connecting_ns: Option<u64>,
    /// The startup packet was seen.
    pub known: bool,
    /// The client said good-bye.
    pub terminated: bool,
    /// The error that ended the connection.
    pub fatal: Option<Failure>,
    /// The server ignores everything up to the next Sync.
    pub skipping: bool,
    /// Records were lost, and what waits may not be what is answered, up to the next ReadyForQuery.
    pub lost: bool,
    /// An entry that may go on in the next record: type, length, body.
    pub held: Option<(u8, u32, Vec<u8>)>,
    /// What was prepared and bound while the server ignored it: for the events of what was skipped.
    ignored: Ignored,
    names: HashMap<Arc<[u8]>, u64>,
    portals: HashMap<Arc<[u8]>, Portal>,
    serial: u64,
}

impl Session {
    /// Of a backend of which nothing was seen so far; the record before the next one has this number.
    pub fn new(process: u32, sequence: u64, lost: bool) -> Self {
        Self { process, sequence, lost, ..Self::default() }
    }

    /// Takes a message of the client with a type.
    pub fn asked(&mut self, message: &Message, statements: &mut Statements, out: &mut impl FnMut(Finished)) {
        let mut fields = Fields(&message.body);
        let what = match message.kind {
            b'Q' => {
                let bytes = fields.text();
                What::Query(Some(Text { bytes: bytes.into(), missing: message.missing }))
            }
            b'P' => self.parse(message, statements),
            b'B' => What::Bind(self.bind(message, statements)),
            b'D' => {
                let of_statement = fields.bytes(1) == Some(b"S");
                let name = fields.text();
                What::Describe(of_statement.then(|| name.into()))
            }
            b'E' => {
                let name = fields.text();
                let limit = fields.u32().unwrap_or(0);
                let ignored = self.ignored.1.as_ref().filter(|portal| self.skipping && *portal.name == *name);
                What::Execute(ignored.or_else(|| self.portals.get(name)).cloned(), limit)
            }
            b'C' => {
                let of_statement = fields.bytes(1) == Some(b"S");
                let name = fields.text();
                if !self.skipping && of_statement {
                    let _forgotten = self.forget(name, statements);
                } else if !self.skipping {
                    self.portals.remove(name);
                }
                What::Close
            }
            b'F' => What::Call,
            b'S' => {
                self.skipping = false;
                self.ignored = (None, None);
                What::Sync
            }
            b'X' => {
                self.terminated = true;
                return;
            }
            // Flush has no answer; CopyData, CopyDone, CopyFail and passwords belong to what runs.
            _ => return,
        };
        let item = Item {
            what,
            time_ns: message.time_ns,
            missing: message.missing,
            copied: message.copied.1,
            answer: Answer::default(),
            failure: None,
        };
        if self.skipping {
            self.finish(item, Outcome::Skipped, None, out);
        } else {
            self.waiting.push_back(item);
        }
        if self.waiting.len() > MOST_WAITING {
            self.lose(out);
        }
    }

    fn parse(&mut self, message: &Message, statements: &mut Statements) -> What {
        let mut fields = Fields(&message.body);
        let (name, bytes): (Arc<[u8]>, Arc<[u8]>) = (fields.text().into(), fields.text().into());
        let types = fields.u16().unwrap_or(0);
        let types = (0..types).map_while(|_| fields.u32()).collect();
        let text = Text { bytes, missing: message.missing };
        let mut before = None;
        if self.skipping {
            self.ignored.0 = Some((name.clone(), Arc::new(Prepared { text: text.clone(), types })));
        } else {
            if self.names.len() >= MOST_NAMES {
                self.names.clear();
            }
            before = self.keep(name.clone(), Prepared { text: text.clone(), types }, statements);
        }
        What::Parse { name, text, before }
    }

    /// Keeps a statement under its name, and says which number the name had.
    fn keep(&mut self, name: Arc<[u8]>, prepared: Prepared, statements: &mut Statements) -> Option<u64> {
        self.serial += 1;
        let weight = prepared.text.bytes.len().saturating_add(prepared.types.len() * 4).saturating_add(256);
        statements.insert((self.process, self.serial), Arc::new(prepared), weight);
        // The unnamed one is replaced without a word, and cannot come back.
        let unnamed = name.is_empty();
        let before = self.names.insert(name, self.serial);
        if unnamed && let Some(before) = before {
            statements.remove(&(self.process, before));
        }
        before.filter(|_| !unnamed)
    }

    fn forget(&mut self, name: &[u8], statements: &mut Statements) -> Option<Arc<Prepared>> {
        let serial = self.names.remove(name)?;
        statements.remove(&(self.process, serial))
    }

    /// A statement could not be prepared: its name is what it was. What follows in its batch may still name it.
    pub fn not_prepared(&mut self, name: &Arc<[u8]>, before: Option<u64>, statements: &mut Statements) {
        self.ignored.0 =
            self.forget(name, statements).map(|prepared| (name.clone(), prepared)).or(self.ignored.0.take());
        if let Some(before) = before {
            self.names.insert(name.clone(), before);
        }
    }

    /// The server says which types the parameters of a statement have.
    pub fn described(&mut self, name: &[u8], body: &[u8], statements: &mut Statements) {
        let mut fields = Fields(body);
        let count = fields.u16().unwrap_or(0);
        let types: Vec<u32> = (0..count).map_while(|_| fields.u32()).collect();
        let Some(serial) = self.names.get(name) else { return };
        if let Some(prepared) = statements.touch(&(self.process, *serial)) {
            *prepared = Arc::new(Prepared { text: prepared.text.clone(), types });
        }
    }

    fn bind(&mut self, message: &Message, statements: &mut Statements) -> Portal {
        let mut fields = Fields(&message.body);
        let (name, statement): (Arc<[u8]>, Arc<[u8]>) = (fields.text().into(), fields.text().into());
        let ignored = self.ignored.0.as_ref().filter(|(name, _)| self.skipping && *name == statement);
        let prepared = match ignored {
            Some((_, prepared)) => Some(prepared.clone()),
            None => self.names.get(&statement).and_then(|serial| statements.touch(&(self.process, *serial))).cloned(),
        };
        let types = prepared.as_ref().map(|prepared| &prepared.types[..]).unwrap_or_default();
        let parameters = Arc::new(parameters::read(&mut fields, types));
        let portal = Portal { name: name.clone(), statement, prepared, parameters, missing: message.missing };
        if self.skipping {
            self.ignored.1 = Some(portal.clone());
        } else {
            if self.portals.len() >= MOST_PORTALS {
                self.portals.clear();
            }
            self.portals.insert(name, portal.clone());
        }
        portal
    }

    /// Whether the statement that runs is this one, executed from a portal.
    pub fn runs(&self, text: &[u8]) -> bool {
        // What is bound may be looked at before Execute was read.
        let of =
            |portal: &Portal| portal.prepared.as_ref().is_some_and(|p| p.text.bytes.get(..text.len()) == Some(text));
        self.waiting.iter().any(|item| match &item.what {
            What::Execute(portal, _) => portal.as_ref().is_some_and(of),
            What::Bind(portal) => of(portal),
            _ => false,
        })
    }

    /// No transaction is open any more.
    pub fn idle(&mut self) {
        self.portals.clear();
    }

    /// Records were lost: what waits will not be matched with its answer.
    pub fn lose(&mut self, out: &mut impl FnMut(Finished)) {
        self.lost = true;
        self.held = None;
        self.skipping = false;
        for item in std::mem::take(&mut self.waiting) {
            self.finish(item, Outcome::Unknown, None, out);
        }
    }

    /// Reports what became of something, if it is shown at all. `end`: when, and the client's CopyData by then.
    pub fn finish(&self, item: Item, outcome: Outcome, end: Option<(u64, u64)>, out: &mut impl FnMut(Finished)) {
        let failed = outcome == Outcome::Error;
        let mut finished = self.blank(Kind::Query, outcome);
        match item.what {
            What::Query(text) => {
                finished.statement_unknown = text.is_none();
                finished.text = text;
            }
            What::Call => (finished.kind, finished.command) = (Kind::Command, Some("function_call")),
            What::Parse { name, text, .. } => {
                // The unnamed statement is prepared for each execution, which shows it.
                if name.is_empty() && !failed {
                    return;
                }
                (finished.kind, finished.statement, finished.text) = (Kind::Prepare, Some(name), Some(text));
            }
            What::Bind(portal) if failed => {
                finished.kind = Kind::Bind;
                // The message is the one that item.missing is of.
                show(Portal { missing: 0, ..portal }, &mut finished);
            }
            What::Execute(portal, limit) => {
                finished.kind = Kind::Execute;
                finished.limit = Some(limit).filter(|limit| *limit > 0);
                match portal {
                    Some(portal) => show(portal, &mut finished),
                    None => finished.statement_unknown = true,
                }
            }
            What::Describe(_) if failed => (finished.kind, finished.command) = (Kind::Command, Some("describe")),
            What::Close if failed => (finished.kind, finished.command) = (Kind::Command, Some("close")),
            What::Sync if failed => (finished.kind, finished.command) = (Kind::Command, Some("sync")),
            What::Bind(_) | What::Describe(_) | What::Close | What::Sync => return,
        }
        finished.truncated = finished.truncated.saturating_add(item.missing);
        finished.duration_ns = end.filter(|_| item.time_ns > 0).and_then(|(now, _)| now.checked_sub(item.time_ns));
        finished.answer = item.answer;
        if let (Some((_, copied)), Some(copy)) = (end, &mut finished.answer.copied)
            && copy.direction != Direction::Out
        {
            copy.bytes = copy.bytes.saturating_add(copied.saturating_sub(item.copied));
        }
        finished.failure = item.failure;
        finished.state_lost |= outcome == Outcome::Unknown;
        out(finished);
    }

    /// An event about this connection that says nothing yet.
    pub fn blank(&self, kind: Kind, outcome: Outcome) -> Finished {
        Finished {
            process: self.process,
            kind,
            outcome,
            duration_ns: None,
            client: self.client.clone(),
            text: None,
            truncated: 0,
            parameters: None,
            statement: None,
            portal: None,
            statement_unknown: false,
            limit: None,
            answer: Answer::default(),
            failure: None,
            command: None,
            cancels: None,
            state_lost: self.lost,
        }
    }
}

fn show(portal: Portal, finished: &mut Finished) {
    finished.statement_unknown = portal.prepared.is_none();
    finished.text = portal.prepared.map(|prepared| prepared.text.clone());
    // What the text of a named statement lacks was said when it was prepared; an unnamed one is shown here for the first time.
    let text = finished.text.as_ref().filter(|_| portal.statement.is_empty()).map_or(0, |text| text.missing);
    finished.truncated = portal.missing.saturating_add(text);
    finished.parameters = Some(portal.parameters).filter(|values| values.count > 0 || values.partial);
    finished.statement = Some(portal.statement);
    finished.portal = Some(portal.name);
}
