//! A module as cargo built it, loaded and used through its interface only, as the host does it. Where something that is asked of it
//! goes wrong, the test fails with the reason.

use super::{Collected, record};
use crate::abi::{
    HostApiV1, HostApiV1_Ref, ModuleError, ModuleV1_Ref, TargetV1,
    abi_stable::{
        prefix_type::PrefixTypeTrait,
        std_types::{RResult, RSlice, RStr, RString},
    },
    load, sink_mut,
};
use crate::manifest::{Manifest, elf::ModuleNotes};
use crate::plan::{Config, Configured, Detected};
use std::path::PathBuf;

/// A loaded module.
pub struct Built {
    bytes: Vec<u8>,
    module: ModuleV1_Ref,
}

/// What came of records.
#[derive(Debug, Default)]
pub struct Decoded {
    /// After the last record.
    pub decoded: Collected,
    /// With what the end of the capture added.
    pub finished: Collected,
}

extern "C" fn log(_: u32, _: RStr<'_>) {}

fn host() -> HostApiV1_Ref {
    HostApiV1 { log }.leak_into_prefix()
}

fn message(error: ModuleError) -> String {
    error.message.into_string()
}

fn text(result: RResult<RString, ModuleError>) -> Result<String, String> {
    result.into_result().map(RString::into_string).map_err(message)
}

impl Built {
    /// Loads `libecap_NAME.so`, which cargo builds with a test: it lies beside the test's program, or one folder up.
    ///
    /// # Panics
    ///
    /// If there is no such file, or the host would not load it.
    pub fn load(name: &str) -> Self {
        let file = format!("libecap_{name}.so");
        let program = std::env::current_exe().expect("path of the test's program");
        let folders = program.ancestors().skip(1).take(2);
        let found: Option<PathBuf> = folders.map(|folder| folder.join(&file)).find(|path| path.is_file());
        let path = found.unwrap_or_else(|| panic!("no {file} beside {} or one folder up", program.display()));
        let bytes = std::fs::read(&path).expect("a library that can be read");
        let module = load(&path).unwrap_or_else(|error| panic!("{error}\n{}", error.detail));
        Self { bytes, module }
    }

    /// The file's contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the file says of itself without being run.
    ///
    /// # Panics
    ///
    /// If the host could not read it.
    pub fn notes(&self) -> ModuleNotes<'_> {
        ModuleNotes::read(&self.bytes).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The manifest, which the file holds and the loaded module tells alike.
    ///
    /// # Panics
    ///
    /// If they differ, or the host would not take it.
    pub fn manifest(&self) -> Manifest {
        let told = self.module.manifest()();
        assert_eq!(self.notes().manifest, told.as_str());
        Manifest::parse(told.as_str()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks what to load and to attach.
    ///
    /// # Errors
    ///
    /// The module's, in words.
    ///
    /// # Panics
    ///
    /// If the host would not take the answer.
    pub fn configure(&self, config: &Config) -> Result<Configured, String> {
        let answer = text(self.module.configure()(host(), config.to_json().as_str().into()))?;
        Ok(Configured::from_json(&answer).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    /// Has it look at a target's `bytes`.
    ///
    /// # Errors
    ///
    /// The module's, in words.
    ///
    /// # Panics
    ///
    /// If the host would not take the answer.
    pub fn detect(&self, path: &str, bytes: &[u8], config: &Config) -> Result<Detected, String> {
        let target =
            TargetV1 { number: 1, reserved0: 0, path: path.into(), bytes: RSlice::from_slice(bytes), reserved: [0; 4] };
        let answer = text(self.module.detect()(host(), &target, config.to_json().as_str().into()))?;
        Ok(Detected::from_json(&answer).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    /// Has a new decoder take records in one batch and then end.
    ///
    /// # Errors
    ///
    /// The module's, in words.
    ///
    /// # Panics
    ///
    /// If the decoder did not take every record.
    pub fn decode(&self, config: &Config, records: &[&[u8]]) -> Result<Decoded, String> {
        let mut decoder =
            self.module.new_decoder()(host(), config.to_json().as_str().into()).into_result().map_err(message)?;
        let records: Vec<_> = records.iter().map(|data| record(data)).collect();
        let mut sink = Collected::default();
        let taken = decoder.decode_batch(RSlice::from_slice(&records), &mut sink_mut(&mut sink)).into_result();
        assert_eq!(taken.map_err(message)? as usize, records.len(), "records taken");
        let decoded = sink.clone();
        decoder.finish(&mut sink_mut(&mut sink)).into_result().map_err(message)?;
        Ok(Decoded { decoded, finished: sink })
    }
}
