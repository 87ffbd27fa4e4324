//! Brings the module into this process. Called when the walls are up: from `dlopen` on, foreign code runs.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use ecapture_plugin_api::abi::abi_stable::prefix_type::PrefixTypeTrait;
use ecapture_plugin_api::abi::abi_stable::std_types::RStr;
use ecapture_plugin_api::abi::{self, HostApiV1, HostApiV1_Ref, ModuleV1_Ref};

use crate::protocol::FromWorker;
use crate::protocol::control::Control;
use crate::sandbox;

/// A module that is loaded for the rest of the process.
pub struct Module {
    /// Its functions.
    pub api: ModuleV1_Ref,
    // glibc matches an already loaded library by its path first, and the path names the descriptor: it stays open.
    _fd: OwnedFd,
}

/// Loads the module from the sealed copy behind `fd` and checks that it is the one that was judged.
///
/// # Errors
/// Stable code and text: `E-LAYOUT` and its kin from the ABI check, `E-FORGED` if the module's own manifest is not the
/// judged one.
pub fn load(fd: OwnedFd, judged_manifest: &str) -> Result<Module, (String, String)> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    sandbox::open_now(&path).map_err(|e| ("E-LIBC".to_string(), e.to_string()))?;
    let api = abi::load(&path).map_err(|e| (e.code.to_string(), e.message))?;
    let own = api.manifest()();
    if own.as_str() != judged_manifest {
        let text = "the manifest that the module's code returns is not the one in its ELF note";
        return Err(("E-FORGED".into(), text.into()));
    }
    Ok(Module { api, _fd: fd })
}

/// What the host offers to the module.
#[must_use]
pub fn host_api() -> HostApiV1_Ref {
    HostApiV1 { log }.leak_into_prefix()
}

extern "C" fn log(level: u32, text: RStr<'_>) {
    let level = u8::try_from(level).unwrap_or(u8::MAX);
    let text = text.chars().take(1000).collect();
    Control::say(&FromWorker::Log(level, text));
}
