//! Everything behind the merge: an event is a call on a connection or stands for itself; what comes of it goes to the outputs.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::exchanges::Told;
use super::mail::Mail;
use super::messages;
use super::source::{Intake, Source};
use super::streams::{About, Streams};
use super::who::Who;
use crate::event::model::Stream;
use crate::event::wire::{View, role};
use crate::event::{Clock, Event, EventSchema, Field, Flags};
use crate::protocol::control::Control;
use crate::protocol::{FromCollector, Process};
use crate::sink::{SinkSet, keylog};
use crate::stream::conversation::Outcome;
use crate::stream::exchange::Exchange;
use crate::stream::said::Said;

/// Longest wait for the broker's answer about a process; then the target's path must do.
const ANSWER: Duration = Duration::from_millis(50);
/// Number of the control group that has all others in it, and says nothing.
const ROOT_GROUP: u64 = 1;

/// Everything behind the merge.
pub struct Out {
    /// The outputs.
    pub sinks: SinkSet,
    /// Times of day.
    pub clock: Clock,
    /// Processes.
    pub who: Who,
    /// Connections.
    pub streams: Streams,
    /// What was told of connections for want of room.
    pub given_up: Vec<(About, Outcome)>,
    /// What waits for an output that is slow.
    pub waiting: Waiting,
    /// Processes of this machine are meant; in a replay they are of another time.
    pub live: bool,
    /// The end comes after so many events.
    pub count: Option<u64>,
    /// Events that were given to the outputs.
    pub written: u64,
    /// That many were.
    pub enough: bool,
    /// Times of the secrets that were written since somebody looked.
    pub secrets: Vec<u64>,
    /// Connections that were told of in place of their secrets, in a comment.
    pub without_secrets: u64,
}

/// What waits until the only output has room: one event can become several requests with large bodies, which an output that is
/// asked only now and then would have to drop.
#[derive(Default)]
pub struct Waiting {
    queue: VecDeque<Item>,
    bytes: u64,
}

enum Item {
    /// Module, and the event.
    Call(usize, Vec<u8>),
    Exchange(Box<(About, Exchange)>),
    Said(Box<(About, Said)>),
}

impl Item {
    fn bytes(&self) -> u64 {
        let body = |exchange: &Exchange| {
            let request = exchange.request.as_ref().map_or(0, |request| request.message.body.bytes.len());
            request + exchange.response.as_ref().map_or(0, |response| response.message.body.bytes.len())
        };
        match self {
            Self::Call(_, bytes) => bytes.len() as u64,
            Self::Exchange(told) => body(&told.1) as u64,
            Self::Said(said) => said.1.held() as u64,
        }
    }
}

impl Out {
    /// One event, in its place.
    pub fn event(&mut self, source: &mut Intake, bytes: &[u8], mail: &mut Mail) {
        let Ok(view) = View::decode(bytes) else {
            source.malformed += 1;
            source.undeclared += 1;
            return;
        };
        let fixed = &view.fixed;
        let schema = source.schema.event(fixed.event);
        let known = matches!(fixed.role, role::OUTPUT | role::STREAM | role::CONNECTION)
            || (fixed.role == role::SECRET && keylog::is_line(view.payload));
        source.undeclared += u64::from(schema.is_none() || !known);
        let Some(schema) = schema.filter(|_| known) else {
            source.malformed += 1;
            return;
        };
        if self.enough {
            return;
        }
        let mut fields: Vec<Field<'_>> = Vec::with_capacity(16);
        let refused = schema.bind(&view, &mut fields);
        if fixed.role == role::SECRET && view.payload.starts_with(b"#") {
            self.without_secrets += 1;
        } else if fixed.role == role::SECRET {
            self.secrets.push(fixed.time_ns);
        }
        if fixed.role == role::CONNECTION {
            // For what is put together here; no output shows it.
            source.columns_refused += u64::from(refused);
            self.streams.connection(source.index, schema, fixed.stream_id, &fields);
            return;
        }
        source.events += 1;
        source.truncated_bytes += fixed.missing;
        source.columns_refused += u64::from(refused);
        let call = if fixed.role == role::STREAM {
            let (who, live) = (&mut self.who, self.live);
            let owner = || {
                let target = mail.target(source.index, fixed.target);
                let runs_target = target.as_ref().is_some_and(|t| t.program);
                let (process, container) =
                    whose(who, live, (fixed.pid, fixed.time_ns, fixed.cgroup), runs_target, mail);
                (target, process, container)
            };
            self.streams.call(source.index, schema, (&view, &fields, bytes), owner, &mut self.given_up)
        } else {
            None
        };
        let show = match call {
            None => true,
            Some((about, mut outcome)) => {
                let show = std::mem::take(&mut outcome.show);
                self.tell_one(about, outcome, source, mail);
                show && self.streams.shows_calls(source.index, 1)
            }
        };
        if show && self.has_to_wait() {
            self.wait(Item::Call(source.index, bytes.to_vec()));
        } else if show {
            self.show(source.index, schema, (&view, &fields, refused), mail);
        }
    }

    /// An output is slow, and there is room to wait for it.
    fn has_to_wait(&self) -> bool {
        let waits = !self.waiting.queue.is_empty() || self.sinks.congested();
        waits && self.waiting.bytes < self.streams.options.memory.max(1 << 20)
    }

    fn wait(&mut self, item: Item) {
        self.waiting.bytes += item.bytes();
        self.waiting.queue.push_back(item);
    }

    /// Gives the outputs what has waited, as far as there is room. True if something is left.
    pub fn go_on(&mut self, sources: &mut [Source], mail: &mut Mail) -> bool {
        while !self.sinks.congested()
            && let Some(item) = self.waiting.queue.pop_front()
        {
            self.waiting.bytes = self.waiting.bytes.saturating_sub(item.bytes());
            match item {
                Item::Call(module, bytes) => {
                    if let Some(source) = sources.get(module) {
                        self.show_again(&source.intake, &bytes, mail);
                    }
                }
                Item::Exchange(told) => self.exchange(&told.0, &told.1),
                Item::Said(said) => self.said(&said.0, &said.1),
            }
        }
        !self.waiting.queue.is_empty()
    }

    /// Tells what has been waiting too long.
    pub fn tell_waiting(&mut self, sources: &mut [Source], mail: &mut Mail) {
        let now = self.live.then(monotonic_ns);
        let mut told = std::mem::take(&mut self.given_up);
        told.append(&mut self.streams.tick(now));
        self.tell(told, sources, mail);
        self.go_on(sources, mail);
    }

    /// Tells what came of connections.
    pub fn tell(&mut self, told: Vec<(About, Outcome)>, sources: &mut [Source], mail: &mut Mail) {
        for (about, outcome) in told {
            if let Some(source) = sources.get_mut(about.module) {
                self.tell_one(about, outcome, &source.intake, mail);
            }
        }
    }

    /// What came of a connection of this module.
    fn tell_one(&mut self, about: About, outcome: Outcome, source: &Intake, mail: &mut Mail) {
        let calls = outcome.released.len() as u64;
        if calls > 0 && self.streams.shows_calls(about.module, calls) {
            for bytes in outcome.released {
                if self.has_to_wait() {
                    self.wait(Item::Call(about.module, bytes));
                } else {
                    self.show_again(source, &bytes, mail);
                }
            }
        }
        self.say(&about, outcome.within);
        for exchange in outcome.exchanges {
            if self.has_to_wait() {
                self.wait(Item::Exchange(Box::new((about.clone(), exchange))));
            } else {
                self.exchange(&about, &exchange);
            }
        }
        self.say(&about, outcome.behind);
    }

    /// What was said beside exchanges.
    fn say(&mut self, about: &About, said: Vec<Said>) {
        for said in said {
            if self.has_to_wait() {
                self.wait(Item::Said(Box::new((about.clone(), said))));
            } else {
                self.said(about, &said);
            }
        }
    }

    /// An event that was held back, of which everything has been counted.
    fn show_again(&mut self, source: &Intake, bytes: &[u8], mail: &mut Mail) {
        let Ok(view) = View::decode(bytes) else { return };
        let Some(schema) = source.schema.event(view.fixed.event) else { return };
        let mut fields = Vec::with_capacity(16);
        let refused = schema.bind(&view, &mut fields);
        self.show(source.index, schema, (&view, &fields, refused), mail);
    }

    /// A request with its response.
    fn exchange(&mut self, about: &About, exchange: &Exchange) {
        if self.enough {
            return;
        }
        let told = Told::new(exchange, &about.ends);
        let wanted = self.streams.options.filter.wants(exchange, told.host.as_deref(), told.path.as_deref());
        if let Some(counts) = self.streams.counts(about.module) {
            counts.exchanges += 1;
            counts.incomplete += u64::from(!exchange.is_complete());
            counts.filtered += u64::from(!wanted);
        }
        let Some(schema) = self.streams.schema(about.module).filter(|_| wanted) else { return };
        let fields = told.fields();
        let event = Event {
            fields: &fields,
            missing: exchange.missing(),
            flags: Flags(if exchange.is_complete() { 0 } else { Flags::PARTIAL }),
            exchange: Some(exchange),
            ..about_event(about, schema, exchange.ended_ns(), &self.clock)
        };
        if self.sinks.event(&event) {
            self.wrote();
        }
    }

    /// Something that was said beside exchanges.
    fn said(&mut self, about: &About, said: &Said) {
        if self.enough {
            return;
        }
        let told = Told::new(&said.of, &about.ends);
        let filter = &self.streams.options.filter;
        if !filter.is_empty() && !filter.wants(&said.of, told.host.as_deref(), told.path.as_deref()) {
            if let Some(counts) = self.streams.counts(about.module) {
                counts.filtered += 1;
            }
            return;
        }
        let Some(schema) = self.streams.said(about.module).and_then(|schemas| schemas.of(said)) else { return };
        let close = messages::reason(said);
        let shown = messages::show(said, &told, &about.ends, about.stream, close.as_ref(), schema);
        let event = Event {
            fields: &shown.fields,
            stream: Some(Stream { id: about.stream, offset: shown.offset }),
            payload: shown.payload,
            missing: shown.missing,
            flags: shown.flags,
            ..about_event(about, schema, said.time_ns, &self.clock)
        };
        if self.sinks.event(&event) {
            self.wrote();
        }
    }

    fn wrote(&mut self) {
        self.written += 1;
        self.enough = self.count.is_some_and(|count| self.written >= count);
    }

    /// An event as it came.
    fn show(
        &mut self,
        module: usize,
        schema: &EventSchema,
        (view, fields, refused): (&View<'_>, &[Field<'_>], u32),
        mail: &mut Mail,
    ) {
        if self.enough {
            return;
        }
        let fixed = &view.fixed;
        let target = mail.target(module, fixed.target);
        // In the file that it runs, a process can only be running that file.
        let runs_target = target.as_ref().is_some_and(|t| t.program);
        let (process, container) =
            whose(&mut self.who, self.live, (fixed.pid, fixed.time_ns, fixed.cgroup), runs_target, mail);
        let comm_len = fixed.comm.iter().position(|b| *b == 0).unwrap_or(fixed.comm.len());
        let target = target.as_ref().map(|t| t.path.as_bytes());
        let asked = process.as_ref().and_then(|p| p.exe.as_deref()).map(str::as_bytes);
        // A library may be in any program: then its path says nothing of it.
        let exe = if runs_target { target } else { asked };
        let event = Event {
            schema,
            time_ns: fixed.time_ns,
            wall_ns: self.clock.wall_ns(fixed.time_ns),
            pid: fixed.pid,
            tid: fixed.tid,
            uid: fixed.uid,
            cgroup: fixed.cgroup,
            comm: fixed.comm.get(..comm_len).unwrap_or_default(),
            exe,
            container: container.as_deref(),
            target,
            stream: (fixed.stream_id != 0).then_some(Stream { id: fixed.stream_id, offset: Some(fixed.stream_offset) }),
            fields,
            refused,
            payload: view.payload,
            secret: fixed.role == role::SECRET,
            missing: fixed.missing,
            lost_before: fixed.lost_before,
            flags: Flags(fixed.flags),
            exchange: None,
        };
        if self.sinks.event(&event) {
            self.wrote();
        }
    }
}

/// An event of a connection, with what is known of its process.
fn about_event<'a>(about: &'a About, schema: &'a EventSchema, time_ns: u64, clock: &Clock) -> Event<'a> {
    let target = about.target.as_ref().map(|t| t.path.as_bytes());
    let runs_target = about.target.as_ref().is_some_and(|t| t.program);
    let asked = about.process.as_ref().and_then(|p| p.exe.as_deref()).map(str::as_bytes);
    let comm_len = about.comm.iter().position(|b| *b == 0).unwrap_or(about.comm.len());
    Event {
        schema,
        time_ns,
        wall_ns: clock.wall_ns(time_ns),
        pid: about.pid,
        tid: about.tid,
        uid: about.uid,
        cgroup: about.cgroup,
        comm: about.comm.get(..comm_len).unwrap_or_default(),
        exe: if runs_target { target } else { asked },
        container: about.container.as_deref(),
        target,
        stream: Some(Stream { id: about.stream, offset: None }),
        fields: &[],
        refused: 0,
        payload: &[],
        secret: false,
        missing: 0,
        lost_before: 0,
        flags: Flags::default(),
        exchange: None,
    }
}

/// The process behind an event, and the container: asks the broker about what is new, and waits a moment for the answer.
/// `runs_target`: the program is known already, and only the container may have to be asked for.
fn whose(
    who: &mut Who,
    live: bool,
    (pid, time_ns, group): (u32, u64, u64),
    runs_target: bool,
    mail: &mut Mail,
) -> (Option<Rc<Process>>, Option<Rc<str>>) {
    if !live {
        return (None, None);
    }
    let now = Instant::now();
    let group = if group > ROOT_GROUP { group } else { 0 };
    let mut of_group = who.container(group);
    if runs_target && let Some(container) = of_group {
        return (None, container);
    }
    let mut process = who.process(pid, time_ns, now);
    if process.is_none() || (group != 0 && of_group.is_none()) {
        Control::say(&FromCollector::Resolve(pid, group));
        while let Some(answer) = mail.answer(ANSWER.saturating_sub(now.elapsed())) {
            let mine = answer.pid == pid;
            who.learn(answer, now);
            if mine {
                break;
            }
        }
        if who.process(pid, time_ns, now).is_none() {
            who.learn(Process { pid, ..Process::default() }, now);
        }
        // An answer that comes later still counts; until then nobody is asked again.
        who.nothing_of(group);
        process = who.process(pid, time_ns, now);
        of_group = who.container(group);
    }
    // The group is the event's own; without one of version 2, the process's word must do.
    let container = match of_group {
        Some(container) => container,
        None => process.as_ref().and_then(|p| p.container.as_deref()).map(Rc::from),
    };
    (process, container)
}

/// `CLOCK_MONOTONIC`, ns.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
