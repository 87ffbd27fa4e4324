//! Exit points instead of a return probe: plain probes on cheap branches which every return passes exactly once, with
//! the value already final, in rax or in the register that is copied to rax behind them. Most often that is the `jne` of
//! the stack protector's check, or a `jmp` to a shared epilogue.
//!
//! Worth it where the return probe cannot be cheap: it also leaves the return address of the target alone. And where the
//! [arguments are still there](super::kept), which saves the probe at the entry.

use super::image::{Function, Image};
use super::instruction::{Class, class, decode};
use super::sweep::{How, References};
use super::walk::writes;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const MAX_NODES: usize = 20_000;
/// What following one instruction of the graph costs, in decoded bytes.
const NODE_WORK: u64 = 64;

struct Node {
    next: Vec<u64>,
    behind: u64,
    emulated: bool,
    /// A jump or a nop: passing it changes nothing.
    passive: bool,
    returns: bool,
    /// Registers that it may change, by their numbers.
    writes: u16,
    /// A whole register that it copies into another one: to, from.
    copies: Option<(Register, Register)>,
}

/// What a function that is called may change: rax, rcx, rdx, rsi, rdi, r8 to r11.
const CHANGED_BY_CALLS: u16 = 0b1111_1100_0111;

/// Where the value is that a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueIn {
    /// In rax already.
    Rax,
    /// In the register that is said.
    Any,
}

impl Node {
    fn writes(&self, register: Register) -> bool {
        self.writes & 1 << register.number() != 0
    }

    /// Where that is before this instruction which is in `register` behind it; nothing if it is made here.
    fn before(&self, register: Register, value: ValueIn) -> Option<Register> {
        match self.copies {
            Some((to, from)) if to == register && value == ValueIn::Any => Some(from),
            _ => (!self.writes(register)).then_some(register),
        }
    }
}

/// Everything that a call of the function can run inside it, by direct jumps.
pub(super) struct Graph {
    function: Function,
    nodes: BTreeMap<u64, Node>,
}

impl Graph {
    /// Follows all paths from the function's start. Paths that leave by an indirect jump or into another function
    /// make it fail: their return is not in sight.
    pub(super) fn explore(image: &Image<'_>, function: &Function) -> Result<Graph, String> {
        if !function.proven_end {
            return Err("the function's end is not known".to_owned());
        }
        let mut graph = Graph { function: *function, nodes: BTreeMap::new() };
        let mut todo = vec![function.start];
        let mut infos = InstructionInfoFactory::new();
        while let Some(va) = todo.pop() {
            if graph.nodes.contains_key(&va) {
                continue;
            }
            if graph.nodes.len() >= MAX_NODES || !image.work(NODE_WORK) {
                return Err("the function is too large".to_owned());
            }
            let bytes = if image.is_code(va) { image.bytes(va, 15) } else { &[] };
            let Some(instruction) = decode(bytes, va) else { return Err(format!("no instruction at {va:#x}")) };
            let next = successors(image, function, &instruction)?;
            let used = infos.info(&instruction).used_registers().iter().filter(|r| writes(r.access()));
            let written = used.map(|r| r.register().full_register()).filter(|r| r.is_gpr64());
            let written = written.fold(0, |mask, register| mask | 1 << register.number());
            let flow = instruction.flow_control();
            let call = matches!(flow, FlowControl::Call | FlowControl::IndirectCall);
            let jump = matches!(flow, FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch);
            todo.extend(&next);
            let node = Node {
                next,
                behind: instruction.next_ip(),
                emulated: class(&bytes[..instruction.len()], &instruction) == Class::Emulated,
                passive: jump || instruction.mnemonic() == Mnemonic::Nop,
                returns: flow == FlowControl::Return,
                writes: written | if call { CHANGED_BY_CALLS } else { 0 },
                copies: copy(&instruction),
            };
            graph.nodes.insert(va, node);
        }
        Ok(graph)
    }

    /// The addresses to which references must be known before [`Graph::exits`] can decide.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (va, node) in &self.nodes {
            match ranges.last_mut() {
                Some(last) if *va <= last.end => last.end = last.end.max(node.behind),
                _ => ranges.push(*va..node.behind),
            }
        }
        ranges
    }

    /// The exit points, and which register holds the value at each.
    pub(super) fn exits(
        &self,
        image: &Image<'_>,
        references: &References,
        value: ValueIn,
    ) -> Result<BTreeMap<u64, Register>, String> {
        self.cold_parts_are_private(references)?;
        let predecessors = self.predecessors();
        let returns: Vec<u64> = self.nodes.iter().filter(|(_, n)| n.returns).map(|(va, _)| *va).collect();
        if returns.is_empty() {
            return Err("it never returns".to_owned());
        }
        let can_return = self.leading_to(&returns, &predecessors);
        // Where the value is before each instruction.
        let (mut chosen, mut tail) = (BTreeMap::new(), BTreeMap::new());
        let mut todo: Vec<(u64, Register)> = returns.into_iter().map(|va| (va, Register::RAX)).collect();
        while let Some((va, register)) = todo.pop() {
            if let Some(known) = tail.insert(va, register) {
                if known != register {
                    let at = self.distance(va);
                    return Err(format!("the value is in {known:?} or in {register:?}, {at} bytes in").to_lowercase());
                }
                continue;
            }
            if va == self.function.start {
                return Err("a path has no cheap instruction after the value is set".to_owned());
            }
            for before in predecessors.get(&va).into_iter().flatten() {
                let Some(node) = self.nodes.get(before) else { continue };
                let only_way = node.next.iter().all(|next| *next == va || !can_return.contains(next));
                if node.emulated && node.passive && only_way {
                    chosen.insert(*before, register);
                } else if let Some(from) = node.before(register, value) {
                    todo.push((*before, from));
                } else {
                    let at = self.distance(*before);
                    let name = format!("{register:?}").to_lowercase();
                    return Err(format!("{name} is set {at} bytes in, without a cheap instruction before the return"));
                }
            }
        }
        self.each_return_passes_one(&chosen, &tail, &predecessors)?;
        self.nothing_else_enters(image, chosen.keys().chain(tail.keys()), references)?;
        Ok(chosen)
    }

    fn distance(&self, va: u64) -> i64 {
        va.wrapping_sub(self.function.start).cast_signed()
    }

    fn predecessors(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut predecessors: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (va, node) in &self.nodes {
            for next in &node.next {
                predecessors.entry(*next).or_default().push(*va);
            }
        }
        predecessors
    }

    /// All instructions from which one of `ends` can be reached, the ends included.
    fn leading_to(&self, ends: &[u64], predecessors: &BTreeMap<u64, Vec<u64>>) -> BTreeSet<u64> {
        let (mut leading, mut todo) = (BTreeSet::new(), ends.to_vec());
        while let Some(va) = todo.pop() {
            if leading.insert(va) {
                todo.extend(predecessors.get(&va).into_iter().flatten());
            }
        }
        leading
    }

    /// Parts outside the function's bounds (compilers move unlikely code away) must be reached from it only.
    fn cold_parts_are_private(&self, references: &References) -> Result<(), String> {
        for (va, node) in self.nodes.range(..self.function.start).chain(self.nodes.range(self.function.end..)) {
            let foreign = references.within(*va..node.behind).iter().find(|r| {
                // The unwind table describes a cold part too; a symbol or a call would make it a function.
                !(r.how == How::Unwind || r.how == How::Jump && self.nodes.contains_key(&r.source))
            });
            if let Some(foreign) = foreign {
                return Err(format!("it leaves to {:#x}, where {} leads too", va, foreign.by()));
            }
        }
        Ok(())
    }

    fn each_return_passes_one(
        &self,
        chosen: &BTreeMap<u64, Register>,
        tail: &BTreeMap<u64, Register>,
        predecessors: &BTreeMap<u64, Vec<u64>>,
    ) -> Result<(), String> {
        let ends: Vec<u64> = chosen.keys().copied().collect();
        let leading = self.leading_to(&ends, predecessors);
        for va in chosen.keys() {
            let again = self.nodes.get(va).is_some_and(|n| n.next.iter().any(|next| leading.contains(next)));
            if tail.contains_key(va) || again {
                return Err(format!("the branch {} bytes in could be passed twice", self.distance(*va)));
            }
        }
        Ok(())
    }

    /// No jump from outside the graph, no taken address, and no fall-through from code that the graph does not know
    /// (landing pads of exceptions, tables of labels) may lead behind a chosen point.
    fn nothing_else_enters<'a>(
        &self,
        image: &Image<'_>,
        guarded: impl Iterator<Item = &'a u64>,
        references: &References,
    ) -> Result<(), String> {
        let mut fallen_into: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for va in guarded {
            let Some(node) = self.nodes.get(va) else { continue };
            let part = if self.function.contains(*va) { Some(self.function) } else { image.enclosing(*va) };
            let part = part.ok_or_else(|| format!("nothing tells the bounds of the code at {va:#x}"))?;
            for r in references.within(*va..node.behind) {
                let own_jump = r.target == *va
                    && r.how == How::Jump
                    && self.nodes.get(&r.source).is_some_and(|source| source.next.contains(va));
                let own_description = r.how == How::Unwind && r.target == part.start;
                if !(own_jump || own_description) {
                    return Err(format!("{:#x} is also reached by {}", r.target, r.by()));
                }
            }
            let entered = match fallen_into.entry(part.start) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(self.fallen_into(image, &part)?),
            };
            if entered.contains(va) {
                return Err(format!("unknown code runs into {va:#x}"));
            }
        }
        Ok(())
    }

    /// Instructions of the graph whose neighbour before them is not in it, but runs into them.
    fn fallen_into(&self, image: &Image<'_>, part: &Function) -> Result<BTreeSet<u64>, String> {
        let code = image.code(part);
        if !image.work(code.len() as u64) {
            return Err("the work allowed for one file is used up".to_owned());
        }
        let mut decoder = Decoder::with_ip(64, code, part.start, DecoderOptions::NONE);
        let (mut instruction, mut entered, mut open) = (Instruction::default(), BTreeSet::new(), false);
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if self.nodes.contains_key(&instruction.ip()) {
                if open {
                    entered.insert(instruction.ip());
                }
                open = false;
            } else if instruction.mnemonic() != Mnemonic::Nop {
                // Padding passes on what came before it.
                open = !matches!(
                    instruction.flow_control(),
                    FlowControl::UnconditionalBranch
                        | FlowControl::IndirectBranch
                        | FlowControl::Return
                        | FlowControl::Exception
                );
            }
        }
        Ok(entered)
    }
}

fn successors(image: &Image<'_>, function: &Function, instruction: &Instruction) -> Result<Vec<u64>, String> {
    let (va, behind) = (instruction.ip(), instruction.next_ip());
    match instruction.flow_control() {
        FlowControl::Next => Ok(vec![behind]),
        FlowControl::Call | FlowControl::IndirectCall => {
            let direct = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
            if instruction.flow_control() == FlowControl::Call && !direct {
                return Err(format!("a system call at {va:#x}"));
            }
            // Nothing of the function behind it: the callee does not come back.
            let last = behind == function.end || image.starts_function(behind);
            Ok(if last { Vec::new() } else { vec![behind] })
        }
        flow @ (FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) => {
            let target = instruction.near_branch_target();
            if target == function.start {
                return Err(format!("a jump at {va:#x} leads back to its start"));
            }
            if !function.contains(target) && is_symbol(image, target) {
                return Err(format!("it leaves by a jump at {va:#x}"));
            }
            let conditional = flow == FlowControl::ConditionalBranch;
            Ok([target].into_iter().chain(conditional.then_some(behind)).collect())
        }
        FlowControl::Return | FlowControl::Exception => Ok(Vec::new()),
        _ => Err(format!("an indirect jump at {va:#x}")),
    }
}

/// `mov` from one whole register to another.
fn copy(instruction: &Instruction) -> Option<(Register, Register)> {
    let whole = matches!(instruction.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64);
    let registers = instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Register;
    (whole && registers).then(|| (instruction.op0_register(), instruction.op1_register()))
}

fn is_symbol(image: &Image<'_>, va: u64) -> bool {
    image.starts.functions.binary_search_by_key(&va, |f| f.0).is_ok()
}
