//! A tcpdump expression as a program, and what runs it: the classic BPF that libpcap compiles an expression to, one program for each
//! kind of link.
//!
//! libpcap itself is only where the expression is compiled ([`super::libpcap`], in a child of its own). Here is no foreign code: frames come
//! from anywhere, and the program is run with every access checked, as the kernel and libpcap do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Direction, Packet};

/// Words of memory that a program has.
const MEMORY: usize = 16;
/// Longest program (the kernel's BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;
/// Offsets from here on are no bytes of the frame but what the kernel knows of it (`linux/filter.h`): its headers (`SKF_NET_OFF`,
/// `SKF_LL_OFF`), and from [`ABOUT`] on what there is to know about it (`SKF_AD_OFF`).
const BEYOND: u32 = 0x8000_0000;
const ABOUT: u32 = 0xffff_f000;
/// `SKF_AD_PKTTYPE`: what `inbound` and `outbound` ask for.
const PACKET_TYPE: u32 = ABOUT + 4;
/// `SKF_AD_IFINDEX`: what `ifindex` asks for.
const INTERFACE: u32 = ABOUT + 8;
/// `PACKET_OUTGOING`. All others are `PACKET_HOST` here; no expression tells them apart.
const OUTGOING: u32 = 4;

/// Of an expression whose program jumps back.
const LOOP: &str = "it needs a loop over the headers of each packet (`protochain`), which is not made here";
/// Of one that asks for what is not known here.
const UNKNOWN: &str = "it asks for something that the kernel knows of a packet besides its bytes; of that there is here only \
                       whether it is inbound or outbound, and its interface (`ifindex`)";

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
        self.programs.get(&link_type).is_some_and(|program| run(program, packet) != 0)
    }
}

/// Why a program cannot be run here; `None`: it can.
#[must_use]
pub fn objection(program: &[Instruction]) -> Option<&'static str> {
    if !ends(program) {
        return Some(LOOP);
    }
    program.iter().any(asks_for_unknown).then_some(UNKNOWN)
}

/// Whether a program comes to an end on every frame: each jump leads forward, and into the program.
fn ends(program: &[Instruction]) -> bool {
    let leads_in = |(at, i): (usize, &Instruction)| {
        let left = program.len() - at - 1;
        let (always, jump) = (i.code & 0xf7 == 0x05, i.code & 0x07 == 0x05);
        let farthest = if always { usize::try_from(i.k).unwrap_or(usize::MAX) } else { usize::from(i.jt.max(i.jf)) };
        !jump || farthest < left
    };
    let returns = program.last().is_some_and(|last| last.code & 0x07 == 0x06);
    returns && program.len() <= MAX_INSTRUCTIONS && program.iter().enumerate().all(leads_in)
}

/// A load from a fixed place that no frame has.
fn asks_for_unknown(i: &Instruction) -> bool {
    let (loads, mode) = (i.code & 0x07 <= 0x01, i.code & 0xe0);
    let known = mode == 0x20 && matches!(i.k, PACKET_TYPE | INTERFACE);
    loads && matches!(mode, 0x20 | 0xa0) && i.k >= BEYOND && !known
}

fn load(data: &[u8], at: Option<u32>, size: usize) -> Option<u32> {
    let at = usize::try_from(at?).ok()?;
    let bytes = data.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// How many bytes of the frame are wanted; 0: it does not fit. A load beyond its end, a division by zero, and a program that is
/// none make it not fit.
#[must_use]
pub fn run(program: &[Instruction], packet: &Packet<'_>) -> u32 {
    execute(program, packet).unwrap_or(0)
}

fn execute(program: &[Instruction], packet: &Packet<'_>) -> Option<u32> {
    let data = packet.data;
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
                    0x20 if k == PACKET_TYPE => {
                        if packet.direction == Direction::Outbound {
                            OUTGOING
                        } else {
                            0
                        }
                    }
                    0x20 if k == INTERFACE => packet.interface,
                    0x20 => load(data, Some(k), size)?,
                    0x40 => load(data, x.checked_add(k), size)?,
                    0x60 => *memory.get(cell(k)?)?,
                    0x80 => packet.wire_length,
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
