//! Module `openssl` of ecapture (command `tls`): what programs read from and write to TLS connections made with OpenSSL
//! 1.1.1 and later, BoringSSL or AWS-LC, as plaintext.
//!
//! | file | what |
//! |---|---|
//! | `detect` | the version detector: which library a file is or has inside, and which of its functions are probed |
//! | `stripped`, `code` | where the functions are in a file without names |
//! | `record` | the kernel side's messages, read from bytes |
//! | `output` | how they are shown |
//! | `keylog` | the mode `keylog`: its detector, its messages and how they are shown |
//! | here | the module's interface: the plan, the glue |

mod code;
mod detect;
mod keylog;
mod output;
mod record;
mod stripped;

use detect::Place;
use ecapture_plugin_api::plan::{AttachKind, Attachment, Behind, WrapperArgument};
use ecapture_plugin_api::sdk::{
    Config, Configured, Decode, Detected, DetectedVersion, Error, Host, Locator, Module, Object, Out, Probe, ProbeKind,
    Record, Target,
};

/// Id of the eBPF object of the mode `text`.
const OBJECT: &str = "openssl";

/// The module.
pub struct Openssl;

impl Module for Openssl {
    type Decoder = Decoder;

    fn configure(_: &Host, config: &Config) -> Result<Configured, Error> {
        if keylog::is_mode(&config.mode) {
            return Ok(keylog::configure(&config.mode));
        }
        let object = Object { id: OBJECT.to_owned(), programs: Vec::new(), globals: Default::default() };
        let attach = |program: &str, to: &str| Attachment {
            object: OBJECT.to_owned(),
            program: program.to_owned(),
            kind: AttachKind::TpBtf,
            to: to.to_owned(),
        };
        let attachments =
            vec![attach("openssl_sent", "sock_send_length"), attach("openssl_received", "sock_recv_length")];
        // Without these there are no addresses.
        let optional = attachments.iter().map(|a| a.program.clone()).collect();
        Ok(Configured { objects: vec![object], attachments, optional, ..Configured::default() })
    }

    fn detect(_: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error> {
        if keylog::is_mode(&config.mode) {
            return Ok(keylog::detect(target.bytes()).unwrap_or_else(Detected::unsupported));
        }
        Ok(match detect::detect(target.bytes()) {
            Ok(detection) => plan(detection),
            Err(reason) => Detected::unsupported(reason),
        })
    }

    fn decoder(host: &Host, _: &Config) -> Result<Decoder, Error> {
        Ok(Decoder { host: Some(*host), ..Decoder::default() })
    }
}

fn plan(detection: detect::Detection) -> Detected {
    let version =
        DetectedVersion { product: detection.product.to_owned(), text: detection.version, how: detection.how };
    Detected {
        probes: detection.hooks.iter().map(probe).collect(),
        fallbacks: detection
            .fallbacks
            .iter()
            .map(|(group, other)| ((*group).to_owned(), (*other).to_owned()))
            .collect(),
        notes: detection.notes,
        ..Detected::supported(version)
    }
}

fn probe(hook: &detect::Hook) -> Probe {
    Probe {
        object: OBJECT.to_owned(),
        program: hook.program.to_owned(),
        kind: if hook.at_return { ProbeKind::Return } else { ProbeKind::Entry },
        at: match hook.at {
            Place::Named => Locator::Symbol(hook.symbol.to_owned()),
            Place::At(address) => Locator::FunctionAt(address),
            Place::Behind(other) => Locator::Behind(Behind {
                wrappers: vec![hook.symbol.to_owned(), other.to_owned()],
                args: 3,
                buffer: 1,
                out: Some(WrapperArgument { wrapper: other.to_owned(), argument: 3 }),
            }),
        },
        args: hook.args,
        arg: hook.call,
        required: hook.required,
        group: hook.group.map(str::to_owned),
    }
}

/// The event decoder. It remembers nothing that an event needs: each message says what it belongs to.
#[derive(Default)]
pub struct Decoder {
    host: Option<Host>,
    /// Connections whose keys were not seen.
    unseen: u64,
}

impl Decode for Decoder {
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        match record.stream() {
            keylog::stream::SECRETS => return keylog::secret(record, out),
            keylog::stream::UNSEEN => {
                keylog::not_seen(record, out)?;
                self.unseen += 1;
                if let Some(host) = self.host.filter(|_| self.unseen == 1) {
                    host.warn(format_args!(
                        "the handshake of a connection of process {} was over before the capture: what it says can't be decrypted \
                         (of others like it only the number is told, at the end)",
                        record.process()
                    ));
                }
                return Ok(());
            }
            output::ENDED => {
                let end = record::End::parse(record.data()).map_err(|why| Error::new(why.to_string()))?;
                output::end(&end, record.process(), out);
                return Ok(());
            }
            _ => {}
        }
        let data = record::Data::parse(record.data()).map_err(|why| Error::new(why.to_string()))?;
        output::emit(&data, record.process(), record.time_ns(), record.missing(), out);
        Ok(())
    }

    fn finish(&mut self, _: &mut Out<'_>) -> Result<(), Error> {
        if let Some(host) = self.host.filter(|_| self.unseen > 0) {
            host.warn(format_args!(
                "the keys of {} connections were not seen: their handshakes were over before the capture",
                self.unseen
            ));
        }
        Ok(())
    }
}

ecapture_plugin_api::export_module!(
    Openssl,
    manifest = "module.toml",
    objects = {
        "openssl" => include_bytes!(concat!(env!("OUT_DIR"), "/openssl.bpf.o")),
        "openssl_keylog" => include_bytes!(concat!(env!("OUT_DIR"), "/openssl_keylog.bpf.o")),
    },
);
