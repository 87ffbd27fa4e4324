//! Landlock: no file system, no network ports, no signals and no abstract sockets beyond this process.

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
