//! Records the compiler and the target for the note that `export_module!` writes. A module is built by the same compiler
//! as this crate, because cargo builds both.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok();
    let version = version.filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!("cargo:rustc-env=ECAPTURE_RUSTC={}", version.unwrap_or_else(|| "unknown".to_owned()));
    for (ours, theirs) in [("ECAPTURE_TARGET", "TARGET"), ("ECAPTURE_PROFILE", "PROFILE")] {
        println!("cargo:rustc-env={ours}={}", std::env::var(theirs).unwrap_or_else(|_| "unknown".to_owned()));
    }
}
