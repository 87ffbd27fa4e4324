//! What the collector is told when it starts.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ecapture_plugin_api::manifest::Stream;

use super::capture::{Capture, LINK_BYTES};
use crate::broker::attend::Attended;
use crate::broker::outputs::Output;
use crate::broker::packets::Packets;
use crate::broker::prepare::Target;
use crate::broker::{localtime, watch};
use crate::cli::{RunOptions, is_har, is_pcapng};
use crate::failure::Failure;
use crate::module::Trust;
use crate::packet::filter::Filter;
use crate::protocol::{CollectorModule, CollectorStart, Session as SessionFacts, TargetName};
use crate::sandbox::{Identity, Role};
use crate::sink::{Format, OutputOptions};
use crate::stream::options::Bodies;

/// Longest message of a stream: what is joined, or one record. The fixed part that a module puts before the bytes is not
/// part of its limit; no module's is longer than a page.
pub fn max_message(stream: &Stream) -> u64 {
    const FIXED: u64 = 4096;
    const RECORD: u64 = 64 << 10;
    if stream.join { stream.join_max + FIXED } else { RECORD }
}

/// A target as events name it.
pub fn name_of(target: &Target) -> TargetName {
    TargetName { path: target.found.path.display().to_string(), program: target.found.program }
}

/// Starts the collector with the outputs and what it must know of the modules.
///
/// # Errors
/// `E-CHILD`.
pub fn start_collector(
    captures: &[Capture],
    packets: Option<&Packets>,
    options: &RunOptions,
    kernel_release: &str,
    outputs: &[Output],
    packet_filter: Option<Filter>,
) -> Result<Attended, Failure> {
    let source = |capture: &Capture| {
        let module = &capture.asked.module;
        CollectorModule {
            name: capture.name().into(),
            version: module.manifest.module.version.to_string(),
            tainted: module.trust == Trust::Tainted,
            manifest: module.manifest_text.clone(),
            link_bytes: LINK_BYTES,
            targets: capture.targets.iter().map(|t| (t.number, name_of(t))).collect(),
            build_id: module.image.build_id(),
            config: capture.asked.options.config.clone(),
        }
    };
    let mut written = collector_outputs(outputs, options.format, options.multiline, options.bodies);
    // That a reader has had enough is no error.
    written.iter_mut().for_each(|output| output.quiet_end |= options.quiet);
    let start = CollectorStart {
        identity: Identity::choose(),
        modules: captures.iter().map(source).collect(),
        outputs: written,
        session: SessionFacts {
            host: watch::host_name(),
            kernel: kernel_release.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        },
        count: options.count,
        streams: options.streams.clone(),
        packets: packets.map(|p| p.ring_bytes),
        packet_filter,
        replay: None,
    };
    let links = captures.iter().flat_map(|c| [c.link.ring.as_fd(), c.link.bell.as_fd()]);
    let ring = packets.map(Packets::reader_fds).transpose()?;
    let fds: Vec<BorrowedFd<'_>> =
        links.chain(ring.into_iter().flatten()).chain(outputs.iter().map(|o| o.fd.as_fd())).collect();
    Attended::start(Role::Collector, "collector".into(), &start, &fds)
}

/// How each output is to be written.
pub fn collector_outputs(
    outputs: &[Output],
    format: Format,
    multiline: bool,
    bodies: Option<Bodies>,
) -> Vec<OutputOptions> {
    let options = |o: &Output| {
        let format = match o.format {
            Some(own) => own,
            None if !o.inherited && is_har(Path::new(&o.name)) => Format::Har,
            None if !o.inherited && is_pcapng(Path::new(&o.name)) => Format::Pcapng,
            None => format,
        };
        // People ask for what they want to read; for programs everything is there.
        let all = matches!(format, Format::Json | Format::Har);
        OutputOptions {
            name: o.name.clone(),
            format,
            utc_offset_s: localtime::utc_offset_s(),
            multiline,
            color: o.terminal,
            columns: if o.terminal { rustix::termios::tcgetwinsize(&o.fd).map_or(0, |size| size.ws_col) } else { 0 },
            shared: o.inherited,
            quiet_end: o.inherited,
            rotate: o.rotate,
            bodies: bodies.unwrap_or(if all { Bodies::All } else { Bodies::None }),
        }
    };
    outputs.iter().map(options).collect()
}
