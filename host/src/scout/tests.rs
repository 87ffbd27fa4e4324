//! Tests of the analysis as a whole, on files built byte by byte, on damaged files and on real ones.

mod builder;
mod fields;
mod hostile;
mod kept;
mod points;
mod real;
mod refusals;
mod wrappers;

use super::analyse;
use super::plan::{Locator, Placed, ProbeWanted, ScoutAnswer, ScoutRequest, WantedKind};

fn probe(kind: WantedKind, at: Locator, args: u8) -> ProbeWanted {
    ProbeWanted { index: 0, kind, at, args, exit_ok: false }
}

fn symbol(name: &str) -> Locator {
    Locator::Symbol(name.to_owned())
}

fn ask(file: &[u8], probe: ProbeWanted) -> ScoutAnswer {
    analyse(file, &ScoutRequest { probes: vec![probe] })
}

/// The only probe's points; fails the test when it was not placed.
fn placed(file: &[u8], probe: ProbeWanted) -> Placed {
    let answer = ask(file, probe);
    match <[Placed; 1]>::try_from(answer.placed) {
        Ok([placed]) => placed,
        Err(_) => panic!("not placed: {:?} {:?}", answer.refused, answer.failed),
    }
}

/// Why the only probe was not placed; fails the test when it was.
fn failure(file: &[u8], probe: ProbeWanted) -> String {
    let answer = ask(file, probe);
    assert!(answer.placed.is_empty(), "placed: {:?}", answer.placed);
    answer.failed.into_iter().map(|f| f.why).next().expect("a reason")
}
