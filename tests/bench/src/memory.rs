//! Resident memory of a capture: the proportional share (Pss) of each mapping of all its processes.

use ecapture_tests::capture::children;
use ecapture_tests::memory::pss;

use crate::stats::Rounds;

/// Samples over the rounds, MiB.
#[derive(Default)]
pub struct Samples {
    all: Rounds,
    without_rings: Rounds,
    peer: Rounds,
}

impl Samples {
    /// One sample of a broker and its children.
    pub fn take(&mut self, broker: u32) {
        let processes = std::iter::once(broker).chain(children(broker).into_values());
        let (mut all, mut rings) = (0, 0);
        for process in processes {
            let (pss, of_rings) = pss(process);
            all += pss;
            rings += of_rings;
        }
        self.all.push(mib(all));
        self.without_rings.push(mib(all - rings));
    }

    /// One sample of the peer.
    pub fn peer(&mut self, process: u32) {
        self.peer.push(mib(pss(process).0));
    }

    /// Prints them.
    pub fn print(&self) {
        println!(
            "  memory (Pss, MiB): ecapture, all processes {}, beside ring and link {}",
            self.all, self.without_rings
        );
        println!("                     bpftrace {}", self.peer);
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
