//! Landlock: no file system, no network ports, no signals and no abstract sockets beyond this process.
#![expect(unsafe_code, reason = "the one question that the crate has no function for: which version the kernel has")]

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::child::SandboxError;

/// How much of it this kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enforced {
    Full,
    /// An older Landlock; the number is its ABI.
    Part(i32),
    /// Not built in, or switched off.
    Nothing(&'static str),
}

/// Newest that this host asks for (6.12: signals and abstract sockets).
const WANTED: ABI = ABI::V6;

/// Nothing may be opened, connected or signalled from here on; only `readable` may still be opened for reading.
///
/// Files that are open already, or come over a socket, keep the rights that they were opened with. stat(2) of any path
/// is not covered by Landlock at all: the seccomp list closes it.
pub(super) fn close(readable: Option<BorrowedFd<'_>>) -> Result<Enforced, SandboxError> {
    let status = restrict(readable).map_err(|e| SandboxError::Landlock(Box::new(e)))?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Enforced::Full,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Enforced::Part(effective_abi as i32)
        }
        (_, LandlockStatus::NotEnabled) => Enforced::Nothing("switched off at boot"),
        _ => Enforced::Nothing("not in this kernel"),
    })
}

/// Version of Landlock that this kernel has, and the one that this host would use all of. Restricts nothing.
///
/// # Errors
/// Of the system call: not built in (`ENOSYS`), or switched off at boot (`EOPNOTSUPP`).
pub fn versions() -> std::io::Result<(i32, i32)> {
    const VERSION: usize = 1;
    #[expect(clippy::disallowed_methods, reason = "this is sandbox/")]
    // SAFETY: with no attributes and this flag the kernel reads no memory and makes nothing; it answers a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    match i32::try_from(abi) {
        Ok(abi) if abi > 0 => Ok((abi, WANTED as i32)),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn restrict(readable: Option<BorrowedFd<'_>>) -> Result<landlock::RestrictionStatus, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    match readable {
        Some(fd) => rules.add_rule(PathBeneath::new(fd, AccessFs::ReadFile))?.restrict_self(),
        None => rules.restrict_self(),
    }
}
