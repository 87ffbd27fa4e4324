//! How a recording is laid out: eight bytes, then blocks, each with its length and a checksum.

use serde::{Deserialize, Serialize};

use crate::protocol::KernelTotals;

/// The first bytes of a recording; the last one is the version of the layout.
pub const MAGIC: [u8; 8] = *b"ECAPREC\x01";
/// Bytes before a block's body: its length and the CRC-32 of the body, both `u32`.
pub const BLOCK_HEAD: usize = 8;
/// Bytes of the body before what the kind says: kind, module, six of zeros or a position.
pub const BODY_HEAD: usize = 16;
/// Longest body: a header with the manifests of many modules.
pub const MAX_BODY: usize = 8 << 20;

/// Kinds of blocks. A reader skips those that it does not know.
pub mod kind {
    /// [`super::Header`] as JSON; the first block, and the only one of its kind.
    pub const HEADER: u8 = 1;
    /// A record as it came from the ring; `position` is where it ended there.
    pub const RECORD: u8 = 2;
    /// Records that could not be written; `position` counts them.
    pub const GAP: u8 = 3;
    /// [`super::Ended`] as JSON; the last block.
    pub const END: u8 = 4;
    /// A target that came after the run began: `position` is its number, the rest its path.
    pub const TARGET: u8 = 5;
}

/// What is needed to decode the records again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program that recorded.
    pub version: String,
    /// Machine.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// `CLOCK_MONOTONIC` when the run began, ns.
    pub monotonic_ns: u64,
    /// Wall time of that moment, ns since 1970.
    pub wall_ns: u64,
    /// The modules; blocks name them by their number here.
    pub modules: Vec<RecordedModule>,
}

/// One module of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedModule {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Others than root could have written its file.
    pub tainted: bool,
    /// GNU build id of its file, hexadecimal.
    pub build_id: Option<String>,
    /// Text of its manifest.
    pub manifest: String,
    /// Mode and options, as its decoder was given them.
    pub config: serde_json::Value,
    /// Target number -> path, of those that were there when the run began.
    pub targets: Vec<String>,
}

/// How the run ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ended {
    /// `CLOCK_MONOTONIC`, ns.
    pub monotonic_ns: u64,
    /// What the kernel side counted, for each module.
    pub modules: Vec<KernelTotals>,
}

/// Appends a block. `module` and `position` mean what the kind says.
pub fn push(out: &mut Vec<u8>, kind: u8, module: u8, position: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; BLOCK_HEAD]);
    out.extend_from_slice(&[kind, module, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(body);
    let crc = crc32fast::hash(out.get(start + BLOCK_HEAD..).unwrap_or_default());
    let len = u32::try_from(BODY_HEAD + body.len()).unwrap_or(u32::MAX);
    if let Some(head) = out.get_mut(start..start + BLOCK_HEAD) {
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..].copy_from_slice(&crc.to_le_bytes());
    }
}
