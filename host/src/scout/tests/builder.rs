//! Builds small ELF files: one code segment, one read-only data segment, symbols, an unwind table, notes.

/// Address and file offset of the code.
pub(super) const CODE: u64 = 0x1000;
/// Address and file offset of the data.
pub(super) const DATA: u64 = 0x3000;
const TABLES: u64 = 0x4000;

const FUNC: u8 = 2;
const IFUNC: u8 = 10;
const GLOBAL: u8 = 1 << 4;

#[derive(Clone)]
pub(super) struct Elf {
    code: Vec<u8>,
    data: Vec<u8>,
    symbols: Vec<(String, u8, u64, u64)>,
    unwind: Vec<(u64, u64)>,
    /// Where in the data the dynamic section is, and its length.
    dynamic: Option<(u64, u64)>,
    shadow_stack: bool,
    go: bool,
    pub(super) code_flags: u32,
    pub(super) elf_type: u16,
}

impl Elf {
    /// A library whose code is the function `f`.
    pub(super) fn of_function(code: &[u8]) -> Elf {
        Elf::of_code(code).function("f", 0, code.len() as u64)
    }

    pub(super) fn of_code(code: &[u8]) -> Elf {
        Elf {
            code: code.to_vec(),
            data: b"0123456".to_vec(),
            symbols: Vec::new(),
            unwind: Vec::new(),
            dynamic: None,
            shadow_stack: false,
            go: false,
            code_flags: 5,
            elf_type: 3,
        }
    }

    /// A global function at `at` bytes into the code.
    pub(super) fn function(mut self, name: &str, at: u64, size: u64) -> Elf {
        self.symbols.push((name.to_owned(), GLOBAL | FUNC, CODE + at, size));
        self
    }

    pub(super) fn local(mut self, name: &str, at: u64, size: u64) -> Elf {
        self.symbols.push((name.to_owned(), FUNC, CODE + at, size));
        self
    }

    pub(super) fn indirect(mut self, name: &str, at: u64) -> Elf {
        self.symbols.push((name.to_owned(), GLOBAL | IFUNC, CODE + at, 8));
        self
    }

    pub(super) fn data(mut self, data: &[u8]) -> Elf {
        self.data = data.to_vec();
        self
    }

    /// The unwind table knows `at..at + len`.
    pub(super) fn unwind(mut self, at: u64, len: u64) -> Elf {
        self.unwind.push((CODE + at, len));
        self
    }

    /// One slot at `slot` in the data, which the loader fills with the address of a function `at` bytes into the code, or
    /// of one of another file. Takes the place of other data.
    pub(super) fn slot(mut self, slot: u64, at: Option<u64>) -> Elf {
        let mut data = vec![0; 0x100];
        // Symbol 1, then the relocation, then the dynamic section.
        data[24 + 4..24 + 8].copy_from_slice(&[GLOBAL | FUNC, 0, u8::from(at.is_some()), 0]);
        data[24 + 8..24 + 16].copy_from_slice(&at.map_or(0, |at| CODE + at).to_le_bytes());
        let relocation = [DATA + slot, 1 << 32 | 7, 0].map(u64::to_le_bytes).concat();
        data[48..72].copy_from_slice(&relocation);
        let dynamic = [6, DATA, 23, DATA + 48, 2, 24, 0, 0].map(u64::to_le_bytes).concat();
        data[72..72 + dynamic.len()].copy_from_slice(&dynamic);
        (self.data, self.dynamic) = (data, Some((72, dynamic.len() as u64)));
        self
    }

    pub(super) fn shadow_stack(mut self) -> Elf {
        self.shadow_stack = true;
        self
    }

    pub(super) fn go(mut self) -> Elf {
        self.go = true;
        self
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; TABLES as usize];
        file[CODE as usize..][..self.code.len()].copy_from_slice(&self.code);
        file[DATA as usize..][..self.data.len()].copy_from_slice(&self.data);

        let unwind = self.unwind_table(TABLES);
        file.extend(&unwind);
        let notes_at = file.len() as u64;
        file.extend(self.notes());
        let notes_len = file.len() as u64 - notes_at;
        let (symbols, strings) = self.symbol_table();
        let symbols_at = file.len() as u64;
        file.extend(&symbols);
        let strings_at = file.len() as u64;
        file.extend(&strings);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len() as u64;
        file.extend(section(0, 0, 0, 0, 0));
        file.extend(section(2, symbols_at, symbols.len() as u64, 2, 24));
        file.extend(section(3, strings_at, strings.len() as u64, 0, 0));

        let tables_len = file.len() as u64 - TABLES;
        let mut programs = vec![
            program(1, self.code_flags, CODE, self.code.len() as u64),
            program(1, 4, DATA, self.data.len() as u64),
            program(1, 4, TABLES, tables_len),
            program(4, 4, notes_at, notes_len),
        ];
        if !self.unwind.is_empty() {
            programs.push(program(0x6474_e550, 4, TABLES, unwind.len() as u64));
        }
        if let Some((at, len)) = self.dynamic {
            programs.push(program(2, 4, DATA + at, len));
        }
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        head.extend(self.elf_type.to_le_bytes());
        head.extend(62u16.to_le_bytes());
        head.extend(1u32.to_le_bytes());
        for field in [0, 64, sections_at] {
            head.extend(u64::to_le_bytes(field));
        }
        head.extend(0u32.to_le_bytes());
        for field in [64, 56, programs.len() as u16, 64, 3, 0] {
            head.extend(u16::to_le_bytes(field));
        }
        head.extend(programs.concat());
        file[..head.len()].copy_from_slice(&head);
        file
    }

    /// `.eh_frame_hdr` followed by as much of each description as is read: length, parent, begin, size.
    fn unwind_table(&self, va: u64) -> Vec<u8> {
        let relative = |to: u64, from: u64| (to.wrapping_sub(from) as u32).to_le_bytes();
        let mut header = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0];
        header.extend((self.unwind.len() as u32).to_le_bytes());
        let descriptions = va + 12 + 8 * self.unwind.len() as u64;
        let mut body = Vec::new();
        for (start, len) in &self.unwind {
            let at = descriptions + body.len() as u64;
            header.extend(relative(*start, va));
            header.extend(relative(at, va));
            body.extend([12, 0, 0, 0, 4, 0, 0, 0]);
            body.extend(relative(*start, at + 8));
            body.extend((*len as u32).to_le_bytes());
        }
        header.extend(body);
        header.resize(header.len().next_multiple_of(8), 0);
        header
    }

    fn notes(&self) -> Vec<u8> {
        let mut notes = note(b"GNU\0", 3, &[0xab, 0xcd, 0xef, 0x01]);
        if self.shadow_stack {
            let mut property = 0xc000_0002_u32.to_le_bytes().to_vec();
            property.extend([4, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
            notes.extend(note(b"GNU\0", 5, &property));
        }
        if self.go {
            notes.extend(note(b"Go\0\0", 4, b"abcd"));
        }
        notes
    }

    fn symbol_table(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut symbols, mut strings) = (vec![0; 24], vec![0]);
        for (name, info, va, size) in &self.symbols {
            symbols.extend((strings.len() as u32).to_le_bytes());
            symbols.extend([*info, 0, 1, 0]);
            symbols.extend(va.to_le_bytes());
            symbols.extend(size.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        (symbols, strings)
    }
}

fn note(name: &[u8; 4], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = 4u32.to_le_bytes().to_vec();
    note.extend((value.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    note.extend(name);
    note.extend(value);
    note
}

fn program(kind: u32, flags: u32, at: u64, len: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend(flags.to_le_bytes());
    for field in [at, at, at, len, len, 8] {
        header.extend(u64::to_le_bytes(field));
    }
    header
}

fn section(kind: u32, at: u64, len: u64, link: u32, entry: u64) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(kind.to_le_bytes());
    for field in [0, 0, at, len] {
        header.extend(u64::to_le_bytes(field));
    }
    header.extend(link.to_le_bytes());
    header.extend([0; 4]);
    header.extend(1u64.to_le_bytes());
    header.extend(entry.to_le_bytes());
    header
}
