//! Outputs against destinations that are slow, full, short or gone.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::sink::json::Json;
use crate::sink::samples;
use crate::sink::text::Text;

#[derive(Default)]
struct Fake {
    bytes: Vec<u8>,
    /// What the next writes do; then everything is taken.
    script: VecDeque<Result<usize, i32>>,
    always: Option<i32>,
    taken_back: u64,
}

#[derive(Clone, Default)]
struct Handle(Arc<Mutex<Fake>>);

impl Destination for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut fake = self.0.lock().unwrap();
        if let Some(code) = fake.always {
            return Err(io::Error::from_raw_os_error(code));
        }
        let count = match fake.script.pop_front() {
            Some(Ok(count)) => count.min(bytes.len()),
            Some(Err(code)) => return Err(io::Error::from_raw_os_error(code)),
            None => bytes.len(),
        };
        fake.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn take_back(&mut self, count: u64) {
        self.0.lock().unwrap().taken_back += count;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Handle {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().bytes.clone()).unwrap()
    }

    fn always(&self, code: Option<i32>) {
        self.0.lock().unwrap().always = code;
    }

    fn script(&self, script: impl IntoIterator<Item = Result<usize, i32>>) {
        self.0.lock().unwrap().script.extend(script);
    }
}

fn output(render: impl Render + 'static, limits: Limits) -> (Output, Handle) {
    let handle = Handle::default();
    (Output::new("out", false, Box::new(render), Box::new(handle.clone()), limits), handle)
}

fn small() -> Limits {
    Limits { batch: 100, pending: 1000 }
}

fn send(output: &mut Output, count: usize) {
    let schema = samples::schema();
    for _ in 0..count {
        output.event(&samples::event(&schema, &[]));
    }
}

fn notices(output: &mut Output, now: Instant) -> Vec<String> {
    let mut notices = Vec::new();
    output.tick(now, &mut notices);
    notices.into_iter().map(|notice| notice.text).collect()
}

#[test]
fn short_writes_keep_the_rest() {
    let (mut output, handle) = output(Json::default(), small());
    handle.script([Ok(1), Ok(7), Err(libc::EINTR), Ok(3), Err(libc::EAGAIN), Ok(50), Err(libc::EAGAIN)]);
    send(&mut output, 20);
    output.finish(Instant::now() + RETRY);
    let text = handle.text();
    assert_eq!(text.lines().count(), 20);
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!((output.report().written, output.report().lost), (20, 0));
}

#[test]
fn few_bytes_wait_for_more_but_not_for_long() {
    let (mut output, handle) = output(Text::default(), Limits::default());
    send(&mut output, 1);
    let start = Instant::now();
    let mut notices = Vec::new();
    assert_eq!(output.tick(start, &mut notices), Some(start + FLUSH));
    assert_eq!(handle.text(), "");
    assert_eq!(output.tick(start + FLUSH, &mut notices), None);
    assert_eq!(handle.text().lines().count(), 1);
}

#[test]
fn a_slow_reader_loses_events_in_one_gap_that_is_said_where_it_is() {
    let (mut output, handle) = output(Text::default(), small());
    handle.always(Some(libc::EAGAIN));
    send(&mut output, 100);
    let lost = output.report().lost;
    assert!(lost > 50 && lost < 100, "{lost}");
    let said = notices(&mut output, Instant::now());
    assert_eq!(said, ["the reader was too slow: events are being lost here"]);
    handle.always(None);
    output.flush();
    send(&mut output, 2);
    output.finish(Instant::now());
    let text = handle.text();
    let at = text.lines().position(|line| line.contains(&format!("[{lost} events not written here since "))).unwrap();
    assert_eq!(at, 100 - lost as usize, "{text}");
    assert_eq!(text.lines().count(), at + 3);
    assert_eq!(output.report().written, 102 - lost);
}

#[test]
fn a_gap_is_said_although_no_event_follows() {
    let (mut output, handle) = output(Json::default(), small());
    handle.always(Some(libc::EAGAIN));
    send(&mut output, 100);
    handle.always(None);
    output.flush();
    let now = Instant::now();
    notices(&mut output, now);
    notices(&mut output, now + FLUSH);
    let text = handle.text();
    let gap: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(gap["event.name"], "ecapture.sink.gap");
    assert_eq!(gap["ecapture.lost"], output.report().lost);
    assert_eq!(gap["ecapture.sink.reason"], "the reader was too slow");
}

#[test]
fn a_full_disk_is_reported_once_and_written_to_again() {
    let (mut output, handle) = output(Json::default(), small());
    handle.script([Ok(10)]);
    send(&mut output, 1);
    handle.always(Some(libc::ENOSPC));
    send(&mut output, 50);
    let now = Instant::now();
    let said = notices(&mut output, now);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("No space left"), "{said:?}");
    // Not before a second has passed, and not said twice.
    let mut news = Vec::new();
    assert!(output.tick(now, &mut news).unwrap() > now);
    assert_eq!(notices(&mut output, now + 2 * RETRY), Vec::<String>::new());
    let before = handle.text().len();
    handle.always(None);
    assert_eq!(notices(&mut output, now + 4 * RETRY).len(), 1);
    assert!(handle.text().len() > before);
    send(&mut output, 1);
    output.finish(Instant::now());
    let text = handle.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let gap = lines.iter().find(|line| line["event.name"] == "ecapture.sink.gap").unwrap();
    assert!(gap["ecapture.sink.reason"].as_str().unwrap().contains("No space left"));
    let report = output.report();
    assert_eq!((report.written + report.lost, report.error), (52, None));
    assert_eq!(lines.len() as u64, report.written + 1);
}

#[test]
fn what_can_never_be_finished_is_counted_and_half_a_line_taken_back() {
    let (mut output, handle) = output(Json::default(), small());
    handle.script([Ok(10)]);
    send(&mut output, 1);
    output.state = State::Open;
    handle.script([Ok(5)]);
    handle.always(None);
    // 5 bytes of the next line get out, then the disk is full to the end.
    handle.script([Err(libc::ENOSPC)]);
    send(&mut output, 3);
    handle.always(Some(libc::ENOSPC));
    output.finish(Instant::now());
    let report = output.report();
    assert_eq!(report.written + report.lost, 4);
    assert!(report.lost > 0);
    let half = handle.text().rsplit('\n').next().unwrap().len() as u64;
    assert!(half > 0);
    assert_eq!(handle.0.lock().unwrap().taken_back, half);
    assert!(notices(&mut output, Instant::now()).iter().any(|text| text.contains("still waiting at the end")));
}

#[test]
fn a_reader_that_leaves_ends_the_output_with_a_word_unless_it_is_stdout() {
    for quiet in [false, true] {
        let (mut output, handle) = output(Json::default(), small());
        output.quiet = quiet;
        handle.always(Some(libc::EPIPE));
        send(&mut output, 3);
        assert!(output.ended());
        let report = output.report();
        assert_eq!((report.written, report.lost, report.after_end), (0, 0, 3));
        assert_eq!(notices(&mut output, Instant::now()).is_empty(), quiet);
    }
}

#[test]
fn one_event_is_never_too_large() {
    let (mut output, handle) = output(Json::default(), small());
    let schema = samples::schema();
    let payload = vec![b'x'; 50_000];
    let mut event = samples::event(&schema, &[]);
    event.payload = &payload;
    output.event(&event);
    output.finish(Instant::now());
    assert_eq!((output.report().written, output.report().lost), (1, 0));
    assert!(handle.text().len() > 50_000);
}

#[test]
fn dev_full_is_a_full_disk() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let destination = crate::sink::fd::FdDestination::new(full.into(), crate::sink::fd::Sharing::Own).unwrap();
    let mut output = Output::new("full", false, Box::new(Text::default()), Box::new(destination), small());
    send(&mut output, 40);
    output.finish(Instant::now());
    let report = output.report();
    assert_eq!((report.written, report.lost), (0, 40));
    assert!(report.error.unwrap().contains("No space left"));
}
