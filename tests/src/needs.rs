//! What a test needs of the machine. A test that cannot run says so by name and with the reason; it never looks green.

use std::path::Path;

/// Line that `cargo xtask test` counts as a skipped test.
pub const SKIPPED: &str = "SKIPPED";

/// The reason why capturing cannot be tested here, if there is one.
#[must_use]
pub fn capture() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF)".into());
    }
    None
}

/// The reason why a program cannot be tested here, if there is one.
#[must_use]
pub fn program(path: &str, package: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| format!("needs {path} (package {package})"))
}

/// Ends the test early, visibly, if any of the reasons is there.
#[macro_export]
macro_rules! skip_if {
    ($test:expr, $($reason:expr),+ $(,)?) => {
        $(if let Some(reason) = $reason {
            println!("{} {}: {reason}", $crate::needs::SKIPPED, $test);
            return;
        })+
    };
}

/// The value of a result, or the test ends as skipped, for the reason that the error is.
#[macro_export]
macro_rules! or_skip {
    ($test:expr, $result:expr $(,)?) => {
        match $result {
            Ok(value) => value,
            Err(reason) => {
                println!("{} {}: {reason}", $crate::needs::SKIPPED, $test);
                return;
            }
        }
    };
}
