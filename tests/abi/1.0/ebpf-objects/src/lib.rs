//! The kernel side of `ecapture` modules: C headers (`include/ecapture/`), the eBPF sources of the modules in this
//! repository (`src/*.bpf.c`), and the helper that a module's `build.rs` calls to compile its own.
//!
//! Nothing here runs at capture time, and nothing here loads an object: that is the host's. All that is needed is clang,
//! version 14 or later; neither libbpf nor kernel headers are.
//!
//! A module's `build.rs`, in this repository or in any other:
//!
//! ```no_run
//! ecapture_ebpf::build_or_exit("src/example.bpf.c");
//! ```
//!
//! and in its code:
//!
//! ```ignore
//! static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/example.bpf.o"));
//! ```
//!
//! The C side is described in `include/ecapture/ecapture.h`.

mod arch;
mod builder;
mod clang;
mod depfile;
mod error;

pub use arch::Arch;
pub use builder::{Builder, Object};
pub use clang::Clang;
pub use error::BuildError;

use std::path::{Path, PathBuf};

/// Folder to put on the include path: `#include <ecapture/ecapture.h>` is found in it.
pub fn include_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// Folder of the eBPF sources that come with this crate: those of the modules in its repository and the host's own.
pub fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Compiles `<name>.bpf.c` to `$OUT_DIR/<name>.bpf.o` with the defaults of [`Builder`], for use in a `build.rs`.
pub fn build(source: impl AsRef<Path>) -> Result<Object, BuildError> {
    Builder::new(source).build()
}

/// As [`build`]; on failure it tells cargo why, and what to do about it, and ends the build script with status 1.
pub fn build_or_exit(source: impl AsRef<Path>) -> Object {
    Builder::new(source).build_or_exit()
}
