//! Tests of the columns: against the manifest, and as the host would get them.

use super::*;
use crate::open::{Id, Open, Text};
use ecapture_plugin_api::abi::event_flag;
use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::sdk::testing::{Collected, Column, Event};

#[test]
fn numbers_are_those_of_the_manifest() {
    let manifest = Manifest::parse(include_str!("../module.toml")).unwrap_or_else(|error| panic!("{error}"));
    let event = &manifest.events[usize::from(COMMAND)];
    assert_eq!((event.name.as_str(), manifest.events.len()), ("command", 1));
    let names = [
        (column::TEXT, "ecapture.command.text"),
        (column::EXIT_CODE, "process.exit.code"),
        (column::OUTCOME, "ecapture.outcome"),
        (column::DURATION_NS, "ecapture.duration_ns"),
        (column::SHELL_PID, "ecapture.shell.pid"),
        (column::CONTEXT, "ecapture.shell.context"),
    ];
    for (number, name) in names {
        assert_eq!(event.columns[usize::from(number)].name, name);
    }
    assert_eq!(event.columns.len(), names.len());
}

fn sent(open: Open, outcome: Outcome) -> Event {
    let mut sink = Collected::default();
    let finished = Finished { id: Id { process: 7, start_ns: 1 }, open, outcome, duration_ns: Some(9) };
    emit(&finished, &mut Out::new(&mut sink));
    assert_eq!(sink.events.len(), 1);
    sink.events.remove(0)
}

#[test]
fn a_program() {
    let text = Some(Text { bytes: b"echo \xff".to_vec(), partial: false, missing: 0 });
    let event = sent(Open { text, context: Some("eval"), ..Open::default() }, Outcome::Status(1));
    assert_eq!(event.column(column::TEXT), Some(&Column::Text(b"echo \xff".to_vec())));
    assert_eq!(event.u64(column::EXIT_CODE), Some(1));
    assert_eq!(event.text(column::OUTCOME).as_deref(), Some("error"));
    assert_eq!((event.u64(column::DURATION_NS), event.u64(column::SHELL_PID)), (Some(9), Some(7)));
    assert_eq!(event.text(column::CONTEXT).as_deref(), Some("eval"));
    assert_eq!((event.missing, event.flags), (0, 0));
}

#[test]
fn nothing_to_run_is_no_event() {
    let mut sink = Collected::default();
    let open = Open { text: Some(Text::default()), ..Open::default() };
    let finished =
        Finished { id: Id { process: 7, start_ns: 1 }, open, outcome: Outcome::Status(0), duration_ns: Some(9) };
    emit(&finished, &mut Out::new(&mut sink));
    assert!(sink.events.is_empty(), "{:?}", sink.events);
}

#[test]
fn what_is_not_known_is_not_there() {
    for (outcome, name) in [(Outcome::Running, "running"), (Outcome::Unknown, "unknown")] {
        let event = sent(Open::default(), outcome);
        assert_eq!(event.text(column::OUTCOME).as_deref(), Some(name));
        let absent = [column::TEXT, column::EXIT_CODE, column::CONTEXT];
        assert!(absent.iter().all(|column| event.column(*column).is_none()), "{event:?}");
        assert_eq!(event.flags, event_flag::STATE_LOST);
    }
    let text = Some(Text { bytes: b"ec".to_vec(), partial: true, missing: 3 });
    let event = sent(Open { text, ..Open::default() }, Outcome::Status(0));
    assert_eq!((event.missing, event.flags), (3, event_flag::PARTIAL));
    assert_eq!(event.text(column::OUTCOME).as_deref(), Some("ok"));
}
