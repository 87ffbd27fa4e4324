//! The macro that makes a module of a crate, and the pieces of its expansion.
//!
//! The expansion has no `unsafe` block: two attributes (`link_section`, `no_mangle`) are all that the compiler calls
//! unsafe in it, so a crate with `#![forbid(unsafe_code)]` can use it.

/// Owner of the notes, NUL-terminated and padded to four bytes.
const OWNER: [u8; 12] = *b"ecapture\0\0\0\0";

/// One ELF note: 4-byte words, then the owner, then the text.
#[doc(hidden)]
#[repr(C, align(4))]
pub struct Note<const N: usize> {
    owner_len: u32,
    text_len: u32,
    kind: u32,
    owner: [u8; 12],
    text: [u8; N],
}

#[doc(hidden)]
impl<const N: usize> Note<N> {
    /// From the parts of its text. The struct's alignment pads it to four bytes, with zeros: padding bytes of a static
    /// are what a linker leaves, so `N` is rounded up by [`note_len`] instead of being left to the compiler.
    pub const fn new(kind: u32, parts: &[&str]) -> Self {
        let mut text = [0; N];
        let mut at = 0;
        let mut i = 0;
        while i < parts.len() {
            let bytes = parts[i].as_bytes();
            let (_, rest) = text.split_at_mut(at);
            let (place, _) = rest.split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            at += bytes.len();
            i += 1;
        }
        Self { owner_len: 9, text_len: at as u32, kind, owner: OWNER, text }
    }
}

/// Length of the parts together, rounded up to four.
#[doc(hidden)]
pub const fn note_len(parts: &[&str]) -> usize {
    let mut len = 0;
    let mut i = 0;
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len.next_multiple_of(4)
}

/// Build facts that are the same for this crate and the module's.
#[doc(hidden)]
pub const BUILD_FACTS: &str = concat!(
    "rustc=",
    env!("ECAPTURE_RUSTC"),
    "\ntarget=",
    env!("ECAPTURE_TARGET"),
    "\napi=",
    env!("CARGO_PKG_VERSION"),
    "\nprofile=",
    env!("ECAPTURE_PROFILE"),
    "\n"
);

/// Bytes at an address that is a multiple of eight: the headers of an eBPF object are read in place.
#[doc(hidden)]
#[repr(C, align(8))]
pub struct Aligned<const N: usize>([u8; N]);

#[doc(hidden)]
impl<const N: usize> Aligned<N> {
    /// `N` is the length of `bytes`.
    pub const fn new(bytes: &[u8]) -> Self {
        let mut copy = [0; N];
        copy.copy_from_slice(bytes);
        Self(copy)
    }
}

/// Makes a capture module of a `cdylib` crate: exports the root module and puts manifest, build facts and eBPF objects
/// where the host reads them without running anything.
///
/// ```ignore
/// ecapture_plugin_api::export_module!(
///     MyModule,                                   // implements sdk::Module
///     manifest = "module.toml",                   // beside Cargo.toml
///     objects = { "my" => include_bytes!(concat!(env!("OUT_DIR"), "/my.bpf.o")) },
/// );
/// ```
///
/// `manifest_text = EXPR` takes a `&'static str` constant instead of a path. Call it once, at the root of the crate.
///
/// In the file: section `.note.ecapture` with two notes of the owner `ecapture` (type 0xEC01 the manifest, 0xEC02 the
/// build facts) and one section `.ecapture.bpf.<id>` for each object, aligned to eight bytes and padded with zeros to a
/// multiple of eight. All of them are `#[used]` and allocated, so that neither LTO nor `strip` drops them.
///
/// The expansion has no `unsafe` block and works under `#![forbid(unsafe_code)]` and `#![deny(missing_docs)]`.
///
/// Every function of the module catches its panics, dropping of a decoder included; the crate must not be built with
/// `panic = "abort"` (the host reads that from the note and refuses it, `E-PANIC`). At the first call a panic hook is
/// installed that logs through the host.
///
/// It also adds a `#[test]` that reads the manifest and compares its `[[bpf]]` ids with `objects`.
#[macro_export]
macro_rules! export_module {
    ($module:ty, manifest = $path:literal $(, objects = { $($id:literal => $bytes:expr),* $(,)? })? $(,)?) => {
        $crate::export_module!(
            $module,
            manifest_text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path)),
            objects = { $($($id => $bytes),*)? }
        );
    };
    ($module:ty, manifest_text = $text:expr $(, objects = { $($id:literal => $bytes:expr),* $(,)? })? $(,)?) => {
        #[doc(hidden)]
        struct __EcaptureModule;

        #[doc(hidden)]
        // Constants have no hygiene in macros: what is the author's must not see names of ours, so all of them are odd.
        impl $crate::sdk::glue::Bundle for __EcaptureModule {
            type Module = $module;
            const MANIFEST: &'static str = $text;
            const OBJECTS: &'static [&'static str] = &[$($($id),*)?];
        }

        $($(
            const _: () = {
                const __ECAPTURE_OBJECT: &[u8] = $bytes;
                #[used]
                #[unsafe(link_section = concat!(".ecapture.bpf.", $id))]
                static __ECAPTURE_BYTES: $crate::sdk::export::Aligned<{ __ECAPTURE_OBJECT.len() }> =
                    $crate::sdk::export::Aligned::new(__ECAPTURE_OBJECT);
            };
        )*)?

        const _: () = {
            use $crate::sdk::export::{BUILD_FACTS, Note, note_len};

            #[cfg(panic = "unwind")]
            const PANIC: &str = "panic=unwind\n";
            #[cfg(not(panic = "unwind"))]
            const PANIC: &str = "panic=abort\n";

            const MANIFEST: &[&str] = &[<__EcaptureModule as $crate::sdk::glue::Bundle>::MANIFEST];
            const BUILD: &[&str] = &[PANIC, BUILD_FACTS];

            #[used]
            #[unsafe(link_section = ".note.ecapture")]
            static MANIFEST_NOTE: Note<{ note_len(MANIFEST) }> =
                Note::new($crate::manifest::elf::NOTE_MANIFEST, MANIFEST);

            #[used]
            #[unsafe(link_section = ".note.ecapture")]
            static BUILD_NOTE: Note<{ note_len(BUILD) }> = Note::new($crate::manifest::elf::NOTE_BUILD, BUILD);

            impl $crate::abi::Exported for __EcaptureModule {
                fn root() -> $crate::abi::ModuleV1_Ref {
                    $crate::sdk::glue::root::<Self>()
                }
            }

            // The one symbol that the host looks for; its name is fixed by abi_stable.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the symbol's name is abi_stable's")]
            pub static _1as_0lib_1header_0root_bmodule_bloader: $crate::abi::abi_stable::library::LibHeader =
                $crate::abi::library_header::<__EcaptureModule>();
        };

        #[cfg(test)]
        #[test]
        fn ecapture_manifest_is_valid() {
            if let Err(why) = $crate::sdk::glue::check_manifest::<__EcaptureModule>() {
                panic!("{why}");
            }
        }
    };
}
