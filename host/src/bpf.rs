//! eBPF: objects read and judged, loaded, attached; maps and rings.
//!
//! The one place that knows how a module's object becomes programs in the kernel. In order of use:
//! [`object`] (what an object says of itself) -> [`scan`] (is it within its module's permissions) -> [`kernel`] (what this
//! machine can do) -> [`host_maps`], [`mod@load`] -> [`link`]; the worker reads with [`ring`].
//! Only `sys` calls `bpf(2)` and `perf_event_open(2)`, only `mmap` maps. Nothing outside of this folder sees aya or aya-obj.
//!
//! Must not live here: what modules, targets and events are.

mod btf;
mod elf;
pub mod helpers;
pub mod host_maps;
pub mod kernel;
pub mod link;
pub mod load;
pub mod map;
mod mmap;
pub mod object;
pub mod ring;
pub mod scan;
mod sys;

pub use host_maps::{FilterMaps, HostMaps};
pub use kernel::{Kernel, KernelError, Method};
pub use link::{AttachError, Link, Point, Program, Target, detach};
pub use load::{LoadError, LoadPlan, Loaded, VerifierLog, load};
pub use map::{Map, MapError};
pub use mmap::{Counters, Word};
pub use object::{ObjectError, ObjectSpec, ProgramKind};
pub use ring::{Doorbell, Ring, RingError, RingRecord};
pub use scan::{Permissions, Violation, judge};

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod object_tests;
#[cfg(test)]
mod testing;
