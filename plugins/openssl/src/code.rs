//! The code of a stripped file: which piece of it refers to what, calls what, and with which constants.
//!
//! A piece is what the unwind table has as one: a function, or the part of one that the compiler put elsewhere because it
//! rarely runs. All of it is bounded: by the size of the file, and per piece.

use ecapture_plugin_api::sdk::elf::Elf;
use iced_x86::{Code as Kind, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Code that is searched at most, bytes: a search reads all of it a few times.
const MAX_CODE: u64 = 512 << 20;
/// Bytes of one piece that are decoded at most.
const MAX_PIECE: u64 = 64 << 10;
/// Pieces that refer to what is looked for, at most.
const MAX_PIECES: usize = 4096;
/// Instructions followed from the beginning of a straight line to a call.
const LINE: usize = 48;
/// Jumps followed on that way.
const JUMPS: usize = 3;

const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// The code of one file.
pub struct Code<'a> {
    text: Vec<(u64, &'a [u8])>,
    starts: Vec<u64>,
    /// The file runs where it says (not PIE): its code may hold addresses as they are.
    fixed: bool,
}

/// A call, and the constants that it is given: numbers or addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The call.
    pub at: u64,
    /// Its integer arguments, as far as they are constant.
    pub args: [Option<u64>; 6],
}

impl<'a> Code<'a> {
    /// Of this file.
    ///
    /// # Errors
    /// It has no unwind table, or too much code.
    pub fn new(elf: &Elf<'a>) -> Result<Self, String> {
        let text: Vec<(u64, &[u8])> = elf.executable().collect();
        let starts = elf.function_starts();
        if elf.machine() != 62 {
            return Err("code without names is looked through on x86-64 only".to_owned());
        }
        if starts.is_empty() {
            return Err("it has no unwind table, so nobody knows where its functions begin".to_owned());
        }
        if text.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() > MAX_CODE {
            return Err("it has more code than is looked through".to_owned());
        }
        Ok(Self { text, starts, fixed: elf.address(0).is_some_and(|base| base != 0) })
    }

    /// The piece around an address.
    fn piece(&self, at: u64) -> Option<Range<u64>> {
        let after = self.starts.partition_point(|start| *start <= at);
        let start = *self.starts.get(after.checked_sub(1)?)?;
        let (base, bytes) =
            self.text.iter().find(|(base, bytes)| (*base..base + bytes.len() as u64).contains(&start))?;
        let end = self.starts.get(after).copied().unwrap_or(u64::MAX).min(base + bytes.len() as u64);
        (start..end).contains(&at).then_some(start..end.min(start + MAX_PIECE))
    }

    fn decode(&self, piece: &Range<u64>) -> Vec<Instruction> {
        let of = |(base, bytes): &(u64, &'a [u8])| {
            let from = usize::try_from(piece.start.checked_sub(*base)?).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(piece.end - piece.start).ok()?)?)
        };
        let bytes = self.text.iter().find_map(of).unwrap_or_default();
        Decoder::with_ip(64, bytes, piece.start, DecoderOptions::NONE).into_iter().collect()
    }

    /// Pieces with a four-byte distance (or number, in a file of fixed addresses) that leads to one of these addresses.
    fn candidates(&self, wanted: impl Fn(u64) -> bool, around: Range<u64>) -> Result<BTreeSet<u64>, String> {
        let width = around.end.saturating_sub(around.start);
        let near = |at: u64| at.wrapping_sub(around.start) < width && wanted(at);
        let mut found = BTreeSet::new();
        for (base, bytes) in &self.text {
            for (window, behind) in bytes.windows(4).zip(base + 4..) {
                let word = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
                let leads = near(behind.wrapping_add_signed(i64::from(word.cast_signed())));
                if (leads || (self.fixed && near(u64::from(word))))
                    && let Some(piece) = self.piece(behind - 4)
                {
                    found.insert(piece.start);
                    if found.len() > MAX_PIECES {
                        return Err("too much of its code refers to what is looked for".to_owned());
                    }
                }
            }
        }
        Ok(found)
    }

    /// Pieces whose code takes one of these addresses.
    pub fn references(&self, wanted: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Ok(BTreeSet::new());
        };
        let mut found = self.candidates(|at| wanted.contains(&at), *first..last + 1)?;
        found.retain(|start| {
            let code = self.piece(*start).map(|piece| self.decode(&piece)).unwrap_or_default();
            code.iter().any(|i| self.address_in(i).is_some_and(|at| wanted.contains(&at)))
        });
        Ok(found)
    }

    /// The address that the instruction puts somewhere.
    fn address_in(&self, instruction: &Instruction) -> Option<u64> {
        match instruction.code() {
            Kind::Lea_r64_m if instruction.is_ip_rel_memory_operand() => Some(instruction.ip_rel_memory_address()),
            Kind::Mov_r32_imm32 if self.fixed => Some(u64::from(instruction.immediate32())),
            Kind::Mov_rm64_imm32 | Kind::Mov_r64_imm64 | Kind::Pushq_imm32 if self.fixed => {
                Some(instruction.immediate(instruction.op_count().saturating_sub(1)))
            }
            _ => None,
        }
    }

    /// Direct branches into these pieces (in order, none inside another) from others: where from, where to, what it is.
    fn branches_into(&self, pieces: &[Range<u64>]) -> Result<Vec<(u64, u64, FlowControl)>, String> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(Vec::new()) };
        let target = |at: u64| {
            let after = pieces.partition_point(|piece| piece.start <= at);
            after.checked_sub(1).and_then(|i| pieces.get(i)).filter(|piece| piece.contains(&at))
        };
        let mut found = Vec::new();
        for start in self.candidates(|at| target(at).is_some(), first.start..last.end)? {
            let Some(source) = self.piece(start) else { continue };
            for instruction in self.decode(&source).into_iter().filter(is_direct_branch) {
                let to = instruction.near_branch_target();
                if target(to).is_some_and(|piece| piece.start != source.start) {
                    found.push((source.start, to, instruction.flow_control()));
                }
            }
        }
        Ok(found)
    }

    /// The function that each of these pieces belongs to: itself, unless it is the part of another one that rarely runs, which is
    /// jumped to in the middle or under a condition. One for which that can't be told is left out.
    pub fn functions_of(&self, starts: impl Iterator<Item = u64>) -> Result<BTreeMap<u64, u64>, String> {
        let starts: BTreeSet<u64> = starts.collect();
        let pieces: Vec<Range<u64>> = starts.into_iter().filter_map(|start| self.piece(start)).collect();
        let branches = self.branches_into(&pieces)?;
        let mut functions = BTreeMap::new();
        for piece in pieces {
            let into = || branches.iter().filter(|(_, to, _)| piece.contains(to));
            let called = into().any(|(_, to, flow)| *to == piece.start && *flow == FlowControl::Call);
            let part = into().filter(|(_, to, flow)| match flow {
                FlowControl::ConditionalBranch => true,
                FlowControl::UnconditionalBranch => *to != piece.start,
                _ => false,
            });
            let owners: BTreeSet<u64> = part.map(|branch| branch.0).collect();
            let function = match (owners.first(), owners.len()) {
                // Others may jump to it under a condition, as the last thing that they do.
                _ if called => Some(piece.start),
                (None, _) => Some(piece.start),
                (Some(owner), 1) => Some(*owner),
                _ => None,
            };
            functions.extend(function.map(|function| (piece.start, function)));
        }
        Ok(functions)
    }

    /// The functions with a direct call, or jump as the last thing that they do, to this one.
    pub fn callers(&self, function: u64) -> Result<BTreeSet<u64>, String> {
        let into = self.branches_into(std::slice::from_ref(&(function..function + 1)))?;
        Ok(into.into_iter().map(|b| b.0).collect())
    }

    /// Where `function` calls the other one for the first time, or jumps there as the last thing that it does.
    pub fn calls(&self, function: u64, other: u64) -> Result<Option<u64>, String> {
        let Some(piece) = self.piece(function) else { return Ok(None) };
        let leads = |i: &Instruction| is_direct_branch(i) && i.near_branch_target() == other;
        Ok(self.decode(&piece).iter().find(|i| leads(i)).map(Instruction::ip))
    }

    /// The position of the one argument of the call at `call` that is the address of something on the function's own stack;
    /// `None` unless there is exactly one.
    pub fn address_argument(&self, function: u64, call: u64) -> Option<u8> {
        let piece = self.piece(function)?;
        let mut on_stack = [false; 6];
        for instruction in self.decode(&piece).iter().take_while(|i| i.ip() < call) {
            if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
                if instruction.flow_control() != FlowControl::Next {
                    on_stack = if instruction.flow_control() == FlowControl::ConditionalBranch {
                        on_stack
                    } else {
                        [false; 6]
                    };
                }
                continue;
            }
            let register = instruction.op0_register().full_register();
            let Some(position) = ARGUMENTS.iter().position(|argument| *argument == register) else { continue };
            on_stack[position] = match instruction.code() {
                Kind::Lea_r64_m => matches!(instruction.memory_base(), Register::RSP | Register::RBP),
                Kind::Mov_r64_rm64 | Kind::Mov_rm64_r64 => {
                    instruction.op1_kind() == OpKind::Register && instruction.op1_register() == Register::RSP
                }
                // Compares and tests write nothing.
                Kind::Test_rm32_r32 | Kind::Test_rm64_r64 | Kind::Cmp_rm32_imm8 | Kind::Cmp_rm64_imm8 => {
                    on_stack[position]
                }
                _ => false,
            };
        }
        let mut places = (0..).zip(on_stack).filter(|(_, is)| *is).map(|(position, _)| position);
        let first = places.next()?;
        places.next().is_none().then_some(first)
    }

    /// The function's own code stores nothing but on its stack.
    pub fn writes_nothing(&self, function: u64) -> bool {
        let Some(piece) = self.piece(function) else { return false };
        let stores = |i: &Instruction| {
            let reads_only =
                matches!(i.mnemonic(), iced_x86::Mnemonic::Cmp | iced_x86::Mnemonic::Test | iced_x86::Mnemonic::Nop);
            let branch = i.flow_control() != FlowControl::Next;
            let own =
                matches!(i.memory_base(), Register::RSP | Register::RBP) || i.mnemonic() == iced_x86::Mnemonic::Push;
            !reads_only && !branch && i.op_count() > 0 && i.op0_kind() == OpKind::Memory && !own
        };
        !self.decode(&piece).iter().any(stores)
    }

    /// Calls in a piece with the constants that straight-line code before them sets up.
    pub fn sites(&self, start: u64) -> BTreeSet<Site> {
        let Some(piece) = self.piece(start) else { return BTreeSet::new() };
        let code = self.decode(&piece);
        let index: BTreeMap<u64, usize> =
            code.iter().enumerate().map(|(i, instruction)| (instruction.ip(), i)).collect();
        let mut lines = BTreeSet::from([0]);
        for (i, instruction) in code.iter().enumerate() {
            if instruction.flow_control() != FlowControl::Next {
                lines.insert(i + 1);
                let target = is_direct_branch(instruction).then(|| index.get(&instruction.near_branch_target()));
                lines.extend(target.flatten());
            }
        }
        lines.into_iter().filter_map(|line| self.site(&code, &index, line)).collect()
    }

    fn site(&self, code: &[Instruction], index: &BTreeMap<u64, usize>, line: usize) -> Option<Site> {
        let (mut args, mut at, mut jumps) = ([None; 6], line, 0);
        for _ in 0..LINE {
            let instruction = code.get(at)?;
            at += 1;
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::ConditionalBranch => continue,
                FlowControl::Call | FlowControl::IndirectCall => return Some(Site { at: instruction.ip(), args }),
                FlowControl::UnconditionalBranch if jumps < JUMPS => {
                    jumps += 1;
                    at = *index.get(&instruction.near_branch_target())?;
                    continue;
                }
                _ => return None,
            }
            if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
                continue;
            }
            let register = instruction.op0_register().full_register();
            let Some(arg) = ARGUMENTS.iter().position(|argument| *argument == register) else { continue };
            let same = |i: &Instruction| i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register();
            let value = match instruction.code() {
                Kind::Mov_r32_imm32 => Some(u64::from(instruction.immediate32())),
                Kind::Xor_r32_rm32 | Kind::Xor_rm32_r32 if same(instruction) => Some(0),
                Kind::Lea_r64_m if instruction.is_ip_rel_memory_operand() => Some(instruction.ip_rel_memory_address()),
                Kind::Test_rm32_r32 | Kind::Test_rm64_r64 => continue,
                _ => None,
            };
            if let Some(known) = args.get_mut(arg) {
                *known = value;
            }
        }
        None
    }
}

fn is_direct_branch(instruction: &Instruction) -> bool {
    instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64
}
