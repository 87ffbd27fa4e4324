//! What stands before the outputs: secrets are taken out, then an event is shown, counted in a digest, or left out.

use std::time::{Duration, Instant};

use super::StatementOptions;
use super::digest::{Digest, Statement};
use super::lex::Dialect;
use crate::event::{Event, Summary, Value};
use crate::redact::{RedactOptions, Redactor};

/// Everything that events pass before they are shown.
#[derive(Debug, Default)]
pub struct Gate {
    redactor: Redactor,
    options: StatementOptions,
    digest: Digest,
    /// When the numbers were told last.
    told: Option<Instant>,
    /// Events that were left out, by module: too short or no error, and no statements in a digest.
    left_out: Vec<(String, u64, u64)>,
}

/// What an event's columns say of its outcome.
#[derive(Default)]
struct Told<'a> {
    is_statement: bool,
    statement: Statement<'a>,
    /// It failed, or nobody knows that it did not.
    unwell: bool,
}

impl Gate {
    /// As asked.
    ///
    /// # Errors
    /// An expression of the user's that is none.
    pub fn new(redact: &RedactOptions, options: &StatementOptions) -> Result<Self, String> {
        Ok(Self { redactor: Redactor::new(redact)?, options: options.clone(), ..Self::default() })
    }

    /// Hands `give` the event if it is to be shown; true if it is.
    pub fn event(&mut self, event: &Event<'_>, give: impl FnOnce(&Event<'_>)) -> bool {
        let all = StatementOptions { interval_ns: 0, ..self.options.clone() } == StatementOptions::default();
        if event.secret || all {
            self.redactor.event(event, give);
            return true;
        }
        let told = told(event);
        let options = &self.options;
        let long_enough = told.statement.duration_ns.is_some_and(|ns| ns >= options.min_duration_ns);
        let too_short = told.is_statement && options.min_duration_ns > 0 && !long_enough;
        if too_short || options.errors_only && !told.unwell {
            self.left_out(event.schema.module(), (1, 0));
            return false;
        }
        if !options.digest {
            self.redactor.event(event, give);
            return true;
        }
        if told.is_statement {
            let digest = &mut self.digest;
            self.redactor.event(event, |event| digest.add(event, &self::told(event).statement));
        } else {
            self.left_out(event.schema.module(), (0, 1));
        }
        false
    }

    fn left_out(&mut self, module: &str, (filtered, not_shown): (u64, u64)) {
        match self.left_out.iter_mut().find(|(known, ..)| known == module) {
            Some((_, one, other)) => (*one, *other) = (*one + filtered, *other + not_shown),
            None => self.left_out.push((module.to_owned(), filtered, not_shown)),
        }
    }

    /// Tells the numbers if it is time, or at the end. When to ask again.
    pub fn tell(&mut self, now: Instant, end: bool, give: &mut dyn FnMut(&Event<'_>)) -> Option<Instant> {
        if !self.options.digest {
            return None;
        }
        let interval = (self.options.interval_ns > 0).then(|| Duration::from_nanos(self.options.interval_ns));
        let told = *self.told.get_or_insert(now);
        if end || interval.is_some_and(|interval| now.duration_since(told) >= interval) {
            self.digest.tell(give);
            self.told = Some(now);
        }
        interval.and_then(|interval| self.told?.checked_add(interval))
    }

    /// Adds what was left out to the totals of the run.
    pub fn add_to(&self, summary: &mut Summary) {
        for (module, filtered, not_shown) in &self.left_out {
            let totals = summary.module(module);
            totals.filtered += filtered;
            totals.not_shown += not_shown;
        }
    }
}

/// What the columns say.
fn told<'a>(event: &Event<'a>) -> Told<'a> {
    let mut told = Told::default();
    for (column, value) in event.columns() {
        match (column.name(), value) {
            ("db.query.text", Value::Text(text)) => (told.is_statement, told.statement.text) = (true, text),
            ("db.namespace", Value::Text(text)) => told.statement.namespace = text,
            ("db.system.name", Value::Text(text)) => told.statement.dialect = Dialect::of(text),
            ("db.response.returned_rows", Value::U64(rows)) => told.statement.rows = rows,
            ("ecapture.duration_ns", Value::Duration(ns)) => told.statement.duration_ns = Some(ns),
            ("ecapture.outcome", Value::Text(text)) => match text {
                b"ok" | b"suspended" | b"running" => {}
                b"error" | b"aborted" => told.statement.failed = true,
                // Skipped, or not known: no failure of its own, and nothing that went well.
                _ => told.unwell = true,
            },
            ("db.response.status_code", Value::Text(code)) => {
                let fine = matches!(
                    code,
                    b"" | b"0" | b"00000" | b"100" | b"101" | b"SQLITE_OK" | b"SQLITE_ROW" | b"SQLITE_DONE"
                );
                told.statement.failed |= !fine;
            }
            ("http.response.status_code", Value::U64(status)) => told.statement.failed |= status >= 400,
            _ => {}
        }
    }
    if !told.is_statement {
        // Its text is not known, but it is one: the event is declared with it.
        told.is_statement = told.statement.duration_ns.is_some()
            && event.schema.columns().iter().any(|column| column.name() == "db.query.text");
    }
    told.unwell |= told.statement.failed;
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    #[test]
    fn only_what_did_not_end_well() {
        let schema = samples::schema();
        let options = StatementOptions { errors_only: true, ..StatementOptions::default() };
        let mut gate = Gate::new(&RedactOptions::default(), &options).unwrap();
        for (outcome, failed, shown) in [
            ("ok", false, false),
            ("suspended", false, false),
            ("running", false, false),
            ("error", true, true),
            ("aborted", true, true),
            ("skipped", false, true),
            ("unknown", false, true),
        ] {
            let fields = samples::fields(&[("ecapture.outcome", Value::Text(outcome.as_bytes()))]);
            let event = samples::event(&schema, &fields);
            assert_eq!(told(&event).statement.failed, failed, "{outcome}");
            assert_eq!(gate.event(&event, |_| {}), shown, "{outcome}");
        }
    }
}
