//! A tcpdump expression as a program, and what runs it: the classic BPF that libpcap compiles an expression to, one program for each
//! kind of link.
//!
//! libpcap itself is only where the expression is compiled ([`super::libpcap`], in a child of its own). Here is no foreign code: frames come
//! from anywhere, and the program is run with every access checked, as the kernel and libpcap do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Packet;

/// Words of memory that a program has.
const MEMORY: usize = 16;
/// Longest program (the kernel's BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction, as in `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// What.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// The same if it does not.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// An expression, compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The expression.
    pub expression: String,
    /// By number of the link type. An expression may make no sense on a kind of link; nothing there fits it then.
    pub programs: BTreeMap<u16, Vec<Instruction>>,
}

impl Filter {
    /// Whether a frame of an interface of this link type fits the expression.
    #[must_use]
    pub fn fits(&self, link_type: u16, packet: &Packet<'_>) -> bool {
        self.programs.get(&link_type).is_some_and(|program| run(program, packet.data, packet.wire_length) != 0)
    }
}

/// Whether a program comes to an end on every frame: each jump leads forward, and into the program.
#[must_use]
pub fn ends(program: &[Instruction]) -> bool {
    let leads_in = |(at, i): (usize, &Instruction)| {
        let left = program.len() - at - 1;
        let (always, jump) = (i.code & 0xf7 == 0x05, i.code & 0x07 == 0x05);
        let farthest = if always { usize::try_from(i.k).unwrap_or(usize::MAX) } else { usize::from(i.jt.max(i.jf)) };
        !jump || farthest < left
    };
    let returns = program.last().is_some_and(|last| last.code & 0x07 == 0x06);
    returns && program.len() <= MAX_INSTRUCTIONS && program.iter().enumerate().all(leads_in)
}

fn load(data: &[u8], at: Option<u32>, size: usize) -> Option<u32> {
    let at = usize::try_from(at?).ok()?;
    let bytes = data.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// How many bytes of the frame are wanted; 0: it does not fit. A load beyond its end, a division by zero, and a program that is
/// none make it not fit.
#[must_use]
pub fn run(program: &[Instruction], data: &[u8], wire_length: u32) -> u32 {
    execute(program, data, wire_length).unwrap_or(0)
}

fn execute(program: &[Instruction], data: &[u8], wire_length: u32) -> Option<u32> {
    if program.len() > MAX_INSTRUCTIONS {
        return None;
    }
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; MEMORY]);
    let cell = |k: u32| usize::try_from(k).ok().filter(|cell| *cell < MEMORY);
    let mut at = 0_usize;
    // Jumps lead forward only, so this ends.
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        match code & 0x07 {
            // LD, LDX
            class @ (0x00 | 0x01) => {
                let size = match code & 0x18 {
                    0x00 => 4,
                    0x08 => 2,
                    0x10 => 1,
                    _ => return None,
                };
                let value = match code & 0xe0 {
                    0x00 => k,
                    0x20 => load(data, Some(k), size)?,
                    0x40 => load(data, x.checked_add(k), size)?,
                    0x60 => *memory.get(cell(k)?)?,
                    0x80 => wire_length,
                    // The length of an IPv4 header.
                    0xa0 => 4 * (load(data, Some(k), 1)? & 0x0f),
                    _ => return None,
                };
                *(if class == 0 { &mut a } else { &mut x }) = value;
            }
            // ST, STX
            class @ (0x02 | 0x03) => *memory.get_mut(cell(k)?)? = if class == 2 { a } else { x },
            // ALU
            0x04 => {
                let operand = if code & 0x08 == 0 { k } else { x };
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    0x30 => a.checked_div(operand)?,
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.checked_shl(operand).unwrap_or(0),
                    0x70 => a.checked_shr(operand).unwrap_or(0),
                    0x80 => a.wrapping_neg(),
                    0x90 => a.checked_rem(operand)?,
                    0xa0 => a ^ operand,
                    _ => return None,
                };
            }
            // JMP
            0x05 => {
                let operand = if code & 0x08 == 0 { k } else { x };
                let holds = match code & 0xf0 {
                    0x00 => {
                        at = at.checked_add(usize::try_from(k).ok()?)?;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    0x40 => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if holds { jt } else { jf });
            }
            // RET
            0x06 => return Some(if code & 0x18 == 0x10 { a } else { k }),
            // MISC
            _ => match code & 0xf8 {
                0x00 => x = a,
                0x80 => a = x,
                _ => return None,
            },
        }
    }
}
