//! An event without its secrets. What is found in one column is taken out of the others as well: an error of the server quotes the
//! statement.

use super::literals::{literals, quotes};
use super::names::suspicious;
use super::spans::{Kinds, REDACTED, Spans};
use super::{Redactor, command, http, inline, sql};
use crate::event::{Event, Field, Flags, Value};
use crate::statements::lex::Dialect;
use crate::stream::exchange::{Exchange, Header, Message};
use std::sync::Arc;

/// Shortest secret that is looked for in other columns: a shorter one is everywhere.
const MIN_SECRET: usize = 4;
/// Most secrets of one event that are looked for in other columns.
const MAX_SECRETS: usize = 16;

/// What a column holds, by its name.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Statement,
    Parameters,
    Command,
    Arguments,
    Url,
    Query,
    Message,
    Other,
}

fn holds(name: &str) -> Holds {
    match name {
        "db.query.text" => Holds::Statement,
        "db.query.parameters" => Holds::Parameters,
        "ecapture.command.text" | "ecapture.line.text" | "process.command_line" => Holds::Command,
        "process.command_args" => Holds::Arguments,
        "url.full" | "url.original" => Holds::Url,
        "url.query" => Holds::Query,
        "ecapture.error.message" => Holds::Message,
        _ if name.starts_with("db.query.parameter.") => Holds::Parameters,
        _ => Holds::Other,
    }
}

impl Redactor {
    /// Hands `give` the event, without its secrets if it has any.
    pub fn event(&self, event: &Event<'_>, give: impl FnOnce(&Event<'_>)) {
        // What is said of redaction, only this says.
        let event = &Event { flags: event.flags.without_redacted(), ..*event };
        if event.secret || self.is_idle() {
            return give(event);
        }
        let (mut kinds, mut secrets, mut parameters) = (Kinds::default(), Vec::new(), false);
        let mut texts: Vec<Option<Vec<u8>>> = Vec::new();
        let dialect = self.dialect(event);
        // Statements are what a module of statements has, and nothing else is read as one.
        let has_statements = event.schema.columns().iter().any(|column| column.name().starts_with("db.query."));
        for (number, (column, value)) in event.columns().enumerate() {
            let (Value::Text(text) | Value::Bytes(text)) = value else { continue };
            let mut spans = Spans::default();
            parameters |=
                self.column(holds(column.name()), text, dialect.unwrap_or_default(), has_statements, &mut spans);
            for (from, to, _) in spans.iter().take(MAX_SECRETS) {
                if to - from >= MIN_SECRET && secrets.len() < MAX_SECRETS {
                    secrets.extend(text.get(from..to));
                }
            }
            if let Some((without, found)) = spans.apply(text) {
                kinds = kinds | found;
                put(&mut texts, number, without);
            }
        }
        if !secrets.is_empty() || parameters || self.literals {
            self.others(event, (&secrets, parameters, dialect), &mut texts, &mut kinds);
        }
        let payload = self.payload(event, &mut kinds);
        let exchange = event.exchange.and_then(|exchange| self.exchange(exchange, &mut kinds));
        if kinds.is_empty() {
            return give(event);
        }
        let text = |number: usize| texts.get(number).and_then(Option::as_deref);
        let fields: Vec<Field<'_>> = (0..)
            .zip(event.fields)
            .map(|(number, field)| match (text(number), field.value) {
                (Some(text), Value::Text(_)) => Field { column: field.column, value: Value::Text(text) },
                (Some(text), Value::Bytes(_)) => Field { column: field.column, value: Value::Bytes(text) },
                _ => *field,
            })
            .collect();
        give(&Event {
            fields: &fields,
            payload: payload.as_deref().unwrap_or(event.payload),
            exchange: exchange.as_ref().or(event.exchange),
            flags: event.flags.with_redacted(kinds),
            ..*event
        });
    }

    /// `None`: the event does not say whose statement it is.
    fn dialect(&self, event: &Event<'_>) -> Option<Dialect> {
        let mut system = event.columns().filter(|(column, _)| column.name() == "db.system.name");
        match system.next() {
            Some((_, Value::Text(name))) if !name.is_empty() => Some(Dialect::of(name)),
            _ => None,
        }
    }

    /// Finds what is secret in one column. True: parameters are.
    fn column(&self, holds: Holds, text: &[u8], dialect: Dialect, has_statements: bool, spans: &mut Spans) -> bool {
        self.own(text, spans);
        if self.show_secrets {
            return false;
        }
        match holds {
            Holds::Statement => return sql::scan(text, dialect, spans),
            Holds::Command => command::scan(text, spans),
            Holds::Arguments => command::arguments(text, spans),
            Holds::Url if suspicious(text) || memchr::memchr(b'?', text).is_some() => {
                inline::scan(text, 0, spans);
                if memchr::memchr(b'?', text).is_some() {
                    http::header(b"location", text, spans);
                    inline::query(text, spans);
                }
            }
            Holds::Query => inline::query(text, spans),
            Holds::Parameters if suspicious(text) => {
                inline::scan(text, 0, spans);
                sql::scan_array(text, dialect, spans);
            }
            Holds::Message => {
                if has_statements {
                    sql::scan(text, dialect, spans);
                }
                if suspicious(text) {
                    inline::scan(text, 0, spans);
                }
            }
            _ if suspicious(text) => inline::scan(text, 0, spans),
            _ => {}
        }
        false
    }

    /// Takes out of every column what another one had, and literals.
    fn others(
        &self,
        event: &Event<'_>,
        (secrets, parameters, dialect): (&[&[u8]], bool, Option<Dialect>),
        texts: &mut Vec<Option<Vec<u8>>>,
        kinds: &mut Kinds,
    ) {
        for (number, (column, value)) in event.columns().enumerate() {
            let (Value::Text(text) | Value::Bytes(text)) = value else { continue };
            let now = texts.get(number).and_then(Option::as_deref).unwrap_or(text);
            let mut spans = Spans::default();
            for secret in secrets {
                memchr::memmem::find_iter(now, secret).for_each(|at| spans.add(at, at + secret.len(), Kinds::PASSWORD));
            }
            let without = spans.apply(now);
            let now = without.as_ref().map_or(now, |(text, _)| text.as_slice());
            let holds = holds(column.name());
            let more = match holds {
                Holds::Statement if self.literals => literals(now, dialect).map(|text| (text, Kinds::LITERAL)),
                Holds::Message if self.literals => quotes(now).map(|text| (text, Kinds::LITERAL)),
                Holds::Parameters if self.literals => Some((array(now, b"?"), Kinds::LITERAL)),
                Holds::Parameters if parameters => Some((array(now, REDACTED), Kinds::PASSWORD)),
                _ => None,
            };
            if let Some((text, found)) = more.or(without) {
                *kinds = *kinds | found;
                put(texts, number, text);
            }
        }
    }

    fn payload(&self, event: &Event<'_>, kinds: &mut Kinds) -> Option<Vec<u8>> {
        let mut spans = Spans::default();
        self.own(event.payload, &mut spans);
        if !self.show_secrets {
            http::plaintext(event.payload, &mut spans);
        }
        let (without, found) = spans.apply(event.payload)?;
        *kinds = *kinds | found;
        Some(without)
    }

    /// Looked at before it is copied: most have nothing. What is copied are heads; a body is only if something is found in it.
    fn exchange(&self, exchange: &Exchange, kinds: &mut Kinds) -> Option<Exchange> {
        let mut found = Vec::new();
        let mut add = |place: Place, spans: Spans| {
            if !spans.is_empty() {
                found.push((place, spans));
            }
        };
        if let Some(request) = &exchange.request {
            let mut spans = Spans::default();
            self.column(Holds::Url, &request.target, Dialect::default(), false, &mut spans);
            add(Place::Target, spans);
            if let Some(authority) = request.authority.as_ref().filter(|_| !self.show_secrets) {
                let mut spans = Spans::default();
                spans.add(0, memchr::memrchr(b'@', authority).unwrap_or(0), Kinds::URL);
                add(Place::Authority, spans);
            }
            self.message(&request.message, true, &mut add);
        }
        if let Some(response) = &exchange.response {
            self.message(&response.message, false, &mut add);
        }
        if found.is_empty() {
            return None;
        }
        let mut without = exchange.clone();
        for (place, spans) in found {
            if let Some(text) = place.of(&mut without) {
                replace(text, spans, kinds);
            }
        }
        Some(without)
    }

    /// `asks`: it is the request's.
    fn message(&self, message: &Message, asks: bool, add: &mut dyn FnMut(Place, Spans)) {
        for (number, Header { name, value }) in message.headers.iter().chain(&message.trailers).enumerate() {
            let Some(value) = value else { continue };
            let mut spans = Spans::default();
            self.own(value, &mut spans);
            match name {
                _ if self.show_secrets => {}
                Some(name) => http::header(name, value, &mut spans),
                // Nobody knows what it is.
                None => spans.add(0, value.len(), Kinds::AUTHORIZATION),
            }
            add(Place::Header(asks, number), spans);
        }
        let mut spans = Spans::default();
        self.own(&message.body.bytes, &mut spans);
        add(Place::Body(asks), spans);
    }
}

/// Where in an exchange something was found.
#[derive(Clone, Copy)]
enum Place {
    Target,
    Authority,
    /// Of the request's headers with its trailers, or of the response's.
    Header(bool, usize),
    Body(bool),
}

impl Place {
    fn of(self, exchange: &mut Exchange) -> Option<&mut Vec<u8>> {
        match self {
            Self::Target => exchange.request.as_mut().map(|request| &mut request.target),
            Self::Authority => exchange.request.as_mut().and_then(|request| request.authority.as_mut()),
            Self::Header(asks, number) => {
                let message = Self::message(exchange, asks)?;
                message.headers.iter_mut().chain(&mut message.trailers).nth(number)?.value.as_mut()
            }
            Self::Body(asks) => Some(&mut Arc::make_mut(&mut Self::message(exchange, asks)?.body).bytes),
        }
    }

    fn message(exchange: &mut Exchange, asks: bool) -> Option<&mut Message> {
        if asks {
            exchange.request.as_mut().map(|request| &mut request.message)
        } else {
            exchange.response.as_mut().map(|response| &mut response.message)
        }
    }
}

fn replace(text: &mut Vec<u8>, spans: Spans, kinds: &mut Kinds) {
    if let Some((without, found)) = spans.apply(text) {
        *kinds = *kinds | found;
        *text = without;
    }
}

fn put(texts: &mut Vec<Option<Vec<u8>>>, number: usize, text: Vec<u8>) {
    if texts.len() <= number {
        texts.resize(number + 1, None);
    }
    if let Some(slot) = texts.get_mut(number) {
        *slot = Some(text);
    }
}

/// A JSON array with every member as this text; what is no array, wholly.
fn array(text: &[u8], member: &[u8]) -> Vec<u8> {
    let Ok(members) = serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(text) else { return member.to_vec() };
    let mut out = vec![b'['];
    for number in 0..members.len() {
        out.extend_from_slice(if number > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(member);
        out.push(b'"');
    }
    out.push(b']');
    out
}

impl Flags {
    /// Kinds of what was taken out stand in the highest bits, which no module sets.
    const REDACTED_SHIFT: u32 = 24;

    /// What was taken out of the event.
    #[must_use]
    pub fn redacted(self) -> Kinds {
        Kinds(u8::try_from(self.0 >> Self::REDACTED_SHIFT).unwrap_or_default())
    }

    fn without_redacted(self) -> Self {
        Self(self.0 & ((1 << Self::REDACTED_SHIFT) - 1))
    }

    fn with_redacted(self, kinds: Kinds) -> Self {
        Self(self.without_redacted().0 | u32::from(kinds.0) << Self::REDACTED_SHIFT)
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
