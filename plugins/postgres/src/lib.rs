//! Module `postgres` of ecapture: the statements that clients send to PostgreSQL servers, with parameters, outcome, rows,
//! errors and duration.
//!
//! | file | what |
//! |---|---|
//! | `detect` | what the bytes of a server binary say |
//! | `record` | the kernel side's messages, read from bytes |
//! | `asked` | the client's side of the protocol: messages, out of pieces of the stream |
//! | `told` | what the server's messages say: command tags, errors |
//! | `parameters`, `numbers` | values bound to a statement, as the server would write them |
//! | `machine`, `session`, `answer` | the state machine: what was asked, matched with what was told |
//! | `event`, `output` | what became of one statement, and how it is shown |
//! | `module` | the module's interface: options, the plan, the glue |

mod answer;
mod asked;
mod detect;
mod event;
mod machine;
mod module;
mod numbers;
mod output;
mod parameters;
mod record;
mod session;
mod told;

pub use module::{Postgres, PostgresDecoder};

ecapture_plugin_api::export_module!(
    Postgres,
    manifest = "module.toml",
    objects = { "postgres" => include_bytes!(concat!(env!("OUT_DIR"), "/postgres.bpf.o")) },
);
