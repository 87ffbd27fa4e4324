//! Compiles one source. What cargo must know (which files to watch, why it failed) is printed here too.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Arch, BuildError, Clang, depfile, include_dir};

/// How one `.bpf.c` becomes an object.
///
/// Compiled with `-target bpf -g -O2 -mcpu=v3 -Wall -Werror`; debug information is stripped, BTF kept. Paths of the
/// building machine are kept out of the object, so that equal sources and compilers give equal bytes.
#[derive(Debug, Clone)]
pub struct Builder {
    source: PathBuf,
    out_dir: Option<PathBuf>,
    arch: Option<Arch>,
    includes: Vec<PathBuf>,
    defines: Vec<String>,
    clang: Option<Clang>,
    announce: bool,
}

/// A compiled object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `<out_dir>/<name>.bpf.o`.
    pub path: PathBuf,
    /// Every file it was made from, the source first.
    pub inputs: Vec<PathBuf>,
}

impl Builder {
    /// For this source; a relative path is relative to the build script's package.
    pub fn new(source: impl AsRef<Path>) -> Self {
        Self {
            source: source.as_ref().to_owned(),
            out_dir: None,
            arch: None,
            includes: Vec::new(),
            defines: Vec::new(),
            clang: None,
            announce: true,
        }
    }

    /// Where the object goes; `$OUT_DIR` by default.
    pub fn out_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(dir.into());
        self
    }

    /// Processor of the targets; the one that cargo builds for by default.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = Some(arch);
        self
    }

    /// A further folder to look for headers in. The source's own folder and [`include_dir`] are always searched.
    pub fn include(mut self, dir: impl Into<PathBuf>) -> Self {
        self.includes.push(dir.into());
        self
    }

    /// A macro: `NAME` or `NAME=VALUE`.
    pub fn define(mut self, define: impl Into<String>) -> Self {
        self.defines.push(define.into());
        self
    }

    /// The compiler; [`Clang::find`] by default.
    pub fn clang(mut self, clang: Clang) -> Self {
        self.clang = Some(clang);
        self
    }

    /// Whether to tell cargo on standard output which files to watch. On by default; off outside of build scripts.
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// Compiles, strips, and tells cargo what to watch.
    pub fn build(self) -> Result<Object, BuildError> {
        if self.announce {
            // Before anything can fail, so that a failed build runs again when its cause is gone.
            println!("cargo::rerun-if-changed={}", self.source.display());
            println!("cargo::rerun-if-env-changed=CLANG");
            println!("cargo::rerun-if-env-changed=LLVM_STRIP");
        }
        let name = self
            .source
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".bpf.c"))
            .ok_or_else(|| BuildError::Name { path: self.source.clone() })?;
        let out_dir = match &self.out_dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from(env::var_os("OUT_DIR").ok_or(BuildError::Environment { name: "OUT_DIR" })?),
        };
        let arch = match self.arch {
            Some(arch) => arch,
            None => Arch::from_rust(
                &env::var("CARGO_CFG_TARGET_ARCH")
                    .map_err(|_| BuildError::Environment { name: "CARGO_CFG_TARGET_ARCH" })?,
            )?,
        };
        let clang = match &self.clang {
            Some(clang) => clang.clone(),
            None => Clang::find()?,
        };
        let object = out_dir.join(format!("{name}.bpf.o"));
        let rule = out_dir.join(format!("{name}.bpf.d"));
        self.compile(&clang, arch, &object, &rule)?;
        strip(&clang, &object)?;

        let text = fs::read_to_string(&rule).map_err(|source| BuildError::Io { what: "read", path: rule, source })?;
        let inputs: Vec<PathBuf> = depfile::prerequisites(&text).into_iter().map(PathBuf::from).collect();
        if self.announce {
            for input in &inputs {
                println!("cargo::rerun-if-changed={}", input.display());
            }
        }
        Ok(Object { path: object, inputs })
    }

    /// As [`Builder::build`]; on failure it tells cargo why and ends the build script with status 1.
    pub fn build_or_exit(self) -> Object {
        self.build().unwrap_or_else(|error| {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            std::process::exit(1);
        })
    }

    fn compile(&self, clang: &Clang, arch: Arch, object: &Path, rule: &Path) -> Result<(), BuildError> {
        let mut command = clang.command();
        command
            .args(["-target", "bpf", "-g", "-O2", "-mcpu=v3", "-Wall", "-Werror", "-std=gnu11", "-nostdinc"])
            .arg(format!("-D{}", arch.define()))
            .args(self.defines.iter().map(|define| format!("-D{define}")))
            .args(self.includes.iter().flat_map(|dir| [Path::new("-I"), dir.as_path()]))
            .arg("-I")
            .arg(include_dir());
        for (dir, name) in [(Some(include_dir()), "ecapture-ebpf/include"), (self.source_dir(), "source")] {
            if let Some(dir) = dir {
                command.arg(format!("-ffile-prefix-map={}={name}", dir.display()));
            }
        }
        // Where the build runs is recorded too.
        command.args(["-fdebug-compilation-dir", "."]);
        command.arg("-MD").arg("-MF").arg(rule).arg("-c").arg(&self.source).arg("-o").arg(object);
        let output = command.output().map_err(|source| BuildError::Io {
            what: "run clang for",
            path: self.source.clone(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        Err(BuildError::Compile {
            path: self.source.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn source_dir(&self) -> Option<PathBuf> {
        self.source.parent().filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_owned)
    }
}

/// Takes DWARF out and leaves BTF, which is what the host reads.
fn strip(clang: &Clang, object: &Path) -> Result<(), BuildError> {
    let Some(program) = clang.strip() else {
        return Ok(());
    };
    let failed = |source| BuildError::Io { what: "strip", path: object.to_owned(), source };
    let output = Command::new(program).arg("-g").arg(object).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    fn compile(dir: &Path, name: &str, text: &str) -> Result<Object, BuildError> {
        let source = dir.join(name);
        fs::write(&source, text).unwrap();
        Builder::new(source).out_dir(dir).arch(Arch::X86_64).announce(false).build()
    }

    const PROGRAM: &str = r#"
        #include <ecapture/ecapture.h>
        #include "own.h"
        SEC("uprobe") int on_call(struct pt_regs *ctx)
        {
            struct ecap_message m = ecap_message(ctx);
            struct own *own = ecap_begin(&m, 0, sizeof(*own), ecap_user_ptr(ecap_arg0(ctx)), ecap_arg1(ctx), 65536);
            if (own) {
                own->value = ecap_arg2(ctx);
                ecap_end(&m);
            }
            return 0;
        }
        ECAP_LICENSE("GPL");
    "#;

    #[test]
    fn object_keeps_btf_loses_dwarf_and_names_its_headers() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.h"), "struct own { __u64 value; };").unwrap();
        let object = compile(dir.path(), "own.bpf.c", PROGRAM).unwrap();
        assert_eq!(object.path, dir.path().join("own.bpf.o"));
        let bytes = fs::read(&object.path).unwrap();
        assert!(bytes.starts_with(b"\x7fELF"));
        assert!(holds(&bytes, b".BTF\0") && holds(&bytes, b".maps\0") && holds(&bytes, b"ecap_events"));
        if Clang::find().unwrap().strip().is_some() {
            assert!(!holds(&bytes, b".debug_info"), "not stripped");
        }
        for file in ["own.bpf.c", "own.h", "emit.h"] {
            assert!(object.inputs.iter().any(|input| input.ends_with(file)), "{file} in {:?}", object.inputs);
        }
    }

    #[test]
    fn equal_sources_in_other_folders_give_equal_bytes() {
        let objects = [(); 2].map(|()| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("own.h"), "struct own { __u64 value; };").unwrap();
            let object = compile(dir.path(), "own.bpf.c", PROGRAM).unwrap();
            fs::read(object.path).unwrap()
        });
        assert!(objects[0] == objects[1], "the folder got into the object");
    }

    #[test]
    fn a_refused_source_comes_with_the_compilers_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = compile(dir.path(), "bad.bpf.c", "int f(void) { return nothing; }").unwrap_err();
        assert!(matches!(error, BuildError::Compile { .. }));
        assert!(error.to_string().contains("nothing"), "{error}");
    }

    #[test]
    fn a_source_without_the_suffix_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(compile(dir.path(), "a.c", ""), Err(BuildError::Name { .. })));
    }

    #[test]
    fn every_object_of_the_crate_compiles_for_every_processor() {
        let mut compiled = 0;
        for entry in fs::read_dir(crate::source_dir()).unwrap() {
            let source = entry.unwrap().path();
            if !source.to_string_lossy().ends_with(".bpf.c") {
                continue;
            }
            for arch in [Arch::X86_64, Arch::Aarch64] {
                let dir = tempfile::tempdir().unwrap();
                Builder::new(&source).out_dir(dir.path()).arch(arch).announce(false).build().unwrap();
                compiled += 1;
            }
        }
        assert!(compiled >= 4, "{compiled} objects");
    }
}
