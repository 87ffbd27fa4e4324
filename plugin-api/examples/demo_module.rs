//! The shortest whole module: it shows records as text, and misbehaves on request so that tests can watch.

use ecapture_plugin_api::sdk::{Config, Configured, Decode, Detected, Error, Host, Module, Out, Record, Target};

struct Demo;

impl Module for Demo {
    type Decoder = Show;

    fn configure(_: &Host, config: &Config) -> Result<Configured, Error> {
        match config.mode.as_str() {
            "panic" => panic!("configure was told to"),
            "refuse" => Err(Error::option("shout", "needs --mode text")),
            _ => Ok(Configured::default()),
        }
    }

    fn detect(host: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error> {
        assert!(config.mode != "panic", "detect was told to");
        host.info(format_args!("{} has {} bytes", target.file_name(), target.bytes().len()));
        Ok(Detected::unsupported("the demonstration captures from nothing"))
    }

    fn decoder(_: &Host, config: &Config) -> Result<Show, Error> {
        if config.mode == "panic" {
            // A payload of its own type, whose drop panics too: the worst that a panic can bring.
            std::panic::panic_any(Bomb);
        }
        Ok(Show { shout: config.bool("shout"), seen: 0, _bomb: (config.mode == "drop").then(|| Bomb) })
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the drop was told to");
    }
}

struct Show {
    shout: bool,
    seen: u64,
    _bomb: Option<Bomb>,
}

impl Decode for Show {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        self.seen += 1;
        match record.data() {
            [] => Err(Error::new("an empty record")),
            b"panic" => panic!("decode was told to"),
            text if self.shout => {
                let loud = text.to_ascii_uppercase();
                out.event(0).text(0, &loud).u64(1, self.seen).emit();
                Ok(())
            }
            text => {
                out.event(0).text(0, text).u64(1, self.seen).emit();
                Ok(())
            }
        }
    }

    fn tick(&mut self, now_ns: u64, _: &mut Out<'_>) -> Result<(), Error> {
        assert!(now_ns != 0, "tick was told to");
        Ok(())
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        out.event(1).u64(0, self.seen).emit();
        Ok(())
    }
}

const MANIFEST: &str = r#"schema = 1

[module]
name = "demo_module"
version = "1.0.0"
title = "Shows records"
license = "Apache-2.0"
api = "1.0"

[[bpf]]
id = "demo"

[[config]]
name = "shout"
type = "bool"
help = "Shows them louder"

[[stream]]
name = "records"

[[event]]
name = "record"
text = "{demo.seen} {demo.text}"

[[event.column]]
name = "demo.text"
type = "text"
help = "The record"

[[event.column]]
name = "demo.seen"
type = "u64"
help = "Its number"

[[event]]
name = "end"

[[event.column]]
name = "demo.seen"
type = "u64"
help = "How many there were"
"#;

ecapture_plugin_api::export_module!(
    Demo,
    manifest_text = MANIFEST,
    objects = { "demo" => b"not an eBPF object" },
);
