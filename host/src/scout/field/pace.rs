//! A loop that goes through the field but counts by something else: the text that it writes, two characters a byte, say.
//!
//! Compilers replace the counter of such a loop by the pointer that moves beside it. So the number of rounds is read from
//! how far that pointer has to go, if the loop is one straight line in which nothing else changes either of the two.

use super::super::image::{Function, Image};
use super::super::instruction::decode;
use super::super::walk::writes;
use super::{CHANGED_BY_CALLS, Place, State, Value, is_immediate};
use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

/// Longest loop.
const MAX_BODY: usize = 32;

/// The field that the loop takes `bytes` bytes of, one a round, which ends with the jump at `jump` back to `head`. `state` is
/// what is known at the end of its first round.
pub(super) fn through(
    state: &State,
    image: &Image<'_>,
    function: &Function,
    [head, jump]: [u64; 2],
    bytes: i64,
) -> Option<Place> {
    let body = Body::of(image, function, head, jump)?;
    let comparison = body.instructions.last().filter(|i| i.mnemonic() == Mnemonic::Cmp)?;
    if comparison.op0_kind() != OpKind::Register || comparison.op1_kind() != OpKind::Register {
        return None;
    }
    let operands = [comparison.op0_register(), comparison.op1_register()];
    let reached = [operands, [operands[1], operands[0]]].into_iter().find_map(|[moves, stays]| {
        let (Value::Moved(of, now), Value::Made(same, end)) = (state.get(moves), state.get(stays)) else { return None };
        let step = body.step(moves).filter(|step| *step > 0)?;
        let whole = end.checked_sub(now)?.checked_add(step)?;
        Some(of == same && body.changes(stays) == 0 && Some(whole) == step.checked_mul(bytes))
    });
    if reached != Some(true) {
        return None;
    }
    let mut walked = body.instructions.iter().filter_map(|instruction| {
        let base = instruction.memory_base();
        let plain = instruction.memory_index() == Register::None && instruction.memory_displacement64() == 0;
        let one = instruction.mnemonic() == Mnemonic::Movzx && instruction.memory_size().size() == 1;
        match state.get(base) {
            Value::Walking(place) if plain && one && body.step(base) == Some(1) => Some(place),
            _ => None,
        }
    });
    walked.next().filter(|_| walked.next().is_none())
}

/// The instructions of a loop without its last jump: a straight line, in which only calls go elsewhere.
struct Body {
    instructions: Vec<Instruction>,
    /// Which registers each one writes.
    written: Vec<Vec<Register>>,
}

impl Body {
    fn of(image: &Image<'_>, function: &Function, head: u64, jump: u64) -> Option<Self> {
        let mut infos = InstructionInfoFactory::new();
        let mut body = Self { instructions: Vec::new(), written: Vec::new() };
        let mut va = head;
        while va != jump {
            let instruction = decode(image.bytes(va, 15), va).filter(|_| function.contains(va) && va < jump)?;
            let calls = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            if body.instructions.len() == MAX_BODY || !(calls || instruction.flow_control() == FlowControl::Next) {
                return None;
            }
            let info = infos.info(&instruction);
            let written = info.used_registers().iter().filter(|used| writes(used.access()));
            let mut written: Vec<Register> = written.map(|used| used.register().full_register()).collect();
            if calls {
                written.extend(CHANGED_BY_CALLS.map(|number| Register::RAX + number as u32));
            }
            written.sort_unstable();
            written.dedup();
            body.written.push(written);
            va = instruction.next_ip();
            body.instructions.push(instruction);
        }
        decode(image.bytes(va, 15), va).filter(|last| last.mnemonic() == Mnemonic::Jne)?;
        Some(body)
    }

    /// How many instructions write the register.
    fn changes(&self, register: Register) -> usize {
        self.written.iter().filter(|written| written.contains(&register)).count()
    }

    /// What a round adds to the register, if that is all that happens to it.
    fn step(&self, register: Register) -> Option<i64> {
        if self.changes(register) != 1 {
            return None;
        }
        self.instructions.iter().zip(&self.written).find(|(_, w)| w.contains(&register)).and_then(|(i, _)| added(i))
    }
}

/// What the instruction adds to the register that it writes.
pub(super) fn added(instruction: &Instruction) -> Option<i64> {
    match instruction.code() {
        Code::Inc_rm64 if instruction.op0_kind() == OpKind::Register => Some(1),
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32
            if instruction.op0_kind() == OpKind::Register && is_immediate(instruction, 1) =>
        {
            Some(instruction.immediate(1).cast_signed())
        }
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32
            if instruction.op0_kind() == OpKind::Register && is_immediate(instruction, 1) =>
        {
            instruction.immediate(1).cast_signed().checked_neg()
        }
        Code::Lea_r64_m
            if instruction.memory_index() == Register::None
                && instruction.memory_base() == instruction.op0_register() =>
        {
            Some(instruction.memory_displacement64().cast_signed())
        }
        _ => None,
    }
}
