//! The boundary, tried from inside: children of this very program enter it as scout, worker and collector and then
//! attack.
//!
//! No harness, since a child is an exec of `/proc/self/exe` from the main thread: with a child's arguments `main` is
//! that child, else it runs the checks one by one. What needs root is a named skip for others. With an argument, only
//! checks whose name contains it run.
#![expect(unsafe_code, reason = "attacks are raw system calls")]
#![expect(clippy::disallowed_methods, reason = "attacks are raw system calls")]

#[path = "sandbox/attacks.rs"]
mod attacks;
#[path = "sandbox/boundary.rs"]
mod boundary;
#[path = "sandbox/checks.rs"]
mod checks;
#[path = "sandbox/driver.rs"]
mod driver;
#[path = "sandbox/inside.rs"]
mod inside;

use std::process::ExitCode;

use ecapture::sandbox::Role;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some((role, broker)) = Role::from_args(&args) {
        return inside::main(role, broker);
    }
    let words: Vec<String> = args.iter().skip(1).filter_map(|a| a.to_str().map(str::to_owned)).collect();
    checks::main(&words)
}
