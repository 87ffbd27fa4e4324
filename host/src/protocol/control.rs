//! A child's end of its control channel: fd 0, plain reads and writes.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
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
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
        let stdin = Self::fd();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        match rustix::io::read(stdin, &mut self.buffer[..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => serde_json::from_slice(&self.buffer[..n]).map(Some).map_err(io::Error::other),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
