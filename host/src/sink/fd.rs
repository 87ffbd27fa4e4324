//! Writing to an open file descriptor without ever waiting for a reader.
//!
//! What waits and what doesn't, by kind:
//! - a regular file: `write` waits for the page cache at worst. There is no way to ask first, and no need.
//! - a pipe, terminal or device that is ours alone: `O_NONBLOCK`.
//! - one that is shared with the shell or a parent (an inherited stdout): `O_NONBLOCK` belongs to the open file, not to
//!   our number for it, and would make *their* reads and writes fail. So `poll` first, then a piece so small that it
//!   fits: `PIPE_BUF` bytes into a pipe that polls writable never wait; a terminal gets less, since it polls writable
//!   from one free byte on. A second writer of the same pipe can still get in between the two calls; that wait is then
//!   as long as the reader takes for one piece. [`private`] avoids even that.
//! - a socket: `MSG_DONTWAIT`, which is per call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::net::SendFlags;

/// Where bytes go. `WouldBlock`: nothing was written, ask again later.
pub trait Destination: Send {
    /// Writes some of `bytes` (not empty), without waiting for a reader.
    ///
    /// # Errors
    /// The system's; `WouldBlock` means later.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Takes back the last `count` bytes written, if that can be done without harm to anybody else's: a line that will
    /// never be finished. Does nothing otherwise.
    fn take_back(&mut self, count: u64);

    /// What to poll for room; none if writing never waits.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A piece that a pipe with any free slot takes whole (`PIPE_BUF`).
const PIPE_PIECE: usize = 4096;
/// A piece for a shared terminal: small against its buffer, large enough for a line.
const TERMINAL_PIECE: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    File,
    NonBlocking,
    Polled(usize),
    Socket,
}

/// A file descriptor as a destination.
#[derive(Debug)]
pub struct FdDestination {
    fd: OwnedFd,
    way: Way,
}

/// Whether anybody else holds the same open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Opened for us: flags may be set.
    Own,
    /// Inherited: its flags are not ours to change.
    Shared,
}

impl FdDestination {
    /// Looks at what `fd` is; sets `O_NONBLOCK` where that is right.
    ///
    /// # Errors
    /// `fstat` or `fcntl` failed.
    pub fn new(fd: OwnedFd, sharing: Sharing) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let way = match (kind, sharing) {
            (FileType::RegularFile, _) => Way::File,
            (FileType::Socket, _) => Way::Socket,
            _ if flags.contains(OFlags::NONBLOCK) => Way::NonBlocking,
            (_, Sharing::Own) => {
                rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
                Way::NonBlocking
            }
            (FileType::Fifo, Sharing::Shared) => Way::Polled(PIPE_PIECE),
            (_, Sharing::Shared) => Way::Polled(TERMINAL_PIECE),
        };
        Ok(Self { fd, way })
    }
}

impl Destination for FdDestination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.way {
            Way::File | Way::NonBlocking => rustix::io::write(&self.fd, bytes)?,
            Way::Socket => rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?,
            Way::Polled(piece) => {
                if !writable(self.fd.as_fd())? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                rustix::io::write(&self.fd, bytes.get(..piece).unwrap_or(bytes))?
            }
        };
        Ok(written)
    }

    fn take_back(&mut self, count: u64) {
        if self.way != Way::File {
            return;
        }
        // Only when the last byte of the file is our last byte: otherwise somebody else appends to it too.
        let here = rustix::fs::seek(&self.fd, SeekFrom::Current(0));
        let size = rustix::fs::fstat(&self.fd).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
        if let (Ok(here), Some(size)) = (here, size)
            && here == size
            && let Some(keep) = size.checked_sub(count)
            && rustix::fs::ftruncate(&self.fd, keep).is_ok()
        {
            let _ = rustix::fs::seek(&self.fd, SeekFrom::Start(keep));
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (self.way != Way::File).then(|| self.fd.as_fd())
    }
}

/// Room now? A closed reader counts as room: the write then says so.
fn writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Opens the pipe or terminal behind a shared descriptor anew (through `/proc/self/fd`), so that it can be
/// non-blocking without anybody else's noticing. For the broker: a sandboxed collector opens nothing. `None` for what
/// can't or mustn't be opened twice (files, whose offset is shared with the shell; sockets).
pub fn private(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    use std::os::fd::AsRawFd;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, rustix::fs::Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn fill(destination: &mut FdDestination) -> usize {
        let mut total = 0;
        loop {
            match destination.write(&[b'x'; 100_000]) {
                Ok(count) => total += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    #[test]
    fn a_full_pipe_never_waits_and_a_shared_one_keeps_its_flags() {
        for sharing in [Sharing::Own, Sharing::Shared] {
            let (mut reader, writer) = io::pipe().unwrap();
            let kept = writer.try_clone().unwrap();
            let mut destination = FdDestination::new(writer.into(), sharing).unwrap();
            let total = fill(&mut destination);
            assert!(total >= 4096, "{sharing:?} {total}");
            let flags = rustix::fs::fcntl_getfl(&kept).unwrap();
            assert_eq!(flags.contains(OFlags::NONBLOCK), sharing == Sharing::Own);
            // One free slot is room for one piece.
            reader.read_exact(&mut [0; 4096]).unwrap();
            assert!(destination.write(&[b'y'; 5000]).is_ok());
        }
    }

    #[test]
    fn a_closed_reader_is_a_broken_pipe() {
        for sharing in [Sharing::Own, Sharing::Shared] {
            let (reader, writer) = io::pipe().unwrap();
            drop(reader);
            let mut destination = FdDestination::new(writer.into(), sharing).unwrap();
            assert_eq!(destination.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_full_socket_never_waits() {
        let (writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut destination = FdDestination::new(writer.into(), Sharing::Shared).unwrap();
        assert!(fill(&mut destination) > 0);
        drop(reader);
        assert_eq!(destination.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_private_copy_of_a_pipe_has_flags_of_its_own() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut destination = FdDestination::new(private(writer.as_fd()).unwrap(), Sharing::Own).unwrap();
        assert!(fill(&mut destination) > 0);
        assert!(!rustix::fs::fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
        reader.read_exact(&mut [0; 10]).unwrap();
        assert!(private(tempfile::tempfile().unwrap().as_fd()).is_none());
    }

    #[test]
    fn bytes_are_taken_back_only_from_the_end_of_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        let mut destination = FdDestination::new(file.try_clone().unwrap().into(), Sharing::Shared).unwrap();
        destination.write(b"whole\nhal").unwrap();
        destination.take_back(3);
        destination.write(b"next\n").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before whole\nnext\n");
        // Not at the end: somebody else's bytes follow.
        file.seek(io::SeekFrom::Start(6)).unwrap();
        destination.take_back(3);
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 18);
    }
}
