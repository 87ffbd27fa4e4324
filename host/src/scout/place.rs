//! From a wanted probe to proven points: which function, which instruction, and why.
//!
//! In three passes, so that the file's code is searched at most once: draft each probe from its function alone, search
//! for what could jump between the functions' starts and the drafted points, decide.

use super::exits::{Graph, ValueIn};
use super::field;
use super::image::{Function, Image};
use super::instruction::Class;
use super::kept::Exits;
use super::plan::{
    Behind, Cost, Failed, FieldAt, Handed, Kept, Locator, Placed, Point, PointKind, ProbeWanted, WantedKind,
};
use super::proof::{Proven, prove};
use super::strings::callee;
use super::sweep::{References, Wanted, references};
use super::symbols::Meaning;
use super::tables::jump_tables;
use super::walk::{Step, Walk, jump_to_start, place, walk};
use super::wrap::{self, behind};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// A probe whose function is known.
struct Draft<'r> {
    probe: &'r ProbeWanted,
    function: Function,
    /// What else the wrappers told.
    wrapped: Option<wrap::Found>,
    /// Where the field is that was asked for.
    fields: Vec<FieldAt>,
    /// Where things are at the point that was chosen, which is this.
    handed: Option<(u64, Handed)>,
    choice: Choice,
}

enum Choice {
    /// Exactly here, or not at all.
    Fixed(u64),
    /// The first instruction is as good as any.
    First(&'static str),
    /// Only the first instruction, and why.
    Stay(String),
    /// A better instruction, if nothing jumps between.
    Move { to: Step, tables: Result<(), String> },
    /// Exit points, if nothing jumps to them; else the first instruction.
    Exits { graph: Graph, stay: String },
    /// Exit points which still have the arguments, or not at all.
    Whole(Exits),
}

/// Places all probes. Those that cannot be placed come back with the reason.
pub(super) fn place_all(image: &Image<'_>, probes: &[ProbeWanted]) -> (Vec<Placed>, Vec<Failed>) {
    let mut known = Known { meanings: meanings(image, probes), callees: Vec::new(), wrapped: Vec::new() };
    let (mut placed, mut failed, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
    for probe in probes {
        match draft(image, probe, &mut known) {
            Ok(draft) => drafts.push(draft),
            Err(why) => failed.push(Failed { index: probe.index, why }),
        }
    }
    let ranges = drafts.iter().flat_map(|d| d.choice.ranges(&d.function)).collect();
    let found = match Wanted::new(ranges) {
        Some(wanted) => references(image, &wanted),
        None => Ok(References::default()),
    };
    let between = |d: &Draft<'_>| d.wrapped.iter().flat_map(|w| &w.between).map(|(_, va)| *va).collect::<Vec<_>>();
    let starts = drafts.iter().flat_map(|d| between(d).into_iter().chain([d.function.start])).collect();
    let names = image.symbols.names_of(&starts);
    for draft in drafts {
        match decide(image, &draft, &found) {
            Ok(mut decision) => {
                let fixed = matches!(draft.choice, Choice::Fixed(_));
                let back = if fixed { None } else { jump_to_start(image, &draft.function) };
                if let Some(from) = back.filter(|_| decision.kind == PointKind::Entry) {
                    decision.why += &format!("; but a jump at {from:#x} leads back to the start: each round is a hit");
                }
                placed.push(describe(image, &draft, decision, &names));
            }
            Err(why) => failed.push(Failed { index: draft.probe.index, why }),
        }
    }
    (placed, failed)
}

fn meanings<'p>(image: &Image<'_>, probes: &'p [ProbeWanted]) -> HashMap<&'p [u8], Meaning> {
    let names: HashSet<&[u8]> = probes
        .iter()
        .flat_map(|p| match &p.at {
            Locator::Symbol(name) | Locator::SymbolOffset(name, _) => std::slice::from_ref(name),
            Locator::Behind(behind) => behind.wrappers.as_slice(),
            Locator::FunctionAt(_) | Locator::CalleeOfStrings { .. } => &[],
        })
        .map(String::as_bytes)
        .collect();
    if names.is_empty() { HashMap::new() } else { image.symbols.find(&names) }
}

/// What the locators mean, each looked up once.
struct Known<'p> {
    meanings: HashMap<&'p [u8], Meaning>,
    callees: Vec<(&'p Locator, Result<u64, String>)>,
    wrapped: Vec<(&'p Behind, Result<wrap::Found, String>)>,
}

impl<'p> Known<'p> {
    fn named(&self, name: &str) -> Result<u64, String> {
        match self.meanings.get(name.as_bytes()) {
            Some(Meaning::Function(va)) => Ok(*va),
            Some(Meaning::Indirect) => Err(format!(
                "which function `{name}` is, is chosen when the program starts (an indirect function): name one of its variants"
            )),
            Some(Meaning::Ambiguous) => Err(format!("more than one function is named `{name}`")),
            None => Err(format!("no function is named `{name}`")),
        }
    }

    fn wrapped(&mut self, image: &Image<'_>, wanted: &'p Behind) -> Result<wrap::Found, String> {
        if let Some((_, found)) = self.wrapped.iter().find(|(known, _)| *known == wanted) {
            return found.clone();
        }
        let wrappers = wanted.wrappers.iter().map(|name| self.named(name)).collect::<Result<Vec<_>, _>>();
        let found = wrappers.and_then(|wrappers| behind(image, wanted, &wrappers));
        self.wrapped.push((wanted, found.clone()));
        found
    }

    fn locate(&mut self, image: &Image<'_>, at: &'p Locator) -> Result<(Function, Option<wrap::Found>), String> {
        let mut wrapped = None;
        let va = match at {
            Locator::Symbol(name) | Locator::SymbolOffset(name, _) => self.named(name)?,
            Locator::FunctionAt(va) if image.starts_function(*va) => *va,
            Locator::FunctionAt(va) => {
                return Err(format!("neither the unwind table nor a symbol has a function that starts at {va:#x}"));
            }
            Locator::CalleeOfStrings { strings, min, .. } => {
                match self.callees.iter().find(|(known, _)| *known == at) {
                    Some((_, found)) => found.clone()?,
                    None => {
                        let found = callee(image, strings, *min);
                        self.callees.push((at, found.clone()));
                        found?
                    }
                }
            }
            Locator::Behind(wanted) => wrapped.insert(self.wrapped(image, wanted)?).va,
        };
        let function = image.function(va);
        let function =
            function.ok_or_else(|| format!("the function's address {va:#x} is not in an executable segment"));
        Ok((function?, wrapped))
    }
}

fn draft<'r>(image: &Image<'_>, probe: &'r ProbeWanted, known: &mut Known<'r>) -> Result<Draft<'r>, String> {
    let (function, wrapped) = known.locate(image, &probe.at)?;
    // The wanted position is one more argument that is read.
    let args = wrapped.as_ref().and_then(|w| w.out).map_or(probe.args, |out| probe.args.max(out + 1));
    let fields = match &probe.at {
        Locator::CalleeOfStrings { field: Some(wanted), .. } => field::find(image, &function, wanted)?,
        _ => Vec::new(),
    };
    let walk = walk(image, &function, args);
    let Some(first) = walk.steps.first() else {
        return Err(format!("the bytes at {:#x} are no instruction", function.start));
    };
    let mut handed = None;
    let choice = match (&probe.at, probe.kind) {
        (Locator::SymbolOffset(..), WantedKind::Exit) => {
            return Err("where a function is left is not at an offset of one's own".to_owned());
        }
        (_, WantedKind::Exit) => Choice::Whole(Exits::explore(image, &function, args)?),
        (Locator::SymbolOffset(_, offset), kind) => {
            let va = function.start.checked_add(*offset).ok_or("the offset is not in the file")?;
            if kind == WantedKind::Return {
                return_is_safe_at(image, &walk, va)?;
            }
            Choice::Fixed(va)
        }
        (_, WantedKind::Entry) => match (choose_entry(image, &function, &walk, first, args), &probe.at, &*fields) {
            (Choice::Stay(why), Locator::CalleeOfStrings { field: Some(wanted), .. }, [found]) => {
                handed = field::handed(image, &function, wanted, *found, args);
                let at = |step: &&Step| Some(step.va) == handed.map(|(va, _)| va);
                choose(image, &function, &walk, first, at, || why.clone())
            }
            (choice, ..) => choice,
        },
        (_, WantedKind::Return) => choose_return(image, &function, &walk, first, probe.exit_ok)?,
    };
    Ok(Draft { probe, function, wrapped, fields, handed, choice })
}

/// Go moves the stack of a running function, so a return address replaced there is a crash.
const GO_RETURN: &str = "a return probe would crash a Go program, which moves its stacks";

fn return_is_safe_at(image: &Image<'_>, walk: &Walk, va: u64) -> Result<(), String> {
    if image.headers.go {
        return Err(GO_RETURN.to_owned());
    }
    match walk.steps.iter().find(|s| s.va == va) {
        Some(step) if step.at_return_address => Ok(()),
        _ => Err(format!("it is not proven that the stack pointer is at the return address at {va:#x}")),
    }
}

fn choose_entry(image: &Image<'_>, function: &Function, walk: &Walk, first: &Step, args: u8) -> Choice {
    if first.class == Class::Emulated {
        return Choice::First("the first instruction is already cheap");
    }
    // From the seventh on, arguments are on the stack and found from its pointer.
    let intact = |s: &Step| s.disturbed.is_none() && (args <= 6 || s.at_return_address);
    let usable = |s: &&Step| intact(s) && !emulated_call_breaks(image, s);
    let reason = || walk.steps.iter().find_map(|s| s.disturbed.clone()).unwrap_or_else(|| walk.stop.clone());
    choose(image, function, walk, first, usable, reason)
}

fn choose_return(
    image: &Image<'_>,
    function: &Function,
    walk: &Walk,
    first: &Step,
    exit_ok: bool,
) -> Result<Choice, String> {
    if !image.headers.go && first.class == Class::Emulated {
        return Ok(Choice::First("the first instruction is already cheap"));
    }
    let stay = if image.headers.go {
        GO_RETURN.to_owned()
    } else {
        let usable = |s: &&Step| s.at_return_address && !emulated_call_breaks(image, s);
        let reason = || match walk.steps.iter().position(|s| !s.at_return_address) {
            Some(i) if i > 0 => format!("`{}` moves the stack pointer", walk.steps[i - 1].text),
            _ => walk.stop.clone(),
        };
        match choose(image, function, walk, first, usable, reason) {
            Choice::Stay(why) => why,
            choice => return Ok(choice),
        }
    };
    let no_exits = match exit_ok.then(|| Graph::explore(image, function)) {
        Some(Ok(graph)) => return Ok(Choice::Exits { graph, stay }),
        Some(Err(why)) => format!("{stay}; no exit points: {why}"),
        None => stay,
    };
    if image.headers.go { Err(no_exits) } else { Ok(Choice::Stay(no_exits)) }
}

/// The kernel pushes the return address of an emulated call, but not onto the shadow stack that hardware compares.
fn emulated_call_breaks(image: &Image<'_>, step: &Step) -> bool {
    image.headers.shadow_stack && step.call
}

/// The first cheap usable instruction; where the first instruction must not be probed at all, any usable one.
fn choose(
    image: &Image<'_>,
    function: &Function,
    walk: &Walk,
    first: &Step,
    usable: impl Fn(&&Step) -> bool,
    reason: impl Fn() -> String,
) -> Choice {
    let forbidden = matches!(first.class, Class::Forbidden(_));
    let cheap = walk.steps.iter().filter(&usable).find(|s| s.class == Class::Emulated);
    let stepped = || walk.steps.iter().filter(&usable).find(|s| s.class == Class::Stepped);
    let Some(to) = cheap.or_else(|| stepped().filter(|_| forbidden)) else { return Choice::Stay(reason()) };
    match jump_tables(image, function) {
        Err(why) => Choice::Stay(why),
        Ok(reached) => {
            let into = reached.iter().find(|t| **t > function.start && **t < to.next);
            let tables = into.map_or(Ok(()), |t| Err(format!("a jump table leads to {t:#x}")));
            Choice::Move { to: to.clone(), tables }
        }
    }
}

impl Choice {
    fn ranges(&self, function: &Function) -> Vec<Range<u64>> {
        match self {
            // To the last byte of the instruction: a jump into it means that it is two things at once.
            Choice::Move { to, tables: Ok(()) } => std::iter::once(function.start + 1..to.next).collect(),
            Choice::Exits { graph, .. } => graph.ranges(),
            Choice::Whole(exits) => exits.ranges(),
            _ => Vec::new(),
        }
    }
}

/// Where a probe goes, and why there.
struct Decision {
    points: Vec<Proven>,
    kind: PointKind,
    why: String,
    kept: Option<Kept>,
}

impl Decision {
    fn new(points: Vec<Proven>, kind: PointKind, why: impl Into<String>) -> Decision {
        Decision { points, kind, why: why.into(), kept: None }
    }
}

fn decide(image: &Image<'_>, draft: &Draft<'_>, found: &Result<References, String>) -> Result<Decision, String> {
    let function = &draft.function;
    let kind = match draft.probe.kind {
        WantedKind::Entry => PointKind::Entry,
        WantedKind::Return => PointKind::Return,
        WantedKind::Exit => PointKind::Exit,
    };
    let at = |va: u64| prove(image, function, va).map(|p| vec![p]).map_err(|e| e.to_string());
    let stay = |why: &str| match at(function.start) {
        Ok(points) => Ok(Decision::new(points, kind, format!("stays at the first instruction: {why}"))),
        Err(harm) => Err(format!("{harm}; and no other instruction will do: {why}")),
    };
    match &draft.choice {
        Choice::Fixed(va) => Ok(Decision::new(at(*va)?, kind, "at the offset asked for")),
        Choice::First(why) => Ok(Decision::new(at(function.start)?, kind, *why)),
        Choice::Stay(why) => stay(why),
        Choice::Move { tables: Err(why), .. } => stay(why),
        Choice::Move { to, tables: Ok(()) } => match found {
            Err(why) => stay(why),
            Ok(references) => match references.within(function.start + 1..to.next).first() {
                Some(reference) => stay(&format!("{:#x} is reached by {}", reference.target, reference.by())),
                None => {
                    let handed = draft.handed.is_some_and(|(va, _)| va == to.va);
                    Ok(Decision::new(at(to.va)?, kind, moved(draft.probe.kind, to.va - function.start, handed)))
                }
            },
        },
        Choice::Exits { graph, stay: why } => {
            let exits = match found {
                Err(why) => Err(why.clone()),
                Ok(references) => graph.exits(image, references, ValueIn::Rax),
            };
            match exits.and_then(|exits| prove_exits(image, function, exits.into_keys())) {
                Ok(points) => {
                    let why = "every return passes exactly one of these branches, with the value already in rax";
                    Ok(Decision::new(points, PointKind::Exit, why))
                }
                Err(no_exits) if image.headers.go => Err(format!("{why}; no exit points: {no_exits}")),
                Err(no_exits) => stay(&format!("{why}; no exit points: {no_exits}")),
            }
        }
        Choice::Whole(exits) => {
            let (exits, kept) = exits.find(image, found.as_ref().map_err(Clone::clone)?)?;
            let points = prove_exits(image, function, exits.into_iter())?;
            let why = format!("every return passes exactly one of these branches, where {}", kept.words());
            Ok(Decision { kept: Some(kept), ..Decision::new(points, kind, why) })
        }
    }
}

fn prove_exits(
    image: &Image<'_>,
    function: &Function,
    exits: impl Iterator<Item = u64>,
) -> Result<Vec<Proven>, String> {
    let prove_exit = |va: u64| {
        let part = if function.contains(va) { Some(*function) } else { image.enclosing(va) };
        let part = part.ok_or_else(|| format!("nothing tells the bounds of the code at {va:#x}"))?;
        prove(image, &part, va).map_err(|e| e.to_string())
    };
    exits.map(prove_exit).collect()
}

fn moved(kind: WantedKind, distance: u64, handed: bool) -> String {
    let intact = match kind {
        WantedKind::Entry if handed => "the arguments are where the function that is jumped to gets them",
        WantedKind::Entry => "the arguments are untouched",
        WantedKind::Return | WantedKind::Exit => "the stack pointer is still at the return address",
    };
    let at = place(usize::try_from(distance).unwrap_or(usize::MAX));
    format!("{at}: {intact}, and nothing jumps between the first instruction and this one")
}

fn describe(
    image: &Image<'_>,
    draft: &Draft<'_>,
    Decision { points, kind, why, kept }: Decision,
    names: &HashMap<u64, String>,
) -> Placed {
    let function = draft.function.start;
    let asked = match &draft.probe.at {
        Locator::Symbol(name) | Locator::SymbolOffset(name, _) => Some(name.clone()),
        Locator::FunctionAt(_) | Locator::CalleeOfStrings { .. } | Locator::Behind(_) => None,
    };
    let found = match (&draft.probe.at, &draft.wrapped) {
        (Locator::Behind(wanted), Some(wrapped)) => Some(wrapped.words(wanted, names)),
        (Locator::CalleeOfStrings { min, field: wanted, .. }, _) => {
            let shown = wanted.as_ref().map(|wanted| field::words(wanted, &draft.fields));
            Some(format!("called with {min} or more of the strings{}", shown.unwrap_or_default()))
        }
        _ => None,
    };
    let name = asked.or_else(|| names.get(&function).cloned());
    let first = points.first();
    // It may have had to stay where the arguments still are their own.
    let handed = draft.handed.filter(|(va, _)| first.is_some_and(|p| p.va == *va)).map(|(_, handed)| handed);
    Placed {
        index: draft.probe.index,
        points: points.iter().map(|p| Point { offset: p.offset, kind }).collect(),
        function: name.unwrap_or_else(|| format!("function at {function:#x}")),
        found,
        out: draft.wrapped.as_ref().and_then(|wrapped| wrapped.out),
        field: draft.fields.first().copied(),
        fields: draft.fields.iter().skip(1).copied().collect(),
        handed,
        kept,
        function_offset: image.file_offset(function).unwrap_or_default(),
        delta: first.map_or(0, |p| p.va.wrapping_sub(function).cast_signed()),
        cost: if points.iter().all(|p| p.emulated) { Cost::Emulated } else { Cost::Stepped },
        instruction: first.map(|p| p.instruction.clone()).unwrap_or_default(),
        why,
    }
}
