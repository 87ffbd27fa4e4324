//! The function behind wrappers: the one that each of them hands the same arguments to, found by following the
//! arguments through all paths of each wrapper.
//!
//! What a wrapper is, is stated at [`Behind`](ecapture_plugin_api::plan::Behind). Where the instructions do not show it,
//! the answer is the reason. Not here: how paths and values are followed ([`paths`](super::paths),
//! [`values`](super::values)).

use super::image::Image;
use super::paths::{Body, Callee, Site, follow};
use super::plan::Behind;
use super::values::Value;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

/// Instructions followed for one locator, each as often as its state changes.
const STEPS: u32 = 10_000;
/// Wrappers of wrappers of wrappers.
const MAX_CHAIN: usize = 4;
/// How many calls deep an argument is followed to see whether it is used.
const DEPTH: u8 = 2;

/// A function behind a wrapper.
#[derive(Debug, Clone)]
struct Link {
    va: u64,
    /// What it is given, in terms of the first wrapper's own arguments.
    args: [Value; 6],
}

/// The functions behind one wrapper, the nearest first, and why there are no more.
#[derive(Debug)]
struct Chain {
    links: Vec<Link>,
    end: String,
}

/// The function behind all wrappers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) va: u64,
    /// Position of the wanted argument.
    pub(super) out: Option<u8>,
    /// The functions that lead from a wrapper to it, for the wrappers which do not call it themselves.
    pub(super) between: Vec<(String, u64)>,
}

/// Finds the function behind the wrappers at these addresses, which are in the order of [`Behind::wrappers`].
pub(super) fn behind(image: &Image<'_>, wanted: &Behind, wrappers: &[u64]) -> Result<Found, String> {
    let mut search = Search {
        image,
        args: usize::from(wanted.args).min(6),
        buffer: wanted.buffer.min(5),
        steps: Cell::new(STEPS),
        bodies: HashMap::new(),
        read: HashMap::new(),
        taken: HashMap::new(),
    };
    let mut chains = Vec::with_capacity(wrappers.len());
    for (name, va) in wanted.wrappers.iter().zip(wrappers) {
        let chain = search.chain(*va);
        if chain.links.is_empty() {
            return Err(format!("nothing is proven to be behind {name}: {}", chain.end));
        }
        chains.push((name, chain));
    }
    let Some((_, first)) = chains.first() else { return Err("no wrapper is named".to_owned()) };
    let in_all = |va: u64| chains.iter().all(|(_, chain)| chain.links.iter().any(|link| link.va == va));
    let Some(va) = first.links.iter().map(|link| link.va).find(|va| in_all(*va)) else {
        let words = chains.iter().map(|(name, chain)| {
            let links: Vec<String> = chain.links.iter().map(|link| format!("{:#x}", link.va)).collect();
            format!("behind {name} is {}, and no more: {}", links.join(", then "), chain.end)
        });
        return Err(format!("no function is behind all of them: {}", words.collect::<Vec<_>>().join("; ")));
    };
    let mut found = Found { va, out: None, between: Vec::new() };
    for (name, chain) in &chains {
        let before = chain.links.iter().map(|link| link.va).take_while(|link| *link != va);
        found.between.extend(before.map(|link| ((*name).clone(), link)));
    }
    if let Some(out) = &wanted.out {
        let given = chains.iter().find(|(name, _)| **name == out.wrapper);
        let given = given.and_then(|(_, chain)| chain.links.iter().find(|link| link.va == va));
        let given = given.ok_or_else(|| format!("{} is not one of the wrappers", out.wrapper))?;
        found.out = Some(search.position(given, &out.wrapper, out.argument)?);
    }
    Ok(found)
}

impl Found {
    /// "behind SSL_read and SSL_read_ex".
    pub(super) fn words(&self, wanted: &Behind, names: &HashMap<u64, String>) -> String {
        let mut words = match wanted.wrappers.as_slice() {
            [rest @ .., last] if !rest.is_empty() => format!("behind {} and {last}", rest.join(", ")),
            all => format!("behind {}", all.join("")),
        };
        for (wrapper, va) in &self.between {
            let name = names.get(va).cloned().unwrap_or_else(|| format!("the function at {va:#x}"));
            words += &format!(", from {wrapper} through {name}");
        }
        if let (Some(position), Some(out)) = (self.out, &wanted.out) {
            words += &format!("; argument {} of {} is its argument {position}", out.argument, out.wrapper);
        }
        words
    }
}

struct Search<'i, 'f> {
    image: &'i Image<'f>,
    args: usize,
    buffer: u8,
    steps: Cell<u32>,
    bodies: HashMap<u64, Rc<Result<Body, String>>>,
    /// By function and depth: see [`Search::reads`].
    read: HashMap<(u64, u8), u8>,
    /// By function, argument and depth: see [`Search::may_take`].
    taken: HashMap<(u64, u8, u8), bool>,
}

impl Search<'_, '_> {
    fn body(&mut self, va: u64) -> Rc<Result<Body, String>> {
        if let Some(body) = self.bodies.get(&va) {
            return Rc::clone(body);
        }
        let function = self.image.function(va).ok_or_else(|| format!("{va:#x} is not in an executable segment"));
        let body = Rc::new(function.and_then(|function| follow(self.image, &function, &self.steps)));
        self.bodies.insert(va, Rc::clone(&body));
        body
    }

    fn chain(&mut self, wrapper: u64) -> Chain {
        let mut chain = Chain { links: Vec::<Link>::new(), end: "too many wrappers of wrappers".to_owned() };
        let mut from = wrapper;
        while chain.links.len() < MAX_CHAIN {
            let link = match self.next(from) {
                Ok(link) => link,
                Err(why) => return Chain { end: why, ..chain },
            };
            if link.va == wrapper || chain.links.iter().any(|known| known.va == link.va) {
                return Chain { end: format!("{:#x} leads back to {:#x}", from, link.va), ..chain };
            }
            from = link.va;
            let args = match chain.links.last() {
                Some(outer) => link.args.map(|value| through(&outer.args, value)),
                None => link.args,
            };
            chain.links.push(Link { args, ..link });
        }
        chain
    }

    /// The one function that is given the buffer.
    fn next(&mut self, from: u64) -> Result<Link, String> {
        let body = self.body(from);
        let body = body.as_ref().as_ref().map_err(Clone::clone)?;
        if let Some(site) = body.sites.iter().find(|site| site.callee == Callee::Unknown) {
            return Err(format!("where the call or jump at {:#x} leads is not in sight", site.at));
        }
        if let Some(Some(at)) = body.uses.worked_on.get(usize::from(self.buffer)) {
            return Err(format!("the instruction at {at:#x} does something with argument {} itself", self.buffer));
        }
        let mut taker: Option<(u64, [Value; 6])> = None;
        for site in &body.sites {
            let Some(va) = self.taker(site)? else { continue };
            let misplaced = (0..).zip(&site.args).take(self.args).find(|(number, value)| !self.fits(*number, **value));
            if let Some((number, _)) = misplaced {
                return Err(format!("argument {number} is not shown to be in its place at {:#x}", site.at));
            }
            taker = Some(match taker {
                None => (va, site.args),
                Some((known, args)) if known == va => {
                    let mut both = args;
                    for (ours, theirs) in both.iter_mut().zip(site.args) {
                        *ours = if *ours == theirs { theirs } else { Value::Any(ours.may() | theirs.may()) };
                    }
                    (va, both)
                }
                Some((known, _)) => return Err(format!("argument {} goes to {known:#x} and to {va:#x}", self.buffer)),
            });
        }
        let Some((va, args)) = taker else {
            return Err(format!("no function of the file is given argument {}", self.buffer));
        };
        if body.calls_again(va) {
            return Err(format!("one call of it may call {va:#x} more than once"));
        }
        let read = self.reads(va, DEPTH);
        if let Some(number) = (0..self.args).find(|number| read & 1 << number == 0) {
            return Err(format!("{va:#x} is not shown to use argument {number}"));
        }
        Ok(Link { va, args })
    }

    fn fits(&self, number: u8, value: Value) -> bool {
        value == Value::Argument(number) || (value == Value::Narrow(number) && number != self.buffer)
    }

    /// The function of this file that the call hands the buffer to; an error when it hands it to somebody else.
    fn taker(&mut self, site: &Site) -> Result<Option<u64>, String> {
        let (buffer, at) = (self.buffer, site.at);
        let holds = |value: &Value| value.may() & 1 << buffer != 0;
        let elsewhere = || format!("argument {buffer} may be handed to another function at {at:#x}");
        let hidden = site.hidden & 1 << buffer != 0;
        match site.callee {
            Callee::Own(va) => {
                let registers: Vec<u8> = (0..).zip(&site.args).filter(|(_, v)| holds(v)).map(|(n, _)| n).collect();
                if registers.into_iter().any(|register| self.may_take(va, register, DEPTH)) {
                    return Ok(Some(va));
                }
                let looks = site.stacked & 1 << buffer == 0 || self.looks_above(va);
                if hidden && looks { Err(elsewhere()) } else { Ok(None) }
            }
            Callee::Other if hidden || (site.last && site.args.iter().any(holds)) => Err(elsewhere()),
            Callee::Other if site.args.iter().take(set_up(site)).any(holds) => Err(elsewhere()),
            Callee::Other => Ok(None),
            Callee::Unknown => Err(elsewhere()),
        }
    }

    /// Whether a function may look for arguments on the stack, itself or by jumping to another one as its last act.
    fn looks_above(&mut self, va: u64) -> bool {
        let body = self.body(va);
        body.as_ref().as_ref().map_or(true, |body| body.uses.above || body.sites.iter().any(|site| site.last))
    }

    /// Arguments that a function uses for certain, itself or by handing them on.
    fn reads(&mut self, va: u64, depth: u8) -> u8 {
        if let Some(known) = self.read.get(&(va, depth)) {
            return *known;
        }
        let body = self.body(va);
        let Ok(body) = body.as_ref() else { return 0 };
        let mut read = body.uses.read;
        for site in body.sites.iter().filter(|_| depth > 0) {
            let Callee::Own(inner) = site.callee else { continue };
            let handed = (0..6).zip(&site.args).filter_map(|(place, value)| match value {
                Value::Argument(number) | Value::Narrow(number) if read & 1 << number == 0 => Some((place, *number)),
                _ => None,
            });
            let handed: Vec<(u8, u8)> = handed.collect();
            if handed.is_empty() || inner == va {
                continue;
            }
            let inner = self.reads(inner, depth - 1);
            for (place, number) in handed {
                read |= if inner & 1 << place != 0 { 1 << number } else { 0 };
            }
        }
        self.read.insert((va, depth), read);
        read
    }

    /// Whether a function may use what it is given in this register, itself or by handing it on. What it has not
    /// touched can only be where it was when the next call is made.
    fn may_take(&mut self, va: u64, register: u8, depth: u8) -> bool {
        if let Some(known) = self.taken.get(&(va, register, depth)) {
            return *known;
        }
        let body = self.body(va);
        let taken = match body.as_ref() {
            Ok(body) if body.uses.touched & 1 << register == 0 => {
                let kept = |site: &&Site| site.args[usize::from(register)].may() & 1 << register != 0;
                let sites: Vec<Site> = body.sites.iter().filter(kept).copied().collect();
                sites.iter().any(|site| match site.callee {
                    Callee::Own(inner) => depth == 0 || self.may_take(inner, register, depth - 1),
                    Callee::Other => site.last || set_up(site) > usize::from(register),
                    Callee::Unknown => true,
                })
            }
            _ => true,
        };
        self.taken.insert((va, register, depth), taken);
        taken
    }

    /// Where the function gets the wrapper's argument.
    fn position(&mut self, given: &Link, wrapper: &str, argument: u8) -> Result<u8, String> {
        let read = self.reads(given.va, DEPTH);
        let holds = |(place, value): &(u8, &Value)| **value == Value::Argument(argument) && read & 1 << place != 0;
        let places: Vec<u8> = (0..).zip(&given.args).filter(holds).map(|(place, _)| place).collect();
        let what = format!("argument {argument} of {wrapper}");
        match places.as_slice() {
            [place] => Ok(*place),
            [] => Err(format!("{what} is not shown to be one that the function at {:#x} uses", given.va)),
            _ => Err(format!("{what} is in {} places when {:#x} is called", places.len(), given.va)),
        }
    }
}

/// How many argument registers a call of another file's function was set up with: all up to the last changed one, but
/// none from the first that has only what an earlier call has left.
fn set_up(site: &Site) -> usize {
    let changed = |number: &usize| site.args.get(*number).map(|v| v.may()) != Some(1 << number);
    let whole = site.args.iter().take_while(|value| **value != Value::Left).count();
    (0..whole).rev().find(changed).map_or(0, |number| number + 1)
}

/// What the inner call is given, seen from outside the outer one.
fn through(outer: &[Value; 6], value: Value) -> Value {
    let at = |number: u8| outer.get(usize::from(number)).copied().unwrap_or(Value::Any(0));
    match value {
        Value::Argument(number) => at(number),
        Value::Narrow(number) => match at(number) {
            Value::Argument(number) | Value::Narrow(number) => Value::Narrow(number),
            _ => Value::Any(0),
        },
        Value::Low(_) | Value::Frame(_) | Value::Any(_) | Value::Left => Value::Any(0),
    }
}
