//! What this host is, as far as a module's needs go: collected once, then passed in, so that judging is pure.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ecapture_plugin_api::manifest::ApiVersion;

use super::image::Image;
use super::libc_needs;

/// One side of every comparison that judging makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Major and minor of the running kernel.
    pub kernel: (u32, u32),
    /// `uname -r`, for messages.
    pub kernel_release: String,
    /// The kernel publishes its types (`/sys/kernel/btf/vmlinux`).
    pub has_btf: bool,
    /// The processor, as `uname -m` says it (`x86_64`, `aarch64`).
    pub arch: String,
    /// The `e_machine` of libraries that this program can load.
    pub machine: u16,
    /// The running glibc. `None` if it could not be told (another libc): then the floor is not judged, and the dynamic
    /// linker has the word.
    pub libc: Option<(u32, u32)>,
    /// Where the dynamic linker finds libraries.
    pub library_dirs: Vec<PathBuf>,
    /// Major and minor of the module API that this host has.
    pub api: (u32, u32),
    /// Features of the host that a module may ask for by name.
    pub features: Vec<String>,
}

/// Features that a manifest can require.
pub const FEATURES: &[&str] = &[];

impl Facts {
    /// The facts of the running host. Reads `uname`, one file of `/sys` and the headers of the running libc; what cannot
    /// be told is as if it were not there.
    pub fn of_this_host() -> Self {
        let api = ApiVersion::current();
        let kernel_release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self {
            kernel: major_minor(&kernel_release).unwrap_or((0, 0)),
            kernel_release,
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            arch: std::env::consts::ARCH.to_owned(),
            machine: host_machine(),
            libc: running_libc(),
            library_dirs: library_dirs(),
            api: (api.major, api.minor),
            features: FEATURES.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// The first two numbers of `6.1.0-13-amd64`; `None` without them.
pub fn major_minor(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

fn host_machine() -> u16 {
    match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "riscv64" => 243,
        _ => 0,
    }
}

/// Asked of the file that is mapped into this process, not of `gnu_get_libc_version()`: a call through a raw pointer for
/// what the file's own version definitions say, by which the dynamic linker goes too.
fn running_libc() -> Option<(u32, u32)> {
    let mut maps = String::new();
    File::open("/proc/self/maps").ok()?.take(1 << 20).read_to_string(&mut maps).ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..))).find(|path| {
        path.ends_with("/libc.so.6") || path.rsplit('/').next().is_some_and(|name| name.starts_with("libc-2."))
    })?;
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    libc_needs::glibc_defined(&Image::sparse(&file, size).ok()?)
}

/// The directories that every glibc searches, those of Debian's multiarch and of Fedora included. Not the cache of
/// `ldconfig`: a private directory in it would make the answer depend on more than the file says.
fn library_dirs() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    let multiarch = format!("{arch}-linux-gnu");
    ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
        .iter()
        .map(PathBuf::from)
        .chain(["/lib", "/usr/lib"].iter().map(|base| Path::new(base).join(&multiarch)))
        .filter(|dir| dir.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        assert_eq!(major_minor("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(major_minor("5.15-rc3"), Some((5, 15)));
        assert_eq!(major_minor("6.18.0"), Some((6, 18)));
        assert_eq!(major_minor("linux"), None);
    }

    #[test]
    fn this_host_has_a_kernel_and_a_processor() {
        let facts = Facts::of_this_host();
        assert!(facts.kernel >= (4, 0), "{facts:?}");
        assert_ne!(facts.machine, 0, "{facts:?}");
        assert!(!facts.library_dirs.is_empty());
    }
}
