//! Functions found by what they are told: the one called right after certain strings are loaded.
//!
//! For stripped files whose interesting function has no symbol but is always called with well-known labels.

use super::image::Image;
use super::stubs::is_stub;
use super::sweep::{Wanted, spans, targets_of};
use super::walk::{ARGUMENTS, writes};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet};

/// Instructions between the load of the string and the call.
const PATIENCE: u32 = 14;
/// A search reads the whole file, but reading is so much cheaper than decoding.
const BYTES_PER_WORK: u64 = 4;
const MAX_STRINGS: usize = 64;
const MAX_STRING: usize = 256;
/// Places of one string; linkers merge equal ones, so more than a few are not labels.
const MAX_PLACES: usize = 64;

/// Strings, by number, that lead to a function.
#[derive(Debug, Default)]
struct Evidence {
    /// Some call of it comes soon behind the string.
    near: BTreeSet<usize>,
    /// And there the string is in a register for arguments.
    handed: BTreeSet<usize>,
}

impl Evidence {
    fn rank(&self) -> (usize, usize) {
        (self.near.len(), self.handed.len())
    }
}

/// The function that at least `min` of `strings` lead to. More than one such function: the one that strictly most
/// lead to; as many: the one that strictly most are handed to. A compiler that puts the labels of several calls aside to make
/// one call of them leads from a label to whatever is called in between.
pub(super) fn callee(image: &Image<'_>, strings: &[String], min: u32) -> Result<u64, String> {
    if strings.is_empty() || strings.len() > MAX_STRINGS || strings.iter().any(|s| s.is_empty() || s.len() > MAX_STRING)
    {
        return Err(format!("a search takes 1 to {MAX_STRINGS} strings of 1 to {MAX_STRING} bytes"));
    }
    let bytes: u64 = image.headers.segments.iter().map(|s| s.len).sum();
    if !image.work(bytes / BYTES_PER_WORK) {
        return Err("the work allowed for one file is used up".to_owned());
    }
    let places = places(image, strings);
    let ranges = places.keys().map(|va| *va..*va + 1).collect();
    let wanted = Wanted::new(ranges).ok_or("none of the strings is in the file")?;
    let mut callees = BTreeMap::new();
    for span in spans(image, &wanted, false)? {
        collect_calls(image, span.start, span.end, &places, &mut callees);
    }
    let min = min.max(1) as usize;
    let mut ranked: Vec<((usize, usize), u64)> = callees.iter().map(|(va, by)| (by.rank(), *va)).collect();
    ranked.retain(|((near, _), _)| *near >= min);
    ranked.sort_unstable_by_key(|(rank, va)| (std::cmp::Reverse(*rank), *va));
    match ranked.as_slice() {
        [] => Err(format!("no function is called with {min} of these strings")),
        [(first, _), (second, _), ..] if first == second => {
            Err(format!("{} functions are called with these strings", ranked.len()))
        }
        [(_, va), ..] => Ok(*va),
    }
}

/// Where the strings are: address to number. Also as the tail of a longer string, as linkers merge them.
fn places(image: &Image<'_>, strings: &[String]) -> BTreeMap<u64, usize> {
    let mut last_bytes = [false; 256];
    for last in strings.iter().filter_map(|s| s.as_bytes().last()) {
        last_bytes[usize::from(*last)] = true;
    }
    let mut places = BTreeMap::new();
    let mut counts = vec![0; strings.len()];
    for segment in image.headers.segments.iter().filter(|s| !s.writable) {
        let bytes = image.segment_bytes(segment);
        for (at, pair) in bytes.windows(2).enumerate() {
            if pair[1] != 0 || !last_bytes[usize::from(pair[0])] {
                continue;
            }
            let head = bytes.get(..=at).unwrap_or_default();
            for (number, string) in strings.iter().enumerate() {
                if head.ends_with(string.as_bytes()) && counts[number] < MAX_PLACES {
                    counts[number] += 1;
                    places.insert(segment.va + (at + 1 - string.len()) as u64, number);
                }
            }
        }
    }
    places
}

/// A string whose address has been loaded.
#[derive(Clone, Copy)]
struct Loaded {
    string: usize,
    /// Instructions since.
    waited: u32,
    /// The register that still has it.
    register: Option<Register>,
}

fn collect_calls(
    image: &Image<'_>,
    start: u64,
    end: u64,
    places: &BTreeMap<u64, usize>,
    callees: &mut BTreeMap<u64, Evidence>,
) {
    let mut decoder = Decoder::with_ip(64, image.bytes(start, end - start), start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut facts = InstructionInfoFactory::new();
    let mut pending: Option<Loaded> = None;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if let Some(string) = targets_of(&instruction, image.headers.fixed).find_map(|(va, _)| places.get(&va)) {
            let register = instruction.op0_register().full_register();
            pending = Some(Loaded { string: *string, waited: 0, register: Some(register) });
        } else if let Some(loaded) = &mut pending {
            let used = facts.info(&instruction).used_registers().iter().filter(|used| writes(used.access()));
            let mut written = used.map(|used| used.register().full_register());
            loaded.register = loaded.register.filter(|held| written.all(|register| register != *held));
        }
        let Some(loaded) = pending else { continue };
        let direct = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
        let target = instruction.near_branch_target();
        let calls = match instruction.flow_control() {
            FlowControl::Call => direct,
            FlowControl::UnconditionalBranch => direct && !(start..end).contains(&target),
            _ => false,
        };
        pending = if calls && !is_stub(image, target) {
            let evidence = callees.entry(target).or_default();
            evidence.near.insert(loaded.string);
            if loaded.register.is_some_and(|register| ARGUMENTS.contains(&register)) {
                evidence.handed.insert(loaded.string);
            }
            None
        } else {
            // A function that is called in between leaves no register for arguments as it was.
            let register = loaded.register.filter(|_| instruction.flow_control() != FlowControl::Call);
            (loaded.waited < PATIENCE).then_some(Loaded { waited: loaded.waited + 1, register, ..loaded })
        };
    }
}
