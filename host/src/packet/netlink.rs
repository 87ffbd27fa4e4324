//! The network interfaces of this network namespace, as the kernel tells them over netlink, and when they change.
//!
//! Whatever changes, all are asked for again: that forgets nothing when messages were lost, and there are few.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

/// `rtnetlink(7)`.
mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEW_LINK: u16 = 16;
    pub const DEL_LINK: u16 = 17;
    pub const GET_LINK: u16 = 18;
}
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
const ATTRIBUTE_NAME: u16 = 3;
/// More than the kernel puts into one message.
const BUFFER: usize = 64 << 10;

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `ARPHRD_*`: what its frames are.
    pub hardware: u16,
    /// It was brought up.
    pub up: bool,
    /// What goes out on it comes in on it.
    pub loopback: bool,
}

impl Link {
    /// What its frames begin with, as a number of <https://www.tcpdump.org/linktypes.html>; `None`: not known here.
    #[must_use]
    pub fn link_type(&self) -> Option<u16> {
        match self.hardware {
            // Ethernet (veth, bridge, VLAN and TAP as well), loopback.
            1 | 772 => Some(1),
            // IPIP, IP6-in-IP, SIT, raw IP (modems), none (TUN, WireGuard): the frame is the IP packet.
            768 | 769 | 776 | 519 | 65534 => Some(101),
            _ => None,
        }
    }
}

/// All interfaces.
///
/// # Errors
/// Of the socket, or of the kernel.
pub fn links() -> io::Result<Vec<Link>> {
    let socket = open(0)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    // struct nlmsghdr, struct ifinfomsg.
    let mut request = Vec::new();
    request.extend_from_slice(&32u32.to_ne_bytes());
    request.extend_from_slice(&kind::GET_LINK.to_ne_bytes());
    request.extend_from_slice(&(REQUEST | DUMP).to_ne_bytes());
    request.extend_from_slice(&[0; 24]);
    send(&socket, &request, SendFlags::empty())?;
    let (mut links, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(buffer.get(..len).unwrap_or_default(), &mut links)? || len == 0 {
            return Ok(links);
        }
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Takes the interfaces out of what came; true at the end of all.
///
/// # Errors
/// What the kernel answers instead.
fn parse(mut bytes: &[u8], links: &mut Vec<Link>) -> io::Result<bool> {
    while let Some((length, what)) = half(bytes, 4).and_then(|what| Some((word(bytes, 0)? as usize, what))) {
        let Some(body) = bytes.get(16..length) else { return Err(io::ErrorKind::InvalidData.into()) };
        match what {
            kind::DONE => return Ok(true),
            kind::ERROR => {
                let number = word(body, 0).unwrap_or_default().cast_signed();
                return Err(io::Error::from_raw_os_error(number.wrapping_neg()));
            }
            kind::NEW_LINK => links.extend(link(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<Link> {
    let (hardware, index, flags) = (half(body, 2)?, word(body, 4)?, word(body, 8)?);
    let mut attributes = body.get(16..)?;
    let name = loop {
        let (length, what) = (usize::from(half(attributes, 0)?), half(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if what == ATTRIBUTE_NAME {
            let name = value.split(|b| *b == 0).next().unwrap_or_default();
            break String::from_utf8_lossy(name).into_owned();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    };
    Some(Link { index, name, hardware, up: flags & UP != 0, loopback: flags & LOOPBACK != 0 })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Hears that some interface has changed.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// From now on.
    ///
    /// # Errors
    /// Of the socket.
    pub fn new() -> io::Result<Self> {
        open(LINKS).map(Self)
    }

    /// Takes what was said; whether anything was. Of it all only one thing is kept: `gone`, the numbers of interfaces that went, since another
    /// one may have such a number by now.
    ///
    /// # Errors
    /// Nothing more will be heard.
    pub fn heard(&self, gone: &mut BTreeSet<u32>) -> io::Result<bool> {
        let (mut heard, mut buffer) = (false, vec![0; BUFFER]);
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    heard = true;
                    gone.extend(went(buffer.get(..len).unwrap_or_default()));
                }
                // More was said than there was room for.
                Err(Errno::NOBUFS) => heard = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(heard),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Numbers of the interfaces that went.
fn went(mut bytes: &[u8]) -> Vec<u32> {
    let mut gone = Vec::new();
    while let Some((length, what)) = half(bytes, 4).and_then(|what| Some((word(bytes, 0)? as usize, what))) {
        let Some(body) = bytes.get(16..length) else { break };
        // Of the family of bridges: it is a port of one no more, and still there.
        if what == kind::DEL_LINK && body.first() == Some(&0) {
            gone.extend(word(body, 4));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    gone
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let links = links().unwrap();
        let lo = links.iter().find(|l| l.loopback).expect("lo");
        assert_eq!((lo.name.as_str(), lo.link_type()), ("lo", Some(1)));
    }

    #[test]
    fn who_listens_hears_what_went_and_that_nothing_more_will_be_heard() {
        let message = |what: u16, family: u8, index: u32| {
            let mut message = 32u32.to_ne_bytes().to_vec();
            message.extend(what.to_ne_bytes());
            message.extend([0; 10]);
            message.extend([family, 0, 1, 0]);
            message.extend(index.to_ne_bytes());
            message.extend([0; 8]);
            message
        };
        let [new, port, gone] =
            [(kind::NEW_LINK, 0, 5), (kind::DEL_LINK, 7, 6), (kind::DEL_LINK, 0, 7)].map(|(w, f, i)| message(w, f, i));
        let all = [new, port, gone].concat();
        assert_eq!(went(&all), [7]);
        for len in 0..all.len() {
            assert!(went(&all[..len]).is_empty());
        }
        let mut gone = BTreeSet::new();
        assert!(!Watch::new().unwrap().heard(&mut gone).unwrap() && gone.is_empty());
        let no_socket = Watch(std::fs::File::open("/dev/null").unwrap().into());
        assert!(no_socket.heard(&mut gone).is_err());
    }

    #[test]
    fn nonsense_is_refused_and_never_read_past() {
        let mut message = 44u32.to_ne_bytes().to_vec();
        message.extend(kind::NEW_LINK.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([0, 0, 1, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend([12, 0, 3, 0]);
        message.extend(b"eth0\0\0\0\0");
        let mut links = Vec::new();
        assert!(!parse(&message, &mut links).unwrap());
        let eth0 = Link { index: 7, name: "eth0".into(), hardware: 1, up: true, loopback: false };
        assert_eq!(links, [eth0]);
        for len in 0..message.len() {
            let mut links = Vec::new();
            let _ = parse(&message[..len], &mut links);
            assert!(links.is_empty());
        }
        for at in 0..message.len() {
            for value in [0, 1, 3, 0xff] {
                let mut odd = message.clone();
                odd[at] = value;
                let _ = parse(&odd, &mut Vec::new());
            }
        }
    }
}
