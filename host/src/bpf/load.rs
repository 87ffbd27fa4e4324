//! From a judged object to programs and maps in the kernel.
//!
//! aya-obj patches, relocates and links; maps are made and programs loaded by us, since aya 0.14 can neither take a map by
//! its descriptor nor load a program for `uprobe_multi`. The order of the steps matters and is that of `load`.
//! Must not live here: attaching (`link.rs`).

use super::{
    host_maps::fits,
    kernel::{Kernel, KernelError, Method},
    link::Program,
    map::{Map, MapError, kind as map_kind},
    object::{MapSpec, ObjectSpec, ProgramKind, ProgramSpec, calls, chain, guarded, helper_name, text_sections},
    sys::{self, NewMap, NewProgram},
};
use aya_obj::{
    Function, Map as MapDef, Object, Program as ProgramDef,
    generated::{bpf_attach_type as attach, bpf_prog_type as kind},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

const BPF_F_SLEEPABLE: u32 = 1 << 4;
/// The verifier's log levels: what it thinks, and statistics.
const LOG_STEPS: u32 = 1;
const LOG_STATS: u32 = 4;
const FIRST_LOG: usize = 64 << 10;
const LARGEST_LOG: usize = 16 << 20;

/// How an object is loaded this time. The default loads everything as it is.
#[derive(Debug, Default)]
pub struct LoadPlan<'a> {
    /// Values of `const volatile` and other global variables, in their exact size. Each must be in the object.
    pub globals: HashMap<String, Vec<u8>>,
    /// Maps that exist already, used for the object's of the same name. Names that the object does not have are ignored.
    pub host_maps: HashMap<String, &'a Map>,
    /// Load only these programs; empty = all.
    pub only: HashSet<String>,
    /// Other numbers of entries (bytes of a ring) for maps that are made.
    pub max_entries: HashMap<String, u32>,
    /// Program -> kernel tracepoint, for `tp_btf` (the name in the section is lost).
    pub tracepoints: HashMap<String, String>,
    /// How the uprobes will be attached; `None` = as the kernel can.
    pub method: Option<Method>,
}

/// What is in the kernel now. All of it goes when dropped, except what links keep.
#[derive(Debug)]
pub struct Loaded {
    /// The programs, by name.
    pub programs: BTreeMap<String, Program>,
    /// The maps that were made for this object; those of the host are not among them.
    pub maps: BTreeMap<String, Map>,
}

/// What the verifier said, whole. It holds kernel addresses and source lines: show `short()`, and all only when asked to.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierLog(String);

impl VerifierLog {
    /// Every line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last lines that say something: the refused instruction and the reason.
    pub fn short(&self) -> String {
        let statistics = ["processed ", "verification time", "stack depth", "max_states"];
        let says = |line: &&str| !line.trim().is_empty() && !statistics.iter().any(|s| line.starts_with(s));
        let mut lines: Vec<&str> = self.0.lines().rev().filter(says).take(3).collect();
        lines.reverse();
        lines.join("\n")
    }
}

impl fmt::Debug for VerifierLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierLog({:?}, {} bytes)", self.short(), self.0.len())
    }
}

/// Why an object could not be loaded. Nothing of it stays in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan names a program that the object does not have.
    #[error("the object has no program {0}")]
    NoProgram(String),
    /// The plan sets a variable that the object does not have, or in another size.
    #[error("global {name}: {why}")]
    Global {
        /// The variable.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The object declares a host map differently.
    #[error("map {name}: the object declares {declared}, the host's is {given}")]
    HostMap {
        /// The map.
        name: String,
        /// The object's side.
        declared: String,
        /// The host's side.
        given: String,
    },
    /// A `tp_btf` program without a tracepoint in the plan, or with one that this kernel does not have.
    #[error("program {program}: {}", match tracepoint { Some(t) => format!("this kernel has no tracepoint {t}"), None => "no tracepoint is named for it".into() })]
    Tracepoint {
        /// The program.
        program: String,
        /// The tracepoint, if one was named.
        tracepoint: Option<String>,
    },
    /// A type of program that this host does not load.
    #[error("program {program} is of type {kind}, which this host does not load")]
    Kind {
        /// The program.
        program: String,
        /// Its type.
        kind: &'static str,
    },
    /// aya-obj cannot adjust the object to this kernel; its words.
    #[error("{step}: {why}")]
    Object {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        why: String,
    },
    /// After relocation a program calls what it did not call when it was judged.
    #[error("program {program} would call {call}, which it hid before")]
    Hidden {
        /// The program.
        program: String,
        /// The call.
        call: String,
    },
    /// The kernel refuses the object's types.
    #[error("the kernel refuses the object's types (BPF_BTF_LOAD)")]
    Types(#[source] io::Error),
    /// The kernel's types are needed and missing.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A map could not be made or filled.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel refuses a program.
    #[error("the kernel refuses program {name}{}", if log.as_str().is_empty() { String::new() } else { format!(":\n{}", log.short()) })]
    Program {
        /// The program.
        name: String,
        /// The kernel's words.
        source: io::Error,
        /// The verifier's.
        log: VerifierLog,
    },
}

/// Loads an object. It should have been judged (`scan::judge`): nothing is asked about permissions here.
pub fn load(spec: &ObjectSpec, kernel: &Kernel, plan: &LoadPlan<'_>) -> Result<Loaded, LoadError> {
    check(spec, plan)?;
    let mut object = spec.object.clone();
    let (mut object, types) = step("preparing the object", || {
        let globals = plan.globals.iter().map(|(name, value)| (name.as_str(), (value.as_slice(), true)));
        object.patch_map_data(globals.collect()).map_err(|e| chain(&e))?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(|e| chain(&e))?.map(aya::Btf::to_bytes),
            None => None,
        };
        Ok((object, btf))
    })?;
    let types = types.map(|bytes| sys::btf_load(&bytes)).transpose().map_err(LoadError::Types)?;
    if spec.needs_kernel_types {
        let btf = kernel.btf()?;
        object = step("adjusting the object to the kernel's types", || {
            object.relocate_btf(btf).map_err(|e| chain(&e))?;
            Ok(object)
        })?;
    }

    // The definitions are needed after `relocate_maps` borrowed the object: what they say decides the kind of relocation.
    let definitions = mem::take(&mut object.maps);
    let mut maps = BTreeMap::new();
    let mut fds: HashMap<&str, RawFd> = HashMap::new();
    for (name, definition) in &definitions {
        let fd = match plan.host_maps.get(name) {
            Some(given) => given.as_fd().as_raw_fd(),
            None => {
                let map = make(name, definition, types.as_ref(), plan.max_entries.get(name).copied())?;
                let fd = map.as_fd().as_raw_fd();
                maps.insert(name.clone(), map);
                fd
            }
        };
        fds.insert(name, fd);
    }
    let object = step("linking the object", || {
        let text = text_sections(&object);
        let known = definitions.iter().filter_map(|(name, def)| Some((name.as_str(), *fds.get(name.as_str())?, def)));
        object.relocate_maps(known, &text).map_err(|e| chain(&e))?;
        object.relocate_calls(&text).map_err(|e| chain(&e))?;
        object.sanitize_functions(aya::features());
        Ok(object)
    })?;

    let loader = Loader { kernel, plan, object: &object, types: types.as_ref() };
    let mut programs = BTreeMap::new();
    for (name, judged) in &spec.programs {
        if plan.only.is_empty() || plan.only.contains(name) {
            programs.insert(name.clone(), loader.program(name, judged)?);
        }
    }
    Ok(Loaded { programs, maps })
}

/// What the plan says about the object, before anything is made.
fn check(spec: &ObjectSpec, plan: &LoadPlan<'_>) -> Result<(), LoadError> {
    if let Some(name) = plan.only.iter().find(|name| !spec.programs.contains_key(*name)) {
        return Err(LoadError::NoProgram(name.clone()));
    }
    for (name, value) in &plan.globals {
        let why = match spec.global_size(name) {
            None => "the object has none of that name (or never uses it)".to_owned(),
            Some(size) if size != value.len() as u64 => format!("it has {size} bytes, {} were given", value.len()),
            Some(_) => continue,
        };
        return Err(LoadError::Global { name: name.clone(), why });
    }
    for (name, given) in &plan.host_maps {
        if let Some(declared) = spec.maps.get(name).filter(|declared| !fits(declared, given)) {
            let words =
                |kind, key, value, flags| format!("type {kind}, key {key}, value {value} bytes, flags {flags:#x}");
            let MapSpec { kind, key, value, flags, .. } = *declared;
            return Err(LoadError::HostMap {
                name: name.clone(),
                declared: words(kind, key, value, flags),
                given: words(given.kind(), given.key_size(), given.value_size(), given.flags()),
            });
        }
    }
    Ok(())
}

fn step<T>(step: &'static str, work: impl FnOnce() -> Result<T, String>) -> Result<T, LoadError> {
    guarded(work).and_then(|result| result).map_err(|why| LoadError::Object { step, why })
}

fn make(name: &str, def: &MapDef, types: Option<&OwnedFd>, entries: Option<u32>) -> Result<Map, LoadError> {
    let spec = (def.map_type(), def.key_size(), def.value_size());
    // Task storage is refused without types, a ring buffer with them; sections of variables have none.
    let types = match (def, types) {
        (MapDef::Btf(btf), Some(types)) if spec.0 != map_kind::RINGBUF => {
            Some((types.as_fd(), btf.def.btf_key_type_id, btf.def.btf_value_type_id))
        }
        _ => None,
    };
    let map = Map::new(&NewMap {
        kind: spec.0,
        key: spec.1,
        value: spec.2,
        entries: entries.unwrap_or(def.max_entries()),
        flags: def.map_flags(),
        extra: def.map_extra(),
        name,
        types,
    })?;
    if !def.data().is_empty() {
        map.update(&0u32.to_ne_bytes(), def.data())?;
    }
    // Before the programs are loaded: only a frozen map's values are constants for the verifier.
    if def.section_kind() == aya_obj::EbpfSectionKind::Rodata {
        map.freeze()?;
    }
    Ok(map)
}

struct Loader<'a> {
    kernel: &'a Kernel,
    plan: &'a LoadPlan<'a>,
    object: &'a Object,
    types: Option<&'a OwnedFd>,
}

impl Loader<'_> {
    fn program(&self, name: &str, judged: &ProgramSpec) -> Result<Program, LoadError> {
        let missing = || LoadError::NoProgram(name.to_owned());
        let def: &ProgramDef = self.object.programs.get(name).ok_or_else(missing)?;
        let code: &Function = self.object.functions.get(&def.function_key()).ok_or_else(missing)?;
        self.compare(name, judged, code)?;
        let method = self.plan.method.unwrap_or(self.kernel.method);
        let (mut attach_type, mut attach_btf_id) = (0, 0);
        let kind = match judged.kind {
            ProgramKind::Uprobe | ProgramKind::Uretprobe => {
                if method == Method::Multi {
                    attach_type = attach::BPF_TRACE_UPROBE_MULTI as u32;
                }
                kind::BPF_PROG_TYPE_KPROBE
            }
            ProgramKind::TpBtf => {
                let tracepoint = self.plan.tracepoints.get(name);
                let unknown = || LoadError::Tracepoint { program: name.to_owned(), tracepoint: tracepoint.cloned() };
                let id = self.kernel.tracepoint_id(tracepoint.ok_or_else(unknown)?)?;
                (attach_type, attach_btf_id) = (attach::BPF_TRACE_RAW_TP as u32, id.ok_or_else(unknown)?);
                kind::BPF_PROG_TYPE_TRACING
            }
            ProgramKind::Tracepoint => kind::BPF_PROG_TYPE_TRACEPOINT,
            ProgramKind::Classifier => kind::BPF_PROG_TYPE_SCHED_CLS,
            ProgramKind::CgroupSkbIngress => {
                attach_type = attach::BPF_CGROUP_INET_INGRESS as u32;
                kind::BPF_PROG_TYPE_CGROUP_SKB
            }
            ProgramKind::CgroupSkbEgress => {
                attach_type = attach::BPF_CGROUP_INET_EGRESS as u32;
                kind::BPF_PROG_TYPE_CGROUP_SKB
            }
            ProgramKind::CgroupSockCreate => {
                attach_type = attach::BPF_CGROUP_INET_SOCK_CREATE as u32;
                kind::BPF_PROG_TYPE_CGROUP_SOCK
            }
            ProgramKind::Other(kind) => return Err(LoadError::Kind { program: name.to_owned(), kind }),
        };
        let (functions, lines) = (code.func_info.func_info_bytes(), code.line_info.line_info_bytes());
        let program = NewProgram {
            kind: kind as u32,
            attach_type,
            attach_btf_id,
            flags: if judged.sleepable { BPF_F_SLEEPABLE } else { 0 },
            code: &code.instructions,
            license: &def.license,
            name,
            types: self.types.map(|t| -> BorrowedFd<'_> { t.as_fd() }),
            functions: &functions,
            lines: &lines,
        };
        let (fd, stats) = verify(&program)?;
        Ok(Program::new(fd, name, judged.kind, method, self.kernel.uprobe_pmu, stats))
    }

    /// Relocations have changed the code since it was judged. They cannot add a call (`elf.rs` sees to that); if they ever
    /// did, it ends here.
    fn compare(&self, name: &str, judged: &ProgramSpec, code: &Function) -> Result<(), LoadError> {
        let now = calls(&code.instructions);
        let hidden = |call: String| Err(LoadError::Hidden { program: name.to_owned(), call });
        if now.kernel_functions && !judged.kernel_functions {
            return hidden("a kernel function".into());
        }
        // aya-obj writes a call of this number where a CO-RE relocation failed, for the verifier to trip over.
        const POISON: u32 = 0xbad_2310;
        let added = now.helpers.iter().find(|h| !judged.helpers.contains(h) && **h != POISON);
        match added {
            Some(helper) => hidden(helper_name(*helper)),
            None => Ok(()),
        }
    }
}

/// Loads a program with statistics; when refused, once more for the whole log.
fn verify(program: &NewProgram<'_>) -> Result<(OwnedFd, String), LoadError> {
    let text =
        |log: &[u8]| String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).trim().to_owned();
    let mut log = vec![0; FIRST_LOG];
    let mut first = sys::prog_load(program, LOG_STATS, &mut log);
    // A log that does not fit answers ENOSPC (before 6.4; later it keeps the end), of a program that is accepted as well.
    while first.as_ref().err().and_then(io::Error::raw_os_error) == Some(libc::ENOSPC) && log.len() < LARGEST_LOG {
        log = vec![0; log.len() * 4];
        first = sys::prog_load(program, LOG_STATS, &mut log);
    }
    match first {
        Ok(fd) => Ok((fd, text(&log))),
        Err(source) => {
            loop {
                log.fill(0);
                let again = sys::prog_load(program, LOG_STEPS | LOG_STATS, &mut log).err();
                if again.and_then(|e| e.raw_os_error()) != Some(libc::ENOSPC) || log.len() >= LARGEST_LOG {
                    break;
                }
                log = vec![0; log.len() * 4];
            }
            let log = VerifierLog(text(&log));
            Err(LoadError::Program { name: program.name.to_owned(), source, log })
        }
    }
}
