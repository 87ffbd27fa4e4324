//! Between the author's traits and the ABI. Every function that crosses the border is here, and each catches panics.

use super::{Decode, Error, Host, Module, Out, Record, Target};
use crate::{
    abi::{
        Decoder, DecoderBox, EventSink_TO, HostApiV1_Ref, ModuleError, ModuleV1, ModuleV1_Ref, NO_RECORD, RecordV1,
        TargetV1, call_error, decoder_box, log_level,
    },
    manifest::Manifest,
    plan::Config,
};
use abi_stable::{
    prefix_type::PrefixTypeTrait,
    sabi_types::RMut,
    std_types::{RErr, ROk, RResult, RSlice, RStr, RString},
};
use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::OnceLock,
};

use crate::abi::abi_stable;

/// What the macro knows: the author's type and the manifest's text.
pub trait Bundle: 'static {
    /// The author's type.
    type Module: Module;
    /// Text of `module.toml`.
    const MANIFEST: &'static str;
    /// Ids of the bundled objects.
    const OBJECTS: &'static [&'static str];
}

/// For the test that the macro adds: the manifest is valid and bundles what it says.
///
/// # Errors
///
/// What is wrong, for the author.
pub fn check_manifest<B: Bundle>() -> Result<(), String> {
    let manifest = Manifest::parse(B::MANIFEST).map_err(|e| e.to_string())?;
    let named: Vec<&str> = manifest.bpf.iter().map(|o| o.id.as_str()).collect();
    for id in B::OBJECTS {
        if !named.contains(id) {
            return Err(format!("export_module! bundles {id:?}, but the manifest has no [[bpf]] with that id"));
        }
    }
    match named.iter().find(|id| !B::OBJECTS.contains(id)) {
        Some(id) => Err(format!("the manifest has [[bpf]] {id:?}, but export_module! does not bundle it")),
        None => Ok(()),
    }
}

/// The table of functions of a module.
pub fn root<B: Bundle>() -> ModuleV1_Ref {
    ModuleV1 {
        manifest: manifest::<B>,
        configure: configure::<B::Module>,
        detect: detect::<B::Module>,
        new_decoder: new_decoder::<B::Module>,
    }
    .leak_into_prefix()
}

extern "C" fn manifest<B: Bundle>() -> RStr<'static> {
    RStr::from_str(B::MANIFEST)
}

extern "C" fn configure<M: Module>(host: HostApiV1_Ref, config: RStr<'_>) -> RResult<RString, ModuleError> {
    cold(host, config, |host, config| M::configure(host, config).map(|answer| answer.to_json().into()))
}

extern "C" fn detect<M: Module>(
    host: HostApiV1_Ref,
    target: &TargetV1<'_>,
    config: RStr<'_>,
) -> RResult<RString, ModuleError> {
    cold(host, config, |host, config| {
        M::detect(host, &Target::from_raw(target), config).map(|answer| answer.to_json().into())
    })
}

extern "C" fn new_decoder<M: Module>(host: HostApiV1_Ref, config: RStr<'_>) -> RResult<DecoderBox, ModuleError> {
    cold(host, config, |host, config| {
        M::decoder(host, config).map(|decoder| decoder_box(Guarded { decoder: Some(decoder), poisoned: false }))
    })
}

fn cold<T>(
    api: HostApiV1_Ref,
    config: RStr<'_>,
    call: impl FnOnce(&Host, &Config) -> Result<T, Error>,
) -> RResult<T, ModuleError> {
    let caught = caught(|| {
        install_hook(api);
        let config = Config::from_json(config.as_str())
            .map_err(|e| failed(call_error::HOST, NO_RECORD, &format!("the host's configuration: {e}")))?;
        call(&Host::new(api), &config).map_err(|e| failed(e.code, NO_RECORD, &e.message))
    });
    match caught {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error),
        Err(panic) => RErr(failed(call_error::PANIC, NO_RECORD, &panic)),
    }
}

/// An author's decoder behind the ABI.
struct Guarded<D: Decode> {
    /// `None` only while it is dropped.
    decoder: Option<D>,
    /// After a panic its state can't be trusted: every further call is refused.
    poisoned: bool,
}

impl<D: Decode> Guarded<D> {
    fn call<T>(
        &mut self,
        record: &Cell<u32>,
        call: impl FnOnce(&mut D) -> Result<T, ModuleError>,
    ) -> RResult<T, ModuleError> {
        let decoder = match &mut self.decoder {
            Some(decoder) if !self.poisoned => decoder,
            _ => return RErr(failed(call_error::POISONED, NO_RECORD, "the decoder has panicked before")),
        };
        match caught(|| call(decoder)) {
            Ok(Ok(value)) => ROk(value),
            Ok(Err(error)) => RErr(error),
            Err(panic) => {
                self.poisoned = true;
                RErr(failed(call_error::PANIC, record.get(), &panic))
            }
        }
    }
}

impl<D: Decode + 'static> Decoder for Guarded<D> {
    fn decode_batch(
        &mut self,
        records: RSlice<'_, RecordV1<'_>>,
        sink: &mut EventSink_TO<'_, RMut<'_, ()>>,
    ) -> RResult<u32, ModuleError> {
        let current = Cell::new(NO_RECORD);
        self.call(&current, |decoder| {
            let mut out = Out::new(sink);
            // A batch has far fewer records than 2^32; the host sends some hundreds.
            for (index, raw) in (0_u32..).zip(records.as_slice()) {
                current.set(index);
                let record = Record::new(raw, index);
                out.set_record(&record);
                if let Err(error) = decoder.decode(&record, &mut out) {
                    out.undecodable(&error.message);
                }
                if out.is_stopped() {
                    return Ok(index + 1);
                }
            }
            Ok(u32::try_from(records.len()).unwrap_or(u32::MAX))
        })
    }

    fn tick(&mut self, now_ns: u64, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError> {
        self.call(&Cell::new(NO_RECORD), |decoder| {
            decoder.tick(now_ns, &mut Out::new(sink)).map_err(|e| failed(e.code, NO_RECORD, &e.message))
        })
    }

    fn finish(&mut self, sink: &mut EventSink_TO<'_, RMut<'_, ()>>) -> RResult<(), ModuleError> {
        self.call(&Cell::new(NO_RECORD), |decoder| {
            decoder.finish(&mut Out::new(sink)).map_err(|e| failed(e.code, NO_RECORD, &e.message))
        })
    }
}

impl<D: Decode> Drop for Guarded<D> {
    fn drop(&mut self) {
        let decoder = self.decoder.take();
        // A panic is logged by the hook; there is nobody to return it to.
        let _ = caught(move || drop(decoder));
    }
}

fn failed(code: u32, record: u32, message: &str) -> ModuleError {
    ModuleError { code, record, message: message.into() }
}

thread_local! {
    /// What the hook saw last on this thread: only the hook knows the place.
    static LAST_PANIC: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `call`, or tells how it panicked.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let text = LAST_PANIC.take().unwrap_or_else(|| payload_text(&*payload).to_owned());
        // A payload of an unknown type may itself panic when it is dropped, and that would cross the border.
        if !(payload.is::<&'static str>() || payload.is::<String>()) {
            std::mem::forget(payload);
        }
        text
    })
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "something that is not text",
    }
}

/// A module has a std of its own, so the host's hook never sees its panics, and std's would write to the worker's
/// stderr. This one logs through the host, once per panic, with the place.
fn install_hook(api: HostApiV1_Ref) {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
            let text = format!("panicked{place}: {}", payload_text(info.payload()));
            api.log()(log_level::ERROR, RStr::from_str(&text));
            LAST_PANIC.set(Some(text));
        }));
    });
}
