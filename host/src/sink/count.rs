//! `-o none`: events are counted and go nowhere. For measuring, and for runs of which only the summary is wanted.

use std::time::Instant;

use crate::event::Event;

use super::session::{SessionEnd, SessionStart};
use super::set::{Notice, Sink, SinkReport};

/// Counts.
#[derive(Debug, Default)]
pub struct Count {
    name: String,
    events: u64,
}

impl Count {
    /// An output that writes nothing; `name` for the report.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), events: 0 }
    }
}

impl Sink for Count {
    fn event(&mut self, _: &Event<'_>) {
        self.events += 1;
    }

    fn session_start(&mut self, _: &SessionStart) {}

    fn session_end(&mut self, _: &SessionEnd<'_>) {}

    fn flush(&mut self) {}

    fn tick(&mut self, _: Instant, _: &mut Vec<Notice>) -> Option<Instant> {
        None
    }

    fn finish(&mut self, _: Instant) {}

    fn report(&self) -> SinkReport {
        SinkReport { name: self.name.clone(), written: self.events, ..SinkReport::default() }
    }
}
