//! The manifest as values. Every field says its meaning, unit and default; the checks are in `parse`.

use super::Template;
use crate::plan::Value;
use serde::{Serialize, Serializer};
use std::fmt;

/// A whole manifest, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// `schema = 1`. Required.
    pub schema: u32,
    /// `[module]`. Required.
    pub module: ModuleInfo,
    /// `[kernel]`: what the kernel must have. Default: nothing.
    pub kernel: Kernel,
    /// `[[target]]`: files that the module captures from. May be empty (host-wide modules).
    pub targets: Vec<Target>,
    /// `[[mode]]`: what a run can do, one of them default. If there is none in the file, one mode `text` is made up.
    pub modes: Vec<Mode>,
    /// `[[bpf]]`: the bundled eBPF objects.
    pub bpf: Vec<BpfObject>,
    /// `[[config]]`: the options.
    pub config: Vec<ConfigOption>,
    /// `[[stream]]`: where records come from; [`RecordV1::stream`](crate::abi::RecordV1::stream) is an index into this.
    pub streams: Vec<Stream>,
    /// `[[event]]`: what the decoder makes; [`EventV1::event`](crate::abi::EventV1::event) is an index into this.
    pub events: Vec<Event>,
    /// `[permissions]`: what the eBPF side needs beyond the host's default list.
    pub permissions: Permissions,
}

/// `[module]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// `[a-z][a-z0-9_-]{0,31}`, not reserved; the file is `libecap_<name>.so` (with `-` as `_`). Required.
    pub name: String,
    /// The module's own version, `1.2.3` or `1.2.3-rc.1`. Required.
    pub version: Version,
    /// One line that says what is captured. Required.
    pub title: String,
    /// SPDX expression. Required.
    pub license: String,
    /// Where to ask: a mail address or a URL. Default: none.
    pub contact: Option<String>,
    /// The command that runs it: pattern of `name`. Default: `name`.
    pub command: String,
    /// Other names of the command. Default: none.
    pub aliases: Vec<String>,
    /// The lowest module API that the module needs of the host, `1.0`. Required.
    pub api: ApiVersion,
    /// Host features that it can't do without, by name (`E-FEATURE`). Default: none.
    pub features: Vec<String>,
}

/// `[kernel]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Lowest release, `5.15`. Default: the host's own floor.
    pub min: Option<KernelVersion>,
    /// Needs `/sys/kernel/btf/vmlinux`. Default: true.
    pub btf: bool,
    /// Architectures by their Rust name (`x86_64`, `aarch64`). Default (empty): whatever the file is built for.
    pub arch: Vec<String>,
}

/// `[[target]]`: a kind of file to look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Executable or library. Required.
    pub kind: TargetKind,
    /// Base names of the file. At least one of `names`, `sonames`, `contains`, `paths` is given.
    pub names: Vec<String>,
    /// For libraries: names they may have, `libssl.so.3`; a last `*` stands for anything.
    pub sonames: Vec<String>,
    /// Texts, one of which a file of this kind has somewhere in its bytes: then it is a target whatever its name. For what is
    /// built into many programs. Every file that a process runs or maps is looked through once.
    pub contains: Vec<String>,
    /// Usual absolute paths, tried when no process runs it.
    pub paths: Vec<String>,
    /// Name of the `path` option that gives the file explicitly. Default: none.
    pub option: Option<String>,
}

/// Kind of a target file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// What a process runs.
    Executable,
    /// What a process has mapped.
    Library,
}

/// `[[mode]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mode {
    /// Pattern of a module's name. Required.
    pub name: String,
    /// One line. Required.
    pub help: String,
    /// Chosen without `--mode`. Exactly one mode has it; with a single mode it may be left out.
    pub default: bool,
    /// Format in which its events are written without `--output`; `keylog` and `pcapng` also say that it makes secrets. Default: `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<ModeOutput>,
}

/// What a mode's events are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeOutput {
    /// Lines for people.
    Text,
    /// JSON Lines.
    Json,
    /// Hex dump.
    Hex,
    /// Secrets, as a key log.
    Keylog,
    /// Frames of network interfaces with the secrets to decrypt them, as a capture file. The host captures the frames: the module
    /// asks for its service `packets`.
    Pcapng,
}

/// `[[bpf]]`: an eBPF object in ELF section `.ecapture.bpf.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BpfObject {
    /// Pattern of a module's name. Required.
    pub id: String,
}

/// `[[config]]`: one option. It becomes a long flag `--<name>`, a line of the help, and a key of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigOption {
    /// Pattern of a module's name, not a reserved one and not a long flag of the host. Required.
    pub name: String,
    /// Required.
    #[serde(rename = "type")]
    pub kind: OptionType,
    /// What it does. Required.
    pub help: String,
    /// Of the option's type. Default: none (the option is then absent unless set; `bool`: false).
    pub default: Option<Value>,
    /// Lowest value of an `int`, `duration` (ns here, `"100ms"` in the file) or `size` (bytes here, `"1MiB"`).
    pub min: Option<i64>,
    /// Highest value, as `min`.
    pub max: Option<i64>,
    /// For `enum` (required there) and `list` (optional): what is allowed.
    pub values: Vec<String>,
    /// Short flag: one ASCII letter or digit that the host does not have. Default: none.
    pub short: Option<char>,
}

/// Type of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionType {
    /// An absolute path.
    Path,
    /// Any text.
    String,
    /// A signed 64-bit integer.
    Int,
    /// True or false; on the command line a flag without a value.
    Bool,
    /// `100ms`, `5s`, `2m`, `1h`, `10us`, `5ns`; in nanoseconds for the module.
    Duration,
    /// `4096`, `64KiB`, `1MiB`, `2GiB`; in bytes for the module.
    Size,
    /// One of `values`.
    Enum,
    /// Several texts; on the command line with commas or repeated.
    List,
}

/// `[[stream]]`: a map that records come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// Pattern of a module's name. Required.
    pub name: String,
    /// Name of the ring buffer map. Default: `ecap_events`, the one that the host's header declares.
    pub map: String,
    /// The kernel side sends messages in chunks and the host joins them. Default: false.
    pub join: bool,
    /// Longest joined message in bytes: 4 KiB to 64 MiB. Default: 1 MiB.
    pub join_max: u64,
    /// Size of the ring in bytes, a power of two of 64 KiB to 1 GiB; of the streams of one map the largest counts.
    /// Default: 8 MiB.
    pub ring: u64,
}

/// `[[event]]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Pattern of a module's name; shown as `<module>.<name>`. Required.
    pub name: String,
    /// What it means. Default: empty.
    pub help: String,
    /// How the text output shows it, see [`Template`]. Default: every column that is present, as `name=value`.
    pub text: Option<Template>,
    /// `[[event.column]]`; [`ValueV1::column`](crate::abi::ValueV1::column) is an index into this.
    pub columns: Vec<Column>,
}

/// `[[event.column]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Lower-case words with dots between, `db.query.text`. Required. Not one that the host fills in itself.
    pub name: String,
    /// Required.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// What it means, with its unit. Required.
    pub help: String,
}

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Text as it was captured.
    Text,
    /// Raw bytes.
    Bytes,
    /// An unsigned integer; a count.
    U64,
    /// A signed integer.
    I64,
    /// True or false.
    Bool,
    /// Nanoseconds; shown as `0.8 ms`.
    Duration,
    /// An unsigned integer that is a name and not a number: a string in JSON.
    Id,
    /// A double.
    F64,
}

/// `[permissions]`: each list adds to what every module may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Permissions {
    /// Program types: `uprobe`, `uretprobe`, `tp_btf`, `tracepoint`, `cgroup`, ... Default: none beyond the host's list.
    pub programs: Vec<String>,
    /// Host-wide places: `tp_btf/sched_process_fork`, ... Default: none.
    pub attach: Vec<String>,
    /// eBPF helpers, `bpf_get_current_task_btf`, ... Default: none.
    pub helpers: Vec<String>,
    /// Most memory of all maps in bytes, rings included. Default: 64 MiB.
    pub map_memory: u64,
}

/// A module's own version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major, minor, patch.
    pub parts: [u32; 3],
    /// What follows a `-`; may be empty.
    pub pre: String,
}

/// Version of the module API: `1.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Must equal the host's.
    pub major: u32,
    /// At most the host's.
    pub minor: u32,
}

/// Release of a kernel: `5.15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl Manifest {
    /// The mode that is chosen without `--mode`.
    pub fn default_mode(&self) -> Option<&Mode> {
        self.modes.iter().find(|m| m.default)
    }

    /// The mode of this name.
    pub fn mode(&self, name: &str) -> Option<&Mode> {
        self.modes.iter().find(|m| m.name == name)
    }

    /// The option of this name.
    pub fn option(&self, name: &str) -> Option<&ConfigOption> {
        self.config.iter().find(|o| o.name == name)
    }

    /// The file name that a module of this name must have.
    pub fn file_name(&self) -> String {
        format!("libecap_{}.so", self.module.name.replace('-', "_"))
    }
}

impl Event {
    /// Number of the column of this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }
}

impl ColumnType {
    /// The [`value_kind`](crate::abi::value_kind) that a value of this column must have.
    pub const fn value_kind(self) -> u16 {
        use crate::abi::value_kind;
        match self {
            Self::Text => value_kind::TEXT,
            Self::Bytes => value_kind::BYTES,
            Self::U64 | Self::Duration | Self::Id => value_kind::U64,
            Self::I64 => value_kind::I64,
            Self::Bool => value_kind::BOOL,
            Self::F64 => value_kind::F64,
        }
    }
}

impl ApiVersion {
    /// The version of this crate.
    pub fn current() -> Self {
        let number = |text: Option<&str>| text.and_then(|t| t.parse().ok()).unwrap_or(0);
        let mut parts = crate::abi::API_VERSION.split('.');
        Self { major: number(parts.next()), minor: number(parts.next()) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.parts;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre) }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ApiVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for KernelVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
