//! All paths through a small function: which calls it makes, and what of its own arguments each of them is given.
//!
//! Bounded, and careless about nothing: where paths can't be followed the function is given up, with the reason.

use super::image::{Function, Image};
use super::instruction::decode;
use super::stubs::{Destination, destination, is_stub, slot_of};
use super::values::{FRAME, State, Uses, Value, step};
use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpKind};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// What following one instruction on one path costs, in decoded bytes.
const STEP_WORK: u64 = 4096;

/// Who is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callee {
    /// This function of this file, or one of the same name in a file that is loaded earlier.
    Own(u64),
    /// A function of another file.
    Other,
    /// Not in sight.
    Unknown,
}

/// A call, or a jump out of the function as its last act.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) at: u64,
    pub(super) callee: Callee,
    /// What the argument registers hold.
    pub(super) args: [Value; 6],
    /// A jump: the callee returns to the caller.
    pub(super) last: bool,
    /// Arguments that the callee could also find elsewhere: on the stack, through an address in the frame.
    pub(super) hidden: u8,
    /// Those of them that are nowhere but where its seventh and later arguments would be.
    pub(super) stacked: u8,
}

/// A function whose paths have all been followed.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) sites: Vec<Site>,
    pub(super) uses: Uses,
    next: BTreeMap<u64, Vec<u64>>,
}

impl Body {
    /// Whether a call of `callee` may be followed by another one on some path.
    pub(super) fn calls_again(&self, callee: u64) -> bool {
        let of_callee = |s: &&Site| s.callee == Callee::Own(callee);
        let sites: BTreeSet<u64> = self.sites.iter().filter(of_callee).map(|s| s.at).collect();
        let behind = |at: &u64| self.next.get(at).into_iter().flatten().copied();
        let mut todo: Vec<u64> = sites.iter().flat_map(behind).collect();
        let mut seen = BTreeSet::new();
        while let Some(at) = todo.pop() {
            if sites.contains(&at) {
                return true;
            }
            if seen.insert(at) {
                todo.extend(behind(&at));
            }
        }
        false
    }
}

/// Follows all paths from the function's start. `steps` is what is left of the work allowed for the whole question.
pub(super) fn follow(image: &Image<'_>, function: &Function, steps: &Cell<u32>) -> Result<Body, String> {
    follow_states(image, function, steps).map(|(body, _)| body)
}

/// What is known before each instruction, whichever path led to it.
pub(super) type States = BTreeMap<u64, State>;

/// The same, with the states.
pub(super) fn follow_states(
    image: &Image<'_>,
    function: &Function,
    steps: &Cell<u32>,
) -> Result<(Body, States), String> {
    if !function.proven_end {
        return Err("the function's end is not known".to_owned());
    }
    let mut body = Body::default();
    let mut before = States::new();
    let mut sites: BTreeMap<u64, (Instruction, bool)> = BTreeMap::new();
    let mut infos = InstructionInfoFactory::new();
    let mut todo = vec![(function.start, State::at_entry())];
    while let Some((va, state)) = todo.pop() {
        let merged = match before.get(&va) {
            Some(known) => known.merge(&state),
            None => state,
        };
        if before.get(&va) == Some(&merged) {
            continue;
        }
        if merged.lost {
            return Err("it keeps more in its frame than is followed".to_owned());
        }
        let left = steps.get().checked_sub(1).filter(|_| image.work(STEP_WORK));
        steps.set(left.ok_or("following it takes more work than is allowed")?);
        let bytes = if image.is_code(va) { image.bytes(va, 15) } else { &[] };
        let instruction = decode(bytes, va).ok_or_else(|| format!("no instruction at {va:#x}"))?;
        let part = if function.contains(va) { Some(*function) } else { image.enclosing(va) };
        let part = part.ok_or_else(|| format!("nothing tells the bounds of the code at {va:#x}"))?;

        let mut next = Vec::new();
        let leaves = leaves(function, &instruction, &merged);
        let after = match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => merged.after_call(),
            FlowControl::Return => merged.clone(),
            _ => step(&mut infos, &instruction, &merged, &mut body.uses),
        };
        match instruction.flow_control() {
            FlowControl::Next => next.push(instruction.next_ip()),
            FlowControl::Call | FlowControl::IndirectCall => {
                sites.insert(va, (instruction, false));
                // Nothing of the function behind it: the callee does not come back.
                if part.contains(instruction.next_ip()) {
                    next.push(instruction.next_ip());
                }
            }
            flow @ (FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) => {
                if leaves {
                    sites.insert(va, (instruction, true));
                } else if instruction.op0_kind() == OpKind::NearBranch64 && merged.sp.is_some() {
                    next.push(instruction.near_branch_target());
                } else {
                    return Err(format!("it is not clear where the jump at {va:#x} leads"));
                }
                if flow == FlowControl::ConditionalBranch {
                    next.push(instruction.next_ip());
                }
            }
            FlowControl::Return | FlowControl::Exception => {}
            // Indirect jumps, interrupts, transactions.
            _ => drop(sites.insert(va, (instruction, true))),
        }
        if let Some(out) = next.iter().find(|to| **to == instruction.next_ip() && !part.contains(**to)) {
            return Err(format!("it runs into what follows at {out:#x}"));
        }
        todo.extend(next.iter().map(|to| (*to, after.clone())));
        body.next.insert(va, next);
        before.insert(va, merged);
    }
    for (at, (instruction, last)) in sites {
        let Some(state) = before.get(&at) else { continue };
        body.sites.push(site(image, &instruction, state, last));
    }
    Ok((body, before))
}

/// A jump to another function, with the stack as the caller left it. With anything else on the stack it leads to a part
/// of the same function that the compiler has moved away.
fn leaves(function: &Function, instruction: &Instruction, state: &State) -> bool {
    instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::NearBranch64
        && !function.contains(instruction.near_branch_target())
        && state.sp == Some(0)
}

fn site(image: &Image<'_>, instruction: &Instruction, state: &State, last: bool) -> Site {
    let args = state.arguments();
    let shares_frame = state.escaped || args.iter().any(|value| value.may() & FRAME != 0);
    let spilled = if shares_frame { state.spilled() } else { 0 };
    let hidden = if last { state.loose() | spilled } else { state.stacked() | spilled };
    let stacked = if last { 0 } else { state.stacked() & !spilled };
    Site { at: instruction.ip(), callee: callee(image, instruction), args, last, hidden, stacked }
}

fn callee(image: &Image<'_>, instruction: &Instruction) -> Callee {
    let direct = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
    let slot = if direct {
        let va = instruction.near_branch_target();
        if !is_stub(image, va) {
            return if image.is_code(va) { Callee::Own(va) } else { Callee::Unknown };
        }
        slot_of(image, va)
    } else {
        instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address())
    };
    match slot.and_then(|slot| destination(image, slot)) {
        Some(Destination::Own(va)) => Callee::Own(va),
        Some(Destination::Other) => Callee::Other,
        None => Callee::Unknown,
    }
}
