//! All outputs of a run, and the trait they share.
//!
//! The collector's loop: `event` for each event; `flush` when there is nothing more to read; `tick` after each batch and
//! at the latest when the last `tick` said; `session_end`, then `finish`. No call waits for a reader but `finish`, and
//! that one up to its deadline.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::event::{Event, Summary};
use crate::packet::{Frame, InterfaceTotals};
use crate::protocol::KernelTotals;
use crate::statements::Gate;
use crate::stream::options::Bodies;

use super::count::Count;
use super::fd::{FdDestination, Sharing};
use super::har::Har;
use super::hex::Hex;
use super::json::Json;
use super::keylog::Keylog;
use super::output::{Limits, Output};
use super::pcapng::Pcapng;
use super::recording::Recording;
use super::rotate::{Rotate, Rotating};
use super::session::{Render, SessionEnd, SessionStart};
use super::text::{Text, TextOptions};

/// Longest wait at the end before every slow reader is tried again.
const ROUND: Duration = Duration::from_millis(20);

/// Frames count under this name, as events do under that of their module.
pub const PACKETS: &str = "packets";

/// An output as the collector sees it. No call fails: what goes wrong with an output is its own business (kept, retried,
/// counted) and comes out as [`Notice`]s and in its [`SinkReport`], since no caller could do better with an error than
/// to go on with the other outputs.
pub trait Sink: Send {
    /// Takes an event.
    fn event(&mut self, event: &Event<'_>);
    /// Takes a frame of an interface; in reports it counts for `module`.
    fn packet(&mut self, _module: &Arc<str>, _frame: &Frame<'_>) {}
    /// Takes what came of the interfaces' frames, before the last line.
    fn interfaces(&mut self, _totals: &[InterfaceTotals]) {}
    /// Takes a raw record of a module: its name and number in the run, where the record ended in the ring, its bytes.
    fn record(&mut self, _name: &Arc<str>, _module: u8, _end: u64, _bytes: &[u8]) {}
    /// Takes the path of a target file that came after the run began, by its number in its module's.
    fn target(&mut self, _module: u8, _number: u32, _path: &str) {}
    /// Takes what the kernel side counted, before the last line.
    fn totals(&mut self, _monotonic_ns: u64, _modules: &[KernelTotals]) {}
    /// Takes the first line.
    fn session_start(&mut self, start: &SessionStart);
    /// Takes the last line.
    fn session_end(&mut self, end: &SessionEnd<'_>);
    /// Writes what has gathered, as far as that is taken at once.
    fn flush(&mut self);
    /// Does what is due, hands over news; when to call again at the latest, if nothing happens before.
    fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant>;
    /// Writes what is left, waiting for a slow reader up to `deadline`, and gives up on the rest. The last call but
    /// [`Sink::tick`] (for the last notices) and [`Sink::report`].
    fn finish(&mut self, deadline: Instant);
    /// Its counts.
    fn report(&self) -> SinkReport;
    /// What to poll for room if its reader is slow.
    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Its reader is slow but alive, and much is waiting: better not to give it more now.
    fn congested(&self) -> bool {
        false
    }
    /// Nothing given to it is wanted any more.
    fn ended(&self) -> bool {
        false
    }
    /// It needs its next file, and this is the first call that says so.
    fn wants_file(&mut self) -> bool {
        false
    }
    /// It keeps what it is given until its next file comes.
    fn waits_for_file(&self) -> bool {
        false
    }
    /// Its next file, or the error number with which it could not be opened.
    fn give_file(&mut self, _file: Result<OwnedFd, i32>) {}
}

/// Something to tell the user about an output, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The output's name.
    pub output: String,
    /// What happened.
    pub text: String,
}

/// The counts of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// Events that were written whole.
    pub written: u64,
    /// Events that it could not take.
    pub lost: u64,
    /// The same by module.
    pub lost_by_module: Vec<(String, u64)>,
    /// Secrets of connections that came into none of its files, since more came before a frame did than it keeps.
    pub lost_secrets: u64,
    /// Events for which its reader did not stay.
    pub after_end: u64,
    /// The error it is in now.
    pub error: Option<String>,
}

/// The formats, by the names of `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line for people.
    Text,
    /// JSON Lines.
    Json,
    /// Hex dump.
    Hex,
    /// HTTP Archive.
    Har,
    /// Counts only.
    None,
    /// Secrets of TLS connections, as Wireshark reads them.
    Keylog,
    /// Frames of interfaces, with the secrets of TLS connections.
    Pcapng,
    /// Raw records: `--record`, not one of `-o`.
    Recording,
}

impl Format {
    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "text" => Self::Text,
            "json" => Self::Json,
            "hex" => Self::Hex,
            "har" => Self::Har,
            "none" => Self::None,
            "keylog" => Self::Keylog,
            "pcapng" => Self::Pcapng,
            _ => return None,
        })
    }
}

/// Options of an output, as the broker sends them to the collector.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct OutputOptions {
    /// For notices and reports: `stdout` or the path.
    pub name: String,
    /// The format.
    pub format: Format,
    /// Seconds east of UTC for text.
    #[serde(default)]
    pub utc_offset_s: i32,
    /// Line feeds of captured text begin an indented line.
    #[serde(default)]
    pub multiline: bool,
    /// Colours: the broker knows whether this is a terminal.
    #[serde(default)]
    pub color: bool,
    /// Columns of that terminal; 0: it is none, or nobody knows.
    #[serde(default)]
    pub columns: u16,
    /// Inherited from the shell rather than opened by the broker.
    #[serde(default)]
    pub shared: bool,
    /// End without a word when the reader is gone (stdout).
    #[serde(default)]
    pub quiet_end: bool,
    /// Cut into files: the first one is given, the rest are asked for.
    #[serde(default)]
    pub rotate: Option<Rotate>,
    /// Bodies of requests and responses that it shows.
    #[serde(default)]
    pub bodies: Bodies,
}

/// An output to be.
#[derive(Debug)]
pub struct OutputSpec {
    /// Its options.
    pub options: OutputOptions,
    /// Where it writes; `None` is allowed for [`Format::None`] only.
    pub fd: Option<OwnedFd>,
    /// Header of a recording, as JSON.
    pub header: Vec<u8>,
}

/// All outputs.
#[derive(Default)]
pub struct SinkSet {
    sinks: Vec<Box<dyn Sink>>,
    gate: Gate,
}

impl SinkSet {
    /// Prepares every output; they keep the order given.
    ///
    /// # Errors
    /// A descriptor that can't be looked at, or is missing. Nothing was written.
    pub fn new(specs: Vec<OutputSpec>) -> io::Result<Self> {
        let mut set = Self::default();
        for spec in specs {
            set.push(open(spec)?);
        }
        Ok(set)
    }

    /// Adds an output of another kind.
    pub fn push(&mut self, sink: Box<dyn Sink>) {
        self.sinks.push(sink);
    }

    /// Every event passes this one from now on.
    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    /// Gives an event to every output, without its secrets. False: it is not shown as an event.
    pub fn event(&mut self, event: &Event<'_>) -> bool {
        let Self { sinks, gate } = self;
        gate.event(event, |event| sinks.iter_mut().for_each(|sink| sink.event(event)))
    }

    /// Tells the numbers of statements, if it is time or the end; when to ask again.
    pub fn tell_numbers(&mut self, now: Instant, end: bool) -> Option<Instant> {
        let Self { sinks, gate } = self;
        gate.tell(now, end, &mut |event| sinks.iter_mut().for_each(|sink| sink.event(event)))
    }

    /// Adds what was not shown to the totals of the run.
    pub fn add_left_out(&self, summary: &mut Summary) {
        self.gate.add_to(summary);
    }

    /// Gives a frame to every output; in reports it counts for `module`.
    pub fn packet(&mut self, module: &Arc<str>, frame: &Frame<'_>) {
        self.sinks.iter_mut().for_each(|sink| sink.packet(module, frame));
    }

    /// Tells every output what came of the interfaces' frames.
    pub fn interfaces(&mut self, totals: &[InterfaceTotals]) {
        self.sinks.iter_mut().for_each(|sink| sink.interfaces(totals));
    }

    /// Gives a raw record to every output.
    pub fn record(&mut self, name: &Arc<str>, module: u8, end: u64, bytes: &[u8]) {
        self.sinks.iter_mut().for_each(|sink| sink.record(name, module, end, bytes));
    }

    /// Tells every output of a new target file.
    pub fn target(&mut self, module: u8, number: u32, path: &str) {
        self.sinks.iter_mut().for_each(|sink| sink.target(module, number, path));
    }

    /// Gives the kernel side's counts to every output.
    pub fn totals(&mut self, monotonic_ns: u64, modules: &[KernelTotals]) {
        self.sinks.iter_mut().for_each(|sink| sink.totals(monotonic_ns, modules));
    }

    /// Begins the session.
    pub fn session_start(&mut self, start: &SessionStart) {
        self.sinks.iter_mut().for_each(|sink| sink.session_start(start));
    }

    /// Ends the session. Call [`SinkSet::add_losses`] first.
    pub fn session_end(&mut self, end: &SessionEnd<'_>) {
        self.sinks.iter_mut().for_each(|sink| sink.session_end(end));
    }

    /// Writes what has gathered: there is nothing more to read at the moment.
    pub fn flush(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.flush());
    }

    /// Does what is due and collects the news. Returns when to call again at the latest.
    pub fn tick(&mut self, now: Instant, notices: &mut Vec<Notice>) -> Option<Instant> {
        let numbers = self.tell_numbers(now, false);
        self.sinks.iter_mut().filter_map(|sink| sink.tick(now, notices)).chain(numbers).min()
    }

    /// Descriptors to poll for room, so that a slow reader is served when it reads and not at the next tick.
    pub fn blocked(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sinks.iter().filter_map(|sink| sink.blocked())
    }

    /// The only output there is would lose what it is given now, and the links and rings before it have room. With several
    /// outputs none waits for another.
    pub fn congested(&self) -> bool {
        matches!(self.sinks.as_slice(), [only] if only.congested())
    }

    /// Every reader is gone: nobody wants the run to go on. False without outputs.
    pub fn all_ended(&self) -> bool {
        !self.sinks.is_empty() && self.sinks.iter().all(|sink| sink.ended())
    }

    /// Outputs whose next file is to be asked for now, by their numbers.
    pub fn wanted_files(&mut self) -> Vec<usize> {
        self.sinks.iter_mut().enumerate().filter_map(|(at, sink)| sink.wants_file().then_some(at)).collect()
    }

    /// A file was asked for and has not come.
    pub fn waits_for_files(&self) -> bool {
        self.sinks.iter().any(|sink| sink.waits_for_file())
    }

    /// The answer: an open file, or the error number.
    pub fn give_file(&mut self, output: usize, file: Result<OwnedFd, i32>) {
        if let Some(sink) = self.sinks.get_mut(output) {
            sink.give_file(file);
        }
    }

    /// Sets `sink_lost` of each module, and of frames, to what all outputs together have lost so far.
    pub fn add_losses(&self, summary: &mut Summary) {
        summary.modules.iter_mut().for_each(|totals| totals.sink_lost = 0);
        let reports: Vec<SinkReport> = self.sinks.iter().map(|sink| sink.report()).collect();
        if let Some(packets) = &mut summary.packets {
            packets.sink_lost = 0;
            packets.lost_secrets = reports.iter().map(|report| report.lost_secrets).sum();
        }
        for (module, lost) in reports.into_iter().flat_map(|report| report.lost_by_module) {
            match &mut summary.packets {
                Some(packets) if module == PACKETS => packets.sink_lost += lost,
                _ if lost > 0 => summary.module(&module).sink_lost += lost,
                _ => {}
            }
        }
    }

    /// Writes what is left, waiting at most `timeout` for slow readers, all together. The notices that came of it and
    /// the final counts of every output. A second call writes nothing.
    pub fn finish(&mut self, timeout: Duration) -> (Vec<Notice>, Vec<SinkReport>) {
        let deadline = Instant::now() + timeout;
        // In rounds over all of them: one that is stuck must not use up the time of one that is only slow.
        loop {
            self.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left.min(ROUND)) {
                break;
            }
        }
        let mut notices = Vec::new();
        for sink in &mut self.sinks {
            sink.finish(deadline.min(Instant::now()));
            sink.tick(Instant::now(), &mut notices);
        }
        (notices, self.sinks.iter().map(|sink| sink.report()).collect())
    }

    /// Waits until a slow reader has made room; false if there is none to wait for.
    fn wait(&self, time: Duration) -> bool {
        let mut fds: Vec<_> = self.blocked().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)).collect();
        let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        !fds.is_empty() && matches!(poll(&mut fds, Some(&time)), Ok(_) | Err(Errno::INTR))
    }
}

fn open(spec: OutputSpec) -> io::Result<Box<dyn Sink>> {
    let OutputOptions { name, format, utc_offset_s, multiline, color, columns, shared, quiet_end, rotate, bodies } =
        spec.options;
    let text = TextOptions { utc_offset_s, multiline, color, bodies, columns };
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("output {name} came without a descriptor"));
    if format == Format::None {
        return Ok(Box::new(Count::new(&name)));
    }
    let fd = spec.fd.ok_or_else(missing)?;
    // For each file of it.
    let render: Box<dyn Fn() -> Box<dyn Render> + Send> = match format {
        Format::None => return Ok(Box::new(Count::new(&name))),
        Format::Pcapng => return Ok(Box::new(Pcapng::new(&name, fd, shared, quiet_end, rotate)?)),
        Format::Har => return Ok(Box::new(Har::new(&name, bodies, fd, shared, quiet_end)?)),
        Format::Recording => return Ok(Box::new(Recording::new(&name, spec.header, fd)?)),
        Format::Text => Box::new(move || Box::new(Text::new(text))),
        Format::Hex => Box::new(move || Box::new(Hex::new(text))),
        Format::Json => Box::new(move || Box::new(Json::new(bodies))),
        Format::Keylog => {
            let keylog = Keylog::default();
            Box::new(move || Box::new(keylog.clone()))
        }
    };
    // Who reads a key log beside the packets needs each line now.
    let batch = if format == Format::Keylog { 1 } else { Limits::default().batch };
    let limits = Limits { batch, ..Limits::default() };
    if let Some(rotate) = rotate {
        return Ok(Box::new(Rotating::new(&name, rotate, limits, render, fd)?));
    }
    let render = render();
    let destination = FdDestination::new(fd, if shared { Sharing::Shared } else { Sharing::Own })?;
    Ok(Box::new(Output::new(&name, quiet_end, render, Box::new(destination), limits)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::sink::samples;

    fn spec(name: &str, format: Format, fd: impl Into<OwnedFd>, shared: bool) -> OutputSpec {
        let options = OutputOptions {
            name: name.to_owned(),
            format,
            utc_offset_s: 0,
            multiline: false,
            color: false,
            columns: 0,
            shared,
            quiet_end: shared,
            rotate: None,
            bodies: Bodies::None,
        };
        OutputSpec { options, fd: Some(fd.into()), header: Vec::new() }
    }

    fn content(mut file: std::fs::File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_stuck_output_does_not_hold_up_another() {
        let (reader, writer) = io::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut none = spec("none", Format::None, tempfile::tempfile().unwrap(), false);
        none.fd = None;
        let specs = vec![
            spec("stdout", Format::Text, writer, true),
            spec("file", Format::Json, file.try_clone().unwrap(), false),
            none,
        ];
        let mut set = SinkSet::new(specs).unwrap();
        let schema = samples::schema();
        let fields = samples::query_fields();
        set.session_start(&SessionStart::default());
        for _ in 0..120_000 {
            set.event(&samples::event(&schema, &fields));
        }
        let mut summary = Summary::default();
        set.add_losses(&mut summary);
        assert!(summary.module("mysql").sink_lost > 0);
        set.session_end(&SessionEnd { wall_ns: 0, duration_ns: 0, summary: &summary, segment: None });
        let (notices, reports) = set.finish(Duration::from_millis(20));
        drop(reader);
        let [stdout, disk, none] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((disk.written, disk.lost, none.written), (120_000, 0, 120_000));
        assert_eq!(stdout.written + stdout.lost, 120_000);
        assert!(notices.iter().any(|n| n.output == "stdout" && n.text.contains("still waiting")), "{notices:?}");
        let text = content(file);
        assert_eq!(text.lines().count(), 120_002);
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn when_the_last_reader_is_gone_nobody_wants_more() {
        let (reader, writer) = io::pipe().unwrap();
        let mut set = SinkSet::new(vec![spec("stdout", Format::Json, writer, true)]).unwrap();
        let schema = samples::schema();
        set.event(&samples::event(&schema, &[]));
        set.flush();
        assert!(!set.all_ended());
        drop(reader);
        set.event(&samples::event(&schema, &[]));
        set.flush();
        set.event(&samples::event(&schema, &[]));
        assert!(set.all_ended());
        let (notices, reports) = set.finish(Duration::ZERO);
        assert_eq!(notices, []);
        assert_eq!((reports[0].written, reports[0].lost, reports[0].after_end), (1, 0, 2));
        assert!(!SinkSet::default().all_ended());
    }

    #[test]
    fn an_output_needs_a_descriptor() {
        let mut spec = spec("x", Format::Text, tempfile::tempfile().unwrap(), false);
        spec.fd = None;
        assert!(SinkSet::new(vec![spec]).is_err());
        for format in ["text", "json", "hex", "none", "keylog", "pcapng"] {
            let parsed = Format::from_name(format).unwrap();
            assert_eq!(serde_json::to_string(&parsed).unwrap(), format!("\"{format}\""));
        }
        assert_eq!(Format::from_name("xml"), None);
    }
}
