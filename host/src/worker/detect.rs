//! The throw-away worker: asks the module to configure the run and to look at each target file.

use std::os::fd::OwnedFd;

use ecapture_plugin_api::abi::abi_stable::std_types::{RResult, RSlice, RStr, RString};
use ecapture_plugin_api::abi::{HostApiV1_Ref, ModuleError, TargetV1, call_error};
use ecapture_plugin_api::plan::{Configured, Detected};

use super::load::Module;
use crate::protocol::FromWorker;
use crate::protocol::control::Control;

/// Calls `configure` once and `detect` for each target. A target on which the module fails does not stop the others.
pub fn run(
    module: &Module,
    host: HostApiV1_Ref,
    config: &str,
    targets: &[(u32, String)],
    fds: Vec<OwnedFd>,
) -> Result<(), (String, String)> {
    let configured = module.api.configure()(host, config.into()).into_result().map_err(|e| {
        // Only what the module says of the options is the user's to mend; a panic, say, is not.
        let code = if e.code == call_error::CONFIG { "E-CONFIG" } else { "E-MODULE" };
        (code.to_string(), e.message.into_string())
    })?;
    let configured = Configured::from_json(&configured)
        .map_err(|e| ("E-MODULE".to_string(), format!("what configure answers makes no sense: {e}")))?;
    Control::say(&FromWorker::Configured(configured));
    for ((number, path), fd) in targets.iter().zip(fds) {
        match detect(module, host, config, *number, path, fd) {
            Ok(detected) => Control::say(&FromWorker::Detected(*number, detected)),
            Err(text) => Control::say(&FromWorker::DetectFailed(*number, text)),
        }
    }
    Ok(())
}

fn detect(
    module: &Module,
    host: HostApiV1_Ref,
    config: &str,
    number: u32,
    path: &str,
    fd: OwnedFd,
) -> Result<Detected, String> {
    // Mapped, not read: the module looks at a few places of a file that may have hundreds of MiB. If somebody cuts the
    // file meanwhile, this process dies of it, and only this one.
    let bytes = crate::sandbox::memfd::map_file(&fd).map_err(|e| format!("cannot map it: {e}"))?;
    let target = TargetV1 {
        number,
        reserved0: 0,
        path: RStr::from_str(path),
        bytes: RSlice::from_slice(&bytes),
        reserved: [0; 4],
    };
    let text = answer(module.api.detect()(host, &target, config.into()))?;
    Detected::from_json(&text).map_err(|e| e.to_string())
}

fn answer(result: RResult<RString, ModuleError>) -> Result<String, String> {
    result.into_result().map(RString::into_string).map_err(|e| e.message.into_string())
}
