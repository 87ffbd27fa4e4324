//! What broker and children say to one another over their control channels: JSON, one message a packet.
//!
//! The broker treats everything a child says as hostile: numbers are checked where they are used, texts are cut and
//! escaped before they are shown. Bulk data never passes here: records stay in the kernel's ring, events in the link.

pub mod control;

use ecapture_plugin_api::plan::{Config, Configured, Detected};
use serde::{Deserialize, Serialize};

use crate::event::{ModuleTotals, PacketTotals};
use crate::packet::Interface;
use crate::packet::filter::Filter;
use crate::packet::libpcap::FilterError;
use crate::sandbox::BoundaryReport;
use crate::scout::{ScoutAnswer, ScoutRequest};
use crate::sink::OutputOptions;
use crate::stream::options::StreamOptions;

/// Longest message either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 192 << 10;

/// First message to a worker. File descriptors in this order: the module; for `Detect` one per target; for `Run` ring,
/// doorbell, link, bell.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerStart {
    /// Name of the module, for messages.
    pub module: String,
    /// The manifest that was judged; the module's own must be the same, byte for byte.
    pub manifest: String,
    /// Sonames that the module needs, loaded by the host before the walls go up.
    pub needed: Vec<String>,
    /// User and group to become.
    pub identity: crate::sandbox::Identity,
    /// Resolved configuration, given to the module as JSON text.
    pub config: Config,
    /// What to do.
    pub job: WorkerJob,
}

/// What a worker is for.
#[derive(Debug, Serialize, Deserialize)]
pub enum WorkerJob {
    /// Ask the module to configure the run and to look at the target files, then end.
    Detect {
        /// Number and path (for messages) of each target, in the order of their descriptors.
        targets: Vec<(u32, String)>,
    },
    /// Drain the ring and decode until told to stop.
    Run(RunJob),
    /// Decode what a recording holds. Descriptors: recording, link, bell.
    Replay(ReplayJob),
}

/// What a replaying worker needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReplayJob {
    /// Size of the link to the collector, bytes.
    pub link_bytes: u64,
    /// Per stream of the manifest: longest message in bytes.
    pub max_message: Vec<u64>,
    /// Number of the module in the recording.
    pub module: u8,
}

/// What a recording held.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Replayed {
    /// Records of the module.
    pub records: u64,
    /// Messages that these records were.
    pub seen: u64,
    /// Records that it could not take when it was made.
    pub lost: u64,
    /// What is wrong with the file: records behind that place are not known.
    pub damage: Option<String>,
    /// What the kernel side had counted; unknown if the recording has no end.
    pub totals: Option<KernelTotals>,
    /// `CLOCK_MONOTONIC` when the run ended, ns.
    pub monotonic_ns: u64,
}

/// The numbers a running worker needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunJob {
    /// Size of the kernel's ring, bytes.
    pub ring_bytes: u64,
    /// Size of the link to the collector, bytes.
    pub link_bytes: u64,
    /// Per stream of the manifest: longest message in bytes.
    pub max_message: Vec<u64>,
    /// End of the last batch that the collector has had whole (0 at the first start).
    pub resume_from: u64,
    /// Positions of records that killed two workers: counted as undecodable, not decoded.
    pub poisoned: Vec<u64>,
    /// True if an earlier worker of this run died: decoder state is lost.
    pub restarted: bool,
    /// Hand the records themselves over as well.
    pub record: bool,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// The walls are up; what is missing of them is inside.
    Boundary(BoundaryReport),
    /// Answer of `configure`.
    Configured(Configured),
    /// Answer of `detect` for one target number.
    Detected(u32, Detected),
    /// The module refused a target, or failed on it.
    DetectFailed(u32, String),
    /// The worker cannot go on: stable code and text.
    Failed(String, String),
    /// A line for the log: level (0 error .. 4 trace) and text.
    Log(u8, String),
    /// The decoder panicked, or gave itself up, and was made anew.
    DecoderFailed(String),
    /// The pump is running.
    Ready,
    /// Still alive; said once a second.
    Beat,
    /// Every record is decoded and handed over; what the decoder still holds back comes next.
    Drained,
    /// The recording is decoded.
    Replayed(Replayed),
    /// Everything is drained and handed over; only after this is exit 0 a success.
    Done,
}

/// What the broker says to a running worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The probes are gone: drain what is in the ring, finish the decoder, say `Done`, end.
    Finish,
}

/// First message to a scout.
#[derive(Debug, Serialize, Deserialize)]
pub struct ScoutStart {
    /// User and group to become.
    pub identity: crate::sandbox::Identity,
    /// What to do.
    pub job: ScoutJob,
}

/// What a scout does.
#[derive(Debug, Serialize, Deserialize)]
pub enum ScoutJob {
    /// Finds places for probes in the one file that comes along.
    Place(ScoutRequest),
    /// Says which of the files that come along have one of these texts in them.
    Sift(Vec<String>),
    /// Compiles a tcpdump expression.
    Filter(String),
}

/// What a scout says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromScout {
    /// The walls are up.
    Boundary(BoundaryReport),
    /// The places found and proven.
    Answer(ScoutAnswer),
    /// For each file that was handed over, whether it has one of the texts; or why it can't be read.
    Sifted(Vec<Result<bool, String>>),
    /// The expression as a program, or why there is none.
    Filter(Result<Filter, FilterError>),
    /// The file cannot be used at all.
    Failed(String),
}

/// First message to the collector. Descriptors: for each module link and bell, then ring and doorbell of packets if there are
/// any, then the outputs.
#[derive(Debug, Serialize, Deserialize)]
pub struct CollectorStart {
    /// User and group to become.
    pub identity: crate::sandbox::Identity,
    /// The modules, in the order of their links.
    pub modules: Vec<CollectorModule>,
    /// How each output is written, in the order of their descriptors.
    pub outputs: Vec<OutputOptions>,
    /// Facts for the session's first line.
    pub session: Session,
    /// End after so many events.
    pub count: Option<u64>,
    /// What is done with connections.
    #[serde(default)]
    pub streams: StreamOptions,
    /// Size of the ring of packets, bytes, if packets are captured.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Which packets are wanted; all, if there is none.
    #[serde(default)]
    pub packet_filter: Option<Filter>,
    /// Set for a replay: the times of the recording stand for those of this machine.
    pub replay: Option<ReplayClock>,
}

/// The time of a recording.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReplayClock {
    /// `CLOCK_MONOTONIC` when the run began, ns.
    pub monotonic_ns: u64,
    /// Wall time of that moment, ns since 1970.
    pub wall_ns: u64,
}

/// Facts for the session's first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// Name of this machine.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// Version of this program.
    pub version: String,
    /// The command that began the run, for people.
    #[serde(default)]
    pub command: String,
}

/// One module as the collector sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CollectorModule {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Used although others than root could have written it.
    pub tainted: bool,
    /// Text of the manifest: names and columns of its events.
    pub manifest: String,
    /// Size of its link, bytes.
    pub link_bytes: u64,
    /// Target number -> path.
    pub targets: Vec<(u32, TargetName)>,
    /// GNU build id of its file, for a recording.
    pub build_id: Option<String>,
    /// Mode and options, for a recording.
    pub config: Config,
}

/// What the broker says to the collector.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToCollector {
    /// The worker of this module died: take all that it published and say up to where.
    Restarted(usize),
    /// Nothing more will come over this module's link: take what is left, and wait for it no more.
    Over(usize),
    /// Answer to `Resolve`.
    Resolved(Process),
    /// The process runs another program, or has ended, at this time: what was said of it holds until then.
    Changed(u32, u64),
    /// From this time on (monotonic ns) frames with its number are of this network interface.
    Interface(Interface, u64),
    /// Nothing more comes of the interface of this number under the name that it had: what was to be captured, and what of it
    /// was lost.
    InterfaceOver(u32, u64, u64),
    /// What the kernel side counted of frames, before the end; and by number of the interface what was to be captured, and
    /// what of it was lost.
    Packets(PacketTotals, Vec<(u32, u64, u64)>),
    /// A target file of this module has this number from now on.
    Target(usize, u32, TargetName),
    /// Answer to `NextFile`: the file comes with the message; or the error number with which it could not be opened.
    File {
        /// Which output's.
        output: usize,
        /// Why not.
        refused: Option<i32>,
    },
    /// Drain, write the session's end with these kernel counters per module, flush, say `Done`, end. The time is that at
    /// which a recording ended; else it is now.
    Finish(Vec<KernelTotals>, Option<u64>),
}

/// What `/proc` said of a process when it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its executable, if it was still there.
    pub exe: Option<String>,
    /// Id of the container that it, or `group`, is in.
    pub container: Option<String>,
    /// Number of the control group (v2) that was asked about.
    pub group: Option<u64>,
    /// When it began, monotonic ns; what happened before was another process of that number.
    pub started_ns: u64,
}

/// A target file by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetName {
    /// Its path, for people.
    pub path: String,
    /// It is what processes run, not a library that they map.
    pub program: bool,
}

/// What the kernel side and the broker counted for one module.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct KernelTotals {
    /// Messages that the programs meant to send.
    pub produced: u64,
    /// Messages of which nothing got through because the ring was full.
    pub lost: u64,
    /// Bytes not sent because the ring was full, of lost and of partial messages.
    pub lost_bytes: u64,
    /// Messages cut short by a full ring.
    pub partial: u64,
    /// Messages with memory that could not be read.
    pub faults: u64,
    /// Bytes of those.
    pub fault_bytes: u64,
    /// Messages longer than the stream's limit.
    pub cut: u64,
    /// Bytes beyond the limit.
    pub cut_bytes: u64,
    /// Calls whose state found no room.
    pub state_full: u64,
    /// Returns without a known call.
    pub orphans: u64,
    /// Times the worker was started again.
    pub restarts: u64,
    /// The module was disabled before the end.
    pub disabled: bool,
}

impl KernelTotals {
    /// Adds these to the totals of the run.
    pub fn add_to(&self, totals: &mut ModuleTotals) {
        totals.produced += self.produced;
        totals.lost += self.lost;
        totals.lost_bytes += self.lost_bytes;
        totals.partial += self.partial;
        totals.faults += self.faults;
        totals.fault_bytes += self.fault_bytes;
        totals.cut += self.cut;
        totals.cut_bytes += self.cut_bytes;
        totals.state_full += self.state_full;
        totals.orphans += self.orphans;
        totals.restarts += self.restarts;
        totals.disabled |= self.disabled;
    }
}

/// What the collector says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromCollector {
    /// The walls are up.
    Boundary(BoundaryReport),
    /// Which program is this process, and in which container is this control group (0: not known)?
    Resolve(u32, u64),
    /// Everything up to this ring position of this module has arrived.
    Position(usize, u64),
    /// The number of events asked for has been written.
    CountReached,
    /// A module's link holds what no honest worker writes.
    Hostile(usize, String),
    /// The next file of this output, please.
    NextFile(usize),
    /// An output failed, or works again: which and why.
    OutputFailed(String),
    /// All outputs are closed (a closed pipe): nobody listens any more.
    NobodyListens,
    /// A line for the log.
    Log(u8, String),
    /// All is written, and the outputs are closed.
    Done {
        /// The summary for people.
        text: String,
        /// Of it what is missing although it was asked for.
        losses: String,
        /// Events that some output could not take.
        sink_lost: u64,
        /// Events that no manifest declares.
        undeclared: u64,
        /// All counts, by module.
        totals: Vec<ModuleTotals>,
    },
}
