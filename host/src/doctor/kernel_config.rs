//! The configuration that the running kernel was built with, from wherever it is kept. Bounded: it may be anybody's file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest configuration that is read, unpacked; those of distributions have 300 KiB.
const MAX: u64 = 8 << 20;

/// What is known of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// The file.
    pub path: PathBuf,
    /// Options that are set, with their values (`y`, `m`, a number, a text).
    pub options: BTreeMap<String, String>,
}

impl KernelConfig {
    /// From the first of the usual places that can be read.
    #[must_use]
    pub fn read(proc: &Path, boot: &Path, release: &str) -> Option<Self> {
        let places = [
            proc.join("config.gz"),
            boot.join(format!("config-{release}")),
            Path::new("/lib/modules").join(release).join("config"),
        ];
        places.into_iter().find_map(|path| {
            let options = parse(&read(&path)?);
            // A file without a single option is not one.
            (!options.is_empty()).then_some(Self { path, options })
        })
    }

    /// Whether it is built in or can be loaded.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.get(option).is_some_and(|value| value == "y" || value == "m")
    }
}

fn read(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).take(MAX).read_to_end(&mut bytes).ok()?;
    } else {
        file.take(MAX).read_to_end(&mut bytes).ok()?;
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `CONFIG_NAME=value` lines; all others say that something is not set.
fn parse(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn options_are_read_plain_and_packed() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "# a comment\nCONFIG_BPF=y\nCONFIG_TUN=m\n# CONFIG_KPROBES is not set\nCONFIG_HZ=250\nCONFIG_L=\"x\"\n";
        std::fs::write(dir.path().join("config-6.1.0"), text).unwrap();
        let plain = KernelConfig::read(Path::new("/nowhere"), dir.path(), "6.1.0").unwrap();
        assert!(plain.has("BPF") && plain.has("TUN") && !plain.has("KPROBES") && !plain.has("HZ"), "{plain:?}");
        assert_eq!(plain.options["L"], "x");
        let packed = File::create(dir.path().join("config.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap();
        let packed = KernelConfig::read(dir.path(), Path::new("/nowhere"), "6.1.0").unwrap();
        assert_eq!(packed.options, plain.options);
    }

    #[test]
    fn nonsense_is_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(KernelConfig::read(dir.path(), dir.path(), "1"), None);
        std::fs::write(dir.path().join("config.gz"), b"\x1f\x8b not packed at all").unwrap();
        std::fs::write(dir.path().join("config-1"), [0xff; 4096]).unwrap();
        assert_eq!(KernelConfig::read(dir.path(), dir.path(), "1"), None);
    }
}
