//! The broker's end of a child's control channel and of its stderr, in the event loop.
//!
//! A SEQPACKET socket wrapped as a tokio `UnixStream`: one `try_read` takes one message. tokio offers no SEQPACKET type,
//! and what it does with the descriptor (readiness, read, write) is the same for both kinds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::protocol::MAX_MESSAGE;
use crate::sandbox::channel::send_with_fds;

/// Messages kept for a child that is busy elsewhere; one that leaves more unread is hung.
const MAX_UNSENT: usize = 4096;

/// One child's control channel.
pub struct Channel {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// What the socket had no room for, in order.
    unsent: RefCell<VecDeque<Vec<u8>>>,
}

impl Channel {
    /// Takes over the broker's end. Must be called inside the runtime.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn new(control: OwnedFd) -> io::Result<Self> {
        let stream = StdStream::from(control);
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, buffer: vec![0; MAX_MESSAGE], unsent: RefCell::default() })
    }

    /// The next message; `None` when the child has closed its end. A message that is not one is an error: a child that
    /// speaks nonsense is treated like one that crashed.
    ///
    /// # Errors
    /// Of the socket, or `InvalidData`.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut resets = 0;
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                // A packet that fills the buffer was cut by the kernel.
                Ok(n) if n == self.buffer.len() => return Err(invalid("message too long")),
                Ok(n) => {
                    return serde_json::from_slice(&self.buffer[..n]).map(Some).map_err(|e| invalid(&e.to_string()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The peer ended with messages of ours unread. The kernel says so before it gives out what the peer said
                // last, and says it once.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset && resets == 0 => resets = 1,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends one message without waiting. What finds no room is kept, and goes with the next one or at [`Channel::flush`].
    ///
    /// # Errors
    /// Of the socket; `WouldBlock` if the child leaves everything unread: a child that does not read its few messages is hung.
    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(|e| invalid(&e.to_string()))?;
        let mut unsent = self.unsent.borrow_mut();
        if unsent.len() >= MAX_UNSENT {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        unsent.push_back(text);
        drop(unsent);
        self.flush()
    }

    /// Sends what had to wait, as far as there is room.
    ///
    /// # Errors
    /// Of the socket; then nothing waits any more.
    pub fn flush(&self) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        while let Some(text) = unsent.front() {
            match self.stream.try_write(text) {
                Ok(_) => drop(unsent.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => {
                    unsent.clear();
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// The same with a descriptor, of which the child gets a copy.
    ///
    /// # Errors
    /// Of the socket, or that the message is too long.
    pub fn send_with_file(&self, message: &impl Serialize, file: BorrowedFd<'_>) -> io::Result<()> {
        let text = serde_json::to_vec(message).map_err(|e| invalid(&e.to_string()))?;
        send_with_fds(self.stream.as_fd(), &text, &[file]).map_err(io::Error::other)
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn what_finds_no_room_is_kept_in_order_and_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            let channel = Channel::new(ours).unwrap();
            channel.stream.writable().await.unwrap();
            let mut sent = 0u64;
            while channel.send(&sent).is_ok() {
                sent += 1;
            }
            assert!(sent >= MAX_UNSENT as u64, "{sent}");
            rustix::io::ioctl_fionbio(&theirs, true).unwrap();
            let (mut buffer, mut expected) = ([0; 64], 0u64);
            while expected < sent {
                while let Ok(n) = rustix::io::read(&theirs, &mut buffer[..]) {
                    assert_eq!(buffer[..n], *expected.to_string().as_bytes());
                    expected += 1;
                }
                // As at the broker's tick: the event loop has to hear that there is room again.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                channel.flush().unwrap();
            }
            assert!(channel.unsent.borrow().is_empty());
        });
    }
}
