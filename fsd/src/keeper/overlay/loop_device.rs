//! A file as a block device that goes with its last user (loop(4)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// How often a number that somebody else took meanwhile is asked for anew.
const ATTEMPTS: usize = 32;
/// The major number of loop devices (Documentation/admin-guide/devices.txt).
const MAJOR: u32 = 7;

// Source: include/uapi/linux/loop.h.
const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const BLOCK_BYTES: u32 = 4096;

/// `struct loop_config`, with `struct loop_info64` in it.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A block device. The kernel takes it away when it is neither open nor mounted, whoever ends.
#[derive(Debug)]
pub(super) struct LoopDevice {
    /// Its path.
    pub(super) path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Makes a file a block device, past the page cache where its filesystem can.
    ///
    /// # Errors
    /// There are no loop devices, or none is free.
    pub(super) fn attach(file: &File) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let mut taken = None;
        for _ in 0..ATTEMPTS {
            let number = free(&control)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = match OpenOptions::new().read(true).write(true).open(&path) {
                // A container has the nodes of the devices that there were when it began.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, makedev(MAJOR, number))?;
                    OpenOptions::new().read(true).write(true).open(&path)?
                }
                opened => opened?,
            };
            match configure(&device, file) {
                Ok(()) => return Ok(Self { path, _open: device }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into()))
    }
}

#[expect(unsafe_code, reason = "rustix has no ioctls of loop devices")]
fn free(control: &File) -> io::Result<u32> {
    // SAFETY: this ioctl has no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

#[expect(unsafe_code, reason = "rustix has no ioctls of loop devices")]
fn configure(device: &File, file: &File) -> io::Result<()> {
    let mut file_name = [0; 64];
    file_name[..8].copy_from_slice(b"stash-fs");
    let config = Config {
        fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size: BLOCK_BYTES,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the argument is a `struct loop_config`, which the kernel reads during the call only.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_configuration_is_the_kernels() {
        // include/uapi/linux/loop.h: 4 + 4 + sizeof(loop_info64) + 8 * 8; the flags are at 52 of loop_info64.
        assert_eq!((size_of::<Config>(), std::mem::offset_of!(Config, flags)), (8 + 232 + 64, 8 + 52));
    }
}
