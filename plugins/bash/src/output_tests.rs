//! Tests of the columns: against the manifest, and as the host would get them.

use super::*;
use crate::decode::Finished;
use crate::open::Open;
use crate::record::Id;
use ecapture_plugin_api::manifest::Manifest;
use ecapture_plugin_api::sdk::testing::{Collected, Column, Event as Sent};

const MANIFEST: &str = include_str!("../module.toml");

#[test]
fn numbers_are_those_of_the_manifest() {
    let manifest = Manifest::parse(MANIFEST).unwrap_or_else(|error| panic!("{error}"));
    let event = |number: u16| &manifest.events[usize::from(number)];
    let column =
        |event: u16, number: u16| manifest.events[usize::from(event)].columns[usize::from(number)].name.as_str();
    assert_eq!(event(command::EVENT).name, "command");
    let names = [
        (command::TEXT, "ecapture.command.text"),
        (command::ARGS, "process.command_args"),
        (command::EXIT_CODE, "process.exit.code"),
        (command::OUTCOME, "ecapture.outcome"),
        (command::DURATION_NS, "ecapture.duration_ns"),
        (command::SHELL_PID, "ecapture.shell.pid"),
        (command::BACKGROUND, "ecapture.command.background"),
        (command::PIPELINE, "ecapture.command.pipeline"),
    ];
    for (number, name) in names {
        assert_eq!(column(command::EVENT, number), name);
    }
    assert_eq!(event(command::EVENT).columns.len(), names.len());
    assert_eq!(event(line::EVENT).name, "line");
    assert_eq!(column(line::EVENT, line::TEXT), "ecapture.line.text");
    assert_eq!(column(line::EVENT, line::READER), "ecapture.line.reader");
    assert_eq!(event(line::EVENT).columns.len(), 2);
}

fn sent(event: &Event<'_>) -> Sent {
    let mut sink = Collected::default();
    emit(event, &mut Out::new(&mut sink));
    assert_eq!(sink.events.len(), 1);
    sink.events.remove(0)
}

fn text(bytes: &[u8], missing: u64) -> Option<Text> {
    Some(Text { bytes: bytes.into(), missing })
}

#[test]
fn a_program_in_the_background() {
    let open = Open {
        text: text(b"cp \xff \"$x\" &", 0),
        args: text(b"cp\0\xff\0\0", 2),
        flags: flag::BACKGROUND,
        ..Open::default()
    };
    let id = Id { process: 7, start_ns: 1 };
    let event = sent(&Event::Command(Finished { id, open, outcome: Outcome::Status(1), duration_ns: Some(9) }));
    assert_eq!(event.column(command::TEXT), Some(&Column::Text(b"cp \xff \"$x\" &".to_vec())));
    // The last argument is empty.
    assert_eq!(event.column(command::ARGS), Some(&Column::Text(b"cp\0\xff\0".to_vec())));
    assert_eq!(event.u64(command::EXIT_CODE), Some(1));
    assert_eq!(event.text(command::OUTCOME).as_deref(), Some("error"));
    assert_eq!(event.u64(command::DURATION_NS), Some(9));
    assert_eq!(event.u64(command::SHELL_PID), Some(7));
    assert_eq!(event.column(command::BACKGROUND), Some(&Column::Bool(true)));
    assert_eq!(event.column(command::PIPELINE), None);
    assert_eq!(event.missing, 2);
}

#[test]
fn what_is_not_known_is_not_there() {
    for (outcome, name) in [(Outcome::Aborted, "aborted"), (Outcome::Running, "running"), (Outcome::Unknown, "unknown")]
    {
        let id = Id { process: 7, start_ns: 1 };
        let event = sent(&Event::Command(Finished { id, open: Open::default(), outcome, duration_ns: None }));
        assert_eq!(event.text(command::OUTCOME).as_deref(), Some(name));
        let absent = [command::TEXT, command::ARGS, command::EXIT_CODE, command::DURATION_NS, command::PIPELINE];
        assert!(absent.iter().all(|column| event.column(*column).is_none()), "{event:?}");
        assert_ne!(event.flags & ecapture_plugin_api::abi::event_flag::STATE_LOST, 0, "its text was lost");
    }
}

#[test]
fn lines() {
    let shown = |flags| sent(&Event::Line { flags, text: Bytes { bytes: b"ls", missing: 0 } });
    assert_eq!(shown(0).text(line::TEXT).as_deref(), Some("ls"));
    assert_eq!(shown(0).text(line::READER).as_deref(), Some("prompt"));
    assert_eq!(shown(flag::READ).text(line::READER).as_deref(), Some("builtin"));
}

#[test]
fn an_event_is_never_larger_than_the_host_takes() {
    let id = Id { process: 7, start_ns: 1 };
    for (text_len, args_len) in [(MOST - 10, 20), (MOST, 1), (MOST + 5, 0), (3, MOST)] {
        let open =
            Open { text: text(&vec![b'x'; text_len], 1), args: text(&vec![b'y'; args_len], 2), ..Open::default() };
        let event = sent(&Event::Command(Finished { id, open, outcome: Outcome::Status(0), duration_ns: None }));
        let shown = |column| event.text(column).map_or(0, |text| text.len());
        assert_eq!(shown(command::TEXT), text_len.min(MOST));
        assert_eq!(shown(command::TEXT) + shown(command::ARGS), MOST);
        assert_eq!(event.missing, (text_len + args_len - MOST) as u64 + 3);
    }
    let line = vec![b'x'; MOST + 7];
    let event = sent(&Event::Line { flags: 0, text: Bytes { bytes: &line, missing: 1 } });
    assert_eq!((event.text(line::TEXT).map(|text| text.len()), event.missing), (Some(MOST), 8));
}
