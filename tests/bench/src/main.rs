//! The benchmarks: `cargo xtask bench`; this program with the name of a part runs that one. What is measured and why is in
//! docs/benchmarks.md.
//!
//! Every comparison is made of rounds in which all contenders take their turn, so that what the machine does meanwhile hits
//! them alike; a result is the median of the rounds with the range in brackets. Nothing here fails for being slow: it prints.

mod abi;
mod digest;
mod handshakes;
mod http;
mod list;
mod memory;
mod packets;
mod peer;
mod postgres;
mod pump;
mod replay;
mod start;
mod statements;
mod stats;
mod tls;

use ecapture_tests::needs;

fn main() {
    if let Some(reason) = needs::capture() {
        eprintln!("bench: {reason}");
        std::process::exit(1);
    }
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let parts: &[(&str, fn())] = &[
        ("abi", abi::run),
        ("pump", pump::run),
        ("peer", pump::beside_bpftrace),
        ("statements", statements::run),
        ("digest", digest::run),
        ("postgres", postgres::run),
        ("tls", tls::run),
        ("http", http::run),
        ("http-replay", http::replay),
        ("start", start::run),
        ("list", list::run),
        ("replay", replay::run),
        ("packets", packets::run),
        ("handshakes", handshakes::run),
    ];
    if let Some(unknown) = asked.iter().find(|a| !parts.iter().any(|(name, _)| name == a)) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        eprintln!("bench: no part {unknown:?}; there are {}", names.join(", "));
        std::process::exit(2);
    }
    println!("{} processors", std::thread::available_parallelism().map_or(0, usize::from));
    for (name, run) in parts {
        if asked.is_empty() || asked.iter().any(|a| a == *name) {
            println!("\n== {name} ==");
            run();
        }
    }
}
