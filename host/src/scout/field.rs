//! Where a function takes certain bytes from: the place of a field, read from the code that hands it on or goes through it.
//!
//! What counts as such is stated at [`Field`](ecapture_plugin_api::plan::Field). All paths are followed, with just as much
//! known of each register as is needed for that; where anything is in doubt the value is unknown, and what is unknown is no
//! evidence. So a place may be missed, and then the probe is not put anywhere, but none is made up.

mod pace;

use super::image::{Function, Image};
use super::instruction::decode;
use super::plan::{Field, FieldAt, Handed};
use super::walk::{ARGUMENTS, stack_change, writes};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Instructions followed, each as often as it is reached with something else known.
const STEPS: u32 = 20_000;
/// What following one costs, in decoded bytes.
const STEP_WORK: u64 = 1024;
/// Instructions before a last jump.
const MAX_STRAIGHT: usize = 32;
/// Places of the frame that are followed.
const MAX_SLOTS: usize = 64;
/// Registers that a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11.
const CHANGED_BY_CALLS: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];
/// Bytes that one vector register takes at least.
const VECTOR: i64 = 16;

/// An address: so far into the structure, or into what the pointer at `through` in it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    through: Option<i64>,
    at: i64,
}

impl Place {
    fn plus(self, distance: i64) -> Option<Self> {
        let at = self.at.checked_add(distance).filter(|at| (0..=i64::from(u16::MAX)).contains(at))?;
        Some(Self { at, ..self })
    }

    /// Where the pointer that is here points to.
    fn pointee(self) -> Option<Self> {
        self.through.is_none().then_some(Self { through: Some(self.at), at: 0 })
    }
}

/// What a register or a place of the frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Value {
    Unknown,
    /// This distance from the stack pointer at the entry.
    Frame(i64),
    Place(Place),
    /// Another argument.
    Argument(u8),
    /// An address that began here and goes on byte by byte.
    Walking(Place),
    /// A number by which bytes from here on are taken one by one.
    Counting(Place),
    /// How many bytes the field has.
    Length,
    /// What the instruction at this address made, whatever that is, and this much more.
    Made(u64, i64),
    /// Such a value, once something was added to it where it is.
    Moved(u64, i64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    registers: [Value; 16],
    sp: Option<i64>,
    slots: BTreeMap<i64, Value>,
    /// Somebody else may know an address in the frame.
    escaped: bool,
    /// From where the bytes were taken on the way here.
    taken: Option<Place>,
}

/// Finds the places of the field in this function, at least one.
pub(super) fn find(image: &Image<'_>, function: &Function, wanted: &Field) -> Result<Vec<FieldAt>, String> {
    let evidence = follow(image, function, wanted)?;
    let found = evidence.places(i64::from(wanted.bytes));
    // Of pieces it is not known whether they are read on one way or on several.
    let most = if found.is_subset(&evidence.certain) { wanted.most } else { 1 };
    if !(1..=usize::from(most)).contains(&found.len()) {
        return Err(format!(
            "its code shows {} from which it takes {} bytes of its argument {}",
            if found.is_empty() { "no place".to_owned() } else { format!("{} places", found.len()) },
            wanted.bytes,
            wanted.argument
        ));
    }
    let narrow = |at: i64| u16::try_from(at).map_err(|_| format!("the field is {at} bytes away: too far to be told"));
    let place = |p: Place| Ok(FieldAt { through: p.through.map(narrow).transpose()?, at: narrow(p.at)? });
    found.into_iter().map(place).collect()
}

/// "; takes 32 bytes from argument 0 + 0x160".
pub(super) fn words(wanted: &Field, found: &[FieldAt]) -> String {
    let from = |found: &FieldAt| match found.through {
        None => format!("argument {} + {:#x}", wanted.argument, found.at),
        Some(through) => format!("what argument {} + {through:#x} points to, + {:#x}", wanted.argument, found.at),
    };
    format!("; takes {} bytes from {}", wanted.bytes, found.iter().map(from).collect::<Vec<_>>().join(" or "))
}

/// Where the function, straight on from its first instruction, jumps to another one as its last act, and what the argument
/// registers hold then: the first `args` of its own arguments, and the address of the field. Nothing if it does anything
/// else before, or one of these is not there.
pub(super) fn handed(
    image: &Image<'_>,
    function: &Function,
    wanted: &Field,
    found: FieldAt,
    args: u8,
) -> Option<(u64, Handed)> {
    let mut infos = InstructionInfoFactory::new();
    let mut state = State::at_entry(wanted.argument);
    let mut va = function.start;
    let mut nothing = Evidence::default();
    for _ in 0..MAX_STRAIGHT {
        let instruction = decode(image.bytes(va, 15), va).filter(|_| function.contains(va))?;
        let info = infos.info(&instruction);
        if info.used_memory().iter().any(|memory| writes(memory.access())) || state.sp != Some(0) {
            return None;
        }
        match instruction.flow_control() {
            FlowControl::Next => {
                state = state.step(&mut infos, &instruction, i64::from(wanted.bytes), &mut nothing);
                va = instruction.next_ip();
            }
            FlowControl::UnconditionalBranch if instruction.op0_kind() == OpKind::NearBranch64 => {
                let leaves = !function.contains(instruction.near_branch_target());
                return state.positions(wanted, found, args).filter(|_| leaves).map(|handed| (va, handed));
            }
            _ => return None,
        }
    }
    None
}

/// What the paths have shown.
#[derive(Debug, Default)]
struct Evidence {
    /// Handed on beside their number, or gone through byte by byte.
    certain: BTreeSet<Place>,
    /// Read by vector registers, in pieces of [`VECTOR`].
    pieces: BTreeSet<Place>,
}

impl Evidence {
    fn places(&self, bytes: i64) -> BTreeSet<Place> {
        let starts = self.pieces.iter().filter(|p| p.plus(-VECTOR).is_none_or(|before| !self.pieces.contains(&before)));
        let length = |start: &Place| {
            let next = |place: &Place| place.plus(VECTOR).filter(|next| self.pieces.contains(next));
            std::iter::successors(Some(*start), next).count() as i64 * VECTOR
        };
        self.certain.iter().chain(starts.filter(|start| length(start) == bytes)).copied().collect()
    }
}

fn follow(image: &Image<'_>, function: &Function, wanted: &Field) -> Result<Evidence, String> {
    if !function.proven_end {
        return Err("the function's end is not known".to_owned());
    }
    let mut evidence = Evidence::default();
    let mut infos = InstructionInfoFactory::new();
    let mut seen: HashSet<(u64, State)> = HashSet::new();
    let mut todo = vec![(function.start, State::at_entry(wanted.argument))];
    let bytes = i64::from(wanted.bytes);
    let mut steps = STEPS;
    while let Some((va, state)) = todo.pop() {
        if !seen.insert((va, state.clone())) {
            continue;
        }
        steps = steps
            .checked_sub(1)
            .filter(|_| image.work(STEP_WORK))
            .ok_or("following it takes more work than is allowed")?;
        let code = if image.is_code(va) { image.bytes(va, 15) } else { &[] };
        let Some(instruction) = decode(code, va) else { continue };
        let part = if function.contains(va) { Some(*function) } else { image.enclosing(va) };
        let goes_on = part.filter(|part| part.contains(instruction.next_ip())).map(|_| instruction.next_ip());
        let mut shown = Evidence::default();
        let mut after = state.step(&mut infos, &instruction, bytes, &mut shown);
        let flow = instruction.flow_control();
        let jumps = matches!(flow, FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch);
        let direct = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
        let to = Some(instruction.near_branch_target()).filter(|_| jumps && direct);
        // Another function, as the last act.
        let last_act =
            state.sp == Some(0) && (flow == FlowControl::IndirectBranch || to.is_some_and(|to| !function.contains(to)));
        if last_act || matches!(flow, FlowControl::Call | FlowControl::IndirectCall) {
            state.hands(&mut shown);
        }
        if let Some(head) = to.filter(|to| flow == FlowControl::ConditionalBranch && *to < va) {
            shown.certain.extend(pace::through(&state, image, function, [head, va], bytes));
        }
        after.took(&shown)?;
        evidence.certain.append(&mut shown.certain);
        evidence.pieces.append(&mut shown.pieces);
        todo.extend(to.filter(|_| !last_act).map(|to| (to, after.clone())));
        let next = FlowControl::Next;
        if [next, FlowControl::Call, FlowControl::IndirectCall, FlowControl::ConditionalBranch].contains(&flow) {
            todo.extend(goes_on.map(|to| (to, after)));
        }
    }
    Ok(evidence)
}

impl State {
    fn at_entry(argument: u8) -> Self {
        let mut registers = [Value::Unknown; 16];
        for (number, register) in (0..).zip(ARGUMENTS) {
            registers[register.number()] = Value::Argument(number);
        }
        if let Some(register) = ARGUMENTS.get(usize::from(argument)) {
            registers[register.number()] = Value::Place(Place { through: None, at: 0 });
        }
        Self { registers, sp: Some(0), slots: BTreeMap::new(), escaped: false, taken: None }
    }

    fn get(&self, register: Register) -> Value {
        let full = register.full_register();
        if full == Register::RSP {
            return self.sp.map_or(Value::Unknown, Value::Frame);
        }
        if full.is_gpr64() { self.registers[full.number()] } else { Value::Unknown }
    }

    fn set(&mut self, register: Register, value: Value) {
        let full = register.full_register();
        if full == Register::RSP {
            self.sp = match value {
                Value::Frame(at) => Some(at),
                _ => None,
            };
        } else if full.is_gpr64() {
            self.registers[full.number()] = value;
        }
    }

    /// Which argument registers hold the function's own arguments and the field's address.
    fn positions(&self, wanted: &Field, found: FieldAt, args: u8) -> Option<Handed> {
        let holds = |value: Value| (0..).zip(ARGUMENTS).find(|(_, r)| self.get(*r) == value).map(|(at, _)| at);
        let place = Place { through: found.through.map(i64::from), at: i64::from(found.at) };
        let mut handed = Handed { args: [0; 6], field: holds(Value::Place(place))? };
        for (number, position) in (0..args).zip(&mut handed.args) {
            let structure = Value::Place(Place { through: None, at: 0 });
            *position = holds(if number == wanted.argument { structure } else { Value::Argument(number) })?;
        }
        (args <= 6).then_some(handed)
    }

    /// Bytes were taken. A function that takes them from two places, one after the other, does not choose between them.
    fn took(&mut self, shown: &Evidence) -> Result<(), String> {
        for place in &shown.certain {
            if self.taken.replace(*place).is_some_and(|before| before != *place) {
                return Err("its code takes as many bytes from two places, one after the other".to_owned());
            }
        }
        Ok(())
    }

    /// A call: an address beside the number of bytes, in the registers of the calling convention.
    fn hands(&self, evidence: &mut Evidence) {
        for pair in ARGUMENTS.windows(2) {
            if let [Value::Place(place), Value::Length] = [self.get(pair[0]), self.get(pair[1])]
                && !place.is_structure()
            {
                evidence.certain.insert(place);
            }
        }
    }

    fn step(
        &self,
        infos: &mut InstructionInfoFactory,
        instruction: &Instruction,
        bytes: i64,
        evidence: &mut Evidence,
    ) -> State {
        let mut after = self.clone();
        if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            for number in CHANGED_BY_CALLS {
                after.registers[number] = Value::Unknown;
            }
            match self.sp.filter(|_| !self.escaped) {
                Some(sp) => after.slots.retain(|at, _| *at >= sp),
                None => after.slots.clear(),
            }
            after.make(Register::RAX, instruction.ip());
            return after;
        }
        let info = infos.info(instruction);
        self.note_loads(instruction, info, evidence, &mut after);
        self.note_comparison(instruction, bytes, evidence);
        self.note_stores(info, &mut after);
        for used in info.used_registers().iter().filter(|r| writes(r.access())) {
            let full = used.register().full_register();
            if full == Register::RSP {
                after.sp = self.sp.and_then(|sp| sp.checked_add(stack_change(instruction)?));
            } else {
                after.set(full, Value::Unknown);
            }
        }
        self.copy(instruction, bytes, &mut after);
        after
    }

    /// The address that an instruction names, without its index.
    fn named(&self, instruction: &Instruction) -> Option<Place> {
        if matches!(instruction.memory_segment(), Register::FS | Register::GS) {
            return None;
        }
        match self.get(instruction.memory_base()) {
            Value::Place(place) => place.plus(instruction.memory_displacement64().cast_signed()),
            _ => None,
        }
    }

    /// The frame's place that an instruction names.
    fn own(&self, instruction: &Instruction) -> Option<i64> {
        let plain = instruction.memory_index() == Register::None
            && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
        match self.get(instruction.memory_base()) {
            Value::Frame(from) if plain => from.checked_add(instruction.memory_displacement64().cast_signed()),
            _ => None,
        }
    }

    fn note_loads(
        &self,
        instruction: &Instruction,
        info: &InstructionInfo,
        evidence: &mut Evidence,
        after: &mut State,
    ) {
        let Some(memory) = info.used_memory().iter().find(|m| matches!(m.access(), OpAccess::Read)) else { return };
        let Some(place) = self.named(instruction) else { return };
        let size = memory.memory_size().size() as i64;
        let index = instruction.memory_index();
        if index == Register::None && size >= VECTOR && size % VECTOR == 0 {
            evidence.pieces.extend((0..size / VECTOR).filter_map(|n| place.plus(n * VECTOR)));
        } else if size == 1 && index.is_gpr64() && instruction.memory_index_scale() == 1 {
            let known = self.get(index);
            let same = !matches!(known, Value::Counting(other) if other != place);
            after.set(index, if same { Value::Counting(place) } else { Value::Unknown });
        }
    }

    /// The end of going through bytes.
    fn note_comparison(&self, instruction: &Instruction, bytes: i64, evidence: &mut Evidence) {
        if instruction.mnemonic() != Mnemonic::Cmp || instruction.op0_kind() != OpKind::Register {
            return;
        }
        let first = self.get(instruction.op0_register());
        if instruction.op1_kind() == OpKind::Register {
            let second = self.get(instruction.op1_register());
            if let (Value::Walking(from), Value::Place(to)) | (Value::Place(to), Value::Walking(from)) = (first, second)
                && from.plus(bytes) == Some(to)
            {
                evidence.certain.insert(from);
            }
        } else if let Value::Counting(place) = first
            && is_immediate(instruction, 1)
            && instruction.immediate(1).cast_signed() == bytes
        {
            evidence.certain.insert(place);
        }
    }

    fn note_stores(&self, info: &InstructionInfo, after: &mut State) {
        for memory in info.used_memory().iter().filter(|m| writes(m.access())) {
            let size = memory.memory_size().size() as i64;
            match self.get(memory.base()) {
                Value::Frame(from) if memory.index() == Register::None && size > 0 => {
                    match from.checked_add(memory.displacement().cast_signed()) {
                        Some(at) => after.slots.retain(|slot, _| *slot >= at.saturating_add(size) || *slot <= at - 8),
                        None => after.slots.clear(),
                    }
                }
                Value::Frame(_) => after.slots.clear(),
                Value::Place(_) | Value::Walking(_) => {}
                _ if self.escaped => after.slots.clear(),
                _ => {}
            }
        }
    }

    fn load(&self, instruction: &Instruction) -> Value {
        if let Some(at) = self.own(instruction) {
            return self.slots.get(&at).copied().unwrap_or(Value::Unknown);
        }
        let pointer = self.named(instruction).filter(|_| instruction.memory_index() == Register::None);
        pointer.and_then(Place::pointee).map_or(Value::Unknown, Value::Place)
    }

    fn copy(&self, instruction: &Instruction, bytes: i64, after: &mut State) {
        let register = |operand: u32| instruction.op_kind(operand) == OpKind::Register;
        let to = if instruction.op_count() > 0 && register(0) { instruction.op0_register() } else { Register::None };
        let length = |value: i64| if value == bytes { Value::Length } else { Value::Unknown };
        match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if register(0) && register(1) => {
                let value = self.get(instruction.op1_register());
                after.escaped |= matches!(value, Value::Frame(_)) && !matches!(to, Register::RBP | Register::RSP);
                after.set(to, value);
            }
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32 if register(0) && register(1) => {
                let value = self.get(instruction.op1_register());
                after.set(to, if value == Value::Length { value } else { Value::Unknown });
            }
            Code::Mov_r64_rm64 => after.set(to, self.load(instruction)),
            Code::Mov_rm64_r64 => after.keep(self.own(instruction), self.get(instruction.op1_register())),
            Code::Push_r64 => after.keep(after.sp, self.get(to)),
            Code::Pushq_imm8 | Code::Pushq_imm32 => {
                after.keep(after.sp, length(instruction.immediate(0).cast_signed()))
            }
            Code::Pop_r64 => {
                let value = self.sp.and_then(|sp| self.slots.get(&sp).copied());
                after.set(to, value.unwrap_or(Value::Unknown));
            }
            Code::Leaveq => {
                let Value::Frame(at) = self.get(Register::RBP) else { return };
                after.sp = at.checked_add(8);
                after.set(Register::RBP, self.slots.get(&at).copied().unwrap_or(Value::Unknown));
            }
            Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32 | Code::Mov_r64_imm64 if register(0) => {
                after.set(to, length(instruction.immediate(1).cast_signed()));
            }
            Code::Lea_r64_m if instruction.memory_index() != Register::None => after.make(to, instruction.ip()),
            Code::Lea_r64_m if instruction.memory_base() != to || matches!(self.get(to), Value::Frame(_)) => {
                let own = self.own(instruction);
                after.escaped |= own.is_some() && to != Register::RSP;
                let distance = instruction.memory_displacement64().cast_signed();
                let made = match self.get(instruction.memory_base()) {
                    Value::Made(by, at) => at.checked_add(distance).map(|at| Value::Made(by, at)),
                    _ => None,
                };
                let value = own.map(Value::Frame).or(self.named(instruction).map(Value::Place)).or(made);
                after.set(to, value.unwrap_or(Value::Unknown));
            }
            _ if to != Register::RSP => {
                if let Some(distance) = pace::added(instruction) {
                    after.set(to, advanced(self.get(to), distance));
                }
            }
            _ => {}
        }
    }

    /// The register has what the instruction there makes, and nothing else has what it made before.
    fn make(&mut self, register: Register, va: u64) {
        let old = |value: &Value| matches!(value, Value::Made(by, _) | Value::Moved(by, _) if *by == va);
        self.slots.retain(|_, value| !old(value));
        for value in self.registers.iter_mut().filter(|value| old(value)) {
            *value = Value::Unknown;
        }
        self.set(register, Value::Made(va, 0));
    }

    fn keep(&mut self, at: Option<i64>, value: Value) {
        if let Some(at) = at.filter(|_| self.slots.len() < MAX_SLOTS) {
            self.slots.insert(at, value);
        }
    }
}

impl Place {
    fn is_structure(self) -> bool {
        self == Self { through: None, at: 0 }
    }
}

fn is_immediate(instruction: &Instruction, operand: u32) -> bool {
    matches!(
        instruction.op_kind(operand),
        OpKind::Immediate8
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    )
}

/// A register after this was added to it.
fn advanced(value: Value, distance: i64) -> Value {
    match (value, distance) {
        (Value::Place(place) | Value::Walking(place), 1) => Value::Walking(place),
        (Value::Counting(place), 1) => Value::Counting(place),
        (Value::Place(place), _) => place.plus(distance).map_or(Value::Unknown, Value::Place),
        // Once: a loop would go on for ever.
        (Value::Made(by, at), _) => at.checked_add(distance).map_or(Value::Unknown, |at| Value::Moved(by, at)),
        _ => Value::Unknown,
    }
}
