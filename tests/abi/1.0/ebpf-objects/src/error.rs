//! Why an object could not be built. Each message says what to do, since it is read in the middle of a cargo log.

use std::path::PathBuf;

/// Failure of the build helper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No clang at all, or none that is new enough.
    #[error(
        "no clang >= {minimum} was found ({tried}); it compiles the eBPF programs.\n\
         Install it:\n  \
         Debian, Ubuntu:  apt install clang llvm\n  \
         Fedora, RHEL:    dnf install clang llvm\n  \
         Arch Linux:      pacman -S clang llvm\n\
         or set the environment variable CLANG to the one to use"
    )]
    NoClang {
        /// Oldest major version that will do.
        minimum: u32,
        /// What was tried and what came of it.
        tried: String,
    },
    /// The processor is not one that the headers know.
    #[error("programs for `{arch}` cannot be built: the headers know x86_64 and aarch64")]
    Arch {
        /// As cargo names it.
        arch: String,
    },
    /// The source's name does not end in `.bpf.c`, so there is no name for the object.
    #[error("{}: the name of an eBPF source ends in `.bpf.c`", path.display())]
    Name {
        /// The source.
        path: PathBuf,
    },
    /// A variable that cargo sets for build scripts is absent.
    #[error("{name} is not set: call this from a build script, or set it with the builder")]
    Environment {
        /// Name of the variable.
        name: &'static str,
    },
    /// clang refused the source.
    #[error("clang could not compile {}:\n{stderr}", path.display())]
    Compile {
        /// The source.
        path: PathBuf,
        /// clang's own words.
        stderr: String,
    },
    /// A file or a program could not be used.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}
