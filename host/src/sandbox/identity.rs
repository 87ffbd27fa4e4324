//! Which user the children become, and how they become it: groups, ids, capabilities.

use std::io::Read;

use rustix::process::{Gid, Uid, getgid, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use super::child::{SandboxError, step};

/// The user and group of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id; the only one, there are no supplementary groups.
    pub gid: u32,
}

/// The kernel's own "nobody" (`/proc/sys/kernel/overflowuid`), for systems without a user of that name.
const OVERFLOW: Identity = Identity { uid: 65534, gid: 65534 };

impl Identity {
    /// The system user `ecapture`, else `nobody`; without CAP_SETUID and CAP_SETGID the caller's own, which is all that
    /// is left.
    ///
    /// Reads /etc/passwd itself: getpwnam(3) would load the system's NSS plug-ins, and may talk to a directory server,
    /// inside the privileged process. A system user is in the file.
    pub fn choose() -> Identity {
        if !may_change_ids() {
            return Identity { uid: getuid().as_raw(), gid: getgid().as_raw() };
        }
        let mut text = String::new();
        if let Ok(file) = std::fs::File::open("/etc/passwd") {
            // A file that is larger or not UTF-8 gives what was read up to there, or nothing: then nobody it is.
            let _ = file.take(1 << 20).read_to_string(&mut text);
        }
        from_passwd(&text)
    }
}

/// Never root, whatever the file says.
fn from_passwd(text: &str) -> Identity {
    let find = |name: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (user, uid, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (user == name && uid != 0 && gid != 0 && uid != u32::MAX && gid != u32::MAX)
                .then_some(Identity { uid, gid })
        })
    };
    find("ecapture").or_else(|| find("nobody")).unwrap_or(OVERFLOW)
}

fn has(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|c| c.effective.contains(capability))
}

fn may_change_ids() -> bool {
    has(CapabilitySet::SETUID | CapabilitySet::SETGID)
}

/// Gives up the bounding set, groups, ids and capabilities, and reads back that they are gone. `degraded` gets a line
/// for each thing that this process was not allowed to give up.
pub(super) fn give_up(identity: Identity, degraded: &mut Vec<String>) -> Result<(), SandboxError> {
    // The bounding set first: it needs CAP_SETPCAP, which the change of uid takes away.
    if has(CapabilitySet::SETPCAP) {
        drop_bounding_except(CapabilitySet::empty())?;
    } else if !bounding()?.is_empty() {
        degraded.push("the capability bounding set is kept (no CAP_SETPCAP)".into());
    }
    if may_change_ids() {
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        step("setgroups", set_thread_groups(&[]))?;
        step("setresgid", set_thread_res_gid(gid, gid, gid))?;
        step("setresuid", set_thread_res_uid(uid, uid, uid))?;
        if identity.uid == 0 {
            degraded.push("runs as root, as asked".into());
        }
    } else {
        degraded.push(format!("user {} and its groups are kept (no CAP_SETUID)", getuid().as_raw()));
    }
    // Kernels without ambient capabilities answer EINVAL; and an empty inheritable set empties the ambient one anyway.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    step("capset", set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }))?;
    // Read back, since file capabilities on the binary come back at the exec of ourselves, and ids have odd rules.
    let left = step("capget", capabilities(None))?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err(SandboxError::NotInForce("capabilities are left"));
    }
    if rustix::process::geteuid() != getuid() || rustix::process::getegid() != getgid() {
        return Err(SandboxError::NotInForce("effective and real ids differ"));
    }
    Ok(())
}

/// Capabilities by number, known to this build or not: the kernel says where they end.
fn each_in_bounding() -> impl Iterator<Item = Result<(CapabilitySet, bool), SandboxError>> {
    (0..64).map(|n| CapabilitySet::from_bits_retain(1 << n)).map_while(|one| match capability_is_in_bounding_set(one) {
        Ok(held) => Some(Ok((one, held))),
        Err(rustix::io::Errno::INVAL) => None,
        Err(e) => Some(Err(SandboxError::Call { call: "prctl(PR_CAPBSET_READ)", source: e.into() })),
    })
}

/// What an exec as root, or of a file with capabilities, could give at most.
pub(super) fn bounding() -> Result<CapabilitySet, SandboxError> {
    each_in_bounding().filter(|c| !matches!(c, Ok((_, false)))).map(|c| c.map(|(one, _)| one)).collect()
}

pub(super) fn drop_bounding_except(keep: CapabilitySet) -> Result<(), SandboxError> {
    for one in bounding()?.iter().map(|c| c.bits()).flat_map(bits) {
        if !keep.contains(one) {
            step("prctl(PR_CAPBSET_DROP)", remove_capability_from_bounding_set(one))?;
        }
    }
    if bounding()?.intersects(keep.complement()) { Err(SandboxError::NotInForce("the bounding set")) } else { Ok(()) }
}

/// bitflags' own iterator gives unknown bits as one remainder: taken apart here.
fn bits(set: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|n| 1u64 << n).filter(move |b| set & b != 0).map(CapabilitySet::from_bits_retain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_is_read_in_order_of_preference_and_root_never_taken() {
        let nobody = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        assert_eq!(from_passwd(nobody), Identity { uid: 65534, gid: 65533 });
        let own = format!("{nobody}ecapture:x:990:991::/:/bin/false\n");
        assert_eq!(from_passwd(&own), Identity { uid: 990, gid: 991 });
        let root = format!("ecapture:x:0:0::/:/bin/false\n{nobody}");
        assert_eq!(from_passwd(&root), Identity { uid: 65534, gid: 65533 });
        for broken in ["", "nobody", "nobody:x:", "nobody:x:a:b", "nobody:x:4294967295:1", "nobody:x:1:0", "::::"] {
            assert_eq!(from_passwd(broken), OVERFLOW, "{broken:?}");
        }
    }

    #[test]
    fn each_bit_is_taken_apart() {
        let all: Vec<u64> = bits(0b1001 | 1 << 63).map(|c| c.bits()).collect();
        assert_eq!(all, [1, 8, 1 << 63]);
        assert!(each_in_bounding().count() >= 38, "the kernel has at least the capabilities of 5.15");
    }
}
