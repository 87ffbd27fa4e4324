//! Module `bash` of ecapture: the simple commands that bash runs, with source text, arguments and status, and the lines
//! that are typed at it.
//!
//! | file | what |
//! |---|---|
//! | `detect` | the version detector: what the bytes of a shell, or of libreadline, say |
//! | `record` | the kernel side's messages, read from bytes |
//! | `decode`, `open` | the state machine: messages to commands that are over |
//! | `output` | such a command, and how it is shown |
//! | `module` | the module's interface: the plan, the glue |

mod decode;
mod detect;
mod module;
mod open;
mod output;
mod record;

pub use module::{Bash, BashDecoder};

ecapture_plugin_api::export_module!(
    Bash,
    manifest = "module.toml",
    objects = { "bash" => include_bytes!(concat!(env!("OUT_DIR"), "/bash.bpf.o")) },
);
