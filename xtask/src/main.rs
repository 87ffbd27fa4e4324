//! Development tasks: `cargo xtask setup | demo | test | soak | bench | dist`. Each installs what it lacks.

mod build;
mod demo;
mod dist;
mod setup;
mod test;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <task>
  setup          install what building and testing need (Debian packages)
  demo           build, start a private MariaDB, show what is captured, stop
  test [FILTER]  formatting, lints, unit tests, end-to-end tests; with FILTER only end-to-end tests whose name has it
  soak           what takes longer than `test` gives it
  bench [PART]... ratios, side by side with bpftrace, of all parts or of these; an unknown one names them
  dist           a tarball and a Debian package in target/dist, with checksums";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["setup"] => setup::run(),
        ["demo"] => demo::run(),
        ["test"] => test::run(),
        ["test", filter] => test::end_to_end_only(filter),
        ["soak"] => test::soak(),
        ["bench", parts @ ..] => test::bench(parts),
        ["dist"] => dist::run(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
