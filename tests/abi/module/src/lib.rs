//! A module that uses what the interface has: every type of column, text that comes in chunks, options, a payload, records
//! that it cannot decode, events at the end.

use ecapture_plugin_api::plan::{
    Config, Configured, Detected, DetectedVersion, Locator, Object, Probe, ProbeKind,
};
use ecapture_plugin_api::sdk::{Decode, Error, Host, Module, Out, Record, Target};

/// The module.
pub struct Steady;

impl Module for Steady {
    type Decoder = Decoder;

    fn configure(_: &Host, _: &Config) -> Result<Configured, Error> {
        let object = Object { id: "steady".into(), programs: Vec::new(), globals: Default::default() };
        Ok(Configured { objects: vec![object], ..Configured::default() })
    }

    fn detect(host: &Host, target: &Target<'_>, _: &Config) -> Result<Detected, Error> {
        host.info(format_args!("looks at {}", target.file_name()));
        let probe = Probe {
            object: "steady".into(),
            program: "steady_said".into(),
            kind: ProbeKind::Entry,
            at: Locator::Symbol("steady_say".into()),
            args: 3,
            arg: 0,
            required: true,
            group: None,
        };
        let version = DetectedVersion { product: "steady".into(), text: "1".into(), how: "by its name".into() };
        Ok(Detected { probes: vec![probe], ..Detected::supported(version) })
    }

    fn decoder(_: &Host, config: &Config) -> Result<Decoder, Error> {
        Ok(Decoder { loud: config.bool("loud"), count: 0 })
    }
}

/// The decoder.
pub struct Decoder {
    loud: bool,
    count: u64,
}

impl Decode for Decoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        let (number, text) = record.data().split_first_chunk().ok_or_else(|| Error::new("too short"))?;
        let number = i64::from_le_bytes(*number);
        self.count += 1;
        if number == 13 {
            return Err(Error::new("13 is not decoded"));
        }
        let loud = text.to_ascii_uppercase();
        let text = if self.loud { &loud } else { text };
        out.event(0)
            .text(0, text)
            .bytes(1, text.get(..8).unwrap_or(text))
            .u64(2, text.len() as u64)
            .i64(3, number)
            .bool(4, number % 2 == 0)
            .f64(5, number as f64 / 2.0)
            .u64(6, number.unsigned_abs() * 1000)
            .u64(7, number.cast_unsigned())
            .payload(text.get(..3).unwrap_or_default())
            .emit();
        Ok(())
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        out.event(1).u64(0, self.count).emit();
        Ok(())
    }
}

ecapture_plugin_api::export_module!(
    Steady,
    manifest = "module.toml",
    objects = { "steady" => include_bytes!(concat!(env!("OUT_DIR"), "/steady.bpf.o")) },
);
