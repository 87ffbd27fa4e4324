//! The processors that programs are compiled for. BPF code is the same for all; how a probed function gets its arguments
//! is not.

use crate::BuildError;

/// Processor whose calling convention and registers the programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// arm64. Compiled and verified; not run by the authors.
    Aarch64,
}

impl Arch {
    /// From the name that cargo and rustc use (`CARGO_CFG_TARGET_ARCH`).
    pub fn from_rust(name: &str) -> Result<Self, BuildError> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(BuildError::Arch { arch: other.to_owned() }),
        }
    }

    /// The macro that the headers look for, without `-D`. The names are libbpf's, so that its headers agree.
    pub fn define(self) -> &'static str {
        match self {
            Self::X86_64 => "__TARGET_ARCH_x86",
            Self::Aarch64 => "__TARGET_ARCH_arm64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rustc() {
        assert_eq!(Arch::from_rust("x86_64").unwrap(), Arch::X86_64);
        assert_eq!(Arch::from_rust("aarch64").unwrap().define(), "__TARGET_ARCH_arm64");
        let refused = Arch::from_rust("riscv64").unwrap_err().to_string();
        assert!(refused.contains("riscv64") && refused.contains("x86_64"), "{refused}");
    }
}
