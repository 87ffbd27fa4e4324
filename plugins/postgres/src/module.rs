//! The module's interface: options, the plan, and the glue between the SDK and the state machine.

use crate::detect::{self, HOOKS, Hook, PARTS, WHOLE};
use crate::event::Finished;
use crate::machine::{Machine, Message};
use crate::output;
use ecapture_plugin_api::sdk::{
    AttachKind, Attachment, Config, Configured, Decode, Detected, DetectedVersion, Error, Host, Locator, Module,
    Object, Out, Probe, ProbeKind, Record, Target,
};

/// Id of the one eBPF object.
const OBJECT: &str = "postgres";
/// How a backend ends is the kernel's to say.
const EXIT: &str = "pg_exit";

/// The module.
pub struct Postgres;

fn nested(config: &Config) -> bool {
    config.bool("nested")
}

impl Module for Postgres {
    type Decoder = PostgresDecoder;

    fn configure(_: &Host, config: &Config) -> Result<Configured, Error> {
        let nested = nested(config);
        let mut programs: Vec<String> = Vec::new();
        for hook in HOOKS.iter().filter(|hook| nested || !hook.nested()) {
            programs.push(hook.program.to_owned());
            if hook.kind == ProbeKind::Return {
                programs.push(format!("{}__exit", hook.program));
            }
        }
        programs.push(EXIT.to_owned());
        let object = Object { id: OBJECT.to_owned(), programs, globals: Default::default() };
        let exit = Attachment {
            object: OBJECT.to_owned(),
            program: EXIT.to_owned(),
            kind: AttachKind::TpBtf,
            to: "sched_process_exit".to_owned(),
        };
        Ok(Configured { objects: vec![object], attachments: vec![exit], ..Configured::default() })
    }

    fn detect(_: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error> {
        Ok(answer(target.bytes(), nested(config)))
    }

    fn decoder(_: &Host, config: &Config) -> Result<PostgresDecoder, Error> {
        let mut memory = 128 << 20;
        if let Some(bytes) = config.int("statement_memory") {
            memory = usize::try_from(bytes)
                .map_err(|_| Error::option("statement_memory", format!("{bytes} is no amount of memory")))?;
        }
        Ok(PostgresDecoder { machine: Machine::new(memory) })
    }
}

/// What `detect` answers for these bytes.
fn answer(bytes: &[u8], nested: bool) -> Detected {
    let detection = match detect::detect(bytes, nested) {
        Ok(detection) => detection,
        Err(reason) => return Detected::unsupported(reason),
    };
    let version = DetectedVersion { product: "PostgreSQL".to_owned(), text: detection.version, how: detection.how };
    let probes = HOOKS.iter().filter(|hook| nested || !hook.nested()).map(probe);
    let fallbacks = [(PARTS.to_owned(), WHOLE.to_owned())].into();
    Detected { probes: probes.collect(), fallbacks, ..Detected::supported(version) }
}

fn probe(hook: &Hook) -> Probe {
    Probe {
        object: OBJECT.to_owned(),
        program: hook.program.to_owned(),
        kind: hook.kind,
        at: Locator::Symbol(hook.symbol.to_owned()),
        args: hook.args,
        arg: 0,
        required: hook.group != Some(WHOLE),
        group: hook.group.map(str::to_owned),
    }
}

/// The event decoder.
pub struct PostgresDecoder {
    machine: Machine,
}

impl Decode for PostgresDecoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        let process = record.process();
        let message = Message {
            stream: record.stream(),
            process,
            time_ns: record.time_ns(),
            restarted: record.is_restart(),
            data: record.data(),
        };
        let mut finished = |finished: Finished| output::emit(&finished, Some(process), out);
        self.machine.message(&message, &mut finished).map_err(|error| Error::new(error.to_string()))
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        self.machine.finish(&mut |finished: Finished| output::emit(&finished, None, out));
        Ok(())
    }
}
