//! The straight walk from a function's first instruction to the first branch.
//!
//! Everything on it is passed exactly once by every call, as long as nothing jumps into it (the search over the
//! file's code, [`sweep`](super::sweep), tells). So a probe may stand on any of these instructions at which what it
//! reads is still as the caller left it. The branch itself is the last such instruction.

use super::image::{Function, Image};
use super::instruction::{Class, class, decode, text};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic,
    OpAccess, Register,
};

const MAX_STEPS: usize = 64;
/// Registers of the System V calling convention, in order.
pub(super) const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// One instruction of the walk.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) va: u64,
    /// Address behind it.
    pub(super) next: u64,
    pub(super) text: String,
    pub(super) class: Class,
    pub(super) call: bool,
    /// The stack pointer still points at the return address.
    pub(super) at_return_address: bool,
    /// What before it wrote an argument or somebody's memory.
    pub(super) disturbed: Option<String>,
}

/// The instructions up to the first branch, and why the walk ended there.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) steps: Vec<Step>,
    pub(super) stop: String,
}

/// The stack pointer, and the frame pointer once it is a copy, relative to the stack pointer at the entry.
struct Frame {
    sp: Option<i64>,
    bp: Option<i64>,
}

/// Walks `function`; `args` arguments are needed by the probe.
pub(super) fn walk(image: &Image<'_>, function: &Function, args: u8) -> Walk {
    let needed = &ARGUMENTS[..usize::from(args).min(ARGUMENTS.len())];
    let code = image.code(function);
    let mut walk = Walk { steps: Vec::new(), stop: "a long run of instructions without a branch".to_owned() };
    let mut infos = InstructionInfoFactory::new();
    let mut frame = Frame { sp: Some(0), bp: None };
    let mut disturbed: Option<String> = None;
    let mut at = 0;
    while walk.steps.len() < MAX_STEPS {
        let va = function.start + at as u64;
        let Some(instruction) = code.get(at..).and_then(|rest| decode(rest, va)) else {
            walk.stop = format!("no instruction at {}", place(at));
            break;
        };
        let after = at + instruction.len();
        let step = Step {
            va,
            next: function.start + after as u64,
            text: text(&instruction),
            class: class(&code[at..after], &instruction),
            call: instruction.flow_control() == FlowControl::Call,
            at_return_address: frame.sp == Some(0),
            disturbed: disturbed.clone(),
        };
        let stop = if !function.proven_end {
            Some("neither the unwind table nor a symbol's size tells where the function ends".to_owned())
        } else if instruction.flow_control() != FlowControl::Next {
            Some(format!("paths part at `{}`, {}", step.text, place(at)))
        } else {
            None
        };
        let info = infos.info(&instruction);
        if disturbed.is_none() {
            disturbed = effect(info, needed, &frame).map(|what| format!("`{}`, {}, {what}", step.text, place(at)));
        }
        frame.follow(&instruction, info);
        walk.steps.push(step);
        if let Some(stop) = stop {
            walk.stop = stop;
            break;
        }
        at = after;
    }
    walk
}

/// A direct jump of the function back to its first instruction: a loop whose head it is, or a call of itself as the
/// last act; the instructions do not tell which.
pub(super) fn jump_to_start(image: &Image<'_>, function: &Function) -> Option<u64> {
    let code = image.code(function);
    if !function.proven_end || !image.work(code.len() as u64) {
        return None;
    }
    let instructions = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE).into_iter();
    let jump = |flow| matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch);
    let mut jumps = instructions.filter(|i| jump(i.flow_control()) && i.near_branch_target() == function.start);
    jumps.next().map(|i| i.ip())
}

/// "12 bytes in", for texts.
pub(super) fn place(distance: usize) -> String {
    format!("{distance} bytes in")
}

pub(super) fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// What an instruction does that a probe behind it could notice.
fn effect(info: &InstructionInfo, needed: &[Register], frame: &Frame) -> Option<String> {
    for memory in info.used_memory().iter().filter(|m| writes(m.access())) {
        let base = match memory.base() {
            Register::RSP => frame.sp,
            Register::RBP => frame.bp,
            _ => None,
        };
        let size = memory.memory_size().size() as i64;
        let end = base.and_then(|b| b.checked_add(memory.displacement().cast_signed())?.checked_add(size));
        // Unknown sizes are 0; below the entry's stack pointer is the function's own frame.
        let own = memory.index() == Register::None
            && !matches!(memory.segment(), Register::FS | Register::GS)
            && size > 0
            && end.is_some_and(|end| end <= 0);
        if !own {
            return Some("writes memory".to_owned());
        }
    }
    let mut written = info.used_registers().iter().filter(|r| writes(r.access())).map(|r| r.register().full_register());
    written.find(|r| needed.contains(r)).map(|r| format!("writes the argument register {r:?}").to_lowercase())
}

impl Frame {
    fn follow(&mut self, instruction: &Instruction, info: &InstructionInfo) {
        let writes_register = |wanted: Register| {
            info.used_registers().iter().any(|r| writes(r.access()) && r.register().full_register() == wanted)
        };
        let copy = instruction.mnemonic() == Mnemonic::Mov && instruction.op1_register() == Register::RSP;
        if copy && instruction.op0_register() == Register::RBP {
            self.bp = self.sp;
            return;
        }
        if writes_register(Register::RBP) {
            self.bp = None;
        }
        if writes_register(Register::RSP) {
            self.sp = self.sp.and_then(|sp| sp.checked_add(stack_change(instruction)?));
        }
    }
}

/// How far an instruction that writes rsp moves it, when that is known.
pub(super) fn stack_change(instruction: &Instruction) -> Option<i64> {
    match instruction.mnemonic() {
        Mnemonic::Push => return Some(i64::from(instruction.stack_pointer_increment())),
        Mnemonic::Pop if instruction.op0_register().full_register() != Register::RSP => {
            return Some(i64::from(instruction.stack_pointer_increment()));
        }
        _ => {}
    }
    let immediate = || instruction.immediate(1).cast_signed();
    match instruction.code() {
        Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => immediate().checked_neg(),
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 => Some(immediate()),
        Code::Lea_r64_m
            if instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None =>
        {
            Some(instruction.memory_displacement64().cast_signed())
        }
        _ => None,
    }
}
