//! Messages that carry file descriptors over a control socket (SEQPACKET: one packet, one message).
//!
//! Only the broker sends descriptors. It reads its children's messages with plain read(2): descriptors that a hostile
//! child puts into them are then dropped by the kernel and never enter the broker's table.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message: the kernel's SCM_MAX_FD.
pub const MAX_FDS: usize = 253;

/// Most bytes in one packet. Far below what a socket's default buffer takes; larger things go into a memory file.
pub const MAX_PACKET: usize = 64 << 10;

/// A received packet and its descriptors, in the sender's order.
pub type WithFds = (Vec<u8>, Vec<OwnedFd>);

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end is closed.
    #[error("the other end of the control channel is closed")]
    Closed,
    /// Longer than [`MAX_PACKET`], or empty (an empty packet can't be told from the end of the channel).
    #[error("a message of {0} bytes can't be sent in one packet (1 to {MAX_PACKET})")]
    Size(usize),
    /// More than [`MAX_FDS`].
    #[error("{0} descriptors can't be sent in one message (at most {MAX_FDS})")]
    TooManyFds(usize),
    /// Bytes or descriptors of the message were cut off, e.g. since this process may not open that many files.
    #[error("the message arrived cut: {0}")]
    Cut(&'static str),
    /// sendmsg(2) or recvmsg(2) failed; `WouldBlock` on a non-blocking channel.
    #[error("{call}: {source}")]
    Io {
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Sends one packet. The receiver gets duplicates of `fds`; the caller keeps its own.
pub fn send_with_fds(control: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    if bytes.is_empty() || bytes.len() > MAX_PACKET {
        return Err(ChannelError::Size(bytes.len()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || (!fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(ChannelError::TooManyFds(fds.len()));
    }
    loop {
        match sendmsg(control, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()), // SEQPACKET: all or nothing
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(e) => return Err(ChannelError::Io { call: "sendmsg", source: e.into() }),
        }
    }
}

/// Receives one packet and its descriptors, which are close-on-exec. `Ok(None)`: the other end is closed.
pub fn receive_with_fds(control: BorrowedFd<'_>) -> Result<Option<WithFds>, ChannelError> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(ChannelError::Io { call: "recvmsg", source: e.into() }),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ChannelError::Cut("not all descriptors fit"));
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(ChannelError::Cut("longer than a packet may be"));
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(got.bytes);
    Ok(Some((bytes, fds)))
}

/// Sends one packet without descriptors, by write(2): what a scout or worker may call. On a non-blocking channel that
/// is full: `Io` with `WouldBlock`. Needs SIGPIPE ignored, as it is in every Rust program.
pub fn send(control: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), ChannelError> {
    if bytes.is_empty() || bytes.len() > MAX_PACKET {
        return Err(ChannelError::Size(bytes.len()));
    }
    loop {
        match rustix::io::write(control, bytes) {
            Ok(_) => return Ok(()), // SEQPACKET: all or nothing
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(e) => return Err(ChannelError::Io { call: "write", source: e.into() }),
        }
    }
}

/// Receives one packet by read(2); its descriptors, if a hostile sender put some in, are dropped by the kernel.
/// `Ok(None)`: the other end is closed. Of a packet longer than [`MAX_PACKET`] the rest is lost.
pub fn receive(control: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, ChannelError> {
    let mut bytes = vec![0; MAX_PACKET];
    loop {
        match rustix::io::read(control, &mut bytes[..]) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(None),
            Ok(n) => {
                bytes.truncate(n);
                return Ok(Some(bytes));
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(ChannelError::Io { call: "read", source: e.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (a, b) = pair();
        let file = super::super::memfd::sealed_copy("x", b"inside").unwrap();
        let many = vec![file.as_fd(); MAX_FDS];
        send_with_fds(a.as_fd(), &[7; MAX_PACKET], &many).unwrap();
        send_with_fds(a.as_fd(), b"no fds", &[]).unwrap();
        let (bytes, fds) = receive_with_fds(b.as_fd()).unwrap().unwrap();
        assert_eq!((bytes.len(), fds.len()), (MAX_PACKET, MAX_FDS));
        assert_eq!(super::super::memfd::read_start(fds[MAX_FDS - 1].as_fd(), 6).unwrap(), b"inside");
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let (bytes, fds) = receive_with_fds(b.as_fd()).unwrap().unwrap();
        assert_eq!((&bytes[..], fds.len()), (&b"no fds"[..], 0));
    }

    #[test]
    fn descriptors_that_nobody_asked_for_never_enter_the_reader_s_table() {
        let (a, b) = pair();
        let (pipe_out, pipe_in) = rustix::pipe::pipe().unwrap();
        send_with_fds(a.as_fd(), b"with", &[pipe_in.as_fd()]).unwrap();
        drop(pipe_in);
        assert_eq!(receive(b.as_fd()).unwrap().unwrap(), b"with");
        // End of file: the copy in the packet was the last writing end.
        assert_eq!(rustix::io::read(&pipe_out, &mut [0u8; 1][..]).unwrap(), 0);
        send(b.as_fd(), b"back").unwrap();
        assert_eq!(receive(a.as_fd()).unwrap().unwrap(), b"back");
        drop(b);
        assert!(receive(a.as_fd()).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_one_packet_is_refused() {
        let (a, b) = pair();
        let many = vec![a.as_fd(); MAX_FDS + 1];
        assert!(matches!(send_with_fds(a.as_fd(), b"x", &many), Err(ChannelError::TooManyFds(254))));
        assert!(matches!(send_with_fds(a.as_fd(), &[0; MAX_PACKET + 1], &[]), Err(ChannelError::Size(_))));
        assert!(matches!(send_with_fds(a.as_fd(), &[], &[]), Err(ChannelError::Size(0))));
        drop(a);
        assert!(receive_with_fds(b.as_fd()).unwrap().is_none());
        assert!(matches!(send_with_fds(b.as_fd(), b"x", &[]), Err(ChannelError::Closed)));
    }
}
