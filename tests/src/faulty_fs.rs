//! A filesystem of a few files whose reads go wrong in the way that each is named after.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};

/// How long every file says that it is.
pub const FILE_BYTES: u64 = 4 << 20;
/// Where reads go wrong.
pub const FAULT_AT: u64 = 2 << 20;

/// What is in the root, by name. `stat-eio` cannot be looked up; `open-denied` cannot be opened; `eio` fails at
/// [`FAULT_AT`]; `short` ends there; `whole` is good.
pub const NAMES: [&str; 5] = ["eio", "open-denied", "short", "stat-eio", "whole"];

const ROOT: u64 = 1;
/// Node id of the first name.
const FIRST: u64 = 2;
/// Nothing is cached, so that every call comes here.
const TTL: Duration = Duration::ZERO;

#[derive(Debug)]
struct FaultyFs;

/// Mounts the filesystem; it is unmounted when the session is dropped.
#[must_use]
pub fn mount(on: &Path) -> BackgroundSession {
    fuser::spawn_mount(FaultyFs, on, &Config::default()).expect("root can mount with FUSE")
}

fn name_of(ino: INodeNo) -> Option<&'static str> {
    NAMES.get(usize::try_from(ino.0.checked_sub(FIRST)?).ok()?).copied()
}

fn attr(ino: INodeNo) -> FileAttr {
    let dir = ino.0 == ROOT;
    FileAttr {
        ino,
        size: if dir { 0 } else { FILE_BYTES },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if dir { FileType::Directory } else { FileType::RegularFile },
        perm: if dir { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for FaultyFs {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match NAMES.iter().position(|own| *own == name) {
            Some(_) if name == "stat-eio" => reply.error(Errno::EIO),
            Some(place) => reply.entry(&TTL, &attr(INodeNo(FIRST + place as u64)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match name_of(ino) {
            Some("open-denied") => reply.error(Errno::EACCES),
            // Direct, so that a short answer is a short read and not zeros.
            _ => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = match name_of(ino) {
            Some("eio") if offset >= FAULT_AT => return reply.error(Errno::EIO),
            Some("eio" | "short") => FAULT_AT,
            _ => FILE_BYTES,
        };
        let end = end.min(offset + u64::from(size));
        let bytes: Vec<u8> = (offset..end).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect();
        reply.data(&bytes);
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let skip = usize::try_from(offset).unwrap();
        for (place, name) in NAMES.iter().enumerate().skip(skip) {
            let place = place as u64;
            if reply.add(INodeNo(FIRST + place), place + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
