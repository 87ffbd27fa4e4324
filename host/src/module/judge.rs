//! May this module run here? The refusals, in their fixed order; the first that applies is the answer.
//!
//! Pure: a file's [`Image`] on one side, the host's [`Facts`] on the other. The look into the eBPF objects is passed
//! in ([`ObjectCheck`]), so that this file knows the order and [`crate::bpf`] the rules. What needs other modules (two of
//! one name) is in [`super::catalog`]; what needs a value of the configuration or a loaded module comes at run time.

use std::ffi::OsStr;

use ecapture_plugin_api::manifest::elf::{BuildFacts, ElfError, ModuleNotes};
use ecapture_plugin_api::manifest::{ApiVersion, Manifest, ManifestError, Permissions};

use crate::bpf;

use super::escape;
use super::facts::{Facts, major_minor};
use super::image::{Image, machine_name};
use super::libc_needs;
use super::refusal::{Code, Refusal};

/// The oldest kernel that the host itself supports: ring buffer and attach cookies.
pub const MIN_KERNEL: (u32, u32) = (5, 15);

/// Judges one eBPF object against the manifest's permissions; `Err` says what is wrong, in words.
pub type ObjectCheck<'a> = &'a (dyn Fn(&[u8], &Permissions) -> Result<(), String> + Sync);

/// A module that may run, or may not, with as much of its manifest as could be read.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The manifest. With a refusal it is there for being shown only, and absent if it could not be understood or if nobody
    /// vouches for the file.
    pub manifest: Option<Manifest>,
    /// How the file was built.
    pub build: Option<BuildFacts>,
    /// The GNU build id, hexadecimal.
    pub build_id: Option<String>,
    /// Why it may not run.
    pub refusal: Option<Refusal>,
}

/// What surrounds a judgement: who vouches for the file, and what the host is.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The file's name in its directory.
    pub file_name: &'a OsStr,
    /// What is wrong with owner or mode along the path.
    pub trust_problem: Option<&'a str>,
    /// Whether that may be passed over.
    pub allow_untrusted: bool,
    /// The host.
    pub facts: &'a Facts,
    /// The look into eBPF objects.
    pub objects: ObjectCheck<'a>,
}

/// Judges a module file that could be read (`E-ELF` comes from [`super::image`]).
pub fn judge(image: &Image, context: &Context<'_>) -> Judged {
    let mut judged = Judged { manifest: None, build: None, build_id: image.build_id(), refusal: None };
    judged.refusal = step_by_step(image, context, &mut judged).err();
    judged
}

/// Who could have put the file there.
///
/// # Errors
/// `E-TRUST`.
pub fn trust(context: &Context<'_>) -> Result<(), Refusal> {
    match context.trust_problem {
        Some(problem) if !context.allow_untrusted => Err(Refusal::new(
            Code::Trust,
            format!("could be changed by others than root: {problem}"),
            "chown root:root and chmod go-w what is named; for a module in development: --modules-dir DIR --allow-untrusted",
        )),
        _ => Ok(()),
    }
}

fn step_by_step(image: &Image, context: &Context<'_>, judged: &mut Judged) -> Result<(), Refusal> {
    let facts = context.facts;
    let notes = match ModuleNotes::read(image.bytes()).map_err(|error| unreadable(&error)) {
        Err(refusal) if refusal.code == Code::Elf => return Err(refusal),
        notes => notes,
    };
    trust(context)?;
    let ModuleNotes { manifest: text, build, elf, .. } = notes.as_ref().map_err(Clone::clone)?;
    let parsed = Manifest::parse(text);
    judged.build = Some(build.clone());
    // Another major's manifest means something else, even where it happens to parse; and a newer minor's may have keys that
    // this host cannot know. Both have a better answer than "unknown key", which comes at its place in the order.
    let built_with = built_with(build);
    let foreign = |api: ApiVersion| api.major != facts.api.0;
    let newer = |api: ApiVersion| api.major == facts.api.0 && api.minor > facts.api.1;
    let needs = match parsed {
        Ok(manifest) => {
            let needs = built_with.filter(|api| foreign(*api)).unwrap_or(manifest.module.api);
            judged.manifest = Some(manifest).filter(|_| !foreign(needs));
            needs
        }
        Err(error) => match built_with {
            Some(api) if foreign(api) || newer(api) => api,
            _ => return Err(manifest_error(&error)),
        },
    };
    if let Some(manifest) = &judged.manifest {
        name(manifest, context.file_name)?;
    }
    arch(image.machine(), facts)?;
    libc_needs::judge(elf, facts)?;
    panic_strategy(build)?;
    api(needs, facts)?;
    let Some(manifest) = &judged.manifest else { return Ok(()) };
    features(manifest, facts)?;
    kernel(manifest, facts)?;
    objects(notes.as_ref().map_err(Clone::clone)?, manifest, context.objects)
}

/// No complete library (`E-ELF`), or one without the two notes that make it a module (`E-MANIFEST`).
fn unreadable(error: &ElfError) -> Refusal {
    let (code, remedy) = match error {
        ElfError::NotElf(_) => {
            (Code::Elf, "install a module built as a shared library (crate-type cdylib), or remove the file")
        }
        ElfError::Damaged(_) => (Code::Elf, "install the file again"),
        ElfError::Class(_) => (Code::Arch, "install the build for this machine"),
        ElfError::Note(_) => (
            Code::Manifest,
            "remove the file if it is no module of ecapture; else build it with export_module!, once a library",
        ),
    };
    Refusal::new(code, error.to_string(), remedy)
}

/// The version of the API crate that the module was built with.
fn built_with(build: &BuildFacts) -> Option<ApiVersion> {
    major_minor(&build.api).map(|(major, minor)| ApiVersion { major, minor })
}

fn manifest_error(error: &ManifestError) -> Refusal {
    // The error's own text begins with the code, which the refusal brings already.
    let text = error.to_string();
    let text = text.strip_prefix("E-MANIFEST: ").unwrap_or(&text).to_owned();
    Refusal::new(Code::Manifest, text, "correct module.toml at the key named and build the module again")
}

fn name(manifest: &Manifest, file_name: &OsStr) -> Result<(), Refusal> {
    let expected = manifest.file_name();
    if file_name == OsStr::new(&expected) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Name,
        format!("the file is called {}, its manifest says module \"{}\"", escape::os(file_name), manifest.module.name),
        format!("rename the file to {expected}, unless that module is already there"),
    ))
}

fn arch(machine: u16, facts: &Facts) -> Result<(), Refusal> {
    if machine == facts.machine {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Arch,
        format!("is built for {}, this host is {}", machine_name(machine), facts.arch),
        format!("install the build for {}", facts.arch),
    ))
}

fn panic_strategy(build: &BuildFacts) -> Result<(), Refusal> {
    if build.panic == "unwind" {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Panic,
        format!("is built with panic = \"{}\", this host needs panic = \"unwind\"", escape::short(&build.panic, 32)),
        "set panic = \"unwind\" in the profile that the module is built with",
    ))
}

fn api(needs: ApiVersion, facts: &Facts) -> Result<(), Refusal> {
    let here = ApiVersion { major: facts.api.0, minor: facts.api.1 };
    if needs.major != here.major {
        return Err(Refusal::new(
            Code::ApiMajor,
            format!("needs module API {needs}, this host has {here}"),
            format!(
                "install a build of the module for module API {}.x, or an ecapture with {}.x",
                here.major, needs.major
            ),
        ));
    }
    if needs.minor > here.minor {
        return Err(Refusal::new(
            Code::ApiNewer,
            format!("needs module API {needs}, this host has {here}"),
            format!("update ecapture to one with module API {needs} or newer"),
        ));
    }
    Ok(())
}

fn features(manifest: &Manifest, facts: &Facts) -> Result<(), Refusal> {
    let missing: Vec<&str> =
        manifest.module.features.iter().filter(|name| !facts.features.contains(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let here = if facts.features.is_empty() { "none".to_owned() } else { facts.features.join(", ") };
    Err(Refusal::new(
        Code::Feature,
        format!("needs the host feature {}, this host has {here}", missing.join(", ")),
        "update ecapture, or install a build of it with the feature",
    ))
}

fn kernel(manifest: &Manifest, facts: &Facts) -> Result<(), Refusal> {
    let wanted = manifest.kernel.min.map_or(MIN_KERNEL, |min| (min.major, min.minor)).max(MIN_KERNEL);
    if facts.kernel < wanted {
        return Err(Refusal::new(
            Code::Kernel,
            format!(
                "needs Linux {}.{}, this kernel is {}",
                wanted.0,
                wanted.1,
                escape::short(&facts.kernel_release, 64)
            ),
            format!("run it on Linux {}.{} or newer", wanted.0, wanted.1),
        ));
    }
    if manifest.kernel.btf && !facts.has_btf {
        return Err(Refusal::new(
            Code::Kernel,
            "needs the kernel's type information, this kernel has no /sys/kernel/btf/vmlinux",
            "give a file with this kernel's types with --btf, or use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ));
    }
    if !manifest.kernel.arch.is_empty() && !manifest.kernel.arch.contains(&facts.arch) {
        return Err(Refusal::new(
            Code::Kernel,
            format!("is made for kernels on {}, this host is {}", manifest.kernel.arch.join(", "), facts.arch),
            format!("ask its author for support of {}", facts.arch),
        ));
    }
    Ok(())
}

fn objects(notes: &ModuleNotes<'_>, manifest: &Manifest, check: ObjectCheck<'_>) -> Result<(), Refusal> {
    for object in &manifest.bpf {
        let id = &object.id;
        let Some(bytes) = notes.object(id) else {
            return Err(Refusal::new(
                Code::Bpf,
                format!("its manifest names the eBPF object \"{id}\", the file has no section .ecapture.bpf.{id}"),
                "name each object in export_module!, by the same id as in the manifest",
            ));
        };
        check(bytes, &manifest.permissions).map_err(|what| {
            Refusal::new(
                Code::Bpf,
                format!("eBPF object \"{id}\": {what}"),
                "name in [permissions] what the object uses, or do without; some things no module may do (docs/refusals.md)",
            )
        })?;
    }
    Ok(())
}

/// The [`ObjectCheck`] of every run: parsed and judged by `host/src/bpf`, no kernel asked.
///
/// # Errors
/// What is wrong, with what would allow it where something could; the first few of many.
pub fn check_object(bytes: &[u8], permissions: &Permissions) -> Result<(), String> {
    const MOST: usize = 3;
    let spec = bpf::ObjectSpec::parse(bytes).map_err(|error| {
        let text = error.to_string();
        text.strip_prefix("eBPF object: ").map_or(text.clone(), str::to_owned)
    })?;
    let granted = bpf::Permissions {
        programs: &permissions.programs,
        helpers: &permissions.helpers,
        map_memory: permissions.map_memory,
    };
    bpf::judge(&spec, &granted).map_err(|violations| {
        let mut words: Vec<String> = violations.iter().take(MOST).map(ToString::to_string).collect();
        if violations.len() > MOST {
            words.push(format!("and {} more", violations.len() - MOST));
        }
        words.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_refused_in_words() {
        for bytes in [&b""[..], b"object", &[0; 4096], b"\x7fELF\x02\x01\x01"] {
            let words = check_object(bytes, &Permissions::default()).unwrap_err();
            assert!(!words.is_empty() && !words.starts_with("eBPF object"), "{words}");
        }
    }
}
