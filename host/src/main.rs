//! Entry point of every role: what this process is stands in its arguments.

use std::process::ExitCode;

use ecapture::sandbox::Role;
use ecapture::{cli, collector, scout, worker};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let code = match Role::from_args(&args) {
        None => return cli::main(),
        Some((Role::Scout, broker)) => scout::child::main(broker),
        Some((Role::Worker, broker)) => worker::main(broker),
        Some((Role::Collector, broker)) => collector::main(broker),
    };
    ExitCode::from(u8::from(code != 0))
}
