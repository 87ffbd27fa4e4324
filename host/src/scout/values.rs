//! What is known of registers and of the stack frame at an instruction, in terms of the arguments that the function was
//! called with.
//!
//! Two questions are answered at once, on opposite sides of caution: which register holds an argument *for certain*, and
//! where an argument *may* be, whatever path was taken. Paths are not known here: [`paths`](super::paths) follows them.

use super::walk::{ARGUMENTS, stack_change, writes};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    UsedMemory,
};
use std::collections::BTreeMap;

/// Bits 0 to 5 of a mask are arguments; this one is an address in the own frame.
pub(super) const FRAME: u8 = 1 << 6;
const ALL_ARGUMENTS: u8 = 0x3f;
/// Registers that a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11.
const CHANGED_BY_CALLS: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];
/// Places of the frame that are followed.
const MAX_SLOTS: usize = 64;

/// What a register or a place of the frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// This argument.
    Argument(u8),
    /// The low 32 bits of this argument, extended.
    Narrow(u8),
    /// By one path this argument, by another its low 32 bits, extended: in the low 32 bits there is no difference.
    Low(u8),
    /// This distance from the stack pointer at the entry.
    Frame(i64),
    /// Anything; by a path or in part maybe what the mask says.
    Any(u8),
    /// What a call has left there: nothing that anybody may use.
    Left,
}

impl Value {
    /// What it may be, as a mask. A shortened argument is a number of its own.
    pub(super) fn may(self) -> u8 {
        match self {
            Value::Argument(number) | Value::Low(number) => 1 << number,
            Value::Narrow(_) | Value::Left => 0,
            Value::Frame(_) => FRAME,
            Value::Any(mask) => mask,
        }
    }

    fn or(self, other: Value) -> Value {
        use Value::{Argument, Low, Narrow};
        match (self, other) {
            _ if self == other => self,
            (Argument(ours) | Narrow(ours) | Low(ours), Argument(theirs) | Narrow(theirs) | Low(theirs))
                if ours == theirs =>
            {
                Low(ours)
            }
            _ => Value::Any(self.may() | other.may()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    size: u8,
    value: Value,
    /// It was there before another call. The places of arguments are the callee's to write to, and a call within the
    /// arguments of another is made before any of them is in its place: so this is kept for the function itself.
    kept: bool,
}

/// What is known before an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    registers: [Value; 16],
    /// The stack pointer, from that at the entry.
    pub(super) sp: Option<i64>,
    slots: BTreeMap<i64, Slot>,
    /// Somebody else may know an address in the frame.
    pub(super) escaped: bool,
    /// More places of the frame in use than are followed.
    pub(super) lost: bool,
}

/// What the instructions of a function do with its arguments, over all paths.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Read for certain, by more than a push, in their registers: evidence that they are arguments.
    pub(super) read: u8,
    /// Maybe read in their registers, by whatever.
    pub(super) touched: u8,
    /// Maybe something of what is on the stack from before the call is read or written, or its address is made.
    pub(super) above: bool,
    /// First instruction that does more with an argument than to move it around or to compare it.
    pub(super) worked_on: [Option<u64>; 6],
}

/// Where memory is.
enum Place {
    Own(i64),
    /// In the frame, it is not known where.
    Frame,
    Elsewhere,
}

impl State {
    pub(super) fn at_entry() -> State {
        let mut registers = [Value::Any(0); 16];
        for (number, register) in (0..).zip(ARGUMENTS) {
            registers[register.number()] = Value::Argument(number);
        }
        State { registers, sp: Some(0), slots: BTreeMap::new(), escaped: false, lost: false }
    }

    pub(super) fn merge(&self, other: &State) -> State {
        let mut merged = self.clone();
        for (ours, theirs) in merged.registers.iter_mut().zip(other.registers) {
            *ours = ours.or(theirs);
        }
        merged.sp = self.sp.filter(|sp| other.sp == Some(*sp));
        for (at, slot) in &mut merged.slots {
            let same = other.slots.get(at).filter(|o| o.size == slot.size);
            slot.value = slot.value.or(same.map_or(Value::Any(0), |o| o.value));
            slot.kept &= same.is_none_or(|o| o.kept);
        }
        for (at, slot) in &other.slots {
            match merged.slots.get_mut(at) {
                None => drop(merged.slots.insert(*at, Slot { value: Value::Any(slot.value.may()), ..*slot })),
                Some(ours) if ours.size != slot.size => {
                    let value = Value::Any(ours.value.may() | slot.value.may());
                    *ours = Slot { size: 8, value, kept: ours.kept && slot.kept };
                }
                Some(_) => {}
            }
        }
        merged.escaped |= other.escaped;
        merged.lost |= other.lost || merged.slots.len() > MAX_SLOTS;
        merged
    }

    pub(super) fn register(&self, register: Register) -> Value {
        let full = register.full_register();
        if full == Register::RSP {
            return self.sp.map_or(Value::Any(FRAME), Value::Frame);
        }
        if full.is_gpr64() { self.registers[full.number()] } else { Value::Any(0) }
    }

    /// The registers of the calling convention.
    pub(super) fn arguments(&self) -> [Value; 6] {
        ARGUMENTS.map(|register| self.register(register))
    }

    /// Arguments that may be in the frame.
    pub(super) fn spilled(&self) -> u8 {
        self.slots.values().fold(0, |mask, slot| mask | slot.value.may()) & ALL_ARGUMENTS
    }

    /// Arguments that may be where a function that is called now looks for its seventh and later ones.
    pub(super) fn stacked(&self) -> u8 {
        let Some(sp) = self.sp else { return self.spilled() };
        let places = (0..).map_while(|number: i64| self.slots.get(&sp.checked_add(8 * number)?));
        places.filter(|slot| !slot.kept).fold(0, |mask, slot| mask | slot.value.may()) & ALL_ARGUMENTS
    }

    /// Arguments that may be in registers which pass none.
    pub(super) fn loose(&self) -> u8 {
        let passes = |number: &usize| ARGUMENTS.iter().any(|register| register.number() == *number);
        let others = self.registers.iter().zip(0..).filter(|(_, number)| !passes(number));
        others.fold(0, |mask, (value, _)| mask | value.may()) & ALL_ARGUMENTS
    }

    /// After a call, whatever it did.
    pub(super) fn after_call(&self) -> State {
        let mut after = self.clone();
        after.escaped |= self.arguments().iter().any(|value| value.may() & FRAME != 0);
        for number in CHANGED_BY_CALLS {
            after.registers[number] = if number == Register::RAX.number() { Value::Any(0) } else { Value::Left };
        }
        if let Some(sp) = after.sp {
            after.slots.retain(|at, _| *at >= sp);
        }
        for slot in after.slots.values_mut() {
            slot.kept = true;
        }
        if after.escaped {
            after.blur();
        }
        after
    }

    /// Something was written, it is not known where in the frame.
    fn blur(&mut self) {
        for slot in self.slots.values_mut() {
            slot.value = Value::Any(slot.value.may());
        }
    }

    fn place(&self, memory: &UsedMemory) -> Place {
        if matches!(memory.segment(), Register::FS | Register::GS) {
            return Place::Elsewhere;
        }
        let index = memory.index() != Register::None;
        match (memory.base(), self.register(memory.base())) {
            (Register::None | Register::RIP, _) if !index => Place::Elsewhere,
            (_, Value::Frame(from)) if !index => match from.checked_add(memory.displacement().cast_signed()) {
                Some(at) => Place::Own(at),
                None => Place::Frame,
            },
            // What the caller passed was there before the frame.
            (_, Value::Argument(_)) => Place::Elsewhere,
            (_, value) if self.escaped || value.may() & FRAME != 0 => Place::Frame,
            _ => Place::Elsewhere,
        }
    }

    fn overlapping(&self, at: i64, size: i64) -> impl Iterator<Item = (i64, Slot)> {
        let range = at.saturating_sub(7)..at.saturating_add(size.max(1));
        let slots = self.slots.range(range).map(|(start, slot)| (*start, *slot));
        slots.filter(move |(start, slot)| start.saturating_add(slot.size.into()) > at)
    }

    fn put(&mut self, at: i64, size: u8, value: Value) {
        let old: Vec<i64> = self.overlapping(at, size.into()).map(|(start, _)| start).collect();
        for start in old {
            self.slots.remove(&start);
        }
        self.slots.insert(at, Slot { size, value, kept: false });
        self.lost |= self.slots.len() > MAX_SLOTS;
    }

    /// The frame's place that an instruction names with no index, if it is below the return address.
    fn own_operand(&self, instruction: &Instruction) -> Option<i64> {
        let plain = instruction.memory_index() == Register::None
            && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
        match self.register(instruction.memory_base()) {
            Value::Frame(from) if plain => {
                let at = from.checked_add(instruction.memory_displacement64().cast_signed())?;
                (at < 0).then_some(at)
            }
            _ => None,
        }
    }

    fn load(&self, at: i64, size: u8) -> Value {
        match (self.slots.get(&at), size) {
            (Some(slot), _) if slot.size == size => slot.value,
            (Some(Slot { size: 8, value, .. }), 4) if narrow(*value) != Value::Any(0) => narrow(*value),
            _ => Value::Any(self.overlapping(at, size.into()).fold(0, |mask, (_, slot)| mask | slot.value.may())),
        }
    }
}

/// Follows one instruction that is no call; notes in `uses` what it does with arguments.
pub(super) fn step(
    infos: &mut InstructionInfoFactory,
    instruction: &Instruction,
    before: &State,
    uses: &mut Uses,
) -> State {
    let mut after = before.clone();
    let idle = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64);
    if idle {
        return after;
    }
    let info = infos.info(instruction);
    if !clears(instruction) {
        note_registers(instruction, info, before, &mut after, uses);
    }
    follow_memory(instruction, info, before, &mut after, uses);
    for used in info.used_registers().iter().filter(|r| writes(r.access())) {
        let full = used.register().full_register();
        if full == Register::RSP {
            after.sp = before.sp.and_then(|sp| sp.checked_add(stack_change(instruction)?));
        } else if full.is_gpr64() {
            let whole = used.register().size() >= 4 && matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite);
            let rest = if whole { 0 } else { before.register(full).may() };
            after.registers[full.number()] = Value::Any(rest);
        }
    }
    copy(instruction, before, &mut after, uses);
    after
}

/// `xor ecx, ecx` reads nothing.
fn clears(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
}

fn is_register(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register
}

fn compares(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Test | Mnemonic::Cmp)
}

/// Moves a whole register or a place of the own frame, so that nothing is lost from sight.
fn moves(instruction: &Instruction, state: &State) -> bool {
    match instruction.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => {
            (is_register(instruction, 0) && is_register(instruction, 1)) || state.own_operand(instruction).is_some()
        }
        Code::Push_r64 | Code::Pop_r64 | Code::Leaveq => true,
        _ => false,
    }
}

fn note_registers(
    instruction: &Instruction,
    info: &InstructionInfo,
    before: &State,
    after: &mut State,
    uses: &mut Uses,
) {
    let (moved, compared) = (moves(instruction, before), compares(instruction));
    let address = instruction.code() == Code::Lea_r64_m && instruction.memory_index() == Register::None;
    for used in info.used_registers().iter().filter(|r| reads(r.access())) {
        let register = used.register().full_register();
        let value = before.register(register);
        if let Some(number) = ARGUMENTS.iter().position(|argument| *argument == register) {
            let bit = 1 << number;
            uses.touched |= value.may() & bit;
            let saved = instruction.mnemonic() == Mnemonic::Push;
            let certain = value == Value::Argument(u8::try_from(number).unwrap_or(u8::MAX));
            uses.read |= if certain && !saved { bit } else { 0 };
        }
        if moved || compared {
            continue;
        }
        for (number, place) in (0..).zip(&mut uses.worked_on) {
            if value.may() & 1 << number != 0 {
                place.get_or_insert(instruction.ip());
            }
        }
        let based = instruction.memory_base().full_register() == register
            && instruction.memory_index() == Register::None
            && (instruction.mnemonic() != Mnemonic::Lea || address);
        let stack = register == Register::RSP && stack_change(instruction).is_some();
        let known = matches!(value, Value::Frame(_)) && based && !also_an_operand(instruction, register);
        if value.may() & FRAME != 0 && !known && !stack {
            after.escaped = true;
        }
    }
}

fn also_an_operand(instruction: &Instruction, register: Register) -> bool {
    // The first operand of a load is where it goes.
    let written_only = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Movsxd);
    let first = u32::from(written_only);
    (first..instruction.op_count())
        .any(|n| is_register(instruction, n) && instruction.op_register(n).full_register() == register)
}

fn reads(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn follow_memory(
    instruction: &Instruction,
    info: &InstructionInfo,
    before: &State,
    after: &mut State,
    uses: &mut Uses,
) {
    let seen = moves(instruction, before) || compares(instruction);
    for memory in info.used_memory() {
        let size = i64::try_from(memory.memory_size().size()).unwrap_or(0);
        let place = after.place(memory);
        let popped = instruction.flow_control() == FlowControl::Return;
        uses.above |= match place {
            Place::Own(at) => !popped && at.saturating_add(size) > 0,
            Place::Frame => true,
            Place::Elsewhere => false,
        };
        if reads(memory.access()) && !seen {
            let mask = match place {
                Place::Own(at) => before.overlapping(at, size).fold(0, |mask, (_, slot)| mask | slot.value.may()),
                Place::Frame => before.spilled(),
                Place::Elsewhere => 0,
            };
            for (number, worked_on) in (0..).zip(&mut uses.worked_on) {
                if mask & 1 << number != 0 {
                    worked_on.get_or_insert(instruction.ip());
                }
            }
        }
        if writes(memory.access()) {
            match place {
                Place::Own(at) if size > 0 => {
                    let old: Vec<i64> = after.overlapping(at, size).map(|(start, _)| start).collect();
                    for start in old {
                        after.slots.remove(&start);
                    }
                }
                Place::Own(_) | Place::Frame => after.blur(),
                Place::Elsewhere => {}
            }
        }
    }
}

/// The effect of instructions that move values, exactly.
fn copy(instruction: &Instruction, before: &State, after: &mut State, uses: &mut Uses) {
    let own = before.own_operand(instruction);
    let value = match instruction.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if is_register(instruction, 0) && is_register(instruction, 1) => {
            before.register(instruction.op1_register())
        }
        Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Movsxd_r64_rm32
            if is_register(instruction, 0) && is_register(instruction, 1) =>
        {
            narrow(before.register(instruction.op1_register()))
        }
        Code::Cdqe => narrow(before.register(Register::RAX)),
        Code::Lea_r64_m if instruction.memory_index() == Register::None => {
            let from = before.register(instruction.memory_base());
            let Value::Frame(from) = from else { return };
            let at = from.checked_add(instruction.memory_displacement64().cast_signed());
            uses.above |= at.is_none_or(|at| at >= 0);
            at.map_or(Value::Any(FRAME), Value::Frame)
        }
        Code::Mov_r64_rm64 => own.map_or(Value::Any(0), |at| before.load(at, 8)),
        Code::Mov_r32_rm32 | Code::Movsxd_r64_rm32 => own.map_or(Value::Any(0), |at| narrow(before.load(at, 4))),
        Code::Mov_rm64_r64 => {
            if let Some(at) = own {
                after.put(at, 8, before.register(instruction.op1_register()));
            }
            return;
        }
        Code::Mov_rm32_r32 => {
            if let Some(at) = own {
                after.put(at, 4, narrow(before.register(instruction.op1_register())));
            }
            return;
        }
        Code::Push_r64 => {
            if let Some(at) = after.sp {
                after.put(at, 8, before.register(instruction.op0_register()));
            }
            return;
        }
        Code::Pop_r64 => before.sp.map_or(Value::Any(before.spilled()), |at| before.load(at, 8)),
        Code::Leaveq => {
            let frame = before.register(Register::RBP);
            let Value::Frame(at) = frame else { return };
            after.sp = at.checked_add(8);
            after.registers[Register::RBP.number()] = before.load(at, 8);
            return;
        }
        _ => return,
    };
    let to = if instruction.code() == Code::Cdqe { Register::RAX } else { instruction.op0_register().full_register() };
    if to == Register::RSP {
        after.sp = match value {
            Value::Frame(at) => Some(at),
            _ => None,
        };
    } else if to.is_gpr64() {
        after.registers[to.number()] = value;
    }
}

fn narrow(value: Value) -> Value {
    match value {
        Value::Argument(number) | Value::Narrow(number) | Value::Low(number) => Value::Narrow(number),
        Value::Frame(_) | Value::Any(_) | Value::Left => Value::Any(0),
    }
}
