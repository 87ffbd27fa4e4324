//! Made-up target files, for the tests of a version detector. What a file holds is for the test to say; it can not be run.

/// An x86-64 ELF file of one segment, with `.text`, `.rodata` and a table of dynamic symbols. `functions` are names with their
/// machine code, which follow each other from address 120 on; `rodata` is what stands in `.rodata`. Addresses are file offsets.
///
/// # Panics
///
/// With names of more than 4 GiB.
pub fn elf(functions: &[(&str, &[u8])], rodata: &[u8]) -> Vec<u8> {
    const CODE: usize = 64 + 56;
    let mut text = Vec::new();
    let mut names = vec![0_u8];
    let mut symbols = vec![0_u8; 24];
    for (name, code) in functions {
        symbols.extend(u32::try_from(names.len()).expect("names of less than 4 GiB").to_le_bytes());
        symbols.extend([0x12, 0, 1, 0]);
        symbols.extend(((CODE + text.len()) as u64).to_le_bytes());
        symbols.extend((code.len() as u64).to_le_bytes());
        names.extend(name.bytes().chain([0]));
        text.extend_from_slice(code);
    }
    let section_names = b"\0.text\0.rodata\0.dynsym\0.dynstr\0.shstrtab\0";
    // name, type, flags, contents, link, size of an entry
    type Header<'a> = (u32, u32, u64, &'a [u8], u32, u64);
    let sections: [Header<'_>; 6] = [
        (0, 0, 0, &[], 0, 0),
        (1, 1, 6, &text, 0, 0),
        (7, 1, 2, rodata, 0, 0),
        (15, 11, 2, &symbols, 4, 24),
        (23, 3, 2, &names, 0, 0),
        (31, 3, 0, section_names, 0, 0),
    ];
    let mut file = vec![0; CODE];
    let mut headers = Vec::new();
    for (name, kind, flags, contents, link, entry) in sections {
        let at = if kind == 0 { 0 } else { file.len() as u64 };
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [flags, at, at, contents.len() as u64] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend([0; 4]);
        headers.extend(1_u64.to_le_bytes());
        headers.extend(entry.to_le_bytes());
        file.extend_from_slice(contents);
    }
    let table = file.len() as u64;
    file.extend(headers);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(0x10, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(0x20, &64_u64.to_le_bytes());
    put(0x28, &table.to_le_bytes());
    put(0x34, &[64, 0, 56, 0, 1, 0, 64, 0, 6, 0, 5, 0]);
    // PT_LOAD of all of it, readable and executable.
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(64 + 32, &table.to_le_bytes());
    put(64 + 40, &table.to_le_bytes());
    file
}
