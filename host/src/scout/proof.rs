//! The last word on every offset that leaves the scout, independent of how it was chosen.
//!
//! The kernel takes offsets inside instructions and outside code, and the target then computes wrong results. So no
//! offset is answered that did not pass here: in an executable segment and in the file, on an instruction that straight
//! decoding from its function's first instruction meets, and not one that a breakpoint harms.

use super::image::{Function, Image};
use super::instruction::{Class, class, decode, text};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use thiserror::Error;

/// Why an address may not be probed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum NotProven {
    #[error("{0:#x} is not in an executable segment of the file")]
    NotCode(u64),
    #[error("{0:#x} is in a writable segment, in which the kernel arms no probes")]
    WritableCode(u64),
    #[error("{va:#x} is outside the function at {start:#x}")]
    Outside { va: u64, start: u64 },
    #[error("nothing tells where the function at {0:#x} ends, so nothing behind its first instruction is proven")]
    EndUnknown(u64),
    #[error("{va:#x} is inside the instruction `{instruction}` at {at:#x}")]
    InsideInstruction { va: u64, at: u64, instruction: String },
    #[error("the bytes at {0:#x} are no instruction")]
    NotAnInstruction(u64),
    #[error("a jump at {from:#x} leads into the middle of `{instruction}`, so the instruction bounds are doubtful")]
    JumpInside { from: u64, instruction: String },
    #[error("`{instruction}` must never be probed: {reason}")]
    Forbidden { instruction: String, reason: &'static str },
    #[error("the work allowed for one file is used up")]
    WorkUsedUp,
}

/// An address that may be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) va: u64,
    pub(super) offset: u64,
    pub(super) emulated: bool,
    pub(super) instruction: String,
}

/// Proves `va`, an instruction of `function`.
pub(super) fn prove(image: &Image<'_>, function: &Function, va: u64) -> Result<Proven, NotProven> {
    let segment = image.segment(va).filter(|s| s.executable).ok_or(NotProven::NotCode(va))?;
    if segment.writable {
        return Err(NotProven::WritableCode(va));
    }
    if !function.contains(va) {
        return Err(NotProven::Outside { va, start: function.start });
    }
    if va != function.start && !function.proven_end {
        return Err(NotProven::EndUnknown(function.start));
    }
    // A function that the unwind table does not know may lie in one that it knows: an extra entry of hand-written
    // assembly, or a wrong symbol. Only the former is on an instruction.
    if let Some(outer) = image.enclosing(function.start).filter(|outer| outer.start != function.start) {
        instruction_at(image, &outer, function.start)?;
    }
    let instruction = instruction_at(image, function, va)?;
    let bytes = image.bytes(va, instruction.len() as u64);
    let words = text(&instruction);
    let emulated = match class(bytes, &instruction) {
        Class::Emulated => true,
        Class::Stepped => false,
        Class::Forbidden(reason) => return Err(NotProven::Forbidden { instruction: words, reason }),
    };
    let offset = image.file_offset(va).ok_or(NotProven::NotCode(va))?;
    Ok(Proven { va, offset, emulated, instruction: words })
}

/// Decodes from the function's start to `va`. When that is not the first instruction, the rest of the function is read
/// too: a direct jump into the middle of the instruction shows that decoding went astray.
fn instruction_at(image: &Image<'_>, function: &Function, va: u64) -> Result<Instruction, NotProven> {
    let code = image.code(function);
    let whole = va != function.start;
    if whole && !image.work(code.len() as u64) {
        return Err(NotProven::WorkUsedUp);
    }
    let mut decoder = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE);
    let mut current = Instruction::default();
    let mut met: Option<Instruction> = None;
    let bytes = image.bytes(va, 15);
    let inside = va + 1..va + decode(bytes, va).map_or(1, |i| i.len() as u64);
    let mut jump = None;
    while decoder.can_decode() {
        decoder.decode_out(&mut current);
        if met.is_none() {
            if current.is_invalid() {
                return Err(NotProven::NotAnInstruction(current.ip()));
            }
            if current.ip() == va {
                met = Some(current);
                if !whole {
                    break;
                }
            } else if current.next_ip() > va {
                return Err(NotProven::InsideInstruction { va, at: current.ip(), instruction: text(&current) });
            }
        }
        if inside.contains(&current.near_branch_target()) {
            jump.get_or_insert(current.ip());
        }
    }
    let met = met.ok_or(NotProven::Outside { va, start: function.start })?;
    match jump {
        Some(from) => Err(NotProven::JumpInside { from, instruction: text(&met) }),
        None => Ok(met),
    }
}
