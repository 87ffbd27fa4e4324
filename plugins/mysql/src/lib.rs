//! Module `mysql` of ecapture: the statements that clients send to MariaDB and MySQL servers, with outcome, rows,
//! errors and duration.
//!
//! | file | what |
//! |---|---|
//! | `detect`, `detect/*` | the version detector: what the bytes of a server binary say |
//! | `record` | the kernel side's messages, read from bytes |
//! | `decode`, `flight`, `session`, `namespace` | the state machine: messages to commands that are over |
//! | `parameters`, `parameters/*` | what prepared statements are executed with |
//! | `event`, `output` | such a command, and how it is shown |
//! | here | the module's interface: options, the plan, the glue |

mod command;
mod decode;
mod detect;
mod elf;
mod event;
mod flight;
#[cfg(test)]
mod made;
mod module;
mod namespace;
mod output;
mod parameters;
mod record;
mod session;

pub use module::{Mysql, MysqlDecoder};

ecapture_plugin_api::export_module!(
    Mysql,
    manifest = "module.toml",
    objects = { "mysql" => include_bytes!(concat!(env!("OUT_DIR"), "/mysql.bpf.o")) },
);
