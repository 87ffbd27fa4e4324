//! Exit points at which registers still hold the arguments: the ones that calls leave alone, as compilers use them for what
//! is needed to a function's end. One probe there sees a whole call.

use super::exits::{Graph, ValueIn};
use super::image::{Function, Image};
use super::paths::{States, follow_states};
use super::plan::Kept;
use super::sweep::References;
use super::values::Value;
use iced_x86::Register;
use std::cell::Cell;
use std::ops::Range;

/// Instructions followed in one function, each as often as its state changes.
const STEPS: u32 = 10_000;

/// Registers by their number in [`Kept`]: the value's own, and those that calls leave alone.
pub(super) const REGISTERS: [Register; 7] =
    [Register::RAX, Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// A function, followed to its ends.
pub(super) struct Exits {
    graph: Graph,
    states: States,
    args: u8,
}

impl Exits {
    /// Follows all paths of the function; `args` arguments are needed by the probe.
    pub(super) fn explore(image: &Image<'_>, function: &Function, args: u8) -> Result<Exits, String> {
        if image.headers.go {
            return Err("functions of Go programs keep nothing in registers across calls".to_owned());
        }
        let graph = Graph::explore(image, function)?;
        let (_, states) = follow_states(image, function, &Cell::new(STEPS))?;
        Ok(Exits { graph, states, args })
    }

    /// As [`Graph::ranges`].
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        self.graph.ranges()
    }

    /// The exit points, ascending, and where value and arguments are, which is the same at all of them.
    pub(super) fn find(&self, image: &Image<'_>, references: &References) -> Result<(Vec<u64>, Kept), String> {
        let exits = self.graph.exits(image, references, ValueIn::Any)?;
        let mut found: Option<Kept> = None;
        for (va, value) in &exits {
            let kept = self.kept(*va, *value)?;
            if found.as_ref().is_some_and(|known| *known != kept) {
                return Err("its exits have value and arguments in different registers".to_owned());
            }
            found = Some(kept);
        }
        let kept = found.ok_or("it never returns")?;
        Ok((exits.into_keys().collect(), kept))
    }

    fn kept(&self, va: u64, value: Register) -> Result<Kept, String> {
        let number = |wanted: &dyn Fn(Register) -> bool| (0..).zip(REGISTERS).find(|(_, r)| wanted(*r)).map(|(n, _)| n);
        let state = self.states.get(&va).ok_or_else(|| format!("no path leads to the branch at {va:#x}"))?;
        let value = number(&|register| register == value)
            .ok_or_else(|| format!("the value is in {value:?} at the branch at {va:#x}").to_lowercase())?;
        let holds = |argument: u8| {
            let found = number(&|register| state.register(register) == Value::Argument(argument));
            found.ok_or_else(|| format!("no register is shown to hold argument {argument} at the branch at {va:#x}"))
        };
        Ok(Kept { value, args: (0..self.args).map(holds).collect::<Result<_, _>>()? })
    }
}

impl Kept {
    /// "rbx holds the value, r12 argument 0".
    pub(super) fn words(&self) -> String {
        let name = |number: u8| {
            let register = REGISTERS.get(usize::from(number));
            register.map_or_else(String::new, |register| format!("{register:?}").to_lowercase())
        };
        let args = (0..).zip(&self.args).map(|(argument, at): (u8, _)| format!(", {} argument {argument}", name(*at)));
        format!("{} holds the value{}", name(self.value), args.collect::<String>())
    }
}
