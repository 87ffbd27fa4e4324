//! What an eBPF object says of itself: programs, maps, helpers, license. Pure: the same on any machine, no kernel asked.
//!
//! The bytes come from a module file, so from anybody: `elf.rs` checks the bounds, then aya-obj parses inside a guard against
//! panics. Must not live here: what is allowed (`scan.rs`), and anything that makes a system call (`load.rs`).

use super::{elf, helpers};
use aya_obj::{
    EbpfSectionKind, Map as MapDef, Object, ProgramSection,
    generated::bpf_insn,
    programs::{CgroupSkbAttachType, CgroupSockAttachType, XdpAttachType},
};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

/// Why an object cannot be used, before any kernel is asked. The remedy is always with the module's author.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// A header, symbol or relocation points outside, or a limit is passed.
    #[error("eBPF object: {0}")]
    Elf(#[from] elf::ElfError),
    /// aya-obj refuses it; its words.
    #[error("eBPF object: {0}")]
    Parse(String),
    /// aya-obj panicked; its words. Nothing was done with the object.
    #[error("eBPF object: the parser gave up: {0}")]
    Panic(String),
}

/// Type of a program, as far as the host tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// At an instruction of a user program.
    Uprobe,
    /// At the return of a function of a user program.
    Uretprobe,
    /// At a kernel tracepoint, with typed arguments (`tp_btf`).
    TpBtf,
    /// At a kernel tracepoint.
    Tracepoint,
    /// At a network interface (`classifier`).
    Classifier,
    /// At the sockets of a cgroup, incoming packets.
    CgroupSkbIngress,
    /// At the sockets of a cgroup, outgoing packets.
    CgroupSkbEgress,
    /// Where processes of a cgroup make sockets (`cgroup/sock_create`). The host's own objects only.
    CgroupSockCreate,
    /// A type that this host does not load, by the name of its section.
    Other(&'static str),
}

impl ProgramKind {
    /// The name that `[permissions] programs` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uprobe => "uprobe",
            Self::Uretprobe => "uretprobe",
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
            Self::Classifier => "classifier",
            Self::CgroupSkbIngress | Self::CgroupSkbEgress => "cgroup_skb",
            Self::CgroupSockCreate => "cgroup_sock",
            Self::Other(name) => name,
        }
    }

    fn of(section: &ProgramSection) -> (Self, bool) {
        use ProgramSection as S;
        let kind = match section {
            S::UProbe { sleepable } => return (Self::Uprobe, *sleepable),
            S::URetProbe { sleepable } => return (Self::Uretprobe, *sleepable),
            S::BtfTracePoint => Self::TpBtf,
            S::TracePoint => Self::Tracepoint,
            S::SchedClassifier => Self::Classifier,
            S::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Ingress) } => Self::CgroupSkbIngress,
            S::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Egress) } => Self::CgroupSkbEgress,
            S::CgroupSock { attach_type: CgroupSockAttachType::SockCreate } => Self::CgroupSockCreate,
            S::KProbe | S::KRetProbe => Self::Other("kprobe"),
            S::SocketFilter => Self::Other("socket"),
            S::Xdp { attach_type: XdpAttachType::Interface, .. } => Self::Other("xdp"),
            S::SockOps => Self::Other("sockops"),
            S::PerfEvent => Self::Other("perf_event"),
            S::RawTracePoint => Self::Other("raw_tracepoint"),
            S::Lsm { sleepable } => return (Self::Other("lsm"), *sleepable),
            S::FEntry { sleepable } => return (Self::Other("fentry"), *sleepable),
            S::FExit { sleepable } => return (Self::Other("fexit"), *sleepable),
            S::Iter { sleepable } => return (Self::Other("iter"), *sleepable),
            _ => Self::Other("another type"),
        };
        (kind, false)
    }
}

impl fmt::Display for ProgramKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSpec {
    /// Its type, from the section's name.
    pub kind: ProgramKind,
    /// It may wait for memory to be read in (`uprobe.s`).
    pub sleepable: bool,
    /// Numbers of the kernel helpers that it and the functions it calls use.
    pub helpers: BTreeSet<u32>,
    /// It calls a kernel function that is no helper.
    pub kernel_functions: bool,
    /// Instructions, with those of the functions it calls.
    pub instructions: usize,
}

/// Where a map of an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapOrigin {
    /// Declared in `.maps`.
    Declared,
    /// The variables of a section: `.data`, `.bss`.
    Variables,
    /// The constants of a section: `.rodata`. Frozen when loaded.
    Constants,
}

/// A map of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapSpec {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most entries; bytes for a ring buffer.
    pub entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// Where it comes from.
    pub origin: MapOrigin,
    /// It wants to be pinned, or holds other maps. The host does neither.
    pub special: bool,
}

/// A parsed object. Cheap to judge, and loaded as often as wanted.
#[derive(Clone)]
pub struct ObjectSpec {
    /// Its license, as the kernel will see it.
    pub license: String,
    /// Programs by the name of their function.
    pub programs: BTreeMap<String, ProgramSpec>,
    /// Maps by name; sections of variables are called like the section.
    pub maps: BTreeMap<String, MapSpec>,
    /// Names that it wants from the kernel (kfuncs, ksyms, kconfig). The host gives none.
    pub externs: BTreeSet<String>,
    /// It is adjusted to the running kernel's types, so that kernel's BTF is needed.
    pub needs_kernel_types: bool,
    globals: HashMap<String, u64>,
    pub(super) object: Object,
}

impl ObjectSpec {
    /// Parses the bytes of an object file; they need no alignment.
    pub fn parse(bytes: &[u8]) -> Result<Self, ObjectError> {
        let facts = elf::check(bytes)?;
        // The `object` crate casts to structures of words and refuses a buffer that lies crooked.
        let mut room = vec![0u8; bytes.len() + 8];
        let at = room.as_ptr().align_offset(8).min(8);
        let aligned = room.get_mut(at..at + bytes.len()).unwrap_or_default();
        aligned.copy_from_slice(bytes);
        let aligned: &[u8] = aligned;
        guarded(|| Self::from_facts(aligned, facts)).map_err(ObjectError::Panic)?
    }

    fn from_facts(bytes: &[u8], facts: elf::Facts) -> Result<Self, ObjectError> {
        let object = Object::parse(bytes).map_err(|e| ObjectError::Parse(chain(&e)))?;
        // Names of kernel functions cannot be resolved, and linking fails on them: such an object is then only listed.
        let linked = match linked(object.clone()) {
            Ok(linked) => linked,
            Err(_) if !facts.externs.is_empty() => object.clone(),
            Err(e) => return Err(ObjectError::Parse(e)),
        };
        let mut programs = BTreeMap::new();
        for (name, program) in &linked.programs {
            let code = linked.functions.get(&program.function_key());
            let code = code.ok_or_else(|| ObjectError::Parse(format!("program {name} has no code")))?;
            let (kind, sleepable) = ProgramKind::of(&program.section);
            let calls = calls(&code.instructions);
            programs.insert(
                name.clone(),
                ProgramSpec {
                    kind,
                    sleepable,
                    helpers: calls.helpers,
                    kernel_functions: calls.kernel_functions,
                    instructions: code.instructions.len(),
                },
            );
        }
        let maps = object.maps.iter().map(|(name, def)| (name.clone(), MapSpec::of(def))).collect();
        Ok(Self {
            license: object.license.to_string_lossy().into_owned(),
            programs,
            maps,
            externs: facts.externs,
            needs_kernel_types: facts.core_relocations > 0,
            globals: facts.globals.into_iter().collect(),
            object,
        })
    }

    /// Bytes of a global variable or constant, or `None` if there is none of that name. (One that the code never uses is
    /// removed by the compiler.)
    pub fn global_size(&self, name: &str) -> Option<u64> {
        self.globals.get(name).copied()
    }
}

impl fmt::Debug for ObjectSpec {
    /// Without aya-obj's side, which is every byte of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ObjectSpec");
        out.field("license", &self.license).field("programs", &self.programs).field("maps", &self.maps);
        out.field("externs", &self.externs)
            .field("needs_kernel_types", &self.needs_kernel_types)
            .finish_non_exhaustive()
    }
}

impl MapSpec {
    fn of(def: &MapDef) -> Self {
        Self {
            kind: def.map_type(),
            key: def.key_size(),
            value: def.value_size(),
            entries: def.max_entries(),
            flags: def.map_flags(),
            origin: match def.section_kind() {
                EbpfSectionKind::Rodata => MapOrigin::Constants,
                EbpfSectionKind::Data | EbpfSectionKind::Bss => MapOrigin::Variables,
                _ => MapOrigin::Declared,
            },
            special: def.inner().is_some() || def.pinning() != aya_obj::maps::PinningType::None,
        }
    }
}

/// Appends the functions that each program calls, as the kernel wants it.
fn linked(mut object: Object) -> Result<Object, String> {
    let text = text_sections(&object);
    object.relocate_calls(&text).map_err(|e| chain(&e))?;
    Ok(object)
}

/// The sections with code: what a relocation of a function may refer to.
pub(super) fn text_sections(object: &Object) -> HashSet<usize> {
    object.functions.keys().map(|(section, _)| *section).collect()
}

/// What a piece of code calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub helpers: BTreeSet<u32>,
    pub kernel_functions: bool,
}

/// Finds all calls. The second halves of 16-byte instructions are data and are stepped over, as the verifier does.
pub(super) fn calls(code: &[bpf_insn]) -> Calls {
    const CALL: u8 = 0x85;
    const CALL_REGISTER: u8 = 0x8d;
    const LD_IMM64: u8 = 0x18;
    let mut out = Calls::default();
    let mut at = 0;
    while let Some(instruction) = code.get(at) {
        match (instruction.code, instruction.src_reg()) {
            (LD_IMM64, _) => at += 1,
            (CALL, 0) => drop(out.helpers.insert(instruction.imm.cast_unsigned())),
            // 1 = a function of the object. 2 = a kernel function by its BTF id; anything above is newer than we are.
            (CALL, 1) => {}
            (CALL | CALL_REGISTER, _) => out.kernel_functions = true,
            _ => {}
        }
        at += 1;
    }
    out
}

/// `bpf_<name>`, or the number of a helper that is newer than this host.
pub(super) fn helper_name(number: u32) -> String {
    helpers::name(number).map_or_else(|| format!("helper number {number}"), |name| format!("bpf_{name}"))
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out = format!("{out}: {text}");
        }
        next = cause.source();
    }
    out
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that may panic on hostile input; `Err` holds the panic's words. The process's panic hook is wrapped once, so
/// that such a panic prints nothing: an object must not be able to write into the user's terminal.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.with(Cell::get) {
                before(info);
            }
        }));
    });
    let outer = QUIET.with(|quiet| quiet.replace(true));
    // Nothing that `work` borrows is used after a panic: the callers throw the object away.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.with(|quiet| quiet.set(outer));
    result.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
    })
}
