//! The listing of everything that is frozen, as text: `abi-listing.txt` beside `Cargo.toml`, compared with the code.

use super::{
    API_VERSION, Decoder_TO, EventSink_TO, EventV1, ModuleError, ModuleV1_Ref, NO_RECORD, RecordV1, ValueV1,
    call_error, event_flag, log_level, record_flag, role, value_kind,
};
use abi_stable::{
    StableAbi,
    sabi_types::RMut,
    std_types::{RBox, utypeid::UTypeId},
    type_layout::{TLData, TLField, TLFunction, TypeLayout},
};
use std::{collections::BTreeMap, fmt::Write, iter};

/// Every type of this crate that can be reached from `ModuleV1`, with the order of its fields or functions, and the
/// constants.
fn listing() -> String {
    let mut types = BTreeMap::new();
    let roots = [
        <ModuleV1_Ref as StableAbi>::LAYOUT,
        <Decoder_TO<'static, RBox<()>> as StableAbi>::LAYOUT,
        <EventSink_TO<'static, RMut<'static, ()>> as StableAbi>::LAYOUT,
        <ModuleError as StableAbi>::LAYOUT,
        <EventV1<'static> as StableAbi>::LAYOUT,
        <RecordV1<'static> as StableAbi>::LAYOUT,
        <ValueV1<'static> as StableAbi>::LAYOUT,
    ];
    let mut seen = Vec::new();
    roots.into_iter().for_each(|root| reach(root, &mut seen, &mut types));
    let mut out = format!("ecapture module API {API_VERSION}\n");
    for (name, text) in types {
        let _ = write!(out, "\n{name}{text}");
    }
    constants(&mut out);
    out
}

fn reach(layout: &'static TypeLayout, seen: &mut Vec<UTypeId>, types: &mut BTreeMap<String, String>) {
    let name = layout.full_type().to_string();
    // Not by name: a generic type has one name for all its instances.
    if seen.contains(&layout.get_utypeid()) {
        return;
    }
    seen.push(layout.get_utypeid());
    let (mut suffix, fields) = match layout.data() {
        TLData::Struct { fields } => (None, fields.to_vec()),
        TLData::PrefixType(prefix) => (Some(usize::from(prefix.first_suffix_field)), prefix.fields.to_vec()),
        TLData::Enum(variants) => (None, variants.fields.to_vec()),
        TLData::Primitive(_) | TLData::Opaque | TLData::Union { .. } => (None, Vec::new()),
    };
    if layout.package().as_str() == env!("CARGO_PKG_NAME") {
        let mut text = format!(": size {} align {}", layout.size(), layout.alignment());
        if let Some(prefix) = suffix.take() {
            let _ = write!(text, ", prefix type, the first {prefix} always there");
        }
        text.push('\n');
        let mut offset = 0_usize;
        for field in &fields {
            offset = offset.next_multiple_of(field.layout().alignment());
            let _ = writeln!(text, "  {offset:3} {}", shown(field));
            offset += field.layout().size();
        }
        types.insert(format!("{}::{name}", layout.mod_path()), text);
    }
    let phantom = layout.phantom_fields().to_vec();
    for field in fields.iter().chain(&phantom) {
        reach(field.layout(), seen, types);
        for function in field.function_range().iter() {
            parts(&function).for_each(|layout| reach(layout, seen, types));
        }
    }
}

fn parts(function: &TLFunction) -> impl Iterator<Item = &'static TypeLayout> {
    let returned = function.return_type_layout().map(|layout| layout());
    function.param_type_layouts.iter().map(|layout| layout()).chain(returned).collect::<Vec<_>>().into_iter()
}

fn shown(field: &TLField) -> String {
    let signature = |f: TLFunction| {
        let types: Vec<String> = f.param_type_layouts.iter().map(|layout| layout().full_type().to_string()).collect();
        let returned = f.return_type_layout().map_or_else(|| "()".to_owned(), |l| l().full_type().to_string());
        format!("fn({}) -> {returned}", types.join(", "))
    };
    let functions: Vec<String> = field.function_range().iter().map(signature).collect();
    let kind = if functions.is_empty() { field.full_type().to_string() } else { functions.join("; ") };
    format!("{}: {}", field.name(), kind.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn constants(out: &mut String) {
    let groups: [(&str, &[(&str, u32)]); 6] = [
        (
            "record_flag",
            &[
                ("PARTIAL", record_flag::PARTIAL as u32),
                ("CUT", record_flag::CUT as u32),
                ("RESTARTED", record_flag::RESTARTED as u32),
            ],
        ),
        (
            "value_kind",
            &[
                ("U64", value_kind::U64 as u32),
                ("I64", value_kind::I64 as u32),
                ("BOOL", value_kind::BOOL as u32),
                ("TEXT", value_kind::TEXT as u32),
                ("BYTES", value_kind::BYTES as u32),
                ("F64", value_kind::F64 as u32),
            ],
        ),
        (
            "role",
            &[
                ("OUTPUT", role::OUTPUT as u32),
                ("STREAM", role::STREAM as u32),
                ("CONNECTION", role::CONNECTION as u32),
                ("SECRET", role::SECRET as u32),
            ],
        ),
        ("event_flag", &[("PARTIAL", event_flag::PARTIAL), ("STATE_LOST", event_flag::STATE_LOST)]),
        (
            "log_level",
            &[
                ("ERROR", log_level::ERROR),
                ("WARN", log_level::WARN),
                ("INFO", log_level::INFO),
                ("DEBUG", log_level::DEBUG),
                ("TRACE", log_level::TRACE),
            ],
        ),
        (
            "call_error",
            &[
                ("MODULE", call_error::MODULE),
                ("PANIC", call_error::PANIC),
                ("POISONED", call_error::POISONED),
                ("HOST", call_error::HOST),
                ("CONFIG", call_error::CONFIG),
            ],
        ),
    ];
    for (group, values) in groups.into_iter().chain(iter::once(("record", &[("NO_RECORD", NO_RECORD)][..]))) {
        let _ = writeln!(out, "\n{group}");
        for (name, value) in values {
            let _ = writeln!(out, "  {name} = {value}");
        }
    }
}

/// Set `ECAPTURE_BLESS=1` to write the file anew; look at the difference before it is committed: only additions behind
/// what is there are compatible.
#[test]
fn the_abi_is_the_listed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/abi-listing.txt");
    let now = listing();
    if std::env::var_os("ECAPTURE_BLESS").is_some() {
        std::fs::write(path, &now).expect("writable");
    }
    let listed = std::fs::read_to_string(path).expect("abi-listing.txt is there");
    assert!(now == listed, "the ABI has changed; is the change compatible? Now:\n{now}");
}
