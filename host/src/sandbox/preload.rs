//! The libraries that a module needs, loaded by the host before the walls close.
//!
//! glibc finds a loaded library by its soname, so the module's dlopen then opens nothing but the module itself, and not
//! even library directories have to be readable for its constructors.
#![expect(unsafe_code, reason = "dlopen of system libraries by soname")]

use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Why a needed library was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    /// Not a plain name, e.g. a path: only what the loader's own search finds may be loaded.
    #[error("the module needs the library {0:?}, which is not a plain soname")]
    Name(String),
    /// The loader refused it; mostly since it is not installed.
    #[error("the module needs the library {soname:?}: {source}")]
    Load {
        /// The library.
        soname: String,
        /// dlopen's words.
        source: libloading::Error,
    },
}

/// Letters that sonames are made of. No slash (a path), no dollar (`$ORIGIN`).
fn plain(soname: &str) -> bool {
    let first_ok = soname.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first_ok && soname.len() <= 255 && soname.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

/// Loads each library by its soname, for the life of the process. All names are judged before the first is loaded.
pub fn preload(sonames: &[String]) -> Result<(), PreloadError> {
    if let Some(bad) = sonames.iter().find(|s| !plain(s)) {
        return Err(PreloadError::Name(bad.clone()));
    }
    for soname in sonames {
        // SAFETY: dlopen runs the library's constructors. It is one that the system's loader finds by a plain name with
        // an empty environment: as trusted as the libraries that this program itself is linked with.
        let library = unsafe { Library::open(Some(soname), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|source| PreloadError::Load { soname: soname.clone(), source })?;
        // Unloading runs destructors under code that may still use it: it stays.
        std::mem::forget(library);
    }
    Ok(())
}

/// Opens a judged module for good, with every symbol resolved now: one that is missing fails here, and not in the middle of a
/// capture. Runs the module's constructors, so only inside the walls.
pub fn open_now(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: this is where foreign code begins to run; what it can do is what the walls leave.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }?;
    std::mem::forget(library);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_sonames_only() {
        assert!(preload(&["libm.so.6".into()]).is_ok());
        for bad in ["/tmp/evil.so", "../evil.so", "", ".", "$ORIGIN", "lib m.so", "lib\0.so", "-l"] {
            assert!(matches!(preload(&["libm.so.6".into(), bad.into()]), Err(PreloadError::Name(_))), "{bad:?}");
        }
        let missing = preload(&["libnothing-of-this-name.so.9".into()]).unwrap_err();
        assert!(missing.to_string().contains("libnothing-of-this-name.so.9"), "{missing}");
    }
}
