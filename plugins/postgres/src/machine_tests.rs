use super::*;
use proptest::prelude::*;

/// Records of one connection, in the kernel side's layout.
struct Backend {
    process: u32,
    sequence: u64,
    time_ns: u64,
    records: Vec<(u64, Vec<u8>)>,
}

const IDLE: (u8, &[u8]) = (b'Z', b"I");

impl Backend {
    fn new(process: u32) -> Self {
        let mut backend = Self { process, sequence: 0, time_ns: 100, records: Vec::new() };
        let mut packet = (3_u32 << 16).to_be_bytes().to_vec();
        packet.extend(b"user\0ann\0database\0shop\0application_name\0till\0\0");
        let length = u32::try_from(packet.len() + 4).unwrap();
        backend.asked(3, &[&length.to_be_bytes()[..], &packet].concat());
        backend.told(&[IDLE]);
        backend
    }

    fn head(&mut self, kind: u32, flags: u32) -> Vec<u8> {
        self.sequence += 1;
        self.time_ns += 10;
        let mut data = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
        data.extend([0; 16]);
        data.extend(self.sequence.to_le_bytes());
        data
    }

    fn asked(&mut self, flags: u32, bytes: &[u8]) {
        let mut data = self.head(1, flags);
        data.extend([0; 40]);
        data.extend(bytes);
        self.records.push((self.time_ns, data));
    }

    fn says(&mut self, messages: &[(u8, &[u8])]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        self.asked(1, &bytes);
    }

    fn told(&mut self, entries: &[(u8, &[u8])]) {
        let mut data = self.head(2, 0);
        for (kind, body) in entries {
            data.extend([*kind, 0]);
            data.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
            data.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            data.extend(*body);
            data.resize(data.len().next_multiple_of(8), 0);
        }
        self.records.push((self.time_ns, data));
    }

    fn ended(&mut self) {
        let data = self.head(3, 0);
        self.records.push((self.time_ns, data));
    }

    fn events(&self) -> Vec<Finished> {
        self.events_of(&mut Machine::new(1 << 20))
    }

    fn events_of(&self, machine: &mut Machine) -> Vec<Finished> {
        let mut all = Vec::new();
        for (time_ns, data) in &self.records {
            let message = Message { stream: 0, process: self.process, time_ns: *time_ns, restarted: false, data };
            machine.message(&message, &mut |finished| all.push(finished)).unwrap();
        }
        machine.finish(&mut |finished| all.push(finished));
        all
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn rows(count: u64) -> Vec<u8> {
    [count.to_le_bytes(), (count * 20).to_le_bytes()].concat()
}

fn text(finished: &Finished) -> String {
    finished.text.as_ref().map_or_else(String::new, |text| String::from_utf8_lossy(&text.bytes).into_owned())
}

fn shown(events: &[Finished]) -> Vec<(Kind, Outcome, String)> {
    events.iter().map(|event| (event.kind, event.outcome, text(event))).collect()
}

#[test]
fn a_session_from_hello_to_good_bye() {
    let mut backend = Backend::new(7);
    backend.says(&[(b'Q', b"select 1\0")]);
    backend.told(&[(b'T', b""), (b'D', &rows(3)), (b'C', b"SELECT 3\0"), IDLE]);
    backend.says(&[(b'X', b"")]);
    backend.ended();
    let mut machine = Machine::new(1 << 20);
    let events = backend.events_of(&mut machine);
    assert_eq!(
        shown(&events),
        [
            (Kind::Connect, Outcome::Ok, String::new()),
            (Kind::Query, Outcome::Ok, "select 1".into()),
            (Kind::Quit, Outcome::Ok, String::new())
        ]
    );
    let query = &events[1];
    assert_eq!((query.answer.rows, query.duration_ns), (Some(3), Some(10)));
    assert_eq!(query.client.user.as_deref(), Some(&b"ann"[..]));
    assert_eq!(query.client.database.as_deref(), Some(&b"shop"[..]));
    assert_eq!(query.client.application.as_deref(), Some(&b"till"[..]));
    assert_eq!(machine.connections(), 0);
}

const PARSE: (u8, &[u8]) = (b'P', b"\0select $1\0\0\x01\0\0\0\x17");
const BIND: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\x01\0\0\0\x015\0\0");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
const SYNC: (u8, &[u8]) = (b'S', b"");

#[test]
fn a_batch_is_matched_by_its_order() {
    let mut backend = Backend::new(7);
    backend.says(&[PARSE, BIND, (b'D', b"P\0"), EXECUTE, BIND, (b'E', b"\0\0\0\0\x02"), EXECUTE, SYNC]);
    let one = rows(1);
    let two = rows(2);
    backend.told(&[
        (b'1', b""),
        (b'2', b""),
        (b'T', b""),
        (b'D', &one),
        (b'C', b"SELECT 1\0"),
        (b'2', b""),
        (b'D', &two),
        (b's', b""),
        (b'D', &one),
        (b'C', b"SELECT 1\0"),
        IDLE,
    ]);
    let events = backend.events();
    let outcomes: Vec<_> = events[1..].iter().map(|e| (e.kind, e.outcome, e.answer.rows, e.limit)).collect();
    assert_eq!(
        outcomes,
        [
            (Kind::Execute, Outcome::Ok, Some(1), None),
            (Kind::Execute, Outcome::Suspended, Some(2), Some(2)),
            (Kind::Execute, Outcome::Ok, Some(1), None)
        ]
    );
    assert!(events[1..].iter().all(|e| text(e) == "select $1"));
    assert!(events[1..].iter().all(|e| e.parameters.as_ref().unwrap().json == "[\"5\"]"));
}

#[test]
fn after_an_error_the_rest_of_the_batch_is_skipped() {
    let mut backend = Backend::new(7);
    let error = b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0";
    backend.says(&[PARSE, BIND, EXECUTE, (b'P', b"\0select 'never'\0\0\0"), BIND, EXECUTE]);
    backend.told(&[(b'1', b""), (b'2', b""), (b'E', error)]);
    backend.says(&[(b'P', b"\0select 'nor this'\0\0\0"), BIND, EXECUTE, SYNC, (b'Q', b"select 2\0")]);
    backend.told(&[IDLE, (b'C', b"SELECT 0\0"), IDLE]);
    let events = backend.events();
    assert_eq!(
        shown(&events[1..]),
        [
            (Kind::Execute, Outcome::Error, "select $1".into()),
            (Kind::Execute, Outcome::Skipped, "select 'never'".into()),
            (Kind::Execute, Outcome::Skipped, "select 'nor this'".into()),
            (Kind::Query, Outcome::Ok, "select 2".into())
        ]
    );
    let failure = events[1].failure.as_ref().unwrap();
    assert_eq!((failure.code.as_slice(), failure.message.as_slice()), (&b"22012"[..], &b"division by zero"[..]));
}

#[test]
fn a_name_that_could_not_be_taken_stays_what_it_was() {
    let mut backend = Backend::new(7);
    let one: (u8, &[u8]) = (b'P', b"s\0select 1\0\0\0");
    let two: (u8, &[u8]) = (b'P', b"s\0select 2\0\0\0");
    let bind: (u8, &[u8]) = (b'B', b"\0s\0\0\0\0\0\0\0");
    backend.says(&[one, SYNC]);
    backend.told(&[(b'1', b""), IDLE]);
    backend.says(&[two, SYNC]);
    backend.told(&[(b'E', b"VERROR\0C42P05\0Mexists\0\0"), IDLE]);
    backend.says(&[bind, EXECUTE, SYNC]);
    backend.told(&[(b'2', b""), (b'C', b"SELECT 0\0"), IDLE]);
    let events = backend.events();
    assert_eq!(
        shown(&events[1..]),
        [
            (Kind::Prepare, Outcome::Ok, "select 1".into()),
            (Kind::Prepare, Outcome::Error, "select 2".into()),
            (Kind::Execute, Outcome::Ok, "select 1".into())
        ]
    );
}

#[test]
fn types_come_from_the_server_where_the_client_leaves_them_open() {
    let mut backend = Backend::new(7);
    backend.says(&[(b'P', b"s\0select $1\0\0\0"), (b'D', b"Ss\0"), SYNC]);
    backend.told(&[(b'1', b""), (b't', &[0, 1, 0, 0, 0, 23]), (b'T', b""), IDLE]);
    backend.says(&[(b'B', b"\0s\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\x01\0\0\0"), EXECUTE, SYNC]);
    backend.told(&[(b'2', b""), (b'C', b"SELECT 0\0"), IDLE]);
    let events = backend.events();
    assert_eq!(events[2].parameters.as_ref().unwrap().json, "[\"256\"]");
}

#[test]
fn what_is_cut_by_the_end_is_aborted_or_running() {
    let mut backend = Backend::new(7);
    backend.says(&[(b'Q', b"select pg_sleep(9)\0")]);
    assert_eq!(backend.events()[1].outcome, Outcome::Running);
    backend.ended();
    let events = backend.events();
    assert_eq!(shown(&events[1..]).iter().map(|e| e.1).collect::<Vec<_>>(), [Outcome::Aborted, Outcome::Aborted]);
    assert_eq!(events[1].duration_ns, Some(10));
}

#[test]
fn a_lost_record_costs_what_it_had_and_no_more() {
    let mut backend = Backend::new(7);
    backend.says(&[(b'Q', b"select 1\0")]);
    backend.told(&[(b'C', b"SELECT 0\0"), IDLE]);
    backend.says(&[(b'Q', b"select 2\0")]);
    backend.told(&[(b'C', b"SELECT 0\0"), IDLE]);
    // The answer to the first one.
    backend.records.remove(3);
    let events = backend.events();
    assert_eq!(
        shown(&events[1..]),
        [(Kind::Query, Outcome::Unknown, "select 1".into()), (Kind::Query, Outcome::Ok, "select 2".into())]
    );
    assert!(events[1].state_lost && events[2].state_lost);
}

#[test]
fn a_statement_that_began_before_the_capture_has_an_outcome_and_no_text() {
    let mut backend = Backend { process: 7, sequence: 0, time_ns: 5, records: Vec::new() };
    backend.told(&[(b'D', &rows(2)), (b'C', b"SELECT 2\0"), IDLE]);
    let events = backend.events();
    assert_eq!((events[0].kind, events[0].outcome, events[0].answer.rows), (Kind::Query, Outcome::Ok, Some(2)));
    assert!(events[0].statement_unknown && events[0].duration_ns.is_none() && events[0].client.user.is_none());
}

#[test]
fn a_cancel_request_names_the_backend_and_is_no_session() {
    let mut backend = Backend { process: 9, sequence: 0, time_ns: 5, records: Vec::new() };
    backend
        .asked(3, &[&16_u32.to_be_bytes()[..], &CODE_CANCEL.to_be_bytes(), &4711_u32.to_be_bytes(), &[0; 4]].concat());
    backend.ended();
    let events = backend.events();
    assert_eq!((events.len(), events[0].kind, events[0].cancels), (1, Kind::Cancel, Some(4711)));
}

#[test]
fn an_error_over_two_records_is_one() {
    let mut backend = Backend::new(7);
    backend.says(&[(b'Q', b"select x\0")]);
    let mut data = backend.head(2, 0);
    data.extend([b'E', 0, 6, 0, 20, 0, 0, 0]);
    data.extend(b"VERROR\0\0");
    backend.records.push((backend.time_ns, data));
    let mut data = backend.head(2, 0);
    data.extend([b'E', 1, 14, 0, 20, 0, 0, 0]);
    data.extend(b"\0C42703\0Mnone\0\0\0");
    data.extend([b'Z', 0, 1, 0, 1, 0, 0, 0, b'I', 0, 0, 0, 0, 0, 0, 0]);
    backend.records.push((backend.time_ns, data));
    let events = backend.events();
    let failure = events[1].failure.as_ref().unwrap();
    assert_eq!((failure.code.as_slice(), failure.message.as_slice()), (&b"42703"[..], &b"none"[..]));
}

proptest! {
    #[test]
    fn any_records_are_survived(records in proptest::collection::vec((1_u32..5, 0_u32..16, 1_u64..6, proptest::collection::vec(any::<u8>(), 0..120)), 0..30)) {
        let mut machine = Machine::new(1 << 20);
        for (kind, flags, sequence, bytes) in records {
            let mut data = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
            data.extend([0; 16]);
            data.extend(sequence.to_le_bytes());
            data.extend(bytes);
            let message = Message { stream: 0, process: 1, time_ns: 1, restarted: false, data: &data };
            let _ = machine.message(&message, &mut |_| {});
        }
        machine.finish(&mut |_| {});
    }

    #[test]
    fn any_conversation_is_survived(parts in proptest::collection::vec((any::<bool>(), prop_oneof![Just(b'Q'), Just(b'P'), Just(b'B'), Just(b'E'), Just(b'D'), Just(b'C'), Just(b'S'), Just(b'X'), Just(b'Z'), Just(b'1'), Just(b'2'), Just(b's'), Just(b'T'), Just(b't'), Just(b'G')], proptest::collection::vec(any::<u8>(), 0..40)), 0..60)) {
        let mut backend = Backend::new(1);
        for (asked, kind, body) in &parts {
            match asked {
                true => backend.says(&[(*kind, body)]),
                false => backend.told(&[(*kind, body)]),
            }
        }
        backend.ended();
        let events = backend.events();
        prop_assert_eq!(events.iter().filter(|event| event.kind == Kind::Connect).count(), 1);
        prop_assert_eq!(events.iter().filter(|event| event.kind == Kind::Quit).count(), 1);
    }
}
