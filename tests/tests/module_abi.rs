//! Modules of another interface than this host's, and modules that lie about theirs. What the notes tell is refused
//! without running anything; what only the code tells is refused by the worker, behind its walls.

use std::path::Path;
use std::process::Command;

use ecapture_tests::capture::{Modules, bin_dir};
use ecapture_tests::target::Program;
use ecapture_tests::variants::{Change, build};
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

const COMPILER: &str = "/usr/bin/gcc";

fn variant(name: &str, changes: &[Change], rustc: &[&str]) -> Vec<u8> {
    build(Path::new(env!("CARGO_TARGET_TMPDIR")), name, changes, rustc)
}

/// Replaces text by text of the same length, the first time it occurs behind `behind`.
fn patched(mut bytes: Vec<u8>, behind: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let find = |bytes: &[u8], text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes());
    let start = find(&bytes, behind).unwrap_or_else(|| panic!("{behind:?} is not in the module"));
    let at = start + find(&bytes[start..], from).unwrap_or_else(|| panic!("{from:?} is not in the module"));
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

/// How a note begins; the same text in the module's own data does not.
const NOTE: &str = "ecapture\0\0\0\0schema = 1";

struct Installed {
    modules: Modules,
    target: Program,
}

impl Installed {
    fn new(bytes: &[u8]) -> Self {
        let modules = Modules::empty();
        std::fs::write(modules.path().join("libecap_evil.so"), bytes).unwrap();
        Self { modules, target: Program::compile("evil-target.c", "evil-target") }
    }

    /// The code in the list of modules; `None` if the module is there to be used.
    fn listed(&self) -> Option<String> {
        let output = self.modules.run(&["--list-modules", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = all.as_array().or_else(|| all["modules"].as_array()).expect("a list");
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]["refusal"]["code"].as_str().map(str::to_owned)
    }

    /// Exit code and words of a capture with it.
    fn run(&self) -> (Option<i32>, String) {
        let output = self.modules.run(&["evil", "--target", &self.target.text(), "--duration", "100ms"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Refused by what its notes say, in the list and by name, with these words.
fn refused_unseen(bytes: &[u8], code: &str, words: &[&str]) {
    let installed = Installed::new(bytes);
    assert_eq!(installed.listed().as_deref(), Some(code));
    refused(&installed, code, words);
}

/// Its notes are in order, its code is not.
fn refused_when_loaded(bytes: &[u8], code: &str, words: &[&str]) {
    let installed = Installed::new(bytes);
    assert_eq!(installed.listed(), None);
    refused(&installed, code, words);
}

fn refused(installed: &Installed, code: &str, words: &[&str]) {
    let (exit, said) = installed.run();
    assert_eq!(exit, Some(3), "{said}");
    for word in [&[code], words].concat() {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(said.len() < 2000, "a wall of text: {said}");
}

const MAJOR: [Change; 2] = [
    Change { file: "plugin-api/Cargo.toml", from: "version = \"1.0.0\"", to: "version = \"2.0.0\"" },
    Change {
        file: "Cargo.toml",
        from: "path = \"plugin-api\", version = \"1.0.0\"",
        to: "path = \"plugin-api\", version = \"2.0.0\"",
    },
];

#[test]
fn another_major_version_of_the_interface() {
    skip_if!("another_major_version_of_the_interface", needs::capture(), needs::program(COMPILER, "gcc"));
    let honest = Change { file: "evil/module.toml", from: "api = \"1.0\"", to: "api = \"2.0\"" };
    let [krate, dependency] = MAJOR;
    let module = variant("major", &[krate, dependency, honest], &[]);
    refused_unseen(&module, "E-API-MAJOR", &["2.0", "1.0"]);
    // The manifest says 1.0, the build facts do not.
    let module = variant("major", &MAJOR, &[]);
    refused_unseen(&module, "E-API-MAJOR", &["2.0", "1.0"]);
    // Both lie; abi_stable's own header does not.
    let module = patched(module, "panic=unwind", "api=2.0.0", "api=1.0.0");
    refused_when_loaded(&module, "E-API-MAJOR", &["2.0.0", "1.0.0"]);
}

#[test]
fn a_newer_minor_version_of_the_interface() {
    skip_if!("a_newer_minor_version_of_the_interface", needs::capture(), needs::program(COMPILER, "gcc"));
    let changes = |needs: &'static str| {
        [
            Change { file: "plugin-api/Cargo.toml", from: "version = \"1.0.0\"", to: "version = \"1.9.0\"" },
            // What a minor version may do: one more field at the end.
            Change {
                file: "plugin-api/src/abi/root.rs",
                from: "RResult<DecoderBox, ModuleError>,",
                to: "RResult<DecoderBox, ModuleError>,\n\n    /// Later.\n    pub later: u64,",
            },
            Change {
                file: "plugin-api/src/sdk/glue.rs",
                from: "new_decoder: new_decoder::<B::Module>,",
                to: "new_decoder: new_decoder::<B::Module>,\n        later: 7,",
            },
            Change { file: "evil/module.toml", from: "api = \"1.0\"", to: needs },
        ]
    };
    let module = variant("newer", &changes("api = \"1.9\""), &[]);
    refused_unseen(&module, "E-API-NEWER", &["1.9", "1.0"]);
    // Built with the newer one, but content with what this host has: it runs.
    let module = variant("newer", &changes("api = \"1.0\""), &[]);
    let installed = Installed::new(&module);
    assert_eq!(installed.listed(), None);
    let (exit, said) = installed.run();
    assert_eq!(exit, Some(0), "{said}");
}

#[test]
fn another_layout_under_the_same_version() {
    skip_if!("another_layout_under_the_same_version", needs::capture(), needs::program(COMPILER, "gcc"));
    let changes = [
        Change {
            file: "plugin-api/src/abi/root.rs",
            from: "pub manifest: extern \"C\" fn() -> RStr<'static>,",
            to: "pub flavour: u64,\n    /// As before.\n    pub manifest: extern \"C\" fn() -> RStr<'static>,",
        },
        Change {
            file: "plugin-api/src/sdk/glue.rs",
            from: "manifest: manifest::<B>,",
            to: "flavour: 7,\n        manifest: manifest::<B>,",
        },
    ];
    refused_when_loaded(&variant("layout", &changes, &[]), "E-LAYOUT", &["types differ", "ecapture-plugin-api"]);
}

#[test]
fn a_module_that_aborts_when_it_panics() {
    skip_if!("a_module_that_aborts_when_it_panics", needs::capture(), needs::program(COMPILER, "gcc"));
    refused_unseen(&variant("abort", &[], &["-C", "panic=abort"]), "E-PANIC", &["panic", "abort"]);
}

#[test]
fn a_note_that_is_not_what_the_code_says() {
    skip_if!("a_note_that_is_not_what_the_code_says", needs::capture(), needs::program(COMPILER, "gcc"));
    let good = || std::fs::read(bin_dir().join("libecap_evil.so")).unwrap();
    let forged = patched(good(), NOTE, "misbehaves on", "is good, and ");
    refused_when_loaded(&forged, "E-FORGED", &["manifest"]);
}

#[test]
fn a_library_that_it_needs_and_that_is_not_there() {
    let name = "a_library_that_it_needs_and_that_is_not_there";
    skip_if!(name, needs::capture(), needs::program(COMPILER, "gcc"));
    let good = std::fs::read(bin_dir().join("libecap_evil.so")).unwrap();
    let needy = patched(good, "libgcc_s.so.1", "libgcc_s.so.1", "libgcc_x.so.1");
    let installed = Installed::new(&needy);
    let (exit, said) = installed.run();
    assert_eq!(exit, Some(3), "{said}");
    assert!(said.contains("E-LIBC") && said.contains("libgcc_x.so.1"), "{said}");
}

#[test]
fn a_library_that_is_no_module_at_all() {
    let objcopy = needs::program("/usr/bin/objcopy", "binutils");
    skip_if!("a_library_that_is_no_module_at_all", needs::capture(), needs::program(COMPILER, "gcc"), objcopy);
    // The notes of a module, in a library without its code.
    let dir = tempfile::tempdir().unwrap();
    let (from, note, bpf, source, to) = (
        bin_dir().join("libecap_evil.so"),
        dir.path().join("note"),
        dir.path().join("bpf"),
        dir.path().join("empty.s"),
        dir.path().join("libecap_evil.so"),
    );
    for (section, file) in [(".note.ecapture", &note), (".ecapture.bpf.evil", &bpf)] {
        let dump = format!("{section}={}", file.display());
        let status = Command::new("objcopy")
            .args(["-O", "binary", "--dump-section", &dump])
            .arg(&from)
            .arg("/dev/null")
            .status();
        assert!(status.unwrap().success());
    }
    let text = format!(
        ".section .note.ecapture, \"a\", @note\n.balign 4\n.incbin \"{}\"\n\
         .section .ecapture.bpf.evil, \"a\"\n.balign 8\n.incbin \"{}\"\n.section .note.GNU-stack, \"\"\n",
        note.display(),
        bpf.display()
    );
    std::fs::write(&source, text).unwrap();
    let status = Command::new(COMPILER).args(["-shared", "-o"]).arg(&to).arg(&source).status().unwrap();
    assert!(status.success());
    refused_when_loaded(&std::fs::read(&to).unwrap(), "E-LAYOUT", &["exports no module"]);
}
