//! The module's interface: the plan, and the glue between the SDK and the state machine.

use crate::decode::{Input, Machine};
use crate::detect::{self, Detection, Hook};
use crate::open::Limits;
use crate::output;
use ecapture_plugin_api::sdk::{
    AttachKind, Attachment, Config, Configured, Decode, Detected, DetectedVersion, Error, Hex, Host, Locator, Module,
    Object, Out, Probe, ProbeKind, Record, Target,
};

/// Id of the one eBPF object.
const OBJECT: &str = "zsh";

/// Programs that belong to no file: how a process ends, and what it becomes, is the kernel's to say.
const ATTACHMENTS: [(&str, &str); 2] = [("zsh_exec", "sched_process_exec"), ("zsh_exit", "sched_process_exit")];

/// The module.
pub struct Zsh;

impl Module for Zsh {
    type Decoder = ZshDecoder;

    fn configure(_: &Host, _: &Config) -> Result<Configured, Error> {
        let object = Object { id: OBJECT.to_owned(), programs: Vec::new(), globals: Default::default() };
        let attachments = ATTACHMENTS.map(|(program, to)| Attachment {
            object: OBJECT.to_owned(),
            program: program.to_owned(),
            kind: AttachKind::TpBtf,
            to: to.to_owned(),
        });
        Ok(Configured { objects: vec![object], attachments: attachments.into(), ..Configured::default() })
    }

    fn detect(_: &Host, target: &Target<'_>, _: &Config) -> Result<Detected, Error> {
        Ok(answer(target.bytes()))
    }

    fn decoder(_: &Host, _: &Config) -> Result<ZshDecoder, Error> {
        Ok(ZshDecoder { machine: Machine::new(Limits::default()) })
    }
}

/// What `detect` answers for these bytes.
fn answer(bytes: &[u8]) -> Detected {
    match detect::detect(bytes) {
        Ok(detection) => plan(&detection),
        Err(reason) => Detected::unsupported(reason),
    }
}

fn plan(detection: &Detection) -> Detected {
    let version =
        DetectedVersion { product: "zsh".to_owned(), text: detection.version.clone(), how: detection.how.clone() };
    Detected {
        probes: detection.hooks.iter().map(probe).collect(),
        layout: Hex(detection.layout.clone()),
        notes: detection.notes.clone(),
        ..Detected::supported(version)
    }
}

fn probe(hook: &Hook) -> Probe {
    Probe {
        object: OBJECT.to_owned(),
        program: hook.program.to_owned(),
        kind: ProbeKind::Entry,
        at: Locator::Symbol(hook.symbol.to_owned()),
        args: hook.args,
        arg: 0,
        required: hook.required,
        group: hook.required.then(|| "command".to_owned()),
    }
}

/// The event decoder.
pub struct ZshDecoder {
    machine: Machine,
}

impl Decode for ZshDecoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        let input = Input {
            stream: record.stream(),
            process: record.process(),
            time_ns: record.time_ns(),
            lost: record.lost_before() > 0 || record.is_restart(),
            data: record.data(),
        };
        let done = self.machine.message(&input, &mut |event| output::emit(&event, out));
        done.map_err(|error| Error::new(error.to_string()))
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        self.machine.finish(&mut |event| output::emit(&event, out));
        Ok(())
    }
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
