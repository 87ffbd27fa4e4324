//! What the author of a module writes: two traits and one macro, in safe Rust.
//!
//! ```
//! use ecapture_plugin_api::sdk::{Config, Configured, Decode, Detected, Error, Host, Module, Out, Record, Target};
//!
//! struct Demo;
//!
//! impl Module for Demo {
//!     type Decoder = Decoder;
//!     fn configure(_: &Host, _: &Config) -> Result<Configured, Error> {
//!         Ok(Configured::default())
//!     }
//!     fn detect(_: &Host, _: &Target<'_>, _: &Config) -> Result<Detected, Error> {
//!         Ok(Detected::unsupported("this is a demonstration"))
//!     }
//!     fn decoder(_: &Host, _: &Config) -> Result<Decoder, Error> {
//!         Ok(Decoder)
//!     }
//! }
//!
//! struct Decoder;
//!
//! impl Decode for Decoder {
//!     fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error> {
//!         out.event(0).text(0, record.data()).emit();
//!         Ok(())
//!     }
//! }
//!
//! const MANIFEST: &str = "..."; // or `manifest = "module.toml"`, beside Cargo.toml
//! ecapture_plugin_api::export_module!(Demo, manifest_text = MANIFEST, objects = { "demo" => b"bytes of demo.bpf.o" });
//! ```
//!
//! Here live the traits, what they are given, the glue between them and [`crate::abi`], and helpers to look into an ELF
//! file ([`elf`]). No type of `abi_stable` is in an author's hands, so that a later ABI can take over with a recompile.

pub mod bounded;
pub mod elf;
mod error;
#[doc(hidden)]
pub mod export;
mod fields;
#[doc(hidden)]
pub mod glue;
mod host;
mod out;
mod record;
pub mod testing;

pub use crate::plan::{
    AttachKind, Attachment, Behind, Config, Configured, Detected, DetectedVersion, GlobalValue, Hex, Locator, Object,
    Probe, ProbeKind, Value, WrapperArgument,
};
pub use error::Error;
pub use fields::Fields;
pub use host::Host;
pub use out::{EventBuilder, Out};
pub use record::{Record, Target};

/// A capture module: the cold path. The functions have no `self`, because each may run in a process of its own.
pub trait Module: 'static {
    /// The event decoder.
    type Decoder: Decode + 'static;

    /// Once a run: checks what the manifest can't say (options that need or exclude each other: answer with
    /// [`Error::option`]), and says what is to be loaded and attached.
    ///
    /// # Errors
    ///
    /// Ends the module's part of the run; the text is shown to the user.
    fn configure(host: &Host, config: &Config) -> Result<Configured, Error>;

    /// Once per target file: finds out the version and where the probes go, from the bytes alone. A file that can't be
    /// captured from is [`Detected::unsupported`], which is no error.
    ///
    /// # Errors
    ///
    /// This file is left out; the text is shown to the user.
    fn detect(host: &Host, target: &Target<'_>, config: &Config) -> Result<Detected, Error>;

    /// Once a worker, and again after a decoder has failed.
    ///
    /// # Errors
    ///
    /// Ends the module's part of the run; the text is shown to the user.
    fn decoder(host: &Host, config: &Config) -> Result<Self::Decoder, Error>;
}

/// An event decoder: the hot path. Called from one thread; its state lives as long as the worker.
pub trait Decode {
    /// Decodes one record.
    ///
    /// # Errors
    ///
    /// This record makes no sense: it is counted as undecodable, what it emitted before stays, and the next record comes.
    fn decode(&mut self, record: &Record<'_>, out: &mut Out<'_>) -> Result<(), Error>;

    /// About every 100 ms, between records: for state that ages. `now_ns` is `CLOCK_MONOTONIC`, no older record will
    /// come.
    ///
    /// # Errors
    ///
    /// Logged; the decoder goes on.
    fn tick(&mut self, now_ns: u64, out: &mut Out<'_>) -> Result<(), Error> {
        let _ = (now_ns, out);
        Ok(())
    }

    /// Once, after the last record of a run: emit what is still held back.
    ///
    /// # Errors
    ///
    /// Logged; the run ends as if all were well.
    fn finish(&mut self, out: &mut Out<'_>) -> Result<(), Error> {
        let _ = out;
        Ok(())
    }
}
