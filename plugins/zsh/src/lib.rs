//! Module `zsh` of ecapture: what zsh is given to run, with its text, status and duration.
//!
//! | file | what |
//! |---|---|
//! | `detect` | the version detector: what the bytes of a shell say |
//! | `record` | the kernel side's messages, read from bytes |
//! | `text`, `text/*` | from the code that zsh runs back to text |
//! | `decode`, `open` | the state machine: messages to programs that have run |
//! | `output` | such a program, and how it is shown |
//! | `module` | the module's interface: the plan, the glue |

mod decode;
mod detect;
mod module;
mod open;
mod output;
mod record;
mod text;

pub use module::{Zsh, ZshDecoder};

ecapture_plugin_api::export_module!(
    Zsh,
    manifest = "module.toml",
    objects = { "zsh" => include_bytes!(concat!(env!("OUT_DIR"), "/zsh.bpf.o")) },
);
