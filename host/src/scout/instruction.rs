//! What the kernel does with a breakpoint on one instruction.
//!
//! The classes were measured on Linux 6.18, the rules read from `arch/x86/kernel/uprobes.c`. Where kernels differ the
//! stricter one is followed: an instruction that some supported kernel refuses is refused here, because the kernel
//! tells only sometimes (a LOCK prefix in a file that nobody has mapped yet is accepted and never armed).

use iced_x86::{
    Decoder, DecoderOptions, EncodingKind, FlowControl, Formatter, Instruction, Mnemonic, NasmFormatter, Register,
};

/// What a breakpoint on an instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The kernel does the instruction's work itself.
    Emulated,
    /// A copy is single-stepped elsewhere.
    Stepped,
    /// Never to be probed, and why.
    Forbidden(&'static str),
}

/// The forms of `nop` that are known to be emulated.
const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0xf3, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// One-byte opcodes that the kernel takes in 64-bit programs, a bit each (`good_insns_64`).
const ONE_BYTE: [u16; 16] = [
    0b0011_1111_0011_1111, // 00
    0b0011_1111_0011_1111, // 10
    0b0011_1111_0011_1111, // 20
    0b0011_1111_0011_1111, // 30
    0,                     // 40: REX, never an opcode
    0xffff,                // 50
    0b0000_1111_0000_1000, // 60
    0xffff,                // 70
    0b1111_1111_1111_1011, // 80
    0b1111_0111_1111_1111, // 90
    0xffff,                // a0
    0xffff,                // b0
    0b0000_1111_1100_1111, // c0
    0b1111_1111_0000_1111, // d0
    0b0000_1111_0000_1111, // e0
    0b1100_0011_1110_0000, // f0
];

/// Two-byte opcodes (behind 0f) that every supported kernel takes (`good_2byte_insns`).
const TWO_BYTE: [u16; 16] = [
    0b1100_0000_0000_0000, // 00
    0xffff,                // 10
    0b1111_1111_0000_1111, // 20, without the control registers
    0b0000_0101_0000_1110, // 30, with both tables of three-byte opcodes
    0xffff,
    0xffff,
    0xffff,
    0b1100_0000_1111_1111, // 70
    0xffff,
    0xffff,
    0b1011_1111_0011_1111, // a0
    0b1111_1101_1111_1111, // b0
    0xffff,
    0b1111_1111_1111_1110, // d0
    0xffff,
    0b0111_1111_1111_1110, // f0
];

/// The instruction at the head of `code`, or nothing when the bytes are none.
pub(super) fn decode(code: &[u8], va: u64) -> Option<Instruction> {
    let head = code.get(..code.len().min(15))?;
    if head.is_empty() {
        return None;
    }
    let instruction = Decoder::with_ip(64, head, va, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The instruction in words.
pub(super) fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    NasmFormatter::new().format(instruction, &mut text);
    text
}

/// `bytes` are exactly those of `instruction`.
pub(super) fn class(bytes: &[u8], instruction: &Instruction) -> Class {
    if instruction.is_invalid() || bytes.is_empty() {
        return Class::Forbidden("not an instruction");
    }
    if NOPS.contains(&bytes) {
        return Class::Emulated;
    }
    // The kernel reads the opcode behind a VEX or EVEX prefix as if there were no prefix. c5 f8 77 (`vzeroupper`) is
    // then `ja`, and a probed `vmovdqu` that stores (opcode 7f, `jg`) is skipped: measured, the target got other
    // values and no error. Others (opcode 6f, ef: port input and output) are refused.
    if instruction.encoding() != EncodingKind::Legacy {
        return Class::Forbidden("the kernel misreads vector encodings");
    }
    let prefixes = bytes.iter().take_while(|b| is_legacy_prefix(**b)).count();
    if let Some(bad) = bytes[..prefixes].iter().find(|b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0)) {
        return Class::Forbidden(match bad {
            0xf0 => "the kernel refuses LOCK prefixes, or accepts and never arms them",
            _ => "the kernel refuses segment prefixes",
        });
    }
    let rest = &bytes[prefixes..];
    let (rex, opcode) = match rest {
        [rex @ 0x40..=0x4f, opcode @ ..] => (*rex, opcode),
        opcode => (0, opcode),
    };
    match instruction.mnemonic() {
        Mnemonic::Pushf | Mnemonic::Pushfq | Mnemonic::Popf | Mnemonic::Popfq => {
            return Class::Forbidden("the trap flag would stay in the saved flags and kill the target");
        }
        Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 | Mnemonic::Iretq | Mnemonic::Iretd | Mnemonic::Iret => {
            return Class::Forbidden("interrupts cannot be single-stepped");
        }
        // Of the REX forms of 90 only REX.B is an exchange, but the kernel takes all for `nop`.
        Mnemonic::Xchg if opcode == [0x90] && rex & 1 != 0 => {
            return Class::Forbidden("the kernel takes this exchange of registers for a nop");
        }
        Mnemonic::Mov | Mnemonic::Pop if instruction.op0_register() == Register::SS => {
            return Class::Forbidden("masks the single-step trap");
        }
        _ => {}
    }
    if instruction.flow_control() == FlowControl::XbeginXabortXend {
        return Class::Forbidden("a trap aborts the transaction");
    }
    match opcode {
        [0x0f, second, ..] if !listed(&TWO_BYTE, *second) => {
            return Class::Forbidden("the kernel refuses this opcode");
        }
        [first, ..] if *first != 0x0f && !listed(&ONE_BYTE, *first) => {
            return Class::Forbidden("the kernel refuses this opcode");
        }
        _ => {}
    }
    match (&bytes[..prefixes], rex, opcode) {
        ([], 0 | 0x41, [0x50..=0x57]) => Class::Emulated,
        // One prefix that is harmless (f2, `bnd`), no REX: the forms that were measured.
        ([] | [0xf2], 0, [0xeb, _] | [0xe8 | 0xe9, _, _, _, _]) => Class::Emulated,
        ([] | [0xf2], 0, [0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, _, _, _, _]) => Class::Emulated,
        (prefixes, _, [0xeb | 0xe8 | 0xe9 | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..]) if prefixes.contains(&0x66) => {
            Class::Forbidden("the kernel refuses branches with an operand-size prefix")
        }
        // Other prefixed branches are emulated by some form of the same code, but were not measured.
        (_, _, [0xeb | 0xe8 | 0xe9 | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..]) => {
            Class::Forbidden("a branch with unusual prefixes")
        }
        _ => Class::Stepped,
    }
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
}

fn listed(table: &[u16; 16], opcode: u8) -> bool {
    table[usize::from(opcode >> 4)] & (1 << (opcode & 0xf)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(bytes: &[u8]) -> Class {
        let instruction = decode(bytes, 0x1000).expect("an instruction");
        assert_eq!(instruction.len(), bytes.len(), "{bytes:x?} is one instruction");
        class(bytes, &instruction)
    }

    #[test]
    fn cheap_instructions_are_emulated() {
        let cheap: [&[u8]; 11] = [
            &[0x55],
            &[0x41, 0x57],
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0xe8, 1, 0, 0, 0],
            &[0xf2, 0xe9, 1, 0, 0, 0],
            &[0xeb, 5],
            &[0x74, 5],
            &[0x0f, 0x85, 1, 0, 0, 0],
            &[0xf3, 0x90],
        ];
        for bytes in cheap {
            assert_eq!(class_of(bytes), Class::Emulated, "{bytes:x?}");
        }
    }

    #[test]
    fn other_instructions_are_stepped() {
        let stepped: [&[u8]; 13] = [
            &[0xf3, 0x0f, 0x1e, 0xfa], // endbr64
            &[0x48, 0x83, 0xec, 0x08], // sub rsp, 8
            &[0x48, 0x55],             // push rbp with REX.W
            &[0x6a, 0x01],             // push 1
            &[0xff, 0x25, 0, 0, 0, 0], // jmp [rip]
            &[0xe3, 0x01],             // jrcxz
            &[0xc3],                   // ret
            &[0x64, 0x48, 0x8b, 4, 0x25, 0x28, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x0f, 0xb6, 0xc0],             // movzx
            &[0xf3, 0x0f, 0xb8, 0xc2],       // popcnt
            &[0x66, 0x0f, 0x38, 0x00, 0xc9], // pshufb
            &[0x0f, 0x18, 0x0f],             // prefetch
        ];
        for bytes in stepped {
            assert_eq!(class_of(bytes), Class::Stepped, "{bytes:x?}");
        }
    }

    #[test]
    fn dangerous_instructions_are_never_probed() {
        let forbidden: [&[u8]; 17] = [
            &[0x49, 0x90],                   // xchg r8, rax
            &[0x41, 0x90],                   // xchg r8d, eax
            &[0x9c],                         // pushfq
            &[0x9d],                         // popfq
            &[0xf0, 0x48, 0x83, 0x07, 0x01], // lock add [rdi], 1
            &[0x66, 0xf0, 0x83, 0x07, 0x01], // lock behind another prefix
            &[0x3e, 0x74, 0x01],             // jz with a hint
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0], // padded call of TLS
            &[0xc5, 0xf8, 0x77],                   // vzeroupper
            &[0xc5, 0xfa, 0x7f, 0x0f],             // vmovdqu [rdi], xmm1
            &[0x0f, 0xb9, 0xc0],                   // ud1
            &[0xcc],
            &[0xcd, 0x80],
            &[0x0f, 0x05],       // syscall
            &[0x0f, 0x0b],       // ud2
            &[0x0f, 0x01, 0xd0], // xgetbv
        ];
        for bytes in forbidden {
            assert!(matches!(class_of(bytes), Class::Forbidden(_)), "{bytes:x?}");
        }
    }
}
