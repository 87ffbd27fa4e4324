//! The only `bpf(2)` and `perf_event_open(2)` calls of the host, one thin function each.
//!
//! Must not live here: decisions and retries. Callers turn `io::Error` into words.
#![expect(unsafe_code, reason = "raw system calls; this file is where they are kept")]
#![expect(clippy::disallowed_methods, reason = "raw system calls; this file is where they are kept")]

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_map_info, perf_event_attr};
use std::{
    ffi::{CStr, c_char, c_int},
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// `BPF_F_UPROBE_MULTI_RETURN`.
const UPROBE_MULTI_RETURN: u32 = 1;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;

/// # Safety
/// What `fill` sets must be valid for `cmd`: each address must point to as many bytes as the kernel reads or writes there.
unsafe fn bpf(cmd: bpf_cmd, fill: impl FnOnce(&mut bpf_attr)) -> io::Result<c_int> {
    // SAFETY: `bpf_attr` is a union of plain integers, for which zero is a value. The kernel wants unused bytes to be zero.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    fill(&mut attr);
    // SAFETY: the pointer and the size are those of `attr`; the addresses inside are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd as u32, &raw mut attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

/// # Safety
/// As `bpf`; `cmd` must answer a new file descriptor.
unsafe fn bpf_fd(cmd: bpf_cmd, fill: impl FnOnce(&mut bpf_attr)) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise is handed on.
    let fd: RawFd = unsafe { bpf(cmd, fill) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it. (It is close-on-exec.)
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// At most 15 of the characters that the kernel takes, in its fixed field.
fn name(text: &str) -> [c_char; 16] {
    let mut out = [0; 16];
    for (to, byte) in out[..15].iter_mut().zip(text.bytes()) {
        *to = if byte.is_ascii_alphanumeric() || byte == b'.' { byte } else { b'_' } as c_char;
    }
    out
}

/// The fields of a new map.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NewMap<'a> {
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
    pub extra: u64,
    pub name: &'a str,
    /// The object's types, with those of key and value.
    pub types: Option<(BorrowedFd<'a>, u32, u32)>,
}

pub(super) fn map_create(map: &NewMap<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the command reads numbers only.
    unsafe {
        bpf_fd(bpf_cmd::BPF_MAP_CREATE, |a| {
            let u = &mut a.__bindgen_anon_1;
            (u.map_type, u.key_size, u.value_size) = (map.kind, map.key, map.value);
            (u.max_entries, u.map_flags, u.map_extra) = (map.entries, map.flags, map.extra);
            u.map_name = name(map.name);
            if let Some((btf, key, value)) = map.types {
                (u.btf_fd, u.btf_key_type_id, u.btf_value_type_id) = (raw(btf), key, value);
            }
        })
    }
}

/// # Safety
/// `key` and `value` must have the sizes of the map (a map per CPU wants one value for each possible CPU).
pub(super) unsafe fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    // SAFETY: both buffers live across the call; their sizes are the caller's promise.
    unsafe {
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, |a| {
            let u = &mut a.__bindgen_anon_2;
            (u.map_fd, u.key) = (raw(map), key.as_ptr() as u64);
            u.__bindgen_anon_1.value = value.as_ptr() as u64;
        })
        .map(drop)
    }
}

/// Only a key that is not there yet.
///
/// # Safety
/// As `map_update`.
pub(super) unsafe fn map_insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    const BPF_NOEXIST: u64 = 1;
    // SAFETY: both buffers live across the call; their sizes are the caller's promise.
    unsafe {
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, |a| {
            let u = &mut a.__bindgen_anon_2;
            (u.map_fd, u.key) = (raw(map), key.as_ptr() as u64);
            u.__bindgen_anon_1.value = value.as_ptr() as u64;
            u.flags = BPF_NOEXIST;
        })
        .map(drop)
    }
}

/// # Safety
/// As `map_update`; the kernel writes `value`.
pub(super) unsafe fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    // SAFETY: both buffers live across the call; their sizes are the caller's promise.
    unsafe {
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, |a| {
            let u = &mut a.__bindgen_anon_2;
            (u.map_fd, u.key) = (raw(map), key.as_ptr() as u64);
            u.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        })
        .map(drop)
    }
}

/// # Safety
/// `key` must have the size of the map's keys.
pub(super) unsafe fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    // SAFETY: the key lives across the call; its size is the caller's promise.
    unsafe {
        bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, |a| {
            let u = &mut a.__bindgen_anon_2;
            (u.map_fd, u.key) = (raw(map), key.as_ptr() as u64);
        })
        .map(drop)
    }
}

/// # Safety
/// `key`, if given, and `next` must have the size of the map's keys.
pub(super) unsafe fn map_next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
    // SAFETY: both buffers live across the call; their sizes are the caller's promise. No key is a null address: the first.
    unsafe {
        bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, |a| {
            let u = &mut a.__bindgen_anon_2;
            (u.map_fd, u.key) = (raw(map), key.map_or(0, |k| k.as_ptr() as u64));
            u.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        })
        .map(drop)
    }
}

/// From now on user space cannot change the map, and the verifier takes its values for constants.
pub(super) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the command reads a descriptor only.
    unsafe { bpf(bpf_cmd::BPF_MAP_FREEZE, |a| a.__bindgen_anon_2.map_fd = raw(map)).map(drop) }
}

pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most `info_len` bytes into `info`, which lives across the call.
    unsafe {
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, |a| {
            (a.info.bpf_fd, a.info.info_len) = (raw(map), size_of::<bpf_map_info>() as u32);
            a.info.info = &raw mut info as u64;
        })?;
    }
    Ok(info)
}

pub(super) fn btf_load(types: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: address and length are those of a slice that lives across the call.
    unsafe {
        bpf_fd(bpf_cmd::BPF_BTF_LOAD, |a| {
            let u = &mut a.__bindgen_anon_7;
            (u.btf, u.btf_size) = (types.as_ptr() as u64, types.len() as u32);
        })
    }
}

/// The fields of a new program. `functions` and `lines` are whole records of 8 and 16 bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NewProgram<'a> {
    pub kind: u32,
    pub attach_type: u32,
    pub attach_btf_id: u32,
    pub flags: u32,
    pub code: &'a [bpf_insn],
    pub license: &'a CStr,
    pub name: &'a str,
    pub types: Option<BorrowedFd<'a>>,
    pub functions: &'a [u8],
    pub lines: &'a [u8],
}

/// `log_level` 0 writes no log; 4 writes statistics; 1 writes what the verifier thinks.
pub(super) fn prog_load(program: &NewProgram<'_>, log_level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: each address comes with the length of its slice (license: ends with NUL), and all live across the call. The
    // kernel writes the log only.
    unsafe {
        bpf_fd(bpf_cmd::BPF_PROG_LOAD, |a| {
            let u = &mut a.__bindgen_anon_3;
            (u.prog_type, u.expected_attach_type) = (program.kind, program.attach_type);
            (u.attach_btf_id, u.prog_flags) = (program.attach_btf_id, program.flags);
            (u.insns, u.insn_cnt) = (program.code.as_ptr() as u64, program.code.len() as u32);
            (u.license, u.prog_name) = (program.license.as_ptr() as u64, name(program.name));
            if let Some(types) = program.types {
                u.prog_btf_fd = raw(types);
                (u.func_info, u.func_info_rec_size) = (program.functions.as_ptr() as u64, 8);
                u.func_info_cnt = (program.functions.len() / 8) as u32;
                (u.line_info, u.line_info_rec_size) = (program.lines.as_ptr() as u64, 16);
                u.line_info_cnt = (program.lines.len() / 16) as u32;
            }
            if log_level > 0 {
                (u.log_level, u.log_buf, u.log_size) = (log_level, log.as_mut_ptr() as u64, log.len() as u32);
            }
        })
    }
}

/// One link for all points of a file. `cookies` must be as long as `offsets`; the shorter length counts.
pub(super) fn link_uprobe_multi(
    program: BorrowedFd<'_>,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
    at_return: bool,
) -> io::Result<OwnedFd> {
    let count = offsets.len().min(cookies.len());
    // SAFETY: `count` elements are there behind both addresses, the path ends with NUL, and all live across the call.
    unsafe {
        bpf_fd(bpf_cmd::BPF_LINK_CREATE, |a| {
            let u = &mut a.link_create;
            u.__bindgen_anon_1.prog_fd = raw(program);
            u.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
            let m = &mut u.__bindgen_anon_3.uprobe_multi;
            (m.path, m.offsets, m.cookies) = (path.as_ptr() as u64, offsets.as_ptr() as u64, cookies.as_ptr() as u64);
            (m.cnt, m.flags) = (count as u32, if at_return { UPROBE_MULTI_RETURN } else { 0 });
        })
    }
}

/// The link keeps the perf event alive.
pub(super) fn link_perf(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    // SAFETY: the command reads numbers only.
    unsafe {
        bpf_fd(bpf_cmd::BPF_LINK_CREATE, |a| {
            let u = &mut a.link_create;
            u.__bindgen_anon_1.prog_fd = raw(program);
            u.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
            u.__bindgen_anon_2.target_fd = raw(event);
            u.__bindgen_anon_3.perf_event.bpf_cookie = cookie;
        })
    }
}

/// Attaches to a cgroup directory (`target`), beside what is attached there already.
pub(super) fn link_cgroup(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    // SAFETY: the command reads numbers only.
    unsafe {
        bpf_fd(bpf_cmd::BPF_LINK_CREATE, |a| {
            let u = &mut a.link_create;
            (u.__bindgen_anon_1.prog_fd, u.attach_type) = (raw(program), kind as u32);
            u.__bindgen_anon_2.target_fd = raw(target);
        })
    }
}

/// Attaches to a network interface, before all that is attached there already.
pub(super) fn link_tcx(program: BorrowedFd<'_>, interface: u32, kind: bpf_attach_type) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 8;
    // SAFETY: the command reads numbers only; no other program is named, which means: before the first.
    unsafe {
        bpf_fd(bpf_cmd::BPF_LINK_CREATE, |a| {
            let u = &mut a.link_create;
            (u.__bindgen_anon_1.prog_fd, u.attach_type) = (raw(program), kind as u32);
            u.__bindgen_anon_2.target_ifindex = interface;
            u.flags = BPF_F_BEFORE;
        })
    }
}

/// Attaches a `tp_btf` program; which tracepoint was fixed when it was loaded.
pub(super) fn link_tp_btf(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the command reads a descriptor; the name stays null.
    unsafe { bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, |a| a.raw_tracepoint.prog_fd = raw(program)) }
}

fn perf_event_open(attr: &mut perf_event_attr) -> io::Result<OwnedFd> {
    attr.size = size_of::<perf_event_attr>() as u32;
    // SAFETY: `attr` says its own size and lives across the call; any process (-1), CPU 0 (a place to hang the event: a
    // program attached through it runs on all CPUs), no group.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const *attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `pmu`: the number in `/sys/bus/event_source/devices/uprobe/type`.
pub(super) fn perf_uprobe(pmu: u32, path: &CStr, offset: u64, at_return: bool) -> io::Result<OwnedFd> {
    // SAFETY: plain integers, for which zero is a value.
    let mut attr: perf_event_attr = unsafe { mem::zeroed() };
    (attr.type_, attr.config) = (pmu, u64::from(at_return)); // format/retprobe: config:0
    attr.__bindgen_anon_3.config1 = path.as_ptr() as u64; // uprobe_path
    attr.__bindgen_anon_4.config2 = offset; // probe_offset
    perf_event_open(&mut attr)
}

/// `id`: the number in the tracepoint's `id` file in tracefs.
pub(super) fn perf_tracepoint(id: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    // SAFETY: plain integers, for which zero is a value.
    let mut attr: perf_event_attr = unsafe { mem::zeroed() };
    (attr.type_, attr.config) = (PERF_TYPE_TRACEPOINT, id);
    attr.__bindgen_anon_1.sample_period = 1;
    perf_event_open(&mut attr)
}
