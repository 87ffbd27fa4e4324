//! A child's end of its control channel: fd 0, plain reads and writes.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::MAX_MESSAGE;

/// The control channel of this process.
#[derive(Debug)]
pub struct Control {
    buffer: Vec<u8>,
}

impl Default for Control {
    fn default() -> Self {
        Self { buffer: vec![0; MAX_MESSAGE] }
    }
}

impl Control {
    /// The descriptor, for polling.
    #[must_use]
    pub fn fd() -> BorrowedFd<'static> {
        rustix::stdio::stdin()
    }

    /// Sends one message; it is lost if the broker is gone, and so is this process soon.
    pub fn say(message: &impl Serialize) {
        if let Ok(text) = serde_json::to_vec(message) {
            // MAX_MESSAGE is far below the socket's buffer, and the broker always reads; EAGAIN cannot last.
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(Self::fd(), &text));
        }
    }

    /// False once the broker is gone.
    #[must_use]
    pub fn is_open() -> bool {
        let stdin = Self::fd();
        let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_err() || !fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// The next message if there is one within `patience`; an error of kind `UnexpectedEof` when the broker is gone.
    ///
    /// # Errors
    /// The channel is closed or holds nonsense.
    pub fn hear<T: DeserializeOwned>(&mut self, patience: std::time::Duration) -> io::Result<Option<T>> {
        if !Self::comes(patience)? {
            return Ok(None);
        }
        match rustix::io::read(Self::fd(), &mut self.buffer[..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => serde_json::from_slice(&self.buffer[..n]).map(Some).map_err(io::Error::other),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The same with the descriptor that comes with it, if one does. For the collector alone: the others may not call
    /// recvmsg(2).
    ///
    /// # Errors
    /// As of [`Control::hear`].
    pub fn hear_with_file<T: DeserializeOwned>(
        &mut self,
        patience: std::time::Duration,
    ) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        if !Self::comes(patience)? {
            return Ok(None);
        }
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [IoSliceMut::new(&mut self.buffer)];
        let bytes = match recvmsg(Self::fd(), buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => got.bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let file = rights.flatten().next();
        match bytes {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => serde_json::from_slice(&self.buffer[..n]).map(|m| Some((m, file))).map_err(io::Error::other),
        }
    }

    /// Waits for a message, or for the broker's end.
    fn comes(patience: std::time::Duration) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
        let stdin = Self::fd();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}
