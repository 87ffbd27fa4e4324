//! One worker's end of things: its link, the schema of its events, what it has counted.

use std::os::fd::OwnedFd;

use ecapture_plugin_api::manifest::Manifest;

use crate::event::{Schema, Summary};
use crate::link::{Consumer, LinkError, Positions};
use crate::protocol::CollectorModule;
use crate::worker::BatchCounts;

/// What the broker said of a worker that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The next one starts when it is known up to where everything has come.
    Restarted,
    /// It was the last one.
    Over,
}

/// A module as the collector sees it.
pub struct Source {
    /// The receiving end of its link.
    pub consumer: Consumer,
    /// What is made of what comes.
    pub intake: Intake,
    /// The link was refused; nothing more is taken from it.
    pub closed: bool,
    /// To be answered when the link is empty.
    pub ended: Option<Ended>,
}

/// What is known of a module's events, and what has been counted of them.
pub struct Intake {
    /// Names and columns of its events.
    pub schema: Schema,
    /// Its place among the modules of the run.
    pub index: usize,
    /// What has come, so that nothing is taken twice.
    pub positions: Positions,
    /// End of the last batch that came whole: where a new worker goes on counting.
    pub batch_end: u64,
    /// What its workers counted.
    pub counts: BatchCounts,
    /// Events of role `output`.
    pub events: u64,
    /// Events of roles that nobody here takes, and malformed ones.
    pub malformed: u64,
    /// Of these, events that the manifest does not declare, or that are none.
    pub undeclared: u64,
    /// Bytes that events said were missing.
    pub truncated_bytes: u64,
    /// Columns that did not fit the manifest.
    pub columns_refused: u64,
    /// Events that came too late to be put in order.
    pub late: u64,
}

impl Source {
    /// Takes over the receiving end of a module's link.
    ///
    /// # Errors
    /// The manifest is not what the broker judged, or the link cannot be mapped.
    pub fn new(index: usize, module: CollectorModule, ring: OwnedFd, bell: OwnedFd) -> Result<Self, String> {
        let manifest = Manifest::parse(&module.manifest).map_err(|e| e.to_string())?;
        let schema = Schema::try_from(&manifest).map_err(|e| e.to_string())?;
        let consumer = Consumer::new(ring, bell, module.link_bytes).map_err(|e: LinkError| e.to_string())?;
        let intake = Intake {
            schema,
            index,
            positions: Positions::default(),
            batch_end: 0,
            counts: BatchCounts::default(),
            events: 0,
            malformed: 0,
            undeclared: 0,
            truncated_bytes: 0,
            columns_refused: 0,
            late: 0,
        };
        Ok(Self { consumer, intake, closed: false, ended: None })
    }
}

impl Intake {
    /// Name of the module.
    #[must_use]
    pub fn name(&self) -> &str {
        self.schema.module()
    }

    /// Adds what was counted here to the totals of the run.
    pub fn add_to(&self, summary: &mut Summary) {
        let totals = summary.module(self.schema.module());
        totals.seen += self.counts.seen;
        totals.events += self.events;
        totals.truncated_bytes += self.truncated_bytes;
        totals.undecodable += self.counts.undecodable + self.counts.refused + self.malformed;
        totals.columns_refused += self.columns_refused;
        totals.late += self.late;
    }
}
