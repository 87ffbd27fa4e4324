//! `ModuleV1` and `HostApiV1`: the two tables of functions. Prefix types: a later minor appends fields, and a side that
//! does not have one yet shows `None` to the other.

use super::{
    data::{ModuleError, TargetV1},
    traits::DecoderBox,
};
use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    package_version_strings,
    sabi_types::VersionStrings,
    std_types::{RResult, RStr, RString},
};

/// What the host offers to a module. Valid for the life of the process.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostApiV1_Ref)), missing_field(option))]
pub struct HostApiV1 {
    /// Writes one log line at a [`log_level`](crate::abi::log_level). The host adds the module's name, escapes the text
    /// and limits its length and rate. An unknown level counts as debug. May be called from every function of a module.
    #[sabi(last_prefix_field)]
    pub log: extern "C" fn(level: u32, text: RStr<'_>),
}

/// The root of a module. Every function catches its own panics and may be called any number of times.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ModuleV1_Ref)), missing_field(option))]
pub struct ModuleV1 {
    /// The manifest's text: must equal the ELF note byte for byte (`E-FORGED` if not).
    pub manifest: extern "C" fn() -> RStr<'static>,

    /// Once a run. Takes [`Config`](crate::plan::Config) as JSON, answers [`Configured`](crate::plan::Configured) as
    /// JSON: cross-field check of the options, which bundled objects and programs, host-wide attachments, host services.
    pub configure: extern "C" fn(host: HostApiV1_Ref, config: RStr<'_>) -> RResult<RString, ModuleError>,

    /// Once per target file, in a throw-away process. Answers [`Detected`](crate::plan::Detected) as JSON: the version
    /// and how it was found, locators for the probes, the layout row.
    pub detect:
        extern "C" fn(host: HostApiV1_Ref, target: &TargetV1<'_>, config: RStr<'_>) -> RResult<RString, ModuleError>,

    /// Once a worker, and again after a decoder failed.
    #[sabi(last_prefix_field)]
    pub new_decoder: extern "C" fn(host: HostApiV1_Ref, config: RStr<'_>) -> RResult<DecoderBox, ModuleError>,
}

impl RootModule for ModuleV1_Ref {
    declare_root_module_statics! {ModuleV1_Ref}
    const BASE_NAME: &'static str = "ecap";
    const NAME: &'static str = "ecapture-module";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
