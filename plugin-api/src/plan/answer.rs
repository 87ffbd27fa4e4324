//! What a module answers: `configure` and `detect`.

use super::{
    GlobalValue, Hex, MAX_ANSWER, MAX_ARGS, MAX_ITEMS, MAX_LAYOUT, MAX_NAME, MAX_PROBES, MAX_WRAPPERS, REGISTER_ARGS,
    SCHEMA,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Why an answer (or a configuration) was refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Longer than allowed; nothing of it was parsed.
    #[error("{len} bytes of JSON, more than the {max} that are allowed")]
    TooLong {
        /// Bytes.
        len: usize,
        /// Bytes.
        max: usize,
    },
    /// Not JSON, or not of this shape.
    #[error("not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// Another schema.
    #[error("schema {0} is not known here (known: {SCHEMA})")]
    Schema(u32),
    /// A list, name or row beyond its limit, or fields that contradict each other.
    #[error("{at}: {why}")]
    Invalid {
        /// The key, as in `probes[3].program`.
        at: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What `configure` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which bundled objects are loaded. Empty: none (a mode that needs no kernel side is allowed).
    #[serde(default)]
    pub objects: Vec<Object>,
    /// Host-wide attachments.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Programs of `attachments` that can be done without: left out, with a warning, where the kernel has no such BTF
    /// tracepoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional: Vec<String>,
    /// Host services that are wanted, by name (`packets`). One that the host does not have is an error of the run.
    #[serde(default)]
    pub services: Vec<String>,
}

/// One eBPF object to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Id of the `[[bpf]]` in the manifest.
    pub id: String,
    /// Which programs are loaded; empty: all.
    #[serde(default)]
    pub programs: Vec<String>,
    /// Values of `const volatile` globals, by name.
    #[serde(default)]
    pub globals: BTreeMap<String, GlobalValue>,
}

/// One attachment that belongs to no target file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Id of the object.
    pub object: String,
    /// Name of the program in it.
    pub program: String,
    /// How it is attached.
    pub kind: AttachKind,
    /// Where: a tracepoint's name (`sched_process_fork`; for `tracepoint` `category/name`), a cgroup attach type.
    pub to: String,
}

/// Kinds of host-wide attachments. One that is not here is refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachKind {
    /// A BTF tracepoint.
    TpBtf,
    /// A classic tracepoint, `category/name`.
    Tracepoint,
    /// A cgroup program, at the root cgroup.
    Cgroup,
}

/// What `detect` answers for one target file: how to capture from it, or why it can't be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detected {
    /// [`SCHEMA`]; may be left out beside `unsupported`.
    #[serde(default)]
    pub schema: u32,
    /// What the file is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<DetectedVersion>,
    /// Where its programs go.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Groups that stand in for others, by name: attached only if the other one can't be. For a function that may be found
    /// in two ways, of which one is better.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<String, String>,
    /// The file's row in `ecap_layouts`: the bytes of the module's own struct, at most [`MAX_LAYOUT`]; empty if it has
    /// none.
    #[serde(default)]
    pub layout: Hex,
    /// Lines for `module plan` and `-v`: what was found and how.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Set instead of all else: why this file can't be captured from, and what the user can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
}

/// A target file's version, for the user and for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectedVersion {
    /// `MariaDB`.
    pub product: String,
    /// `10.11.14`.
    pub text: String,
    /// How it was found: `string in .rodata`, `soname`, ...
    pub how: String,
}

/// One program at one place of the target file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Id of the object.
    pub object: String,
    /// Name of the program in it. For `return` a second program `<program>__exit`, if the object has it, takes the exit
    /// points of a function whose return can't be probed cheaply.
    pub program: String,
    /// Entry or return.
    pub kind: ProbeKind,
    /// Where.
    pub at: Locator,
    /// How many integer arguments the program reads: they must be intact where the probe is put. With more than the 6
    /// that registers hold, the stack pointer must be as well.
    #[serde(default)]
    pub args: u8,
    /// Free for the module: the high half of the attach cookie (the low half is the target's number). Of a probe whose
    /// place asks for a position ([`Behind::out`]) the top 8 bits are the host's, and 0 here; where it asks for a field
    /// ([`Field`]), and of a probe at exits, all are.
    #[serde(default)]
    pub arg: u32,
    /// If it can't be placed, the target is refused; else a note is written and the rest is attached.
    #[serde(default = "yes")]
    pub required: bool,
    /// Probes of one group are attached all or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

fn yes() -> bool {
    true
}

/// What of a function a probe wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// Its call, with the arguments.
    Entry,
    /// Its return, with the value.
    Return,
    /// Its return, with the value and with the first [`Probe::args`] arguments, by a program for entries: at the branches
    /// before its `ret` instructions, where registers still hold all of it. Which ones say all bits of the probe's number:
    /// `ecap_exit_value` and `ecap_exit_arg` read them. One trap for each call, where a probe at the entry and one at the return
    /// take two. What the code does not show is not placed; so let probes at entry and return
    /// [stand in](Detected::fallbacks) for it.
    Exit,
}

/// Where a function is. The module names it; the host's scout finds it, proves it and picks the instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locator {
    /// The function of this name, in `.dynsym` or `.symtab`.
    Symbol(String),
    /// Bytes behind the start of that function.
    SymbolOffset(String, u64),
    /// The function that starts at this virtual address of the file.
    FunctionAt(u64),
    /// The one function that is called with at least `min` of these strings.
    CalleeOfStrings {
        /// The strings.
        strings: Vec<String>,
        /// How many of them must be found.
        min: u32,
        /// A place that its code shows, and the program wants to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<Field>,
    },
    /// The function that several others are thin wrappers of: `ssl_read_internal` behind `SSL_read` and `SSL_read_ex`.
    /// It has no name in a stripped file. What can't be proven is not placed, and the reason says what was in the way;
    /// so make it `required = false` if there is something to fall back on.
    Behind(Behind),
}

/// A function that is known by its wrappers.
///
/// It is the nearest function of the file that each wrapper calls, directly or through another function of the file that
/// is such a wrapper itself, and for which the instructions of every path through each wrapper show that
/// - it is called at most once, and given the wrapper's own first `args` arguments in their places (numbers other than
///   `buffer` may be shortened to 32 bits on the way), all of which it really uses;
/// - the wrapper itself does not read or keep `buffer`, hands it to nobody else, and has no call or jump whose
///   destination is not in sight.
///
/// Functions of other files can't be looked into. One counts as given the buffer if the wrapper has set up arguments for
/// it; one that is called with all argument registers as they were counts as a function without arguments. Paths that
/// begin where an exception is caught are not followed.
///
/// The probe then also sees calls that do not come through the wrappers, and does not see calls that they refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Names of the wrappers, in `.dynsym` or `.symtab`: 1 to [`MAX_WRAPPERS`].
    pub wrappers: Vec<String>,
    /// How many of the wrappers' first arguments arrive in their places: 1 to [`REGISTER_ARGS`].
    pub args: u8,
    /// Which of them, counted from 0, is the data: what nobody else may be given.
    pub buffer: u8,
    /// An argument that does not keep its place, or not in every version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<WrapperArgument>,
}

/// An argument of one wrapper, whose place among the arguments of the function behind it is wanted: `SSL_write_ex` has
/// the place for the written length as argument 3, `ssl_write_internal` as argument 3 or 4.
///
/// The host puts that position, 0 to 5, into the top 8 bits of the probe's number: the program reads it as
/// `ecap_probe_arg(ctx) >> 24`. It counts as an argument that the program reads, beside those of [`Probe::args`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrapperArgument {
    /// One of [`Behind::wrappers`].
    pub wrapper: String,
    /// Number of its argument, counted from 0: at most 5.
    pub argument: u8,
}

/// Bytes that a function takes from the structure that one of its arguments points to: it hands their address and their
/// number on to another function, next to one another, or goes through them itself. `ssl_log_secret` does that with the 32
/// bytes of the client random, which have another place in every version.
///
/// The host puts where they are into the probe's number: in bits 0 to 15 their distance from what is pointed to. What is
/// pointed to is the structure itself if bits 16 to 29 are 0, else what the pointer points to that is in it at these bits
/// minus 1. What the code does not show, or shows for more than [`most`](Self::most) places, or takes from several one after
/// the other, is not placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Which argument points to the structure, counted from 0: at most 5.
    pub argument: u8,
    /// How many bytes: 16 to 4096. Fewer are too common a number to tell anything.
    pub bytes: u32,
    /// Between how many places the code may choose, 1 to 4. Where it chooses between several, the program runs once for each of
    /// them, with bit 30 of its number set: which one counts is for the program to tell.
    #[serde(default = "one_place", skip_serializing_if = "is_one_place")]
    pub most: u8,
}

const MOST_PLACES: u8 = 4;

fn one_place() -> u8 {
    1
}

fn is_one_place(most: &u8) -> bool {
    *most == 1
}

impl Default for Configured {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            objects: Vec::new(),
            attachments: Vec::new(),
            optional: Vec::new(),
            services: Vec::new(),
        }
    }
}

impl Configured {
    /// Reads and checks what `configure` answered.
    ///
    /// # Errors
    ///
    /// [`PlanError`].
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        let answer: Self = from_json(text)?;
        PlanError::check_schema(answer.schema)?;
        answer.check()?;
        Ok(answer)
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    fn check(&self) -> Result<(), PlanError> {
        check_count("objects", self.objects.len(), MAX_ITEMS)?;
        check_count("attachments", self.attachments.len(), MAX_ITEMS)?;
        check_count("optional", self.optional.len(), MAX_ITEMS)?;
        for name in &self.optional {
            if !self.attachments.iter().any(|attachment| attachment.program == *name) {
                return Err(invalid("optional".to_owned(), format!("{name:?} is not in attachments")));
            }
        }
        check_count("services", self.services.len(), MAX_ITEMS)?;
        for (i, object) in self.objects.iter().enumerate() {
            let at = |key: &str| format!("objects[{i}].{key}");
            check_name(|| at("id"), &object.id)?;
            if self.objects.iter().take(i).any(|o| o.id == object.id) {
                return Err(invalid(at("id"), format!("{:?} is there twice", object.id)));
            }
            check_count(&at("programs"), object.programs.len(), MAX_ITEMS)?;
            check_count(&at("globals"), object.globals.len(), MAX_ITEMS)?;
            for name in object.programs.iter().chain(object.globals.keys()) {
                check_name(|| at("programs, globals"), name)?;
            }
        }
        for (i, attachment) in self.attachments.iter().enumerate() {
            let at = |key: &str| format!("attachments[{i}].{key}");
            check_name(|| at("program"), &attachment.program)?;
            check_name(|| at("to"), &attachment.to)?;
            check_listed(|| at("object"), &attachment.object, &self.objects)?;
        }
        self.services.iter().try_for_each(|s| check_name(|| "services".to_owned(), s))
    }
}

impl Detected {
    /// A file that can be captured from; fill in the rest.
    pub fn supported(version: DetectedVersion) -> Self {
        Self { schema: SCHEMA, version: Some(version), ..Self::default() }
    }

    /// A file that can't be captured from: why, and what the user can do about it.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self { schema: SCHEMA, unsupported: Some(reason.into()), ..Self::default() }
    }

    /// Reads and checks what `detect` answered.
    ///
    /// # Errors
    ///
    /// [`PlanError`].
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        let answer: Self = from_json(text)?;
        if answer.unsupported.is_none() || answer.schema != 0 {
            PlanError::check_schema(answer.schema)?;
        }
        answer.check()?;
        Ok(answer)
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.unsupported.is_some() && !self.probes.is_empty() {
            return Err(invalid("unsupported".to_owned(), "stands beside probes".to_owned()));
        }
        check_count("probes", self.probes.len(), MAX_PROBES)?;
        check_count("notes", self.notes.len(), MAX_ITEMS)?;
        check_count("fallbacks", self.fallbacks.len(), MAX_ITEMS)?;
        let is_group = |name: &String| self.probes.iter().any(|probe| probe.group.as_ref() == Some(name));
        for (group, other) in &self.fallbacks {
            check_name(|| "fallbacks".to_owned(), group)?;
            if group == other || !is_group(group) || !is_group(other) {
                return Err(invalid(format!("fallbacks.{group}"), "does not name two groups of probes".to_owned()));
            }
        }
        check_count("layout", self.layout.0.len(), MAX_LAYOUT)?;
        for (i, probe) in self.probes.iter().enumerate() {
            let at = |key: &str| format!("probes[{i}].{key}");
            check_name(|| at("object"), &probe.object)?;
            check_name(|| at("program"), &probe.program)?;
            if probe.args > MAX_ARGS {
                return Err(invalid(at("args"), format!("{} is more than {MAX_ARGS}", probe.args)));
            }
            if let Some(group) = &probe.group {
                check_name(|| at("group"), group)?;
            }
            if probe.kind == ProbeKind::Exit {
                probe.check_exit(at)?;
            }
            match &probe.at {
                Locator::Symbol(name) | Locator::SymbolOffset(name, _) => check_name(|| at("at"), name)?,
                Locator::FunctionAt(_) => {}
                Locator::Behind(behind) => {
                    behind.check(&at("at"))?;
                    if behind.out.is_some() && probe.arg >> 24 != 0 {
                        let why = format!("{:#x}: the top 8 bits are those of the position asked for", probe.arg);
                        return Err(invalid(at("arg"), why));
                    }
                }
                Locator::CalleeOfStrings { strings, min, field } => {
                    check_count(&at("at.strings"), strings.len(), MAX_ITEMS)?;
                    strings.iter().try_for_each(|s| check_name(|| at("at.strings"), s))?;
                    if *min == 0 || usize::try_from(*min).is_ok_and(|min| min > strings.len()) {
                        return Err(invalid(at("at.min"), format!("{min} of {} strings", strings.len())));
                    }
                    if let Some(field) = field {
                        field.check(&at("at.field"))?;
                        if probe.arg != 0 {
                            let why = format!("{:#x}: all bits are those of the field asked for", probe.arg);
                            return Err(invalid(at("arg"), why));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Probe {
    fn check_exit(&self, at: impl Fn(&str) -> String) -> Result<(), PlanError> {
        if self.args > REGISTER_ARGS {
            let why = format!("{}; {REGISTER_ARGS} are in registers", self.args);
            return Err(invalid(at("args"), why));
        }
        if self.arg != 0 {
            return Err(invalid(at("arg"), format!("{:#x}: all bits are those of the registers", self.arg)));
        }
        match &self.at {
            Locator::SymbolOffset(..) => {
                Err(invalid(at("at"), "an offset says nothing of a function's exits".to_owned()))
            }
            Locator::CalleeOfStrings { field: Some(_), .. } | Locator::Behind(Behind { out: Some(_), .. }) => {
                Err(invalid(at("at"), "asks for a place, which the number has no room for at exits".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Field {
    fn check(&self, at: &str) -> Result<(), PlanError> {
        if self.argument >= REGISTER_ARGS {
            let why = format!("{}; 0 to {} are in registers", self.argument, REGISTER_ARGS - 1);
            return Err(invalid(format!("{at}.argument"), why));
        }
        if !(16..=4096).contains(&self.bytes) {
            return Err(invalid(format!("{at}.bytes"), format!("{}; 16 to 4096 are allowed", self.bytes)));
        }
        if !(1..=MOST_PLACES).contains(&self.most) {
            return Err(invalid(format!("{at}.most"), format!("{}; 1 to {MOST_PLACES} are allowed", self.most)));
        }
        Ok(())
    }
}

impl Behind {
    fn check(&self, at: &str) -> Result<(), PlanError> {
        let key = |key: &str| format!("{at}.{key}");
        if self.wrappers.is_empty() {
            return Err(invalid(key("wrappers"), "none; at least one is needed".to_owned()));
        }
        check_count(&key("wrappers"), self.wrappers.len(), MAX_WRAPPERS)?;
        for (i, wrapper) in self.wrappers.iter().enumerate() {
            check_name(|| key("wrappers"), wrapper)?;
            if self.wrappers.iter().take(i).any(|w| w == wrapper) {
                return Err(invalid(key("wrappers"), format!("{wrapper:?} is there twice")));
            }
        }
        if !(1..=REGISTER_ARGS).contains(&self.args) {
            return Err(invalid(key("args"), format!("{}; 1 to {REGISTER_ARGS} are allowed", self.args)));
        }
        if self.buffer >= self.args {
            return Err(invalid(key("buffer"), format!("{} is not one of {} arguments", self.buffer, self.args)));
        }
        let Some(out) = &self.out else { return Ok(()) };
        if !self.wrappers.contains(&out.wrapper) {
            return Err(invalid(key("out.wrapper"), format!("{:?} is not in wrappers", out.wrapper)));
        }
        if out.argument >= REGISTER_ARGS {
            let why = format!("{}; 0 to {} are in registers", out.argument, REGISTER_ARGS - 1);
            return Err(invalid(key("out.argument"), why));
        }
        Ok(())
    }
}

impl PlanError {
    pub(super) fn check_size(text: &str, max: usize) -> Result<(), Self> {
        if text.len() > max { Err(Self::TooLong { len: text.len(), max }) } else { Ok(()) }
    }

    pub(super) fn check_schema(schema: u32) -> Result<(), Self> {
        if schema == SCHEMA { Ok(()) } else { Err(Self::Schema(schema)) }
    }
}

/// These types have string keys and finite numbers only, so writing them cannot fail; an empty text would be refused by
/// every reader.
pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, PlanError> {
    PlanError::check_size(text, MAX_ANSWER)?;
    Ok(serde_json::from_str(text)?)
}

fn invalid(at: String, why: String) -> PlanError {
    PlanError::Invalid { at, why }
}

fn check_count(at: &str, count: usize, max: usize) -> Result<(), PlanError> {
    if count > max {
        Err(invalid(at.to_owned(), format!("{count}, more than the {max} that are allowed")))
    } else {
        Ok(())
    }
}

fn check_name(at: impl FnOnce() -> String, name: &str) -> Result<(), PlanError> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        let why = format!("a name of {} bytes; 1 to {MAX_NAME} without NUL are allowed", name.len());
        return Err(invalid(at(), why));
    }
    Ok(())
}

fn check_listed(at: impl FnOnce() -> String, id: &str, objects: &[Object]) -> Result<(), PlanError> {
    if objects.iter().any(|o| o.id == id) { Ok(()) } else { Err(invalid(at(), format!("{id:?} is not in objects"))) }
}

#[cfg(test)]
mod tests;
