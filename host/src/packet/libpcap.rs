//! The system's libpcap, for the one thing that it is asked for: to compile a tcpdump expression.
//!
//! Loaded when there is an expression, so that nobody needs it who has none; and in a child that gave up every privilege and ends with its
//! answer, so that none of it is in a process that lives, or that captured data passes through.
#![expect(unsafe_code, reason = "calls into a C library that is opened while the program runs")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

use super::filter::{self, Filter, Instruction};

/// Its names: Debian's, and everybody else's.
const SONAMES: [&str; 2] = ["libpcap.so.0.8", "libpcap.so.1"];
/// Link types (numbers of <https://www.tcpdump.org/linktypes.html>) that an expression is compiled for: those that interfaces of Linux
/// have as far as frames are captured from them, with the names that people know them by.
pub const LINK_TYPES: [(u16, &str); 7] = [
    (1, "Ethernet"),
    (0, "loopback of BSD"),
    (101, "raw IP"),
    (113, "Linux cooked"),
    (228, "raw IPv4"),
    (229, "raw IPv6"),
    (276, "Linux cooked 2"),
];
/// `LINKTYPE_RAW`, and what it is called inside of a program on Linux (`DLT_RAW`).
const RAW: (u16, c_int) = (101, 12);
/// Longest frame that a program lets pass.
const SNAPLEN: c_int = 262_144;
/// The network's mask is not known; an expression that needs it is refused.
const NETMASK_UNKNOWN: u32 = 0xffff_ffff;

/// Why there is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum FilterError {
    /// No libpcap that can be used.
    #[error("a packet filter needs libpcap, which cannot be loaded: {0}")]
    Library(String),
    /// libpcap's words.
    #[error("the packet filter {expression:?} is not understood: {message}")]
    Expression {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        message: String,
    },
}

#[repr(C)]
struct BpfInsn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct BpfProgram {
    length: u32,
    instructions: *mut BpfInsn,
}

/// `pcap_t`, of which nothing is known here.
#[repr(C)]
struct Pcap {
    _opaque: [u8; 0],
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut Pcap;
type Compile = unsafe extern "C" fn(*mut Pcap, *mut BpfProgram, *const c_char, c_int, u32) -> c_int;
type GetErr = unsafe extern "C" fn(*mut Pcap) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut BpfProgram);
type Close = unsafe extern "C" fn(*mut Pcap);

/// The functions that are used. The library stays for the life of the process.
struct Libpcap {
    open_dead: Symbol<OpenDead>,
    compile: Symbol<Compile>,
    geterr: Symbol<GetErr>,
    freecode: Symbol<FreeCode>,
    close: Symbol<Close>,
}

impl Libpcap {
    fn load() -> Result<Self, libloading::Error> {
        let open = |name: &str| {
            // SAFETY: dlopen runs the library's constructors. It is one that the system's loader finds by a plain name with an empty
            // environment: as trusted as the libraries that this program itself is linked with.
            unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }
        };
        let [debian, others] = SONAMES;
        let library = open(debian).or_else(|first| open(others).map_err(|_| first))?;
        // SAFETY: the types are those of pcap/pcap.h, which has not changed them since libpcap 0.8.
        let this = unsafe {
            Self {
                open_dead: library.get(b"pcap_open_dead\0")?,
                compile: library.get(b"pcap_compile\0")?,
                geterr: library.get(b"pcap_geterr\0")?,
                freecode: library.get(b"pcap_freecode\0")?,
                close: library.get(b"pcap_close\0")?,
            }
        };
        std::mem::forget(library);
        Ok(this)
    }

    /// The program for one link type, or libpcap's words.
    fn program(&self, expression: &CStr, link_type: u16) -> Result<Vec<Instruction>, String> {
        let number = if link_type == RAW.0 { RAW.1 } else { c_int::from(link_type) };
        // SAFETY: takes two numbers and answers a handle, or null.
        let Some(handle) = NonNull::new(unsafe { (self.open_dead)(number, SNAPLEN) }) else {
            return Err("out of memory".into());
        };
        let mut program = BpfProgram { length: 0, instructions: std::ptr::null_mut() };
        // SAFETY: the handle is open, the program is ours to be filled in, the expression ends with a zero byte and is only read.
        let failed =
            unsafe { (self.compile)(handle.as_ptr(), &raw mut program, expression.as_ptr(), 1, NETMASK_UNKNOWN) };
        let answer = if failed == 0 {
            let mut instructions = Vec::new();
            if let (Ok(length), false) = (usize::try_from(program.length), program.instructions.is_null()) {
                // SAFETY: libpcap filled in the program: so many instructions stand there until it is freed.
                let all = unsafe { std::slice::from_raw_parts(program.instructions, length) };
                instructions.extend(all.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }));
            }
            // SAFETY: the program was filled in, and nothing points into it any more.
            unsafe { (self.freecode)(&raw mut program) };
            Ok(instructions)
        } else {
            // SAFETY: the text belongs to the open handle and ends with a zero byte; it is copied here.
            Err(unsafe { CStr::from_ptr((self.geterr)(handle.as_ptr())) }.to_string_lossy().into_owned())
        };
        // SAFETY: the handle is open, and is not used again.
        unsafe { (self.close)(handle.as_ptr()) };
        answer
    }
}

/// Compiles an expression for every link type that it makes sense on. Names of hosts, ports and protocols are looked up as the system
/// does it.
///
/// # Errors
/// libpcap is missing, or does not understand the expression.
pub fn compile(expression: &str) -> Result<Filter, FilterError> {
    let refuse = |message: String| FilterError::Expression { expression: expression.to_owned(), message };
    let text = CString::new(expression).map_err(|_| refuse("it has a zero byte in it".into()))?;
    let libpcap = Libpcap::load().map_err(|e| FilterError::Library(e.to_string()))?;
    let mut programs = BTreeMap::new();
    let mut first = None;
    for (link_type, _) in LINK_TYPES {
        match libpcap.program(&text, link_type) {
            Ok(program) => {
                // Not what libpcap has against a kind of link: nothing would fit where people expect that something does.
                if let Some(why) = filter::objection(&program) {
                    return Err(refuse(why.into()));
                }
                programs.insert(link_type, program);
            }
            // What is wrong for Ethernet is wrong as a rule, and said in words that people know.
            Err(message) => first = first.or(Some(message)),
        }
    }
    match first {
        Some(message) if programs.is_empty() => Err(refuse(message)),
        _ => Ok(Filter { expression: expression.to_owned(), programs }),
    }
}

#[cfg(test)]
#[path = "libpcap_tests.rs"]
mod tests;
