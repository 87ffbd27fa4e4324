//! Offsets of fields of THD, read from the x86-64 code of functions that do nothing but access them. Whatever is not
//! exactly the expected code gives `None`: a wrong offset would show wrong numbers.
//!
//! | function | code | seen in |
//! |---|---|---|
//! | `thd_get_thread_id(const THD*)` | `mov disp32(%rdi),%rax; ret` | MariaDB 10.5, 10.11, 11.8 (behind `endbr64`) |
//! | | `endbr64; mov disp32(%rdi),%eax; ret` | MySQL 9.7 |
//! | `thd_is_connection_alive(THD*)` | `xor %eax,%eax; cmpb $0,error(%rdi); jne; cmpq $0,vio(%rdi)`: `THD::net` | MariaDB, the same three |
//! | `my_net_write(NET*, ...)` | `mov nr(%net),%eax; lea 1(%rax),%edx; ...; mov %edx,nr(%net)`: `NET::pkt_nr` | MariaDB, the same three |
//! | `Statement::Statement(LEX*, MEM_ROOT*, state, id)` | `mov %r8,id(%rdi)`, once, with no call before it | MariaDB, the same three |
//! | `Protocol_classic::get_output_pkt_nr()` | `mov thd(%rdi),%rax; mov nr(%rax),%eax; ret`: `THD::net.pkt_nr` | MySQL 9.7 |

/// Bytes of a function that are looked at.
pub const MOST: usize = 1024;

/// No THD is as large as this (seen: 16 to 30 KiB); a displacement beyond is not a field of it.
const MOST_OFFSET: u32 = 1 << 17;

/// A field of THD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its offset in bytes.
    pub offset: u32,
    /// Its size in bytes: 4 or 8.
    pub size: u32,
}

const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
/// `push %rbp; mov %rsp,%rbp` of builds with frame pointers.
const FRAME: &[u8] = &[0x55, 0x48, 0x89, 0xe5];
const POP_RBP: &[u8] = &[0x5d];

/// The field that `thd_get_thread_id` returns.
pub fn thread_id(code: &[u8]) -> Option<Field> {
    let code = skip(code, ENDBR64);
    let (code, framed) = match code.strip_prefix(FRAME) {
        Some(code) => (code, true),
        None => (code, false),
    };
    // mov disp(%rdi),%rax or %eax
    let (code, size) = match code.strip_prefix(&[0x48, 0x8b]) {
        Some(code) => (code, 8),
        None => (code.strip_prefix(&[0x8b])?, 4),
    };
    let (offset, code) = displacement(code, 0)?;
    let code = if framed { code.strip_prefix(POP_RBP)? } else { code };
    let returns = code.starts_with(&[0xc3]) || code.starts_with(&[0xf3, 0xc3]);
    field(offset, size).filter(|_| returns)
}

/// The offset of `THD::net` (whose first field is the connection's `vio`), from `thd_is_connection_alive`.
pub fn net(code: &[u8]) -> Option<u32> {
    let code = skip(skip(code, ENDBR64), FRAME).strip_prefix(&[0x31, 0xc0])?;
    // cmpb $0,disp(%rdi); jne over
    let (error, code) = displacement(code.strip_prefix(&[0x80])?, 7)?;
    let code = code.strip_prefix(&[0x00, 0x75])?.get(1..)?;
    // cmpq $0,disp(%rdi); je over
    let (vio, code) = displacement(code.strip_prefix(&[0x48, 0x83])?, 7)?;
    code.strip_prefix(&[0x00, 0x74])?;
    // Both are fields of one NET, which has less than a page.
    let near = error.checked_sub(vio).is_some_and(|distance| distance < 0x1000);
    field(vio, 8).filter(|_| near).map(|field| field.offset)
}

/// The offset of `pkt_nr` in NET, from `my_net_write`: the one field that is read, raised by one and written back.
pub fn packet_number_of_net(code: &[u8]) -> Option<u32> {
    const RAISE: &[u8] = &[0x8d, 0x50, 0x01]; // lea 1(%rax),%edx
    let mut found = None;
    for at in 0..code.len() {
        let (before, rest) = code.split_at_checked(at)?;
        let Some(rest) = rest.strip_prefix(RAISE) else { continue };
        let Some(offset) = loads_eax(before) else { continue };
        let stores = rest.get(..rest.len().min(24)).unwrap_or_default();
        if !stores_edx(stores, offset) || found.is_some_and(|found| found != offset) {
            return None;
        }
        found = Some(offset);
    }
    field(u32::from(found?), 4).map(|field| field.offset)
}

/// The offset of `net.pkt_nr` in THD, from `Protocol_classic::get_output_pkt_nr`.
pub fn packet_number_of_thd(code: &[u8]) -> Option<u32> {
    const RAX: u8 = 0;
    let code = skip(code, ENDBR64);
    let (_, code) = displacement(code.strip_prefix(&[0x48, 0x8b])?, 0)?;
    let (offset, code) = displacement_of(code.strip_prefix(&[0x8b])?, 0, RAX)?;
    field(offset, 4).filter(|_| code.starts_with(&[0xc3])).map(|field| field.offset)
}

/// The offset of the id in Statement, from its constructor, which is given it in `%r8` and stores it once, before it calls
/// anything. What merely looks like a call or a return gives `None`, which costs speed only.
pub fn statement_id(code: &[u8]) -> Option<Field> {
    const STORE: &[u8] = &[0x4c, 0x89, 0x47]; // mov %r8,disp8(%rdi)
    const CALL: u8 = 0xe8;
    const RET: u8 = 0xc3;
    let end = code.iter().position(|byte| *byte == RET)?;
    let code = code.get(..end)?;
    let mut stores = (0..code.len()).filter(|at| code.get(*at..).is_some_and(|code| code.starts_with(STORE)));
    let at = stores.next().filter(|_| stores.next().is_none())?;
    let (before, store) = code.split_at_checked(at)?;
    let offset = *store.get(STORE.len())?;
    field(offset.into(), 8).filter(|_| offset < 0x80 && !before.contains(&CALL))
}

/// Whether the code, which is at `address`, has a `call` or `jmp` to `to`. Looks at every byte, not at instructions: that
/// four bytes of something else are this very distance is one chance in billions.
pub fn calls(code: &[u8], address: u64, to: u64) -> bool {
    (0_u64..).zip(code.windows(5)).any(|(index, bytes)| match bytes {
        [0xe8 | 0xe9, distance @ ..] => distance.first_chunk::<4>().is_some_and(|d| {
            // An address from a hostile file may be the last there is.
            let behind = address.wrapping_add(index).wrapping_add(5);
            behind.wrapping_add_signed(i32::from_le_bytes(*d).into()) == to
        }),
        _ => false,
    })
}

/// The displacement if the code ends with `mov disp8(register),%eax`.
fn loads_eax(code: &[u8]) -> Option<u8> {
    match code {
        [.., 0x8b, 0x44, _, offset] => Some(*offset), // with a SIB byte: %rsp, %r12
        [.., 0x8b, modrm, offset] if modrm & 0xf8 == 0x40 && modrm & 7 != 4 => Some(*offset),
        _ => None,
    }
    .filter(|offset| *offset < 0x80)
}

/// Whether `mov %edx,disp8(register)` is in the code.
fn stores_edx(code: &[u8], offset: u8) -> bool {
    code.windows(3).any(|w| matches!(w, [0x89, modrm, o] if modrm & 0xf8 == 0x50 && *o == offset))
        || code.windows(4).any(|w| matches!(w, [0x89, 0x54, _, o] if *o == offset))
}

fn skip<'a>(code: &'a [u8], prefix: &[u8]) -> &'a [u8] {
    code.strip_prefix(prefix).unwrap_or(code)
}

/// ModRM and displacement of an access `disp(%rdi)` with this register number (or operation) beside it: the
/// displacement and what follows.
fn displacement(code: &[u8], register: u8) -> Option<(u32, &[u8])> {
    const RDI: u8 = 7;
    displacement_of(code, register, RDI)
}

fn displacement_of(code: &[u8], register: u8, base: u8) -> Option<(u32, &[u8])> {
    let (modrm, code) = code.split_first()?;
    if *modrm & 0x3f != (register << 3 | base) {
        return None;
    }
    match modrm >> 6 {
        1 => {
            let (byte, code) = code.split_first()?;
            (*byte < 0x80).then(|| (u32::from(*byte), code))
        }
        2 => {
            let (word, code) = code.split_first_chunk::<4>()?;
            Some((u32::from_le_bytes(*word), code))
        }
        _ => None,
    }
}

fn field(offset: u32, size: u32) -> Option<Field> {
    (offset < MOST_OFFSET && offset.is_multiple_of(size)).then_some(Field { offset, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some(offset: u32, size: u32) -> Option<Field> {
        Some(Field { offset, size })
    }

    #[test]
    fn thread_ids_of_real_builds() {
        assert_eq!(thread_id(&[0x48, 0x8b, 0x87, 0x18, 0x3f, 0, 0, 0xc3]), some(0x3f18, 8), "MariaDB 10.11");
        let cet = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x87, 0x58, 0x40, 0, 0, 0xc3];
        assert_eq!(thread_id(&cet), some(0x4058, 8), "MariaDB 11.8");
        let mysql = [0xf3, 0x0f, 0x1e, 0xfa, 0x8b, 0x87, 0xd0, 0x25, 0, 0, 0xc3];
        assert_eq!(thread_id(&mysql), some(0x25d0, 4), "MySQL 9.7");
        let framed = [0x55, 0x48, 0x89, 0xe5, 0x8b, 0x87, 0xd0, 0x25, 0, 0, 0x5d, 0xc3];
        assert_eq!(thread_id(&framed), some(0x25d0, 4));
        assert_eq!(thread_id(&[0x8b, 0x47, 0x10, 0xc3]), some(0x10, 4), "disp8");
        assert_eq!(thread_id(&[0x48, 0x8b, 0x47, 0x10, 0xf3, 0xc3]), some(0x10, 8), "rep ret");
    }

    #[test]
    fn anything_else_is_no_thread_id() {
        for code in [
            &[][..],
            &[0x48, 0x8b, 0x87, 0x18, 0x3f, 0, 0],          // cut before ret
            &[0x48, 0x8b, 0x87, 0x18, 0x3f, 0, 0, 0x90],    // no ret
            &[0x48, 0x8b, 0x86, 0x18, 0x3f, 0, 0, 0xc3],    // %rsi
            &[0x48, 0x8b, 0x8f, 0x18, 0x3f, 0, 0, 0xc3],    // %rcx
            &[0x48, 0x8b, 0x07, 0xc3],                      // no displacement
            &[0x48, 0x8b, 0x87, 0x19, 0x3f, 0, 0, 0xc3],    // not aligned
            &[0x48, 0x8b, 0x87, 0x18, 0x3f, 0, 0x7f, 0xc3], // far too large
            &[0x48, 0x8b, 0x47, 0xf8, 0xc3],                // negative
            &[0x55, 0x48, 0x89, 0xe5, 0x8b, 0x87, 8, 0, 0, 0, 0xc3], // frame not undone
        ] {
            assert_eq!(thread_id(code), None, "{code:02x?}");
        }
    }

    const ALIVE: [u8; 23] = [
        0x31, 0xc0, 0x80, 0xbf, 0x54, 0x03, 0, 0, 0, 0x75, 0x16, 0x48, 0x83, 0xbf, 0xc0, 0x02, 0, 0, 0, 0x74, 0x0c,
        0x8b, 0x87,
    ];

    #[test]
    fn net_of_real_builds() {
        assert_eq!(net(&ALIVE), Some(0x2c0), "MariaDB 10.11");
        assert_eq!(net(&[ENDBR64, &ALIVE].concat()), Some(0x2c0), "MariaDB 11.8");
        for at in 0..21 {
            if ![4, 5, 10, 14, 15, 20].contains(&at) {
                let mut other = ALIVE;
                other[at] ^= 0x41;
                assert_eq!(net(&other), None, "byte {at}");
            }
            assert_eq!(net(&ALIVE[..at.min(19)]), None);
        }
    }

    #[test]
    fn packet_numbers_of_real_builds() {
        // mov 0x60(%rbx),%eax; lea 1(%rax),%edx; mov %al,-0x29(%rbp); mov %edx,0x60(%rbx)
        let rbx = [0x8b, 0x43, 0x60, 0x8d, 0x50, 0x01, 0x88, 0x45, 0xd7, 0x89, 0x53, 0x60];
        assert_eq!(packet_number_of_net(&[&rbx[..], &[0x90; 9], &rbx].concat()), Some(0x60), "MariaDB 10.11");
        let r12 = [0x41, 0x8b, 0x44, 0x24, 0x60, 0x8d, 0x50, 0x01, 0x88, 0x45, 0xd7, 0x41, 0x89, 0x54, 0x24, 0x60];
        assert_eq!(packet_number_of_net(&r12), Some(0x60), "MariaDB 10.5");
        let r15 = [0x41, 0x8b, 0x47, 0x60, 0x8d, 0x50, 0x01, 0x41, 0x89, 0x57, 0x60];
        assert_eq!(packet_number_of_net(&r15), Some(0x60), "MariaDB 11.8");
        let mut other = rbx;
        (other[2], other[11]) = (0x64, 0x64);
        assert_eq!(packet_number_of_net(&[rbx, other].concat()), None, "two fields");
        assert_eq!(packet_number_of_net(&rbx[..11]), None, "not written back");
        assert_eq!(packet_number_of_net(&[]), None);

        let mysql = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x47, 0x18, 0x8b, 0x80, 0x18, 0x1f, 0, 0, 0xc3];
        assert_eq!(packet_number_of_thd(&mysql), Some(0x1f18), "MySQL 9.7");
        assert_eq!(packet_number_of_thd(&mysql[..14]), None);
    }

    #[test]
    fn ids_of_statements_of_real_builds() {
        // mov %rdx,0x28(%rdi); mov %r8,0x38(%rdi); movl $2,0x40(%rdi); ret
        let code = [0x48, 0x89, 0x57, 0x28, 0x4c, 0x89, 0x47, 0x38, 0xc7, 0x47, 0x40, 2, 0, 0, 0, 0xc3];
        assert_eq!(statement_id(&code), some(0x38, 8), "MariaDB 10.5 to 11.8");
        assert_eq!(statement_id(&[&code[..15], &code[..]].concat()), None, "twice");
        assert_eq!(
            statement_id(&[&code[..], &code[4..8]].concat()),
            some(0x38, 8),
            "behind the return is another function"
        );
        assert_eq!(statement_id(&[&[0xe8, 0, 0, 0, 0], &code[..]].concat()), None, "behind a call");
        assert_eq!(statement_id(&code[..15]), None, "no return");
        assert_eq!(statement_id(&[0x4c, 0x89, 0x47, 0x39, 0xc3]), None, "not aligned");
        assert_eq!(statement_id(&[0x4c, 0x89, 0x47, 0xc3]), None, "cut");
    }

    #[test]
    fn calls_and_jumps_are_found_wherever_they_go() {
        let call = [0x90, 0xe8, 0xfa, 0x0f, 0, 0, 0xc3];
        assert!(calls(&call, 0x1000, 0x2000) && !calls(&call, 0x1000, 0x2001));
        assert!(calls(&[0xe9, 0xfb, 0xff, 0xff, 0xff], 7, 7), "to itself");
        assert!(!calls(&call[..5], 0x1000, 0x2000) && !calls(&[], 0, 0));
        assert!(!calls(&[0xe8; 40], u64::MAX - 3, 1), "at the end of all addresses");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(code in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = (calls(&code, u64::MAX - 9, 5), statement_id(&code));
            let _either = (thread_id(&code), net(&code), packet_number_of_net(&code), packet_number_of_thd(&code));
        }
    }
}
