//! Neither lost nor doubled: which messages of a restarted worker the collector has had already.
//!
//! The worker moves the eBPF ring's consumer position only after it has published a batch. Killed in between, its
//! successor decodes the same records again; each event carries its record's end position, so what was had can be told.
//! The end of the *batch* would not do: the successor's batches are cut elsewhere.

use super::consumer::Message;
use super::flags;

/// The collector's memory of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Highest end position that came.
    had: u64,
    /// Up to here the present worker only repeats.
    repeated_to: u64,
    /// The same two for raw records: they come before the events that are made of them.
    had_records: u64,
    records_repeated_to: u64,
    dropped: u64,
}

impl Positions {
    /// Whether the message is a new one. Messages that are not must be dropped whole. A forged position harms only the
    /// stream of the worker that forged it.
    pub fn admit(&mut self, message: &Message<'_>) -> bool {
        match *message {
            Message::Hello { .. } => {
                self.repeated_to = self.had;
                self.records_repeated_to = self.had_records;
                true
            }
            Message::Log { .. } => true,
            Message::Event { flags, .. } if flags & flags::FREE != 0 => true,
            Message::Event { end, .. } => {
                let new = end > self.repeated_to;
                self.had = self.had.max(end);
                self.dropped += u64::from(!new);
                new
            }
            Message::Record { end, .. } => {
                let new = end > self.records_repeated_to;
                self.had_records = self.had_records.max(end);
                new
            }
            // A repeated batch's watermark is as true as it was: time does not go back. It is let through so that a
            // worker whose first batch was all had does not hold up the merge.
            Message::BatchEnd { end, .. } => {
                self.had = self.had.max(end);
                true
            }
        }
    }

    /// Highest end position that came: where a worker whose ring position was lost would have to start.
    pub fn had(&self) -> u64 {
        self.had
    }

    /// Events that came twice and were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
