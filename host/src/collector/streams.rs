//! The connections of the run: which columns of an event say what of a call, what is known of a connection's process, and what
//! has been counted.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::exchanges::{Ends, schema};
use super::messages::Schemas;
use crate::event::wire::View as Wire;
use crate::event::{EventSchema, Field, Schema, Summary, Value};
use crate::protocol::{Process, TargetName};
use crate::stream::assemble::Call;
use crate::stream::conversation::Outcome;
use crate::stream::exchange::Direction;
use crate::stream::options::{StreamOptions, View};
use crate::stream::table::Table;

/// How long after the end of a process its last calls may still be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is known of a connection beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Place of the module in the run.
    pub module: usize,
    /// Its number.
    pub stream: u64,
    /// The process and thread of the last call.
    pub pid: u32,
    /// See `pid`.
    pub tid: u32,
    /// User of the last call.
    pub uid: u32,
    /// Control group.
    pub cgroup: u64,
    /// Name of the thread.
    pub comm: [u8; 16],
    /// File in which the probe sits.
    pub target: Option<Rc<TargetName>>,
    /// The process, if somebody knew it.
    pub process: Option<Rc<Process>>,
    /// Its container.
    pub container: Option<Rc<str>>,
    /// Addresses.
    pub ends: Rc<Ends>,
}

/// What somebody has to find out when a connection is new.
pub type Owner = (Option<Rc<TargetName>>, Option<Rc<Process>>, Option<Rc<str>>);

/// What was counted of one module.
#[derive(Debug, Default)]
pub struct Counts {
    /// Put together.
    pub exchanges: u64,
    /// Of these, those that lack something.
    pub incomplete: u64,
    /// Of these, those that nobody wanted.
    pub filtered: u64,
    not_shown: u64,
    unparsed: u64,
    missing: u64,
    evicted: u64,
}

/// Columns of an event that says what a call moved.
#[derive(Debug, Clone, Copy)]
struct Columns {
    direction: u16,
    length: Option<u16>,
    local: (Option<u16>, Option<u16>),
    peer: (Option<u16>, Option<u16>),
    source: Option<u16>,
    tls: bool,
}

impl Columns {
    fn of(schema: &EventSchema) -> Option<Self> {
        let number = |name: &str| {
            let at = schema.columns().iter().position(|column| column.name() == name)?;
            u16::try_from(at).ok()
        };
        let end = |side: &str| (number(&format!("network.{side}.address")), number(&format!("network.{side}.port")));
        Some(Self {
            direction: number("network.io.direction")?,
            length: number("ecapture.tls.length"),
            local: end("local"),
            peer: end("peer"),
            source: number("ecapture.tls.address_source"),
            tls: schema.columns().iter().any(|column| column.name().starts_with("ecapture.tls.")),
        })
    }
}

/// The connections.
pub struct Streams {
    /// What the user asked for.
    pub options: StreamOptions,
    table: Table<About>,
    columns: HashMap<(usize, u16), Option<Columns>>,
    schemas: Vec<Schema>,
    said: Vec<Schemas>,
    counts: Vec<Counts>,
    /// Processes that have ended, and since when that is known.
    ended: Vec<(u32, u64, Instant)>,
    /// Up to which time each module has told everything.
    told: Vec<u64>,
}

impl Streams {
    /// For these modules.
    ///
    /// # Errors
    /// A module's name is none.
    pub fn new<'a>(options: StreamOptions, modules: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (mut schemas, mut said) = (Vec::new(), Vec::new());
        for module in modules {
            schemas.push(schema(module).map_err(|e| e.to_string())?);
            said.push(Schemas::new(module).map_err(|e| e.to_string())?);
        }
        let memory = usize::try_from(options.memory).unwrap_or(usize::MAX);
        let table = match options.view {
            View::Stream => Table::followed(memory),
            _ => Table::new(memory, options.bodies()),
        };
        Ok(Self {
            table,
            said,
            counts: schemas.iter().map(|_| Counts::default()).collect(),
            options,
            columns: HashMap::new(),
            told: vec![0; schemas.len()],
            schemas,
            ended: Vec::new(),
        })
    }

    /// How exchanges of this module are declared.
    pub fn schema(&self, module: usize) -> Option<&EventSchema> {
        self.schemas.get(module).and_then(|schema| schema.event(0))
    }

    /// How what is said beside exchanges is declared.
    pub fn said(&self, module: usize) -> Option<&Schemas> {
        self.said.get(module)
    }

    /// What is counted of this module.
    pub fn counts(&mut self, module: usize) -> Option<&mut Counts> {
        self.counts.get_mut(module)
    }

    /// Calls are shown as they came, if they are no part of an exchange.
    pub fn shows_calls(&mut self, module: usize, calls: u64) -> bool {
        let hidden = self.options.view == View::Http;
        if hidden && let Some(counts) = self.counts.get_mut(module) {
            counts.not_shown += calls;
        }
        !hidden
    }

    /// Takes an event that tells of a call. `None`: it is to be shown as it is, and nothing else. `owner` finds out whose a new
    /// connection is; `given_up` has what of other connections had to be told for want of room.
    pub fn call(
        &mut self,
        module: usize,
        schema: &EventSchema,
        (wire, fields, raw): (&Wire<'_>, &[Field<'_>], &[u8]),
        owner: impl FnOnce() -> Owner,
        given_up: &mut Vec<(About, Outcome)>,
    ) -> Option<(About, Outcome)> {
        if self.options.view == View::Raw || wire.fixed.stream_id == 0 {
            return None;
        }
        let fixed = &wire.fixed;
        let columns = (*self.columns.entry((module, fixed.event)).or_insert_with(|| Columns::of(schema)))?;
        let value = |number: Option<u16>| fields.iter().find(|field| Some(field.column) == number).map(|f| f.value);
        let direction = match value(Some(columns.direction)) {
            Some(Value::Text(b"transmit")) => Direction::Transmit,
            Some(Value::Text(b"receive")) => Direction::Receive,
            _ => return None,
        };
        let length = match value(columns.length) {
            Some(Value::U64(length)) => length,
            _ => 0,
        };
        // Of a file that the kernel sends, nobody sees the bytes.
        let unseen = if wire.payload.is_empty() && fixed.missing == 0 { length } else { 0 };
        let call = Call {
            direction,
            offset: fixed.stream_offset,
            bytes: wire.payload,
            missing: fixed.missing.saturating_add(unseen),
            time_ns: fixed.time_ns,
        };
        let key = (module, fixed.stream_id);
        let (conversation, about) = self.table.connection(key, fixed.time_ns, || {
            let (target, process, container) = owner();
            About { module, stream: fixed.stream_id, target, process, container, ..About::default() }
        });
        (about.pid, about.tid, about.uid) = (fixed.pid, fixed.tid, fixed.uid);
        (about.cgroup, about.comm) = (fixed.cgroup, fixed.comm);
        let end = |(address, port): (Option<u16>, Option<u16>)| match (value(address), value(port)) {
            (Some(Value::Text(address)), Some(Value::U64(port))) => {
                Some((std::str::from_utf8(address).ok()?, u16::try_from(port).ok()?))
            }
            _ => None,
        };
        let (local, peer) = (end(columns.local), end(columns.peer));
        let same = |known: &Option<(String, u16)>, said: Option<(&str, u16)>| {
            said.is_none() || known.as_ref().map(|known| (known.0.as_str(), known.1)) == said
        };
        if !same(&about.ends.local, local) || !same(&about.ends.peer, peer) || about.ends.tls != columns.tls {
            let owned = |end: Option<(&str, u16)>| end.map(|(address, port)| (address.to_owned(), port));
            let ends = Rc::make_mut(&mut about.ends);
            ends.tls = columns.tls;
            ends.local = owned(local).or_else(|| ends.local.take());
            ends.peer = owned(peer).or_else(|| ends.peer.take());
            ends.source = match value(columns.source) {
                Some(Value::Text(source)) => Some(String::from_utf8_lossy(source).into_owned()),
                _ => None,
            };
        }
        let mut outcome = Outcome::default();
        conversation.call(&call, raw, &mut outcome);
        let about = about.clone();
        self.table.hurry(key, &mut outcome);
        let counts = &mut self.counts;
        self.table.settle(key, |about, outcome| {
            if let Some(counts) = counts.get_mut(about.module) {
                counts.evicted += 1;
                counts.unparsed += outcome.unparsed;
            }
            given_up.push((about, outcome));
        });
        if let Some(counts) = self.counts.get_mut(module) {
            counts.missing = counts.missing.saturating_add(outcome.missing);
            counts.unparsed += outcome.unparsed;
        }
        Some((about, outcome))
    }

    /// Takes an event that tells something of a connection: that it has ended is all that is known of.
    pub fn connection(&mut self, module: usize, schema: &EventSchema, id: u64, fields: &[Field<'_>]) {
        let state = |field: &&Field<'_>| {
            schema.columns().get(usize::from(field.column)).is_some_and(|c| c.name() == "ecapture.connection.state")
        };
        if fields.iter().find(state).is_some_and(|field| field.value == Value::Text(b"ended")) {
            self.table.ended((module, id));
        }
    }

    /// The process has ended, or runs another program, since then.
    pub fn process_ended(&mut self, pid: u32, time_ns: u64) {
        if !self.table.is_empty() {
            self.ended.push((pid, time_ns, Instant::now()));
        }
    }

    /// The module has told everything up to this time; `u64::MAX`: nothing more comes of it.
    pub fn told_up_to(&mut self, module: usize, time_ns: u64) {
        if let Some(told) = self.told.get_mut(module) {
            *told = time_ns.max(*told);
        }
    }

    /// Everything from before this time has come. A collector that cannot follow, or waits for a slow output, may be seconds behind.
    fn is_told(&self, time_ns: u64) -> bool {
        self.told.iter().all(|told| *told >= time_ns)
    }

    /// What has been waiting too long. `now_ns`: `None` in a replay.
    pub fn tick(&mut self, now_ns: Option<u64>) -> Vec<(About, Outcome)> {
        let mut told = Vec::new();
        if self.options.view == View::Raw {
            return told;
        }
        self.table.tick(now_ns, |about, outcome| told.push((about.clone(), outcome)));
        let is_due = |(_, time_ns, since): &(u32, u64, Instant)| since.elapsed() > LAST_WORDS && self.is_told(*time_ns);
        let due = self.ended.iter().take_while(|ended| is_due(ended)).count();
        if due > 0 {
            let due: HashMap<u32, u64> = self.ended.drain(..due).map(|(pid, time, _)| (pid, time)).collect();
            self.table.end_those(
                |_, about, last_ns| due.get(&about.pid).is_some_and(|time| last_ns < *time),
                |about, outcome| told.push((about.clone(), outcome)),
            );
        }
        self.count(&told);
        told
    }

    /// The run is over: everything that is left.
    pub fn finish(&mut self) -> Vec<(About, Outcome)> {
        let mut told = Vec::new();
        self.table.end_those(|_, _, _| true, |about, outcome| told.push((about.clone(), outcome)));
        self.count(&told);
        told
    }

    fn count(&mut self, told: &[(About, Outcome)]) {
        for (about, outcome) in told {
            if let Some(counts) = self.counts.get_mut(about.module) {
                counts.unparsed += outcome.unparsed;
            }
        }
    }

    /// Adds what was counted to the totals of the run.
    pub fn add_to(&self, summary: &mut Summary) {
        for (schema, counts) in self.schemas.iter().zip(&self.counts) {
            let totals = summary.module(schema.module());
            totals.exchanges += counts.exchanges;
            totals.incomplete += counts.incomplete;
            totals.filtered += counts.filtered;
            totals.not_shown += counts.not_shown;
            totals.unparsed_bytes += counts.unparsed;
            totals.gap_bytes = totals.gap_bytes.saturating_add(counts.missing);
            totals.evicted += counts.evicted;
        }
    }
}
