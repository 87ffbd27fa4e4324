//! Unchangeable copies of bytes in memory files: modules that were judged, and start messages; and files as memory.
#![expect(unsafe_code, reason = "mapping a file that others may change")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// A memory file with exactly these bytes: it can't be written, cut, grown, or unsealed any more, and lies on no file
/// system. `name` is what `/proc/PID/maps` shows (at most 249 bytes).
///
/// Asks for NOEXEC_SEAL (kernel 6.3) first: such a file can be mapped executable by dlopen, but never be exec'd, and it
/// is the only kind that `vm.memfd_noexec=2` allows. Errors: whatever memfd_create(2) answers, e.g. where a policy
/// refuses memory files.
pub fn sealed_copy(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl_add_seals(file.as_fd(), SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// An empty memory file, to be written and read.
pub fn scratch(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Size of an open file. std's and memmap2's way (statx, newfstatat) is refused inside the boundary, since those calls
/// take paths as well; this one is fstat(2) and nothing else.
pub fn file_size(fd: impl AsFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
}

/// The whole file as memory, read-only. Only for children: if somebody cuts the file while it is mapped, a read beyond its new
/// end ends the process with SIGBUS. Errors: of mmap(2); an empty file.
pub fn map_file(fd: &OwnedFd) -> io::Result<Mmap> {
    let len = usize::try_from(file_size(fd)?).map_err(io::Error::other)?;
    // The length is given, since memmap2 would else ask with a call that is refused here.
    // SAFETY: the bytes may change while they are read (the file is somebody's program), which the parsers that get them are
    // written for: they check every number that they use, and copy what they keep.
    unsafe { MmapOptions::new().len(len).map(fd) }
}

/// `len` bytes from the start, whatever the file position is (it is shared with whoever else holds the file).
pub(super) fn read_start(fd: BorrowedFd<'_>, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match rustix::io::pread(fd, &mut bytes[have..], have as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_and_cannot_be_changed() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let fd = sealed_copy("test", &bytes).unwrap();
        assert_eq!(file_size(fd.as_fd()).unwrap(), 300_000);
        assert_eq!(read_start(fd.as_fd(), 300_000).unwrap(), bytes);
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err(), "write");
        assert!(rustix::fs::ftruncate(&fd, 1).is_err(), "shrink");
        assert!(rustix::fs::ftruncate(&fd, 1 << 20).is_err(), "grow");
        assert!(fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).is_err(), "seal");
        assert_eq!(read_start(fd.as_fd(), 300_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
