//! Loading a module, for the worker. Runs code of the module (constructors, at `dlopen`): only ever inside the sandbox.

use super::root::ModuleV1_Ref;
use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::check_layout_compatibility,
    library::{LibHeader, LibraryError, RootModule, lib_header_from_path},
    sabi_types::VersionNumber,
};
use std::{fmt, path::Path};

/// The version of this API: what the host offers, or what a module was built with.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a module was not loaded. `Display` is one line: `CODE: cause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbiError {
    /// The stable code: `E-LIBC` (the dynamic loader refused the file), `E-API-MAJOR`, `E-API-NEWER`, `E-LAYOUT`,
    /// `E-PANIC` (the root module's constructor panicked).
    pub code: &'static str,
    /// One line that names both sides. No control characters, at most some hundred bytes.
    pub message: String,
    /// Everything that is known, for a log file: a layout report has 30 KB and more than a thousand lines.
    pub detail: String,
}

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for AbiError {}

/// Loads the module at `path` and checks that both sides mean the same types.
///
/// `path` must be absolute (a name without a slash would be searched for in `LD_LIBRARY_PATH`). Open the library with
/// `RTLD_NOW` before calling this and keep that handle: abi_stable opens it lazily, and an undefined symbol would then
/// end the worker in the middle of a capture instead of failing here. Keep the file descriptor open for the life of the
/// process when `path` is a `/proc/self/fd/N`: glibc compares names first, and a reused number is answered with the
/// library that had it before.
///
/// The library is never closed: its vtables and statics stay referenced.
///
/// Not `RootModule::load_from_file`: that keeps one library per *type* in a static, and loading B after A returns A.
///
/// # Errors
///
/// [`AbiError`], see its codes.
pub fn load(path: &Path) -> Result<ModuleV1_Ref, AbiError> {
    if !path.is_absolute() {
        return Err(AbiError::new("E-LIBC", format!("{} is not an absolute path", path.display()), String::new()));
    }
    let header = lib_header_from_path(path).map_err(|e| AbiError::from_library(&e))?;
    check_version(header)?;
    check_layout(header)?;
    // Types that are not prefix types must match exactly in either direction. Of prefix types one side may have more trailing
    // fields; every access goes through accessors that test the bitmap of fields that the module really has. So whichever
    // side is the longer one, no field is read that is not there.
    // SAFETY: `check_layout` found the layout of the module's root, with all the types it reaches, compatible with ours.
    unsafe { header.init_root_module_with_unchecked_layout::<ModuleV1_Ref>() }.map_err(|e| AbiError::from_library(&e))
}

fn versions(header: &LibHeader) -> Result<(VersionNumber, VersionNumber), AbiError> {
    let host = VersionNumber::new(ModuleV1_Ref::VERSION_STRINGS);
    let module = VersionNumber::new(header.version_strings());
    match (host, module) {
        (Ok(host), Ok(module)) => Ok((host, module)),
        (Err(e), _) | (_, Err(e)) => {
            Err(AbiError::new("E-LAYOUT", "the module's API version is not a version".to_owned(), e.to_string()))
        }
    }
}

fn check_version(header: &LibHeader) -> Result<(), AbiError> {
    let (host, module) = versions(header)?;
    if host.major == module.major {
        return Ok(());
    }
    Err(AbiError::new(
        "E-API-MAJOR",
        format!(
            "the module was built with module API {module}, this host has {host}; \
             build the module with API {}.x or use a host with API {}.x",
            host.major, module.major
        ),
        String::new(),
    ))
}

/// Both directions: abi_stable's own rule takes a newer module in an older host, but not the reverse, and then each new
/// minor of the host would refuse every module that exists.
fn check_layout(header: &LibHeader) -> Result<(), AbiError> {
    let Some(module) = header.layout() else {
        return Err(AbiError::new(
            "E-LAYOUT",
            "the module carries no layouts of its types; build it with the SDK's export_module! macro".to_owned(),
            String::new(),
        ));
    };
    let host = <ModuleV1_Ref as StableAbi>::LAYOUT;
    let Err(forward) = check_layout_compatibility(host, module) else { return Ok(()) };
    let Err(reverse) = check_layout_compatibility(module, host) else { return Ok(()) };
    let (host, module) = versions(header)?;
    let detail = format!("module in host:\n{forward}\nhost in module:\n{reverse}");
    if module.minor > host.minor {
        return Err(AbiError::new(
            "E-API-NEWER",
            format!(
                "the module was built with module API {module}, this host has {host}, and their types differ; \
                 use a newer host or build the module with API {}.{}",
                host.major, host.minor
            ),
            detail,
        ));
    }
    Err(AbiError::new(
        "E-LAYOUT",
        format!(
            "the module says API {module} as this host ({host}), but its types differ ({} differences); \
             build it with the published ecapture-plugin-api, not a changed one",
            forward.errors.len()
        ),
        detail,
    ))
}

impl AbiError {
    fn new(code: &'static str, message: String, detail: String) -> Self {
        Self { code, message: one_line(&message), detail }
    }

    fn from_library(error: &LibraryError) -> Self {
        let detail = error.to_string();
        match error {
            LibraryError::OpenError { err, .. } => {
                Self::new("E-LIBC", format!("the dynamic loader refuses the module: {}", cause(err.as_ref())), detail)
            }
            LibraryError::GetSymbolError { .. } => Self::new(
                "E-LAYOUT",
                "the library exports no module; build it with the SDK's export_module! macro".to_owned(),
                detail,
            ),
            LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => Self::new(
                "E-API-MAJOR",
                format!("the module was built with module API {actual_version}, this host has {expected_version}"),
                detail,
            ),
            LibraryError::RootModule { .. } => {
                Self::new("E-PANIC", "the module's constructor failed or panicked".to_owned(), detail)
            }
            LibraryError::InvalidAbiHeader(found) => Self::new(
                "E-LAYOUT",
                format!(
                    "the module was built with abi_stable {}.{}, not the one that module API {API_VERSION} pins",
                    found.abi_major, found.abi_minor
                ),
                detail,
            ),
            LibraryError::ParseVersionError(_)
            | LibraryError::AbiInstability(_)
            | LibraryError::InvalidCAbi { .. }
            | LibraryError::Many(_) => {
                Self::new("E-LAYOUT", "the module's binary interface differs from this host's".to_owned(), detail)
            }
        }
    }
}

/// The innermost text of a chain of errors: libloading's own says only that dlopen failed.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    text
}

/// Control characters (abi_stable puts a NUL in some messages) become spaces, runs of spaces one, and 400 bytes are
/// enough.
fn one_line(text: &str) -> String {
    const MAX: usize = 400;
    let mut line = String::with_capacity(text.len().min(MAX));
    for word in text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty()) {
        if line.len() + word.len() + 1 > MAX {
            line.push_str(" ...");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line() {
        let line = one_line("a\0b\nc  d\x1b[31m");
        assert_eq!(line, "a b c d [31m");
        assert!(one_line(&"word ".repeat(10_000)).len() <= 404);
    }

    #[test]
    fn what_is_no_library_is_refused_with_a_code() {
        let e = load(Path::new("/proc/self/status")).err().expect("not a library");
        assert_eq!(e.code, "E-LIBC");
        assert!(!e.message.contains('\n') && !e.message.contains('\0'), "{e}");
        assert_eq!(load(Path::new("libc.so.6")).err().expect("relative").code, "E-LIBC");
    }

    #[test]
    fn a_library_without_a_module_is_refused() {
        let libc = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/libm.so.6",
            "/usr/lib/libm.so.6",
            "/lib/aarch64-linux-gnu/libm.so.6",
        ];
        let Some(path) = libc.iter().map(Path::new).find(|p| p.exists()) else { return };
        let e = load(path).err().expect("libm is no module");
        assert_eq!(e.code, "E-LAYOUT");
        assert!(e.message.contains("export_module!"), "{e}");
    }
}
