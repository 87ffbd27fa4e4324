//! What the collector is told when it starts.

use std::os::fd::{AsFd, BorrowedFd};

use ecapture_plugin_api::manifest::Stream;

use crate::broker::attach::Attached;
use crate::broker::attend::Attended;
use crate::broker::outputs::Output;
use crate::broker::prepare::Prepared;
use crate::broker::{localtime, watch};
use crate::cli::RunOptions;
use crate::failure::Failure;
use crate::link::Link;
use crate::module::{Loaded, Trust};
use crate::protocol::{CollectorModule, CollectorStart, Session as SessionFacts};
use crate::sandbox::Role;
use crate::sink::{Format, OutputOptions};

/// Longest message of a stream: what is joined, or one record. The fixed part that a module puts before the bytes is not
/// part of its limit; no module's is longer than a page.
pub fn max_message(stream: &Stream) -> u64 {
    const FIXED: u64 = 4096;
    const RECORD: u64 = 64 << 10;
    if stream.join { stream.join_max + FIXED } else { RECORD }
}

/// Starts the collector with the outputs and what it must know of the module.
pub fn start_collector(
    module: &Loaded,
    options: &RunOptions,
    prepared: &Prepared,
    attached: &Attached,
    link: &Link,
    outputs: &[Output],
) -> Result<Attended, Failure> {
    let info = &module.manifest.module;
    let source = CollectorModule {
        name: info.name.clone(),
        version: info.version.to_string(),
        tainted: module.trust == Trust::Tainted,
        manifest: module.manifest_text.clone(),
        link_bytes: super::LINK_BYTES,
        targets: prepared.targets.iter().map(|t| t.found.path.display().to_string()).collect(),
        build_id: module.image.build_id(),
        config: options.config.clone(),
    };
    let start = CollectorStart {
        identity: prepared.identity,
        modules: vec![source],
        outputs: collector_outputs(outputs, options.format, options.multiline),
        session: SessionFacts {
            host: watch::host_name(),
            kernel: attached.kernel_release.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        count: options.count,
        replay: None,
    };
    let fds: Vec<BorrowedFd<'_>> =
        [link.ring.as_fd(), link.bell.as_fd()].into_iter().chain(outputs.iter().map(|o| o.fd.as_fd())).collect();
    Attended::start(Role::Collector, "collector".into(), &start, &fds)
}

/// How each output is to be written.
pub fn collector_outputs(outputs: &[Output], format: Format, multiline: bool) -> Vec<OutputOptions> {
    let options = |o: &Output| OutputOptions {
        name: o.name.clone(),
        format: if o.recording { Format::Recording } else { format },
        utc_offset_s: localtime::utc_offset_s(),
        multiline,
        color: o.terminal,
        shared: o.inherited,
        quiet_end: o.inherited,
    };
    outputs.iter().map(options).collect()
}
