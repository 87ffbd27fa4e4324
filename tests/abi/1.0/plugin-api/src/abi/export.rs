//! The module's side of loading: the static that [`super::load()`] looks for.

use super::root::ModuleV1_Ref;
use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult};

/// What [`library_header`] exports. Implemented by the SDK's macro.
pub trait Exported {
    /// Makes the module's table of functions. Called once, at load.
    fn root() -> ModuleV1_Ref;
}

extern "C" fn construct<E: Exported>() -> RootModuleResult {
    // Catches a panic of `root` (its payload is lost; the host says that the loader panicked).
    __call_root_module_loader(E::root)
}

/// The header of a module's library, with the layouts of all types that cross the border.
///
/// Instead of `#[export_root_module]`, because that attribute needs `abi_stable` in the module's own `Cargo.toml`.
pub const fn library_header<E: Exported>() -> LibHeader {
    // SAFETY: `construct` returns what `E::root` returned, a `ModuleV1_Ref`, erased by `__call_root_module_loader`; the
    // header is made for that same type.
    unsafe { LibHeader::from_constructor::<ModuleV1_Ref>(construct::<E>, CheckTypeLayout::Yes) }
}
