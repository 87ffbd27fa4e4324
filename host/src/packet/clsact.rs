//! Programs at network interfaces on kernels without TCX (before 6.6): filters of the queueing discipline `clsact`.
//!
//! Unlike a link such a filter stays when its process is killed. So its name says whose it is (process and the time at which
//! that began), and whether the discipline was made for it; the next run takes away what belongs to nobody any more.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use super::netlink;
use crate::target::process;

/// `rtnetlink(7)`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEW_QDISC: u16 = 36;
    pub const DEL_QDISC: u16 = 37;
    pub const NEW_FILTER: u16 = 44;
    pub const DEL_FILTER: u16 = 45;
    pub const GET_FILTER: u16 = 46;
}
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// `TC_H_CLSACT`.
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// The handle of the discipline, `ffff:`.
const HANDLE: u32 = 0xffff_0000;
const ATTRIBUTE_KIND: u16 = 1;
const ATTRIBUTE_OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;
/// `ETH_P_ALL`, in network byte order.
const EVERY_PROTOCOL: u32 = 0x0300;
/// Before the filters of others, where no filter of another kind has this place; else the first free one.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=64;
const PREFIX: &str = "ecapture";
const BUFFER: usize = 64 << 10;

/// Filters at one interface; dropping takes them away.
#[derive(Debug)]
pub struct Filters {
    interface: u32,
    filters: Vec<Filter>,
    made: bool,
    first: bool,
}

/// A filter as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    parent: u32,
    handle: u32,
    /// Priority and protocol.
    info: u32,
    name: String,
}

impl Filters {
    /// Puts programs at an interface; `true`: outbound.
    ///
    /// # Errors
    /// What the kernel answers; nothing stays then.
    pub fn put(interface: u32, programs: &[(BorrowedFd<'_>, bool)]) -> io::Result<Self> {
        let pid = std::process::id();
        Self::put_of(interface, programs, (pid, process::started_ns(pid).unwrap_or(0)))
    }

    /// The same in the name of a process.
    pub(crate) fn put_of(interface: u32, programs: &[(BorrowedFd<'_>, bool)], owner: (u32, u64)) -> io::Result<Self> {
        let made = match discipline(interface, kind::NEW_QDISC, EXCLUSIVE | CREATE) {
            Ok(()) => true,
            // Who comes second takes it away if he goes last.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => is_ours(interface),
            Err(e) => return Err(e),
        };
        let mut put = Self { interface, filters: Vec::new(), made, first: true };
        let name = name_of(owner, made);
        for (program, outbound) in programs {
            let parent = if *outbound { EGRESS } else { INGRESS };
            let options = attribute(
                ATTRIBUTE_OPTIONS,
                &[
                    attribute(BPF_FD, &program.as_raw_fd().to_ne_bytes()),
                    attribute(BPF_NAME, format!("{name}\0").as_bytes()),
                    attribute(BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes()),
                ]
                .concat(),
            );
            let body = [attribute(ATTRIBUTE_KIND, b"bpf\0"), options].concat();
            let priority = at_first_free(interface, parent, &body)?;
            put.first &= priority == *PRIORITIES.start();
            // Its handle was the kernel's choice.
            let own = list(interface, parent)?.into_iter().filter(|f| f.name == name);
            put.filters.extend(own);
        }
        Ok(put)
    }

    /// Nobody's filters come before them.
    #[must_use]
    pub fn first(&self) -> bool {
        self.first
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        for filter in &self.filters {
            if let Err(e) = remove(self.interface, filter)
                && !is_gone(&e)
            {
                tracing::warn!("a filter could not be taken off network interface {}: {e}", self.interface);
            }
        }
        if self.made {
            remove_unused(self.interface);
        }
    }
}

/// Takes away what runs that were killed have left.
pub fn clean_up() {
    let links = netlink::links().unwrap_or_else(|e| {
        tracing::warn!(
            "filters of earlier runs that were killed stay where they are: no list of network interfaces: {e}"
        );
        Vec::new()
    });
    for link in links {
        let mut made = false;
        for parent in [INGRESS, EGRESS] {
            let filters = list(link.index, parent).unwrap_or_else(|e| {
                // Without the discipline, or the interface, there is none.
                if !is_gone(&e) {
                    tracing::warn!(
                        "it is not known whether network interface {} has filters of earlier runs: {e}",
                        link.name
                    );
                }
                Vec::new()
            });
            for filter in filters {
                let Some((owner, began, own)) = owner(&filter.name) else { continue };
                if process::started_ns(owner).is_some_and(|now| now == began) {
                    continue;
                }
                match remove(link.index, &filter) {
                    Ok(()) => {
                        tracing::info!("took a filter of an earlier run off network interface {}", link.name);
                        made |= own;
                    }
                    Err(e) => {
                        tracing::warn!("a filter of an earlier run stays on network interface {}: {e}", link.name)
                    }
                }
            }
        }
        if made {
            remove_unused(link.index);
        }
    }
}

/// `ecapture-PID-BEGAN`, with `-q` if the discipline was made for it.
fn name_of((pid, began): (u32, u64), made: bool) -> String {
    format!("{PREFIX}-{pid}-{began}{}", if made { "-q" } else { "" })
}

fn owner(name: &str) -> Option<(u32, u64, bool)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    let (pid, began) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((pid, began, parts.next() == Some("q")))
}

/// Puts a filter at the first priority that has none of another kind or protocol; which that was.
fn at_first_free(interface: u32, parent: u32, body: &[u8]) -> io::Result<u32> {
    let mut refused = io::ErrorKind::AddrInUse.into();
    for priority in PRIORITIES {
        let info = priority << 16 | EVERY_PROTOCOL;
        match ask(&message(kind::NEW_FILTER, EXCLUSIVE | CREATE | ACK, interface, (0, parent, info), body)) {
            Ok(()) => return Ok(priority),
            Err(e) if is_taken(&e) => refused = e,
            Err(e) => return Err(e),
        }
    }
    Err(refused)
}

/// Another kind of filter, or one of another protocol, has this priority.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSPC | libc::EEXIST))
}

/// The discipline was made for a filter of ours, of another run.
fn is_ours(interface: u32) -> bool {
    let of = |parent: &u32| list(interface, *parent).unwrap_or_default();
    [INGRESS, EGRESS].iter().flat_map(of).filter_map(|filter| owner(&filter.name)).any(|(_, _, made)| made)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

fn remove(interface: u32, filter: &Filter) -> io::Result<()> {
    let at = (filter.handle, filter.parent, filter.info);
    ask(&message(kind::DEL_FILTER, ACK, interface, at, &attribute(ATTRIBUTE_KIND, b"bpf\0")))
}

/// Somebody else may use it by now.
fn remove_unused(interface: u32) {
    let unused = [INGRESS, EGRESS].iter().all(|parent| list(interface, *parent).is_ok_and(|l| l.is_empty()));
    if unused
        && let Err(e) = discipline(interface, kind::DEL_QDISC, 0)
        && !is_gone(&e)
    {
        tracing::warn!("the clsact discipline stays on network interface {interface}: {e}");
    }
}

fn discipline(interface: u32, what: u16, flags: u16) -> io::Result<()> {
    let body = attribute(ATTRIBUTE_KIND, b"clsact\0");
    ask(&message(what, flags | ACK, interface, (HANDLE, CLSACT, 0), &body))
}

/// The filters of one side of an interface; those of other kinds have no name.
fn list(interface: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    exchange(&message(kind::GET_FILTER, DUMP, interface, (0, parent, 0), &[]), &mut filters)?;
    Ok(filters)
}

fn ask(request: &[u8]) -> io::Result<()> {
    exchange(request, &mut Vec::new())
}

fn exchange(request: &[u8], filters: &mut Vec<Filter>) -> io::Result<()> {
    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if answer(buffer.get(..len).unwrap_or_default(), filters)? || len == 0 {
            return Ok(());
        }
    }
}

/// `struct nlmsghdr`, `struct tcmsg`, attributes.
fn message(what: u16, flags: u16, interface: u32, at: (u32, u32, u32), body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(36 + body.len());
    out.extend_from_slice(&(36 + body.len() as u32).to_ne_bytes());
    out.extend_from_slice(&what.to_ne_bytes());
    out.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    for word in [0, interface, at.0, at.1, at.2] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(body);
    out
}

fn attribute(what: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut out = Vec::with_capacity(length + 3);
    out.extend_from_slice(&(length as u16).to_ne_bytes());
    out.extend_from_slice(&what.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(length.next_multiple_of(4), 0);
    out
}

/// Reads what came; true if that was all.
fn answer(mut bytes: &[u8], filters: &mut Vec<Filter>) -> io::Result<bool> {
    while let Some((length, what)) = word(bytes, 0).zip(half(bytes, 4)) {
        let Some(body) = bytes.get(16..length as usize) else { return Err(io::ErrorKind::InvalidData.into()) };
        match what {
            kind::DONE => return Ok(true),
            kind::ERROR => {
                return match word(body, 0) {
                    Some(0) => Ok(true),
                    number => Err(io::Error::from_raw_os_error(number.unwrap_or(0).cast_signed().wrapping_neg())),
                };
            }
            kind::NEW_FILTER => filters.extend(filter(body)),
            _ => {}
        }
        bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn filter(body: &[u8]) -> Option<Filter> {
    let (handle, parent, info) = (word(body, 8)?, word(body, 12)?, word(body, 16)?);
    let attributes = body.get(20..)?;
    let name = match find(attributes, ATTRIBUTE_KIND) {
        Some(b"bpf\0") => find(attributes, ATTRIBUTE_OPTIONS).and_then(|options| find(options, BPF_NAME)),
        _ => None,
    };
    let name = name.and_then(|name| name.split(|b| *b == 0).next()).unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Filter { parent, handle, info, name })
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(half(attributes, 0)?);
        let value = attributes.get(4..length)?;
        // The top bits say that it is nested.
        if half(attributes, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_the_filter_is() {
        assert_eq!(owner("ecapture-12-345-q"), Some((12, 345, true)));
        assert_eq!(owner("ecapture-12-345"), Some((12, 345, false)));
        for name in ["", "ecapture", "ecapture-", "ecapture-x-1", "cilium-12-345"] {
            assert_eq!(owner(name), None, "{name}");
        }
        assert_eq!(owner(&name_of((7, 8), true)), Some((7, 8, true)));
    }

    #[test]
    fn filters_are_read_from_answers_and_nonsense_is_not() {
        let options = attribute(ATTRIBUTE_OPTIONS, &attribute(BPF_NAME, b"ecapture-1-2\0"));
        let body = [attribute(ATTRIBUTE_KIND, b"bpf\0"), options].concat();
        let made = message(kind::NEW_FILTER, 0, 3, (1, INGRESS, 5), &body);
        let mut filters = Vec::new();
        assert!(!answer(&made, &mut filters).unwrap());
        assert_eq!(filters, [Filter { parent: INGRESS, handle: 1, info: 5, name: "ecapture-1-2".into() }]);
        for at in 0..made.len() {
            for value in [0, 1, 4, 0xff] {
                let mut odd = made.clone();
                odd[at] = value;
                let _ = answer(&odd, &mut Vec::new());
            }
            let _ = answer(&made[..at], &mut Vec::new());
        }
    }
}
