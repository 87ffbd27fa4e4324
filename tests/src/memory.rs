//! Resident memory of processes: the proportional share (Pss) of each mapping.

/// The most memory that processes had together, in samples while they ran.
#[derive(Debug, Default)]
pub struct Peak {
    all: u64,
    /// Beside the eBPF maps and the link, KiB.
    pub without_rings: u64,
}

impl Peak {
    /// One sample.
    pub fn take(&mut self, processes: impl Iterator<Item = u32>) {
        let (all, rings) =
            processes.map(pss).fold((0, 0), |(all, rings), (pss, of_rings)| (all + pss, rings + of_rings));
        self.all = self.all.max(all);
        self.without_rings = self.without_rings.max(all.saturating_sub(rings));
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (all, without) = (mib(self.all), mib(self.without_rings));
        write!(f, "at most {all:.1} MiB (Pss), beside ring and link {without:.1} MiB")
    }
}

/// KiB of a process: all, and those of the eBPF maps and the link.
#[must_use]
pub fn pss(process: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
    let (mut all, mut rings, mut ring) = (0, 0, false);
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("Pss:") {
            let kib = value.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0);
            all += kib;
            rings += if ring { kib } else { 0 };
        } else if line.split_once(' ').is_some_and(|(range, _)| range.contains('-') && !range.ends_with(':')) {
            ring = line.contains("bpf-map") || line.contains("/memfd:ecapture link");
        }
    }
    (all, rings)
}
