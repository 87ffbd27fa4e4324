//! Holds what a module and the scout answered against the manifest and the objects: what passes is an [`AttachPlan`],
//! plain numbers that can be attached. Pure; a plan that asks for more than the manifest says is `E-PLAN`.

use std::collections::BTreeMap;

use ecapture_plugin_api::manifest::{Manifest, ModeOutput};
use ecapture_plugin_api::plan::{
    AttachKind, Behind, Configured, Detected, GlobalValue, Locator, Probe, ProbeKind, REGISTER_ARGS,
};

use crate::bpf::{ObjectSpec, ProgramKind};
use crate::scout::plan::{Kept, Placed};
use crate::scout::{PointKind, ProbeWanted, ScoutAnswer, ScoutRequest};

/// Places for one target file, at most; a module that wants more has lost its way.
const MAX_POINTS: usize = 4096;

/// What is wrong with a plan. Shown as `E-PLAN: module NAME: ...`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An object that the manifest does not list.
    #[error("it wants the object {0:?}, which its manifest does not list")]
    Object(String),
    /// A program that the object does not have.
    #[error("it wants the program {program:?}, which its object {object:?} does not have")]
    Program {
        /// Id of the object.
        object: String,
        /// Name of the program.
        program: String,
    },
    /// A program used as what it is not.
    #[error("it wants {program:?} as {wanted}, but that program is a {is}")]
    Kind {
        /// Name of the program.
        program: String,
        /// What the plan says.
        wanted: &'static str,
        /// What the object says.
        is: &'static str,
    },
    /// A global that the object does not have, or of another size.
    #[error("it sets the global {name:?} of its object {object:?}: {why}")]
    Global {
        /// Id of the object.
        object: String,
        /// Name of the global.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An attachment that the manifest's permissions do not cover.
    #[error("it wants to attach to {kind} {to:?}, which its manifest's permissions do not list")]
    Attachment {
        /// Kind of attachment.
        kind: &'static str,
        /// Where to.
        to: String,
    },
    /// A service that this host does not offer.
    #[error("it wants the host service {0:?}, which this host does not have")]
    Service(String),
    /// A service that no mode of the manifest speaks of.
    #[error("it wants the host service {0:?}, but no mode of its manifest has the output \"pcapng\"")]
    Undeclared(String),
    /// The layout row does not fit the objects.
    #[error("its layout row has {given} bytes; its objects expect {wanted}")]
    Layout {
        /// What `detect` gave.
        given: usize,
        /// What `ecap_layouts` holds.
        wanted: u32,
    },
    /// The scout could not prove a place that is required.
    #[error("no proven place for {program}: {why}")]
    NotProven {
        /// Name of the program.
        program: String,
        /// The scout's words.
        why: String,
    },
    /// More places than a module may have.
    #[error("it wants {0} places in one file; at most 4096 are allowed")]
    TooMany(usize),
    /// The scout named a place outside the file, or a probe that was not asked for.
    #[error("the scout's answer makes no sense: {0}")]
    Scout(String),
}

/// The host service that captures frames of network interfaces.
pub const PACKETS: &str = "packets";

/// The eBPF objects of a module by id.
pub type Objects = BTreeMap<String, ObjectSpec>;

/// Checks what `configure` answered.
///
/// # Errors
/// The first thing that the manifest or the objects do not cover.
pub fn check_configured(configured: &Configured, manifest: &Manifest, objects: &Objects) -> Result<(), PlanError> {
    for wanted in &configured.objects {
        let object = objects.get(&wanted.id).ok_or_else(|| PlanError::Object(wanted.id.clone()))?;
        for program in &wanted.programs {
            has(object, &wanted.id, program)?;
        }
        for (name, value) in &wanted.globals {
            let error = |why: String| PlanError::Global { object: wanted.id.clone(), name: name.clone(), why };
            // The host's own: a module that could set them would see processes that the user did not ask for.
            if name.starts_with("ecap_") {
                return Err(error("names that begin with ecap_ belong to the host".into()));
            }
            let size = object.global_size(name).ok_or_else(|| error("there is none of that name".into()))?;
            global_bytes(value, size).map_err(error)?;
        }
    }
    for attachment in &configured.attachments {
        let object = objects.get(&attachment.object).ok_or_else(|| PlanError::Object(attachment.object.clone()))?;
        let program = has(object, &attachment.object, &attachment.program)?;
        let (kind, fits) = match attachment.kind {
            AttachKind::TpBtf => ("tp_btf", program == ProgramKind::TpBtf),
            AttachKind::Tracepoint => ("tracepoint", program == ProgramKind::Tracepoint),
            AttachKind::Cgroup => {
                ("cgroup_skb", matches!(program, ProgramKind::CgroupSkbIngress | ProgramKind::CgroupSkbEgress))
            }
        };
        if !fits {
            let program_name = attachment.program.clone();
            return Err(PlanError::Kind { program: program_name, wanted: kind, is: program.name() });
        }
        let name = format!("{kind}/{}", attachment.to);
        if !manifest.permissions.attach.contains(&name) {
            return Err(PlanError::Attachment { kind, to: attachment.to.clone() });
        }
    }
    // Who looks at the manifest sees that a mode captures packets.
    let packets = manifest.modes.iter().any(|m| m.output == Some(ModeOutput::Pcapng));
    match configured.services.iter().find(|service| service.as_str() != PACKETS || !packets) {
        Some(service) if service == PACKETS => Err(PlanError::Undeclared(service.clone())),
        Some(service) => Err(PlanError::Service(service.clone())),
        None => Ok(()),
    }
}

/// The bytes of a global, in the size that the object gives it.
///
/// # Errors
/// Why the value does not fit, in words.
pub fn global_bytes(value: &GlobalValue, size: u64) -> Result<Vec<u8>, String> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let (word, negative) = match value {
        GlobalValue::Bytes(bytes) if bytes.0.len() == size => return Ok(bytes.0.clone()),
        GlobalValue::Bytes(bytes) => return Err(format!("it has {size} bytes, {} were given", bytes.0.len())),
        GlobalValue::Unsigned(n) => (*n, false),
        GlobalValue::Signed(n) => (n.cast_unsigned(), *n < 0),
    };
    let (kept, cut) = word
        .to_le_bytes()
        .split_at_checked(size)
        .map_or((word.to_le_bytes().to_vec(), Vec::new()), |(a, b)| (a.to_vec(), b.to_vec()));
    let fill = if negative { 0xff } else { 0 };
    let sign_fits = !negative || kept.last().is_some_and(|b| b & 0x80 != 0);
    if size > 8 || !matches!(size, 1 | 2 | 4 | 8) || cut.iter().any(|b| *b != fill) || !sign_fits {
        return Err(format!("it has {size} bytes, which do not hold this number"));
    }
    Ok(kept)
}

/// What the scout is to place for one target.
///
/// # Errors
/// A probe on an object or program that is not there, or that is not what the probe says.
pub fn request(detected: &Detected, configured: &Configured, objects: &Objects) -> Result<ScoutRequest, PlanError> {
    let mut probes = Vec::with_capacity(detected.probes.len());
    for (index, probe) in (0..).zip(&detected.probes) {
        if !configured.objects.iter().any(|o| o.id == probe.object) {
            return Err(PlanError::Object(probe.object.clone()));
        }
        let object = objects.get(&probe.object).ok_or_else(|| PlanError::Object(probe.object.clone()))?;
        let is = has(object, &probe.object, &probe.program)?;
        let (wanted, name) = match probe.kind {
            ProbeKind::Entry => (ProgramKind::Uprobe, "an entry probe"),
            ProbeKind::Return => (ProgramKind::Uretprobe, "a return probe"),
            ProbeKind::Exit => (ProgramKind::Uprobe, "a probe at exits"),
        };
        if is != wanted {
            return Err(PlanError::Kind { program: probe.program.clone(), wanted: name, is: is.name() });
        }
        let exit_ok = object.programs.get(&exit_program(&probe.program)).is_some_and(|p| p.kind == ProgramKind::Uprobe);
        probes.push(ProbeWanted { index, kind: probe.kind, at: probe.at.clone(), args: probe.args, exit_ok });
    }
    Ok(ScoutRequest { probes })
}

/// One program at some places of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Id of the object.
    pub object: String,
    /// Name of the program.
    pub program: String,
    /// File offsets, proven by the scout.
    pub offsets: Vec<u64>,
    /// High half of the cookie.
    pub arg: u32,
    /// A return probe: these are attached first, so that no call is seen to begin without being seen to end.
    pub is_return: bool,
}

/// Everything that is attached to one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachPlan {
    /// Return probes first.
    pub placements: Vec<Placement>,
    /// The file's row in `ecap_layouts`; empty: none.
    pub layout: Vec<u8>,
    /// What could not be placed and need not be.
    pub notes: Vec<String>,
}

/// Joins what the module wants with what the scout has proven.
///
/// # Errors
/// A required probe without a proven place; an answer that does not fit the question.
pub fn place(
    detected: &Detected,
    answer: &ScoutAnswer,
    file_size: u64,
    layout_size: Option<u32>,
) -> Result<AttachPlan, PlanError> {
    let mut plan = AttachPlan { layout: detected.layout.0.clone(), ..AttachPlan::default() };
    if let Some(wanted) = layout_size.filter(|wanted| !plan.layout.is_empty() && plan.layout.len() != *wanted as usize)
    {
        return Err(PlanError::Layout { given: plan.layout.len(), wanted });
    }
    if layout_size.is_none() && !plan.layout.is_empty() {
        return Err(PlanError::Layout { given: plan.layout.len(), wanted: 0 });
    }
    let why = |index: u32| {
        let failed = answer.failed.iter().find(|f| f.index == index).map(|f| f.why.clone());
        failed.unwrap_or_else(|| "the scout does not mention it".into())
    };
    let placed = |index: u32| answer.placed.iter().find(|p| p.index == index);
    let mut count = 0;
    for (index, probe) in (0..).zip(&detected.probes) {
        if not_needed(detected, answer, probe).is_some() {
            continue;
        }
        // A group is attached as a whole or not at all.
        let missing = (0..)
            .zip(&detected.probes)
            .find(|(i, p)| (*i == index || (p.group.is_some() && p.group == probe.group)) && placed(*i).is_none());
        let Some(place) = placed(index).filter(|_| missing.is_none()) else {
            let (at, culprit) = missing.unwrap_or((index, probe));
            if probe.required {
                return Err(PlanError::NotProven { program: culprit.program.clone(), why: why(at) });
            }
            plan.notes.push(format!("{} is left out: {}", probe.program, why(at)));
            continue;
        };
        count += place.points.len();
        if count > MAX_POINTS {
            return Err(PlanError::TooMany(count));
        }
        if let Some(point) = place.points.iter().find(|p| p.offset >= file_size) {
            return Err(PlanError::Scout(format!("offset {:#x} lies outside the file", point.offset)));
        }
        let kinds: Vec<PointKind> = place.points.iter().map(|p| p.kind).collect();
        let (program, is_return) = match (probe.kind, kinds.as_slice()) {
            (ProbeKind::Entry, [PointKind::Entry]) => (probe.program.clone(), false),
            (ProbeKind::Return, [PointKind::Return]) => (probe.program.clone(), true),
            (ProbeKind::Return, [_, ..]) if kinds.iter().all(|k| *k == PointKind::Exit) => {
                (exit_program(&probe.program), true)
            }
            (ProbeKind::Exit, [_, ..]) if kinds.iter().all(|k| *k == PointKind::Exit) => (probe.program.clone(), true),
            _ => return Err(PlanError::Scout(format!("{}: {kinds:?} for a {:?}", probe.program, probe.kind))),
        };
        let offsets = place.points.iter().map(|p| p.offset).collect();
        let numbers = match probe.kind {
            ProbeKind::Exit => vec![exit_number(probe, place)?],
            _ if wants_field(probe) => field_numbers(probe, place)?,
            _ => vec![number(probe, place.out)?],
        };
        count += place.points.len() * (numbers.len() - 1);
        let placement = Placement { object: probe.object.clone(), program, offsets, arg: 0, is_return };
        plan.placements.extend(numbers.into_iter().map(|arg| Placement { arg, ..placement.clone() }));
    }
    plan.placements.sort_by_key(|p| !p.is_return);
    Ok(plan)
}

/// The group that this probe's group stands in for, if that one is attached: then this one is not.
#[must_use]
pub fn not_needed<'d>(detected: &'d Detected, answer: &ScoutAnswer, probe: &Probe) -> Option<&'d str> {
    let other = probe.group.as_ref().and_then(|group| detected.fallbacks.get(group))?;
    let mut of_other = (0..).zip(&detected.probes).filter(|(_, p)| p.group.as_ref() == Some(other));
    of_other.all(|(index, _)| answer.placed.iter().any(|p| p.index == index)).then_some(other)
}

/// The probe's number as its program sees it: with the position of an argument in the top 8 bits, if the module wants one.
fn number(probe: &Probe, position: Option<u8>) -> Result<u32, PlanError> {
    let wanted = matches!(&probe.at, Locator::Behind(Behind { out: Some(_), .. }));
    match (wanted, position) {
        (false, None) => Ok(probe.arg),
        (true, Some(position)) if position < REGISTER_ARGS && probe.arg >> 24 == 0 => {
            Ok(probe.arg | u32::from(position) << 24)
        }
        _ => {
            let words = position.map_or("none".to_owned(), |position| position.to_string());
            Err(PlanError::Scout(format!("{}: position {words} of an argument", probe.program)))
        }
    }
}

fn wants_field(probe: &Probe) -> bool {
    matches!(&probe.at, Locator::CalleeOfStrings { field: Some(_), .. })
}

/// The probe's numbers where the module wants a field's place: all of each is that.
fn field_numbers(probe: &Probe, place: &Placed) -> Result<Vec<u32>, PlanError> {
    let most = match &probe.at {
        Locator::CalleeOfStrings { field: Some(field), .. } => usize::from(field.most),
        _ => 0,
    };
    let numbers = match (place.field, place.handed) {
        _ if probe.arg != 0 || place.out.is_some() || place.fields.len() >= most => None,
        (Some(_), Some(handed)) if place.fields.is_empty() => handed.number().map(|number| vec![number]),
        (Some(field), None) if place.fields.is_empty() => field.number().map(|number| vec![number]),
        (Some(field), None) => {
            let all = std::iter::once(&field).chain(&place.fields);
            all.map(|field| field.number_of_several()).collect()
        }
        _ => None,
    };
    numbers.ok_or_else(|| {
        let places = (place.field, &place.fields);
        PlanError::Scout(format!("{}: no place {places:?} of a field", probe.program))
    })
}

/// The number of a probe at exits: where value and arguments are.
fn exit_number(probe: &Probe, place: &Placed) -> Result<u32, PlanError> {
    let kept = place.kept.as_ref().filter(|kept| kept.args.len() == usize::from(probe.args) && probe.arg == 0);
    let number = kept.and_then(Kept::number);
    number.ok_or_else(|| PlanError::Scout(format!("{}: {:?} at exits", probe.program, place.kept)))
}

/// The twin of a return program that takes exit points.
fn exit_program(program: &str) -> String {
    format!("{program}__exit")
}

fn has(object: &ObjectSpec, id: &str, program: &str) -> Result<ProgramKind, PlanError> {
    let error = || PlanError::Program { object: id.into(), program: program.into() };
    object.programs.get(program).map(|p| p.kind).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use ecapture_plugin_api::plan::WrapperArgument;

    use super::*;

    fn probe(out: bool, arg: u32) -> Probe {
        let out = out.then(|| WrapperArgument { wrapper: "w".into(), argument: 3 });
        Probe {
            object: "o".into(),
            program: "p".into(),
            kind: ProbeKind::Entry,
            at: Locator::Behind(Behind { wrappers: vec!["w".into()], args: 3, buffer: 1, out }),
            args: 3,
            arg,
            required: true,
            group: None,
        }
    }

    #[test]
    fn a_group_that_stands_in_for_another_is_attached_only_without_it() {
        let of = |program: &str, group: &str| Probe {
            program: program.into(),
            at: Locator::Symbol("f".into()),
            required: false,
            group: Some(group.into()),
            ..probe(false, 0)
        };
        let detected = Detected {
            probes: vec![of("best", "best"), of("best_too", "best"), of("other", "other"), of("own", "own")],
            fallbacks: [("other".to_owned(), "best".to_owned())].into(),
            ..Detected::default()
        };
        let answer = |indices: &[u32]| ScoutAnswer {
            placed: indices
                .iter()
                .map(|index| Placed {
                    index: *index,
                    points: vec![crate::scout::plan::Point { offset: 8, kind: PointKind::Entry }],
                    function: String::new(),
                    function_offset: 8,
                    delta: 0,
                    cost: crate::scout::plan::Cost::Emulated,
                    instruction: String::new(),
                    why: String::new(),
                    found: None,
                    out: None,
                    field: None,
                    fields: Vec::new(),
                    handed: None,
                    kept: None,
                })
                .collect(),
            ..ScoutAnswer::default()
        };
        let attached = |indices: &[u32]| {
            let plan = place(&detected, &answer(indices), 100, None).unwrap();
            let programs: Vec<String> = plan.placements.into_iter().map(|p| p.program).collect();
            programs.join(" ")
        };
        assert_eq!(attached(&[0, 1, 2, 3]), "best best_too own");
        assert_eq!(attached(&[0, 2, 3]), "other own");
        assert_eq!(attached(&[0, 1]), "best best_too");
        assert_eq!(attached(&[3]), "own");
    }

    #[test]
    fn a_field_is_the_number_when_it_was_asked_for() {
        use crate::scout::plan::{Cost, FieldAt, Handed};
        let field = Some(ecapture_plugin_api::plan::Field { argument: 0, bytes: 32, most: 2 });
        let at = Locator::CalleeOfStrings { strings: vec!["s".into()], min: 1, field };
        let probe = Probe { at, ..probe(false, 0) };
        assert!(wants_field(&probe));
        let place = |field| Placed {
            index: 0,
            points: Vec::new(),
            function: String::new(),
            found: None,
            out: None,
            field,
            fields: Vec::new(),
            handed: None,
            kept: None,
            function_offset: 0,
            delta: 0,
            cost: Cost::Emulated,
            instruction: String::new(),
            why: String::new(),
        };
        let number = |field| field_numbers(&probe, &place(field)).map(|numbers| numbers[0]);
        assert_eq!(number(Some(FieldAt { through: None, at: 0x160 })), Ok(0x160));
        assert_eq!(number(Some(FieldAt { through: Some(0), at: 0xffff })), Ok(0x1_ffff));
        for bad in [None, Some(FieldAt { through: Some(0x7fff), at: 0 })] {
            assert!(matches!(number(bad), Err(PlanError::Scout(_))));
        }
        let handed = |args, field| {
            let place = place(Some(FieldAt { through: None, at: 0x160 }));
            field_numbers(&probe, &Placed { handed: Some(Handed { args, field }), ..place }).map(|numbers| numbers[0])
        };
        assert_eq!(handed([1, 0, 4, 5, 0, 0], 2), Ok(1 << 31 | 2 << 18 | 5 << 9 | 4 << 6 | 1));
        assert!(handed([1, 0, 4, 6, 0, 0], 2).is_err() && handed([0; 6], 6).is_err());
        let several = |through, at, count| {
            let other = FieldAt { through, at };
            let place = place(Some(FieldAt { through: None, at: 0x160 }));
            field_numbers(&probe, &Placed { fields: vec![other; count], ..place })
        };
        assert_eq!(several(Some(8), 0xcf0, 1), Ok(vec![1 << 30 | 0x160, 1 << 30 | 9 << 16 | 0xcf0]));
        assert!(several(None, 0xcf0, 2).is_err(), "more than the module takes");
        assert!(several(Some(0x3fff), 0, 1).is_err(), "too far");
    }

    #[test]
    fn a_position_is_part_of_the_number_only_when_it_was_asked_for_and_makes_sense() {
        assert_eq!(number(&probe(true, 0x00ff_fff1), Some(4)), Ok(0x04ff_fff1));
        assert_eq!(number(&probe(true, 7), Some(0)), Ok(7));
        assert_eq!(number(&probe(false, 0xf000_0001), None), Ok(0xf000_0001));
        for (out, arg, position) in
            [(true, 0, None), (true, 0, Some(6)), (true, 0, Some(255)), (false, 0, Some(3)), (true, 1 << 24, Some(3))]
        {
            let error = number(&probe(out, arg), position).expect_err("refused");
            assert!(matches!(error, PlanError::Scout(_)), "{error}");
        }
    }
}
