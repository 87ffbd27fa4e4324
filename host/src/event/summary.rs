//! The totals of a run: what came, what did not, and where it was lost.
//!
//! Filled by the broker (kernel counters), the workers' and the collector's counts and the sinks; written into
//! `ecapture.session.end` and, as text, to stderr. Numbers only, no input and output.

use std::fmt::Write as _;

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Totals of one module.
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct ModuleTotals {
            /// The module.
            pub module: String,
            /// The module was given up before the end.
            pub disabled: bool,
            $($(#[$doc])* pub $name: u64,)+
        }

        impl ModuleTotals {
            /// Names and values, in the order they are documented.
            pub fn numbers(&self) -> [(&'static str, u64); [$(stringify!($name)),+].len()] {
                [$((stringify!($name), self.$name)),+]
            }
        }
    };
}

totals! {
    /// Messages that the probes began to send.
    produced,
    /// Messages that the worker received, whole or in part.
    seen,
    /// Messages of which nothing got through, because the ring was full.
    lost,
    /// Bytes of wholly or partly lost messages that were not sent.
    lost_bytes,
    /// Events of role `output` that the collector took.
    events,
    /// Messages cut short by a full ring.
    partial,
    /// Messages with unreadable user memory.
    faults,
    /// Bytes not captured for that reason.
    fault_bytes,
    /// Messages longer than the limit of their stream.
    cut,
    /// Bytes beyond that limit.
    cut_bytes,
    /// Bytes that events said were missing.
    truncated_bytes,
    /// Calls in flight that found no room to be remembered.
    state_full,
    /// Returns from calls that began before the probes.
    orphans,
    /// Messages that no decoder could be made to read, and malformed events.
    undecodable,
    /// Columns that did not fit the manifest and were dropped.
    columns_refused,
    /// Messages left in the ring of a module that was disabled.
    abandoned,
    /// Restarts of the worker.
    restarts,
    /// Events that arrived too late to be put in order.
    late,
    /// Events that some output could not take.
    sink_lost,
    /// Requests and responses that were put together of what connections carried.
    exchanges,
    /// Of these, those of which a half or a part is missing.
    incomplete,
    /// Of these, those that the filters left out.
    filtered,
    /// Calls on connections without HTTP, which the view left out.
    not_shown,
    /// Bytes of HTTP connections that belonged to no message that could be read.
    unparsed_bytes,
    /// Bytes that were found to be missing in connections.
    gap_bytes,
    /// Connections that were given up since too much was held of all of them.
    evicted,
}

impl ModuleTotals {
    /// Messages that are in none of the accounts: neither received nor known to be lost. 0 unless the host was stopped
    /// before the ring was drained, or has a bug.
    pub fn unaccounted(&self) -> u64 {
        self.produced.saturating_sub(self.seen).saturating_sub(self.lost).saturating_sub(self.abandoned)
    }

    fn new(module: &str) -> Self {
        Self { module: module.to_owned(), ..Self::default() }
    }
}

macro_rules! packet_totals {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Totals of the frames of network interfaces.
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct PacketTotals {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl PacketTotals {
            /// Names and values, in the order they are documented.
            pub fn numbers(&self) -> [(&'static str, u64); [$(stringify!($name)),+].len()] {
                [$((stringify!($name), self.$name)),+]
            }

            /// Neither received nor counted as lost.
            pub fn unaccounted(&self) -> u64 {
                self.produced.saturating_sub(self.seen).saturating_sub(self.lost)
            }
        }
    };
}

packet_totals! {
    /// Frames that were to be captured.
    produced,
    /// Frames that the collector received, whole or in part.
    seen,
    /// Frames of which nothing got through, because the ring was full.
    lost,
    /// Bytes of wholly or partly lost frames.
    lost_bytes,
    /// Frames cut short by a full ring.
    partial,
    /// Frames whose bytes could not be read.
    faults,
    /// Frames of processes that were not asked for.
    filtered,
    /// Frames left out since it is not known whose they are.
    unowned,
    /// Captured frames whose process is known.
    owned,
    /// Received frames that did not fit the packet filter.
    unfit,
    /// Frames of which a file has only the beginning: it can have no longer ones.
    cut,
    /// Frames that were written out of order: too late to be sorted.
    late,
    /// Secrets that came after frames that they may be needed for.
    late_secrets,
    /// Secrets that came into no file: more came before the first frame than are kept.
    lost_secrets,
    /// Connections that were told of as having no secrets: their handshakes were over before the capture.
    without_secrets,
    /// Records that were none.
    malformed,
    /// Frames that some output could not take.
    sink_lost,
}

/// Totals of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// By module, in the order they were started.
    pub modules: Vec<ModuleTotals>,
    /// Of network interfaces, if frames were captured.
    pub packets: Option<PacketTotals>,
}

impl Summary {
    /// The totals of `module`, made at zero if they are new.
    pub fn module(&mut self, module: &str) -> &mut ModuleTotals {
        let at = self.modules.iter().position(|totals| totals.module == module).unwrap_or_else(|| {
            self.modules.push(ModuleTotals::new(module));
            self.modules.len() - 1
        });
        &mut self.modules[at]
    }
}

/// The summary for people: a line for each module, then a line for each thing that went wrong, and only those. Ends
/// with a newline unless empty.
pub fn summary_text(summary: &Summary) -> String {
    let mut out = String::new();
    for totals in &summary.modules {
        // Writing to a String cannot fail.
        let _ = write_module(&mut out, totals);
    }
    if let Some(packets) = &summary.packets {
        let _ = write_packets(&mut out, packets);
    }
    out
}

/// Of the summary only what is missing although it was asked for, for who wants no other word; empty if nothing is.
pub fn losses_text(summary: &Summary) -> String {
    let mut out = String::new();
    for totals in &summary.modules {
        let _ = write_lines(&mut out, &totals.module, &module_lines(totals), Missing);
    }
    if let Some(packets) = &summary.packets {
        let _ = write_lines(&mut out, "packets", &packet_lines(packets), Missing);
        let connections = count(packets.without_secrets, "connection");
        if packets.without_secrets > 0 {
            let _ = writeln!(out, "packets: {connections} not decrypted: the handshake was over before the capture");
        }
    }
    out
}

/// What a line of the summary tells of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// Of something that was to be there, and is not.
    Missing,
    /// Of something else.
    Other,
}
use Tells::{Missing, Other};

/// How many of what, and the rest of the line.
type Line = (Tells, u64, &'static str, String);

/// Those of these lines that are not about nothing; with `only`, of these.
fn write_lines(out: &mut String, name: &str, lines: &[Line], only: impl Into<Option<Tells>>) -> std::fmt::Result {
    let only = only.into();
    let told = lines.iter().filter(|(tells, number, ..)| *number > 0 && only.is_none_or(|only| only == *tells));
    told.into_iter().try_for_each(|(_, number, thing, rest)| writeln!(out, "{name}: {}{rest}", count(*number, thing)))
}

fn write_module(out: &mut String, t: &ModuleTotals) -> std::fmt::Result {
    let nothing_lost =
        t.lost == 0 && t.partial == 0 && t.abandoned == 0 && t.unaccounted() == 0 && t.sink_lost == 0 && !t.disabled;
    write!(out, "{}: {} from {}", t.module, count(t.events, "event"), count(t.seen, "message"))?;
    writeln!(out, "{}", if nothing_lost { ", none lost" } else { "" })?;
    if t.disabled {
        writeln!(out, "{}: disabled before the end", t.module)?;
    }
    write_lines(out, &t.module, &module_lines(t), None)
}

fn module_lines(t: &ModuleTotals) -> [Line; 20] {
    let bytes = |number| count(number, "byte");
    let incomplete = match t.incomplete {
        0 => String::new(),
        some => format!(", {} of them incomplete", count(some, "").trim_end_matches('s').trim_end()),
    };
    let lost = format!(" lost: the ring was full ({}); try a larger --ring-size", bytes(t.lost_bytes));
    [
        (Missing, t.lost, "message", lost),
        (Missing, t.partial, "message", " cut short: the ring was full".into()),
        (Missing, t.faults, "message", format!(" with unreadable memory ({} missing)", bytes(t.fault_bytes))),
        (Missing, t.cut, "message", format!(" over the size limit ({} left out)", bytes(t.cut_bytes))),
        (Missing, t.truncated_bytes, "byte", " missing in events that were written".into()),
        (Missing, t.state_full, "call", " not followed: too many at once".into()),
        (Other, t.orphans, "return", " of a call that began before the capture".into()),
        (Missing, t.undecodable, "message", " could not be decoded".into()),
        (Missing, t.columns_refused, "column", " dropped: not what the module's manifest declares".into()),
        (Missing, t.abandoned, "message", " left in the ring when the module was disabled".into()),
        (Missing, t.restarts, "restart", " of the worker".into()),
        (Other, t.late, "event", " written out of order: too late to be sorted".into()),
        (Missing, t.sink_lost, "event", " not written: an output was slow, full or closed".into()),
        (Other, t.exchanges, "HTTP exchange", incomplete),
        (Other, t.filtered, "event", " left out by the filters".into()),
        (Other, t.not_shown, "event", " not shown in this view: --view auto shows them".into()),
        (Missing, t.gap_bytes, "byte", " missing in connections".into()),
        (Other, t.unparsed_bytes, "byte", " of HTTP connections in no message that could be read".into()),
        (Missing, t.evicted, "connection", " given up early: too much was held (--stream-memory)".into()),
        (Missing, t.unaccounted(), "message", " unaccounted for: neither received nor counted as lost".into()),
    ]
}

fn write_packets(out: &mut String, t: &PacketTotals) -> std::fmt::Result {
    let nothing_lost =
        t.lost == 0 && t.partial == 0 && t.unaccounted() == 0 && t.cut == 0 && t.lost_secrets == 0 && t.sink_lost == 0;
    write!(out, "packets: {}", count(t.seen, "frame"))?;
    writeln!(out, "{}", if nothing_lost { ", none lost" } else { "" })?;
    write_lines(out, "packets", &packet_lines(t), None)
}

fn packet_lines(t: &PacketTotals) -> [Line; 13] {
    let bytes = count(t.lost_bytes, "byte");
    let unowned = " left out since it is not known whose they are: --unowned-packets keeps them";
    let cut = " cut in the file: longer than readers of such files take (262,144 bytes)";
    [
        (Missing, t.lost, "frame", format!(" lost: the ring was full ({bytes}); try a larger --packet-ring")),
        (Missing, t.partial, "frame", " cut short: the ring was full".into()),
        (Missing, t.faults, "frame", " whose bytes could not be read".into()),
        (Other, t.filtered, "frame", " of processes that were not asked for left out".into()),
        (Other, t.unowned, "frame", unowned.into()),
        (Other, t.unfit, "frame", " that did not fit the packet filter left out".into()),
        (Missing, t.cut, "frame", cut.into()),
        (Other, t.late, "frame", " written out of order: too late to be sorted".into()),
        (Missing, t.late_secrets, "secret", " written after frames that may need it".into()),
        (Missing, t.lost_secrets, "secret", " in no file: more came before its first frame than are kept".into()),
        (Missing, t.malformed, "record", " of the ring made no sense".into()),
        (Missing, t.sink_lost, "frame", " not written: an output was slow, full or closed".into()),
        (Missing, t.unaccounted(), "frame", " unaccounted for: neither received nor counted as lost".into()),
    ]
}

/// `1 event`, `1,204 events`.
fn count(number: u64, thing: &str) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + thing.len() + 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out.push(' ');
    out.push_str(thing);
    if number != 1 {
        out.push('s');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_run_says_so_in_one_line() {
        let mut summary = Summary::default();
        let totals = summary.module("mysql");
        (totals.produced, totals.seen, totals.events) = (1204, 1204, 1);
        assert_eq!(summary_text(&summary), "mysql: 1 event from 1,204 messages, none lost\n");
    }

    #[test]
    fn every_loss_is_named() {
        let mut summary = Summary::default();
        let totals = summary.module("mysql");
        (totals.produced, totals.seen, totals.lost, totals.lost_bytes) = (1_000_000, 900_000, 99_999, 1);
        (totals.sink_lost, totals.restarts) = (7, 1);
        let text = summary_text(&summary);
        assert!(!text.contains("none lost"), "{text}");
        assert!(text.contains("mysql: 99,999 messages lost: the ring was full (1 byte)"), "{text}");
        assert!(text.contains("mysql: 7 events not written"), "{text}");
        assert!(text.contains("mysql: 1 restart of the worker"), "{text}");
        assert!(text.contains("mysql: 1 message unaccounted for"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn what_is_missing_of_frames_is_named() {
        let packets = PacketTotals { produced: 5, seen: 5, cut: 1, lost_secrets: 2, ..PacketTotals::default() };
        let summary = Summary { packets: Some(packets), ..Summary::default() };
        let text = summary_text(&summary);
        assert!(text.starts_with("packets: 5 frames\npackets: 1 frame cut in the file"), "{text}");
        assert!(text.contains("packets: 2 secrets in no file"), "{text}");
    }

    #[test]
    fn who_wants_to_hear_of_losses_alone_hears_of_nothing_else() {
        let packets = PacketTotals { produced: 9, seen: 9, unfit: 4, unowned: 5, late: 1, ..PacketTotals::default() };
        let mut summary = Summary { packets: Some(packets), ..Summary::default() };
        let totals = summary.module("openssl");
        (totals.produced, totals.seen, totals.events, totals.orphans) = (7, 7, 7, 1);
        assert_eq!(losses_text(&summary), "");
        summary.module("openssl").lost = 1;
        let packets = summary.packets.as_mut().unwrap();
        (packets.lost, packets.without_secrets) = (2, 3);
        let text = losses_text(&summary);
        let told: Vec<&str> = text.lines().map(|line| line.split(" lost: ").next().unwrap()).collect();
        let late = "packets: 3 connections not decrypted: the handshake was over before the capture";
        assert_eq!(told, ["openssl: 1 message", "packets: 2 frames", late]);
    }

    #[test]
    fn modules_are_found_again() {
        let mut summary = Summary::default();
        summary.module("a").seen = 1;
        summary.module("b").seen = 2;
        summary.module("a").seen += 1;
        assert_eq!(summary.modules.iter().map(|m| m.seen).collect::<Vec<_>>(), [2, 2]);
    }
}
