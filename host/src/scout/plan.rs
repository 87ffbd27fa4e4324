//! What the broker asks a scout and what the scout answers: plain data, sent as JSON.
//!
//! Only shapes live here, no analysis. The broker reads the answer of a process that has parsed hostile bytes, so
//! nothing in it is more than numbers and text to show.

pub use ecapture_plugin_api::plan::{Behind, Field, Locator, ProbeKind as WantedKind, WrapperArgument};
use serde::{Deserialize, Serialize};

/// The probes wanted in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoutRequest {
    /// The probes, at most [`MAX_PROBES`](super::MAX_PROBES).
    pub probes: Vec<ProbeWanted>,
}

/// One probe of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeWanted {
    /// The broker's number of the probe; comes back in the answer.
    pub index: u32,
    /// The event: a call or a return.
    pub kind: WantedKind,
    /// Where.
    pub at: Locator,
    /// How many arguments an entry probe reads. The true number matters: an argument register that is not needed may
    /// be overwritten before the point, a needed one may not.
    #[serde(default = "all_arguments")]
    pub args: u8,
    /// A return may be answered by [`PointKind::Exit`] points: the module has a program for them.
    #[serde(default)]
    pub exit_ok: bool,
}

/// Registers that carry arguments in the System V calling convention; the careful default of [`ProbeWanted::args`].
fn all_arguments() -> u8 {
    6
}

/// The answer for one file. Every probe of the request is in `placed` or in `failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoutAnswer {
    /// What the file is; absent when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<TargetFile>,
    /// Why the whole file was refused (then every probe is in `failed` with the same words).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Probes with proven points.
    pub placed: Vec<Placed>,
    /// Probes that must not be attached.
    pub failed: Vec<Failed>,
}

/// Facts of the file that the analysis met on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Bytes.
    pub size: u64,
    /// The GNU build id in hex.
    pub build_id: Option<String>,
    /// Always `x86_64` today.
    pub machine: String,
    /// Program or library.
    pub kind: FileKind,
}

/// Program or library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Started by `execve`.
    Executable,
    /// Loaded by a program.
    Library,
}

/// A probe with its proven points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Number of the probe in the request.
    pub index: u32,
    /// One point, or several exits which together see each return once.
    pub points: Vec<Point>,
    /// Symbol of the function, or `function at 0x...` when it has none.
    pub function: String,
    /// How the function was found, when the probe does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Position of the wrapper's argument that [`Behind::out`] asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<u8>,
    /// Where the field is that [`Locator::CalleeOfStrings`] asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<FieldAt>,
    /// Other places that the code may take it from instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldAt>,
    /// The point is where the function hands everything on, and this is where things are then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed: Option<Handed>,
    /// Where value and arguments are at the exit points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// File offset of the function's first instruction.
    pub function_offset: u64,
    /// Distance of the first point from the function's first instruction, in bytes.
    pub delta: i64,
    /// What a hit costs.
    pub cost: Cost,
    /// The instruction at the first point.
    pub instruction: String,
    /// Why this point, in words.
    pub why: String,
}

/// Set in the number of a field that has other places as well.
const SEVERAL: u32 = 1 << 30;

/// Where a [`Field`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FieldAt {
    /// Where in the structure the pointer is that leads to it; absent if the field is in the structure itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<u16>,
    /// Bytes from the beginning of what is pointed to.
    pub at: u16,
}

impl FieldAt {
    /// As the probe's program sees it; nothing if the pointer's place is one too far.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        let through = self.through.map_or(Some(0), |through| through.checked_add(1))?;
        (through <= 0x3fff).then_some(u32::from(through) << 16 | u32::from(self.at))
    }

    /// The same where there are several.
    #[must_use]
    pub fn number_of_several(self) -> Option<u32> {
        self.number().map(|number| number | SEVERAL)
    }
}

/// Which argument registers hold what at a function's last jump, as the function that it leads to gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Where the first arguments are, as many as the probe's program reads.
    pub args: [u8; 6],
    /// Where the field's address is.
    pub field: u8,
}

impl Handed {
    /// As the probe's program sees it; nothing if a register is not one of the six.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        let all = self.args.into_iter().chain([self.field]);
        let bits = all.zip((0..).step_by(3)).map(|(at, shift)| (at < 6).then_some(u32::from(at) << shift));
        bits.sum::<Option<u32>>().map(|bits| 1 << 31 | bits)
    }
}

/// Which registers hold a call's value and arguments at its exit: numbers of rax, rbx, rbp and r12 to r15, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where the value is.
    pub value: u8,
    /// Where the first arguments are, as many as the probe's program reads.
    pub args: Vec<u8>,
}

impl Kept {
    /// As the probe's program sees it; nothing if there is no such register, or more arguments than registers have.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        let all = std::iter::once(&self.value).chain(&self.args);
        let bits = all.zip((0..).step_by(3)).map(|(at, shift)| (*at < 7).then_some(u32::from(*at) << shift));
        (self.args.len() <= 6).then(|| bits.sum()).flatten()
    }
}

/// One offset to attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Offset in the file.
    pub offset: u64,
    /// How to attach.
    pub kind: PointKind,
}

/// How a point is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointKind {
    /// A plain uprobe; arguments are as the caller passed them.
    Entry,
    /// A return probe; the stack pointer is at the return address.
    Return,
    /// A plain uprobe before the return; rax already holds the value, or the register that [`Placed::kept`] names.
    Exit,
}

/// Cost class of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// The kernel emulates the instruction: about a microsecond.
    Emulated,
    /// The kernel single-steps it: ten microseconds and more.
    Stepped,
}

/// A probe without a proven point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Number of the probe in the request.
    pub index: u32,
    /// Why, in words.
    pub why: String,
}
