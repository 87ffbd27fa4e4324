//! The interface is ready for TLS: a module with three modes, four objects (a classifier and a kernel tracepoint among
//! them) and two layouts is judged, asked and planned by the real program. Nothing is attached.

use std::path::Path;

use ecapture_tests::capture::Modules;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

fn plan(modules: &Modules, mode: &str, target: &Path) -> Value {
    let output =
        modules.run(&["module", "plan", "tls-ready", "--mode", mode, "--target", target.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn three_modes_four_objects_two_layouts_pass_the_plan() {
    let name = "three_modes_four_objects_two_layouts_pass_the_plan";
    skip_if!(name, needs::program(LIBSSL, "libssl3"));
    let modules = Modules::with(&["tls_ready"]);
    let dir = tempfile::tempdir().unwrap();
    let current = dir.path().join("libssl.so.3");
    std::fs::copy(LIBSSL, &current).unwrap();
    // The same library under the older name: another row of the layout.
    let older = dir.path().join("older");
    let mut bytes = std::fs::read(LIBSSL).unwrap();
    let at = bytes.windows(12).position(|w| w == b"libssl.so.3\0").unwrap();
    bytes[at..at + 11].copy_from_slice(b"libssl.so.1");
    std::fs::write(&older, &bytes).unwrap();

    for (mode, probes) in [("text", 4), ("keylog", 1), ("pcapng", 1)] {
        let plan = plan(&modules, mode, &current);
        let target = &plan["targets"][0];
        assert_eq!(target["scout"]["placed"].as_array().unwrap().len(), probes, "{mode}: {target}");
        assert_eq!(target["scout"]["failed"], Value::Array(Vec::new()), "{mode}");
        assert_eq!(target["detected"]["layout"].as_str().unwrap().len(), 32, "{mode}: 16 bytes in hex");
    }
    let unknown = modules.run(&["module", "plan", "tls-ready", "--target", older.to_str().unwrap()]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("E-DETECT") && said.contains("libssl.so.1"), "{said}");
}
