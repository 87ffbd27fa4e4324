//! The boundary around the unprivileged processes: how the broker starts them, and how they give everything up.
//!
//! Broker side: [`Child::spawn`], [`Identity::choose`], [`privileges`], [`memfd`]. Child's side, single-threaded and in
//! this order: [`child::receive_start`], [`child::enter`], for a worker then the load of the module and
//! [`child::Boundary::tighten`]. Every step either holds, or ends the process, or is named in the [`BoundaryReport`].
//!
//! No policy of the host lives here (who is restarted, which files are opened), and nothing that looks into the
//! messages: payloads are bytes. Together with `bpf` and `link` this is the only place that makes raw system calls.

pub mod channel;
pub mod child;
mod filter;
mod identity;
pub mod memfd;
mod preload;
pub mod privileges;
mod spawn;
pub mod turn;
mod walls;

pub use child::{Boundary, BoundaryReport, Entry, Limits, SandboxError, enter, enter_after};
pub use identity::Identity;
pub use preload::{PreloadError, open_now, preload};
pub use spawn::{Child, Ended, SpawnError};
pub use turn::Turn;
pub use walls::versions as landlock_versions;

use serde::{Deserialize, Serialize};

/// What a child is for; decides its system calls and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Host code that looks at one target file; ends with its answer.
    Scout,
    /// Module code: the version detector or the event decoder.
    Worker,
    /// Host code that merges, parses and writes events.
    Collector,
}

impl Role {
    /// Every role, for listings and tests.
    pub const ALL: [Role; 3] = [Role::Scout, Role::Worker, Role::Collector];

    /// The name in the child's arguments and in `ps`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Scout => "scout",
            Role::Worker => "worker",
            Role::Collector => "collector",
        }
    }

    /// The child's argument 0. Nobody types it, so a module or command named `worker` stays possible.
    pub fn argv0(self) -> String {
        format!("ecapture: {}", self.name())
    }

    /// Role and the broker's process id, if these are the arguments of a child: `["ecapture: worker", "worker",
    /// "123"]`.
    pub fn from_args<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Option<(Role, u32)> {
        let [zero, name, pid] = args else { return None };
        let role = Role::ALL.into_iter().find(|r| name.as_ref() == r.name())?;
        let pid = pid.as_ref().to_str()?.parse().ok()?;
        (zero.as_ref() == role.argv0().as_str()).then_some((role, pid))
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn only_the_broker_s_arguments_make_a_child() {
        assert_eq!(Role::from_args(&["ecapture: worker", "worker", "12"]), Some((Role::Worker, 12)));
        for args in [
            &["ecapture", "worker", "12"][..],
            &["ecapture: worker", "scout", "12"],
            &["ecapture: worker", "worker", "-1"],
            &["ecapture: worker", "worker"],
            &["ecapture: worker", "worker", "12", "x"],
            &[],
        ] {
            assert_eq!(Role::from_args(args), None, "{args:?}");
        }
    }
}
