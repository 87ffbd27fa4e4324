//! The module's interface: options, the plan, and the glue between the SDK and the state machine.

use crate::decode::{Machine, Message};
use crate::detect::convention::{Convention, Hook};
use crate::detect::{self, Detection};
use crate::elf::File;
use crate::event::{Finished, Thread};
use crate::output::{self, Numbers};
use crate::session::Limits;
use ecapture_plugin_api::sdk::{
    AttachKind, Attachment, Config, Configured, Decode, Detected, DetectedVersion, Error, Hex, Host, Locator, Module,
    Object, Out, Probe, ProbeKind, Record, Target,
};

/// Id of the one eBPF object.
const OBJECT: &str = "mysql";
/// That a server is gone is the kernel's to say.
const EXIT: &str = "mysql_exit";

/// The module.
pub struct Mysql;

impl Module for Mysql {
    type Decoder = MysqlDecoder;

    fn configure(_: &Host, config: &Config) -> Result<Configured, Error> {
        if config.text("funcname").is_some_and(|name| name.trim().is_empty()) {
            return Err(Error::option("funcname", "an empty name; leave it out to let the module find the function"));
        }
        let object = Object { id: OBJECT.to_owned(), programs: Vec::new(), globals: Default::default() };
        let exit = Attachment {
            object: OBJECT.to_owned(),
            program: EXIT.to_owned(),
            kind: AttachKind::TpBtf,
            to: "sched_process_exit".to_owned(),
        };
        Ok(Configured { objects: vec![object], attachments: vec![exit], ..Configured::default() })
    }

    fn detect(_: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error> {
        Ok(answer(target.bytes(), config.text("funcname")))
    }

    fn decoder(_: &Host, config: &Config) -> Result<MysqlDecoder, Error> {
        let mut limits = Limits::default();
        if let Some(bytes) = config.int("statement_memory") {
            limits.statements.bytes = usize::try_from(bytes)
                .map_err(|_| Error::option("statement_memory", format!("{bytes} is no amount of memory")))?;
        }
        Ok(MysqlDecoder::new(&limits))
    }
}

/// What `detect` answers for these bytes.
fn answer(bytes: &[u8], funcname: Option<&str>) -> Detected {
    let file = match File::parse(bytes) {
        Ok(file) => file,
        Err(why) => return Detected::unsupported(format!("not a program that can be read: {why}")),
    };
    let found = match funcname {
        None => detect::detect(&file),
        Some(name) => detect::detect_as(&file, name),
    };
    match found {
        Ok(detection) => plan(&detection),
        Err(reason) => Detected::unsupported(reason),
    }
}

fn plan(detection: &Detection) -> Detected {
    let version = &detection.version;
    let version =
        DetectedVersion { product: version.product.to_owned(), text: version.text.clone(), how: version.how.clone() };
    let probes = detection.hooks.iter().map(|placed| probe(detection.convention, placed.hook, &placed.symbol));
    Detected {
        probes: probes.collect(),
        layout: Hex(detection.layout.to_vec()),
        notes: detection.notes.clone(),
        ..Detected::supported(version)
    }
}

fn probe(convention: &Convention, hook: &Hook, symbol: &str) -> Probe {
    Probe {
        object: OBJECT.to_owned(),
        program: hook.program.to_owned(),
        kind: if hook.at_return { ProbeKind::Return } else { ProbeKind::Entry },
        at: Locator::Symbol(symbol.to_owned()),
        args: hook.args,
        arg: hook.arg.unwrap_or(convention.number),
        required: hook.required,
        group: hook.required.then(|| "command".to_owned()),
    }
}

/// The event decoder.
pub struct MysqlDecoder {
    machine: Machine,
    numbers: Numbers,
    /// What became known from another thread's record: an event takes process and thread from its record, so these wait
    /// for the next tick, where an event has none and says itself where it ran.
    elsewhere: Vec<Finished>,
}

/// A tick comes every 100 ms; more than this in between is a storm of lost records, in which memory matters more than
/// where the event is shown to have come from.
const MOST_WAITING: usize = 4096;

impl MysqlDecoder {
    /// With these bounds.
    pub fn new(limits: &Limits) -> Self {
        Self { machine: Machine::new(limits), numbers: Numbers::new(), elsewhere: Vec::new() }
    }

    fn flush(&mut self, out: &mut Out<'_>) {
        for finished in self.elsewhere.drain(..) {
            output::emit(&self.numbers, &finished, None, out);
        }
    }
}

impl Decode for MysqlDecoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        let thread = Thread { process: record.process(), thread: record.thread() };
        let message = Message {
            stream: record.stream(),
            target: record.target(),
            thread,
            time_ns: record.time_ns(),
            lost_before: record.lost_before(),
            restarted: record.is_restart(),
            missing: record.missing(),
            data: record.data(),
        };
        let Self { machine, numbers, elsewhere } = self;
        let mut finished = |finished: Finished| {
            if finished.thread == thread || elsewhere.len() >= MOST_WAITING {
                output::emit(numbers, &finished, Some(thread), out);
            } else {
                elsewhere.push(finished);
            }
        };
        machine.message(&message, &mut finished).map_err(|error| Error::new(error.to_string()))
    }

    fn tick(&mut self, _: u64, out: &mut Out<'_>) -> Result<(), Error> {
        self.flush(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        self.flush(out);
        let Self { machine, numbers, .. } = self;
        machine.finish(&mut |finished: Finished| output::emit(numbers, &finished, None, out));
        Ok(())
    }
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
