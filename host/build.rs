//! Compiles the host's own eBPF object, and gathers what `module new` writes: the template and the packages of the SDK.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

fn main() {
    for object in ["core.bpf.c", "packets.bpf.c"] {
        ecapture_ebpf::build_or_exit(ecapture_ebpf::source_dir().join(object));
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let host = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let top = host.parent().expect("the workspace");
    let mut files = Vec::new();
    // Beside the packages, but in none of them. (What is watched must be there: cargo takes a place that is not for one that has
    // changed, each time.)
    let template = top.join("plugin-template");
    if template.is_dir() {
        gather(&template, "", &mut files);
    }
    let workspace = read(&top.join("Cargo.toml"));
    for (package, parts) in [("plugin-api", ["src", "build.rs"]), ("ebpf-objects", ["src", "include"])] {
        let manifest = package_manifest(read(&top.join(package).join("Cargo.toml")), &workspace);
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let vendored = out.join(format!("{name}.toml"));
        fs::write(&vendored, toml::to_string(&manifest).expect("TOML")).expect("OUT_DIR is writable");
        files.push((format!("vendor/{name}/Cargo.toml"), vendored));
        for part in parts {
            gather(&top.join(package).join(part), &format!("vendor/{name}/{part}"), &mut files);
        }
    }
    files.sort();
    let list: String =
        files.iter().map(|(name, path)| format!("    ({name:?}, include_bytes!({:?})),\n", path.display())).collect();
    fs::write(out.join("template.rs"), format!("&[\n{list}]\n")).expect("OUT_DIR is writable");
}

/// Every file at or below a place, under a name below another; not what only tests of this repository use.
fn gather(from: &Path, to: &str, files: &mut Vec<(String, PathBuf)>) {
    println!("cargo:rerun-if-changed={}", from.display());
    let name = from.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !from.is_dir() {
        let of_tests = to.starts_with("vendor") && (name.ends_with("tests.rs") || name == "listing.rs");
        // The eBPF sources of this repository's own modules.
        let of_modules = to.starts_with("vendor/ecapture-ebpf/src") && !name.ends_with(".rs");
        if !of_tests && !of_modules {
            files.push((to.to_owned(), from.to_owned()));
        }
        return;
    }
    for entry in fs::read_dir(from).expect("a directory").map(|e| e.expect("an entry")) {
        let name = entry.file_name().into_string().expect("names are text");
        if to.is_empty() && ["target", "vendor", "Cargo.lock"].contains(&name.as_str()) {
            continue;
        }
        let to = if to.is_empty() { name } else { format!("{to}/{name}") };
        gather(&entry.path(), &to, files);
    }
}

fn read(path: &Path) -> Table {
    println!("cargo:rerun-if-changed={}", path.display());
    fs::read_to_string(path).expect("a manifest").parse().expect("TOML")
}

/// A manifest that stands alone, as `cargo package` would make it: what it takes from the workspace is written out, and what
/// only this repository needs is left out.
fn package_manifest(mut manifest: Table, workspace: &Table) -> Table {
    let workspace = &workspace["workspace"];
    for section in ["dev-dependencies", "example", "lints"] {
        manifest.remove(section);
    }
    let inherited = |value: &Value| value.get("workspace").is_some_and(|w| w.as_bool() == Some(true));
    for (section, from) in [("package", &workspace["package"]), ("dependencies", &workspace["dependencies"])] {
        let Some(Value::Table(table)) = manifest.get_mut(section) else { continue };
        for (key, value) in table.iter_mut().filter(|(_, value)| inherited(value)) {
            *value = from[key.as_str()].clone();
        }
    }
    manifest
}
