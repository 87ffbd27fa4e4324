//! Where to put probes in a target file, proven from its instructions.
//!
//! [`analyse`] is a pure function from a file's bytes and a request to an answer; it makes no system call, so it can
//! run in a child that may do nothing. The bytes are hostile: no input makes it panic, and time and memory are
//! bounded (one pass over the code, and a fixed amount of decoding beside it).
//!
//! A uprobe on `push`, `nop`, `jmp`, `jcc` or `call` is emulated by the kernel and costs about a microsecond; on any
//! other instruction, `endbr64` included, it is single-stepped and costs ten and more. So a probe is moved from the
//! first instruction to a cheap one, but only where that is proven to be the same event. What cannot be proven stays.
//!
//! - [`plan`]: the request and the answer.
//! - `elf`, `symbols`, `image`: what the file says.
//! - `instruction`: what the kernel does with a breakpoint on an instruction.
//! - `walk`, `tables`, `sweep`, `exits`: which points see the event exactly once, and undisturbed.
//! - `strings`; `wrap`, `paths`, `values`, `stubs`: functions without a name, by what they are told or by their wrappers.
//! - `sift`: which files have a text in them; no more is understood of those.
//! - `field`: where a function takes certain bytes from; `kept`: where value and arguments are when it returns.
//! - `place`: puts it together; `proof`: checks every offset again before it leaves.
//!
//! Nothing here attaches anything, reads other files or starts processes.

pub mod child;
mod elf;
mod exits;
mod field;
mod image;
mod instruction;
mod kept;
mod paths;
mod place;
pub mod plan;
mod proof;
mod sift;
mod strings;
mod stubs;
mod sweep;
mod symbols;
mod tables;
#[cfg(test)]
mod tests;
mod values;
mod walk;
mod wrap;

pub use elf::Refusal;
use image::Image;
use plan::{Failed, TargetFile};
pub use plan::{PointKind, ProbeWanted, ScoutAnswer, ScoutRequest};

/// Probes of one request at most.
pub const MAX_PROBES: usize = 1024;

/// Finds and proves a point for each probe of the request.
///
/// Every probe comes back, placed or failed. A file that is no x86-64 program or library, that is cut short or that
/// contradicts itself is refused as a whole: [`ScoutAnswer::refused`] says why.
#[must_use]
pub fn analyse(file: &[u8], request: &ScoutRequest) -> ScoutAnswer {
    if request.probes.len() > MAX_PROBES {
        return refuse(request, format!("more than {MAX_PROBES} probes in one file"));
    }
    let image = match Image::open(file) {
        Ok(image) => image,
        Err(refusal) => return refuse(request, refusal.to_string()),
    };
    let (placed, failed) = place::place_all(&image, &request.probes);
    let facts = TargetFile {
        size: file.len() as u64,
        build_id: image.headers.build_id.clone(),
        machine: "x86_64".to_owned(),
        kind: image.headers.kind,
    };
    ScoutAnswer { file: Some(facts), refused: None, placed, failed }
}

fn refuse(request: &ScoutRequest, why: String) -> ScoutAnswer {
    let failed = request.probes.iter().map(|p| Failed { index: p.index, why: why.clone() }).collect();
    ScoutAnswer { file: None, refused: Some(why), placed: Vec::new(), failed }
}
