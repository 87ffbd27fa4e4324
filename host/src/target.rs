//! Which files and which processes are captured. Opens targets, never reads them: a target is looked at by the scout and
//! by the module's detection, both without privilege.

pub mod cgroup;
pub mod discover;
pub mod process;

pub use discover::{FileId, Found, Later, TargetError, discover, fits};
