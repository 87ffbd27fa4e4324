//! What the dynamic linker would need to load a module, compared with what is here (`E-LIBC`).
//!
//! Judged from the file, so that the answer comes before anything is loaded, in words, and with both versions. It is a
//! convenience and not a border: a file that lies about its needs fails in the worker, which can open nothing.

use ecapture_plugin_api::manifest::elf::ElfFacts;

use super::facts::Facts;
use super::image::{Image, Section, u32_at};
use super::refusal::{Code, Refusal};

const SHT_GNU_VERDEF: u32 = 0x6fff_fffd;
/// More than any libc has; bounds the work on a file that is damaged.
const MAX_VERSIONS: usize = 4096;

/// Part of every glibc (or of gcc's runtime, which every Rust program needs): never looked for by name.
const LIBC_FAMILY: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1"];

/// Compares the needs of a file with this host.
///
/// # Errors
/// `E-LIBC`, for the libc first: on an older distribution that is the cause of everything else.
pub fn judge(needs: &ElfFacts, facts: &Facts) -> Result<(), Refusal> {
    if let (Some((major, minor, _)), Some(here)) = (needs.glibc, facts.libc)
        && (major, minor) > here
    {
        return Err(Refusal::new(
            Code::Libc,
            format!("needs glibc {major}.{minor}, this host has {}.{}", here.0, here.1),
            format!("install a build made on a system with glibc {}.{} or older", here.0, here.1),
        ));
    }
    for soname in &needs.needed {
        if LIBC_FAMILY.contains(&soname.as_str()) || soname.starts_with("ld-linux") {
            continue;
        }
        if soname.is_empty() || soname.contains('/') {
            return Err(Refusal::new(
                Code::Libc,
                format!("needs the library \"{soname}\", which is a path or nothing, not a soname"),
                "link the module against a library with a soname, or link it statically",
            ));
        }
        if !facts.library_dirs.iter().any(|dir| dir.join(soname).is_file()) {
            let dirs: Vec<_> = facts.library_dirs.iter().map(|dir| dir.display().to_string()).collect();
            return Err(Refusal::new(
                Code::Libc,
                format!("needs the library {soname}, this host has none of that name in {}", dirs.join(", ")),
                format!("install the package that has {soname}, or a build that links it statically"),
            ));
        }
    }
    Ok(())
}

/// The highest `GLIBC_x.y` that a libc defines: its version.
pub fn glibc_defined(image: &Image) -> Option<(u32, u32)> {
    let sections = image.sections().iter().filter(|section| section.kind == SHT_GNU_VERDEF);
    sections.flat_map(|section| defined_versions(image, section)).filter_map(|name| glibc_version(&name)).max()
}

/// `GLIBC_2.34` and `GLIBC_2.2.5` as major and minor. The third number has not been used since 2.3.4.
fn glibc_version(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Walks `Elfw(Verdef)` (20 bytes: version, flags, index, count, hash, aux, next); of each the first `Elfw(Verdaux)` is its
/// name.
fn defined_versions(image: &Image, section: &Section) -> Vec<String> {
    let (data, strings) = (image.data(section), linked(image, section));
    let mut names = Vec::new();
    let mut at = 0usize;
    while at.saturating_add(20) <= data.len() && names.len() < MAX_VERSIONS {
        let aux = at.saturating_add(u32_at(data, at + 12) as usize);
        names.push(string(strings, u32_at(data, aux).into()));
        match u32_at(data, at + 16) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    names
}

fn linked<'a>(image: &'a Image, section: &Section) -> &'a [u8] {
    image.sections().get(section.link as usize).map(|strings| image.data(strings)).unwrap_or_default()
}

fn string(strings: &[u8], at: u64) -> String {
    let rest = usize::try_from(at).ok().and_then(|at| strings.get(at..)).unwrap_or_default();
    let rest = rest.get(..rest.len().min(256)).unwrap_or_default();
    String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::testelf::{NOTE_MANIFEST, TestElf, facts, image_of};
    use ecapture_plugin_api::manifest::elf::ModuleNotes;

    fn judged(elf: &TestElf, facts: &Facts) -> Result<(), Refusal> {
        let bytes = elf.clone().note(NOTE_MANIFEST, b"").build("unwind", "1.0.0").bytes();
        let image = image_of(&bytes).unwrap();
        judge(&ModuleNotes::read(image.bytes()).unwrap().elf, facts)
    }

    #[test]
    fn a_newer_libc_is_refused_with_both_sides() {
        let libc = |version| TestElf::new().needed("libc.so.6").versions("libc.so.6", &["GLIBC_2.2.5", version]);
        let refusal = judged(&libc("GLIBC_2.99"), &facts()).unwrap_err();
        assert_eq!(refusal.to_string(), "E-LIBC: needs glibc 2.99, this host has 2.36");
        assert!(refusal.remedy.contains("glibc 2.36 or older"));
        for fine in ["GLIBC_2.34", "GLIBC_2.4", "GLIBC_ABI_DT_RELR", "GLIBC_PRIVATE"] {
            assert_eq!(judged(&libc(fine), &facts()), Ok(()), "{fine}");
        }
        assert_eq!(judged(&libc("GLIBC_2.99"), &Facts { libc: None, ..facts() }), Ok(()));
    }

    #[test]
    fn other_libraries_must_be_in_a_library_directory() {
        let dir = tempfile::tempdir().unwrap();
        let facts = Facts { library_dirs: vec![dir.path().to_owned()], ..facts() };
        let elf = TestElf::new().needed("libc.so.6").needed("libthere.so.1");
        let refusal = judged(&elf, &facts).unwrap_err();
        assert_eq!(refusal.code, Code::Libc);
        assert!(refusal.message.starts_with("needs the library libthere.so.1, this host has none"), "{refusal}");
        std::fs::write(dir.path().join("libthere.so.1"), b"").unwrap();
        assert_eq!(judged(&elf, &facts), Ok(()));
    }

    #[test]
    fn a_path_is_no_soname() {
        for soname in ["/tmp/libevil.so", "../libevil.so", ""] {
            assert_eq!(judged(&TestElf::new().needed(soname), &facts()).unwrap_err().code, Code::Libc, "{soname}");
        }
    }

    #[test]
    fn the_libc_family_is_always_there() {
        let elf = TestElf::new().needed("libc.so.6").needed("libgcc_s.so.1").needed("ld-linux-x86-64.so.2");
        assert_eq!(judged(&elf, &facts()), Ok(()));
    }

    #[test]
    fn the_running_libc_says_its_version() {
        // Every test program of this host is linked with a libc that can be read this way, or with none that has versions.
        if let Some((major, minor)) = Facts::of_this_host().libc {
            assert_eq!(major, 2);
            assert!(minor >= 17, "glibc 2.{minor} could not run a Rust program");
        }
    }
}
