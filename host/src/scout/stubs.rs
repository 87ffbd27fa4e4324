//! Stubs of the procedure linkage table, and the slots that they jump through: where a call by way of one leads, as far
//! as this file tells.

use super::elf::{u16_at, u64_at};
use super::image::Image;
use super::instruction::decode;
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

const RELOCATION: usize = 24;
const SYMBOL: u64 = 24;
const R_GLOB_DAT: u64 = 6;
const R_JUMP_SLOT: u64 = 7;
const STT_FUNC: u8 = 2;

/// Where a slot leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// A function of this file, unless another file that is loaded earlier has one of the same name.
    Own(u64),
    /// A function of another file.
    Other,
}

/// Stubs lead to other files, or to where another file may lead them.
pub(super) fn is_stub(image: &Image<'_>, va: u64) -> bool {
    decode(image.bytes(va, 15), va).is_none() || jump(image, va).is_some()
}

/// The jump that the code at `va` begins with, if it is one through memory.
fn jump(image: &Image<'_>, va: u64) -> Option<Instruction> {
    let first = decode(image.bytes(va, 15), va)?;
    let jump = match first.mnemonic() {
        Mnemonic::Endbr64 => decode(image.bytes(first.next_ip(), 15), first.next_ip())?,
        _ => first,
    };
    (jump.flow_control() == FlowControl::IndirectBranch && jump.op0_kind() == OpKind::Memory).then_some(jump)
}

/// The slot of the stub at `va`.
pub(super) fn slot_of(image: &Image<'_>, va: u64) -> Option<u64> {
    jump(image, va).filter(Instruction::is_ip_rel_memory_operand).map(|jump| jump.ip_rel_memory_address())
}

/// Where the loader makes a slot lead; nothing when that is not to be seen in the relocations.
pub(super) fn destination(image: &Image<'_>, slot: u64) -> Option<Destination> {
    let tables = [image.headers.slot_relocations, image.headers.relocations];
    for (va, len) in tables.into_iter().flatten() {
        let entries = image.bytes(va, len).as_chunks::<RELOCATION>().0;
        if !image.work(entries.len() as u64) {
            return None;
        }
        let Some(entry) = entries.iter().find(|entry| u64_at(*entry, 0) == Some(slot)) else { continue };
        let info = u64_at(entry, 8)?;
        return if matches!(info & 0xffff_ffff, R_GLOB_DAT | R_JUMP_SLOT) { symbol(image, info >> 32) } else { None };
    }
    None
}

/// What the dynamic symbol of this number stands for.
fn symbol(image: &Image<'_>, number: u64) -> Option<Destination> {
    let at = image.headers.dynamic_symbols?.checked_add(number.checked_mul(SYMBOL)?)?;
    let symbol = image.bytes(at, SYMBOL);
    let (kind, section, value) = (symbol.get(4)? & 0xf, u16_at(symbol, 6)?, u64_at(symbol, 8)?);
    if section == 0 {
        return Some(Destination::Other);
    }
    // What an indirect function leads to is decided when the program starts.
    (kind == STT_FUNC && image.is_code(value)).then_some(Destination::Own(value))
}
