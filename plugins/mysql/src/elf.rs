//! A server binary as the detector's [`Image`], by the SDK's reader. Symbols are collected once: the servers have some
//! 30,000 of them, and a dozen names are looked up.

use crate::detect::{Image, code};
use ecapture_plugin_api::sdk::elf::{Elf, Symbol};
use std::collections::HashMap;

/// An ELF file and its functions.
#[derive(Debug)]
pub struct File<'a> {
    elf: Elf<'a>,
    functions: HashMap<&'a [u8], Symbol<'a>>,
}

/// `e_machine` of x86-64.
const X86_64: u16 = 62;

/// Sections that hold initialised data with strings.
const DATA: &[&str] = &[".rodata", ".data"];

impl<'a> File<'a> {
    /// Reads headers and symbols.
    ///
    /// # Errors
    /// Why the file is not one that can be read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let elf = Elf::parse(bytes)?;
        let mut functions = HashMap::new();
        for symbol in elf.symbols().filter(|symbol| symbol.is_function) {
            functions.entry(symbol.name).or_insert(symbol);
        }
        Ok(Self { elf, functions })
    }
}

impl Image for File<'_> {
    fn has_function(&self, name: &str) -> bool {
        self.functions.contains_key(name.as_bytes())
    }

    fn code(&self, name: &str, most: usize) -> Option<&[u8]> {
        let function = self.functions.get(name.as_bytes())?;
        let code = self.elf.code(function)?;
        code.get(..most.min(code.len()))
    }

    fn calls(&self, name: &str, other: &str) -> bool {
        let function = |name: &str| self.functions.get(name.as_bytes());
        let (Some(function), Some(other)) = (function(name), function(other)) else { return false };
        let code = self.elf.code(function).unwrap_or_default();
        let code = code.get(..usize::try_from(function.size).unwrap_or(usize::MAX)).unwrap_or(code);
        code::calls(code, function.address, other.address)
    }

    fn data_sections(&self) -> Vec<(&str, &[u8])> {
        DATA.iter().filter_map(|name| Some((*name, self.elf.section(name)?.bytes))).collect()
    }

    fn has_symbols(&self) -> bool {
        !self.functions.is_empty()
    }

    fn is_x86_64(&self) -> bool {
        self.elf.machine() == X86_64
    }
}
