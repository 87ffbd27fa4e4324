//! Jump tables of a function: the addresses that its `switch` statements can reach.
//!
//! Compilers write tables of 32-bit distances from the table's own address. Tables of absolute addresses need no
//! reader of their own: [`sweep`](super::sweep) takes every data word that is a code address for a jump target.

use super::image::{Function, Image};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

const MAX_ENTRIES_OF_TABLE: u64 = 4096;
const MAX_ENTRIES: usize = 1 << 20;

/// Every address in a table of `function`; an error when it has a table jump whose table was not found (then its
/// jumps are unknown and nothing about its flow is proven).
pub(super) fn jump_tables(image: &Image<'_>, function: &Function) -> Result<Vec<u64>, String> {
    let code = image.code(function);
    if !image.work(code.len() as u64) {
        return Err("the work allowed for one file is used up".to_owned());
    }
    let (mut bases, mut jump, mut last_add) = (Vec::new(), None, 0);
    let mut decoder = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        match instruction.code() {
            Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
                bases.push(instruction.ip_rel_memory_address());
            }
            Code::Add_r64_rm64 | Code::Add_rm64_r64 => last_add = instruction.ip(),
            _ => {}
        }
        // Without an addition just before, a jump through a register is a tail call.
        if instruction.flow_control() == FlowControl::IndirectBranch
            && instruction.op0_kind() == OpKind::Register
            && instruction.ip() - last_add < 16
        {
            jump.get_or_insert(instruction.ip());
        }
    }
    let Some(jump) = jump else { return Ok(Vec::new()) };
    bases.sort_unstable();
    bases.dedup();
    // Old linkers put read-only data into the code segment, but never inside a function.
    bases.retain(|base| !image.is_code(*base) || image.enclosing(*base).is_none());
    let mut reached = Vec::new();
    for base in bases {
        for number in 0..MAX_ENTRIES_OF_TABLE {
            let Some(distance) = image.u32(base.wrapping_add(4 * number)) else { break };
            let target = base.wrapping_add_signed(i64::from(distance.cast_signed()));
            if !image.is_code(target) {
                break;
            }
            reached.push(target);
        }
        if reached.len() > MAX_ENTRIES {
            return Err("too many jump tables".to_owned());
        }
    }
    if !reached.iter().any(|target| function.contains(*target) && *target != function.start) {
        return Err(format!("the table of the jump at {jump:#x} was not found"));
    }
    Ok(reached)
}
