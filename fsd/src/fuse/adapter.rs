//! One method a FUSE request.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use stash_vfs::{Attr, DirSink, Entry, Ino, ReadData, VfsError, VfsResult};
use tokio::runtime::Handle;

use super::dispatch::{Answer, Call, Dispatch, DispatchOptions};
use super::follow;
use super::inflight::InFlight;
use super::metrics::{FuseMetrics, Op};
use super::tree::ReadTree;

/// The largest read that is asked for: 256 pages, the kernel's limit without `fs.fuse.max_pages_limit`.
const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// Read-ahead requests that the kernel keeps under way. Its own default of 12 leaves a network idle; 128 requests of
/// 128 KiB are 16 MiB on the way, and the memory budget bounds what they hold here.
const MAX_BACKGROUND: u16 = 128;

/// Programs wait for reads up to this length.
const FOLLOWED_READ_BYTES: u32 = 128 << 10;

/// What `stat` gives as the best size for I/O. The page: the kernel takes it as the inode's block size.
const BLOCK_BYTES: u32 = 4096;

/// A tree as a filesystem of fuser.
#[derive(Debug)]
pub struct Adapter<T> {
    tree: T,
    dispatch: Arc<Dispatch>,
    default_permissions: bool,
    /// The kernel takes ENOSYS on OPENDIR as "always succeeds, keep what was listed" (Linux 5.1).
    no_opendir: bool,
    /// The kernel takes ENOSYS on OPEN as "always succeeds, keep the pages" (Linux 3.16).
    no_open: bool,
    /// What an earlier process agreed on with the kernel.
    agreed: Option<Agreed>,
}

/// What an answer to INIT says (`fuse_init_out`, include/uapi/linux/fuse.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    flags: InitFlags,
    max_background: u16,
    max_write_bytes: u32,
}

impl Agreed {
    /// Reads a whole answer, header and all.
    pub(super) fn parse(reply: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(reply.get(at..at + 4)?.try_into().ok()?));
        let bits = u64::from(word(28)?) | u64::from(word(48)?) << 32;
        let max_background = u16::from_ne_bytes(reply.get(32..34)?.try_into().ok()?);
        Some(Self { flags: InitFlags::from_bits_retain(bits), max_background, max_write_bytes: word(36)? })
    }
}

impl<T: ReadTree> Adapter<T> {
    /// Makes a filesystem whose tasks run on `runtime`.
    ///
    /// `default_permissions` says that the mount has this option: then the kernel checks modes and ACLs, and id-mapped
    /// mounts are allowed. Requests are noted in `in_flight`, where another process can see which were not answered.
    pub fn new(
        tree: T,
        runtime: Handle,
        options: &DispatchOptions,
        metrics: Arc<FuseMetrics>,
        default_permissions: bool,
        in_flight: Option<Arc<InFlight>>,
    ) -> Self {
        let dispatch = Dispatch::new(runtime, options, metrics, in_flight);
        Self { tree, dispatch, default_permissions, no_opendir: false, no_open: false, agreed: None }
    }

    /// Answers INIT as another process did, whose mount this one goes on with, whatever this version would ask for.
    pub(super) fn answering_as(mut self, agreed: Agreed) -> Self {
        self.agreed = Some(agreed);
        self
    }

    /// Takes note of a request that was just read.
    fn begin(&self, req: &Request, op: Op, ino: INodeNo) -> Call {
        follow::on_request(req.pid());
        self.dispatch.begin(req.unique().0, op, Ino(ino.0))
    }

    /// Refuses what would change something.
    fn read_only(&self, ino: INodeNo, reply: impl Answer) {
        self.refuse(ino, reply, Errno::EROFS);
    }

    fn refuse(&self, ino: INodeNo, reply: impl Answer, errno: Errno) {
        let call = Call::new(Op::Other, Ino(ino.0));
        reply.fail(errno);
        self.dispatch.observe(call);
    }

    fn xattr(
        &self,
        call: Call,
        reply: ReplyXattr,
        size: u32,
        work: impl Future<Output = VfsResult<Bytes>> + Send + 'static,
    ) {
        self.dispatch.first_poll(call, reply, work, move |reply, value: Bytes| send_xattr(reply, size, &value));
    }
}

/// The flags that are asked for where the kernel offers them, each for itself.
fn wanted_flags(default_permissions: bool) -> InitFlags {
    let mut flags = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_PARALLEL_DIROPS
        // Always, not AUTO: AUTO falls back to one LOOKUP an entry when a program lists a directory twice without stat.
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_CACHE_SYMLINKS
        // A directory whose mtime changed is listed anew although the kernel keeps listings; nothing below a snapshot ever
        // changes, so this costs nothing there.
        | InitFlags::FUSE_AUTO_INVAL_DATA
        | InitFlags::FUSE_MAX_PAGES;
    if default_permissions {
        // ACLs are enforced, as they were where the files came from: without it the group bits of a file with an ACL, which
        // are its mask, would let the group do more than the ACL says. Both flags ask for default_permissions: the kernel
        // refuses ALLOW_IDMAP without it, and POSIX_ACL would turn it on.
        flags |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_ALLOW_IDMAP;
    }
    // Not EXPORT_SUPPORT: it promises that a node id which the kernel forgot can be looked up for as long as an NFS client
    // holds it, and node ids are resolved through the table of those that the kernel holds.
    flags
}

impl<T: ReadTree> Filesystem for Adapter<T> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let wanted = match self.agreed {
            Some(agreed) => agreed.flags,
            None => wanted_flags(self.default_permissions),
        };
        for flag in wanted.iter() {
            if offered.contains(flag) {
                // It cannot fail: the kernel offers the flag.
                let _ = config.add_capabilities(flag);
            }
        }
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        self.no_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        // Neither can these: both values are in range.
        let _ = config.set_max_write(self.agreed.map_or(MAX_REQUEST_BYTES, |agreed| agreed.max_write_bytes));
        let _ = config.set_max_background(self.agreed.map_or(MAX_BACKGROUND, |agreed| agreed.max_background));
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let call = self.begin(req, Op::Lookup, parent);
        self.dispatch.guard(call, || {
            let send = {
                let tree = self.tree.clone();
                let parent = call.ino;
                move |reply: ReplyEntry, found: Option<Entry>| match found {
                    Some(entry) => reply.entry(&entry.ttl, &file_attr(&entry.attr), Generation(0)),
                    None => send_absent(reply, &tree, parent),
                }
            };
            match self.tree.try_lookup(call.ino, name.as_bytes()) {
                Some(result) => self.dispatch.finish(call, reply, absent_as_none(result), send),
                None => {
                    let (tree, name) = (self.tree.clone(), name.as_bytes().to_vec());
                    let work = async move { absent_as_none(tree.lookup(call.ino, &name).await) };
                    self.dispatch.spawn(call, reply, work, send);
                }
            }
        });
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        let call = self.dispatch.begin(req.unique().0, Op::Forget, Ino(ino.0));
        self.dispatch.guard(call, || {
            self.tree.forget(&[(call.ino, nlookup)]);
            self.dispatch.observe(call);
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let call = self.begin(req, Op::Getattr, ino);
        self.dispatch.guard(call, || {
            let send = |reply: ReplyAttr, entry: Entry| reply.attr(&entry.ttl, &file_attr(&entry.attr));
            match self.tree.try_getattr(call.ino) {
                Some(result) => self.dispatch.finish(call, reply, result, send),
                None => {
                    let tree = self.tree.clone();
                    self.dispatch.spawn(call, reply, async move { tree.getattr(call.ino).await }, send);
                }
            }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let call = self.begin(req, Op::Readlink, ino);
        self.dispatch.guard(call, || {
            let tree = self.tree.clone();
            let work = async move { tree.readlink(call.ino).await };
            self.dispatch.first_poll(call, reply, work, |reply, target| reply.data(&target));
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return self.read_only(ino, reply);
        }
        if self.no_open {
            // On purpose: from now on the kernel opens files by itself and keeps their pages. A node id is all that a read
            // needs, so neither we nor a process that takes the mount over has handles to keep.
            return self.refuse(ino, reply, Errno::ENOSYS);
        }
        let call = Call::new(Op::Open, Ino(ino.0));
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        self.dispatch.observe(call);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // A long read is the kernel's readahead: its program goes on meanwhile, and wants its processor for itself.
        follow::on_request(if size <= FOLLOWED_READ_BYTES { req.pid() } else { 0 });
        let call = self.dispatch.begin(req.unique().0, Op::Read, Ino(ino.0));
        let _span = tracing::debug_span!("read", ino = ino.0, offset, size).entered();
        self.dispatch.guard(call, || {
            let len_bytes = size.min(MAX_REQUEST_BYTES);
            match self.tree.try_read(call.ino, offset, len_bytes) {
                Some(result) => {
                    self.dispatch.finish(call, reply, result, |reply, data| {
                        send_data(self.dispatch.metrics(), reply, &data);
                    });
                }
                None => {
                    let (tree, dispatch) = (self.tree.clone(), Arc::clone(&self.dispatch));
                    let work = async move { tree.read(call.ino, offset, len_bytes).await };
                    self.dispatch.spawn(call, reply, work, move |reply, data| {
                        send_data(dispatch.metrics(), reply, &data);
                    });
                }
            }
        });
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // On purpose: there is never anything to flush, and the kernel stops asking at every close(2).
        self.refuse(ino, reply, Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let call = Call::new(Op::Release, Ino(ino.0));
        reply.ok();
        self.dispatch.observe(call);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // On purpose: the kernel answers fsync(2) with success from now on.
        self.refuse(ino, reply, Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            // On purpose: from now on the kernel opens directories by itself and keeps their listings (KEEP_CACHE and
            // CACHE_DIR), until their mtime changes.
            return self.refuse(ino, reply, Errno::ENOSYS);
        }
        reply.opened(FileHandle(ino.0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let call = self.begin(req, Op::Readdir, ino);
        self.dispatch.guard(call, || {
            let mut sink = PlainSink(reply);
            match self.tree.try_readdir(call.ino, offset, false, &mut sink) {
                Some(result) => self.dispatch.finish(call, sink.0, result, |reply, ()| reply.ok()),
                None => {
                    let (tree, dispatch) = (self.tree.clone(), Arc::clone(&self.dispatch));
                    self.dispatch.task(call, async move {
                        let result = tree.readdir(call.ino, offset, false, &mut sink).await;
                        dispatch.finish(call, sink.0, result, |reply, ()| reply.ok());
                    });
                }
            }
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let call = self.begin(req, Op::Readdirplus, ino);
        self.dispatch.guard(call, || {
            let mut sink = PlusSink::new(self.tree.clone(), reply);
            match self.tree.try_readdir(call.ino, offset, true, &mut sink) {
                Some(result) => self.dispatch.finish(call, sink, result, |sink, ()| sink.ok()),
                None => {
                    let (tree, dispatch) = (self.tree.clone(), Arc::clone(&self.dispatch));
                    self.dispatch.task(call, async move {
                        let result = tree.readdir(call.ino, offset, true, &mut sink).await;
                        dispatch.finish(call, sink, result, |sink, ()| sink.ok());
                    });
                }
            }
        });
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.refuse(ino, reply, Errno::ENOSYS);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let call = self.begin(req, Op::Statfs, ino);
        self.dispatch.guard(call, || {
            let figures = self.tree.statfs();
            let block_bytes = figures.block_bytes.max(512);
            reply.statfs(figures.blocks, 0, 0, figures.files, 0, block_bytes, figures.name_bytes, block_bytes);
            self.dispatch.observe(call);
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let call = self.begin(req, Op::Getxattr, ino);
        self.dispatch.guard(call, || {
            let (tree, name) = (self.tree.clone(), name.as_bytes().to_vec());
            self.xattr(call, reply, size, async move { tree.getxattr(call.ino, &name).await });
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let call = self.begin(req, Op::Listxattr, ino);
        self.dispatch.guard(call, || {
            let tree = self.tree.clone();
            self.xattr(call, reply, size, async move { Ok(joined_names(&tree.listxattr(call.ino).await?)) });
        });
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Comes only without default_permissions: then everything may be read, by whom the mount is open to.
        if mask.contains(AccessFlags::W_OK) {
            return self.read_only(ino, reply);
        }
        let call = Call::new(Op::Other, Ino(ino.0));
        reply.ok();
        self.dispatch.observe(call);
    }

    fn lseek(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let call = self.begin(req, Op::Lseek, ino);
        self.dispatch.guard(call, || {
            let hole = match whence {
                libc::SEEK_DATA => false,
                libc::SEEK_HOLE => true,
                // The kernel does all others itself.
                _ => return self.refuse(ino, reply, Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else {
                return self.refuse(ino, reply, Errno::ENXIO);
            };
            let tree = self.tree.clone();
            let work = async move { tree.seek(call.ino, offset, hole).await };
            self.dispatch.first_poll(call, reply, work, |reply, at| match i64::try_from(at) {
                Ok(at) => reply.offset(at),
                Err(_) => reply.error(Errno::EOVERFLOW),
            });
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.refuse(ino, reply, Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // On purpose: the kernel then says, as for every regular file, that it is always ready.
        self.refuse(ino, reply, Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        self.refuse(ino, reply, Errno::EINVAL);
    }

    // Locks are not asked for at INIT, so the kernel keeps them itself, as on any local filesystem, and never sends these.
    fn getlk(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        self.refuse(ino, reply, Errno::ENOLCK);
    }

    fn setlk(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        self.refuse(ino, reply, Errno::ENOLCK);
    }

    // What would change something. The mount is read-only, so the kernel refuses all of it by itself, unless somebody
    // remounts it for writing.

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.read_only(ino, reply);
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.read_only(parent, reply);
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        self.read_only(parent, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.read_only(parent, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.read_only(parent, reply);
    }

    fn symlink(&self, _req: &Request, parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        self.read_only(parent, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.read_only(parent, reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        self.read_only(ino, reply);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.read_only(ino, reply);
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.read_only(parent, reply);
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.read_only(ino, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.read_only(ino, reply);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.read_only(ino, reply);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.read_only(ino_out, reply);
    }
}

/// A missing name is an answer, not a failure: the kernel may remember that it is missing.
fn absent_as_none(result: VfsResult<Entry>) -> VfsResult<Option<Entry>> {
    match result {
        Ok(entry) => Ok(Some(entry)),
        Err(VfsError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says that a name does not exist, for as long as the directory itself is believed in: forever below a snapshot.
fn send_absent<T: ReadTree>(reply: ReplyEntry, tree: &T, parent: Ino) {
    match tree.try_getattr(parent) {
        Some(Ok(entry)) if !entry.ttl.is_zero() => {
            // Node id 0: "no such name", with how long that holds (include/uapi/linux/fuse.h, fuse_entry_out).
            reply.entry(&entry.ttl, &bare_attr(Ino(0), FileType::RegularFile), Generation(0));
        }
        _ => reply.error(Errno::ENOENT),
    }
}

fn send_data(metrics: &FuseMetrics, reply: ReplyData, data: &ReadData) {
    thread_local! {
        /// fuser takes a reply as one slice. What lies in several blobs is put together here: a fresh allocation would cost
        /// a page fault for every 4 KiB, more than the copy. At most [`MAX_REQUEST_BYTES`] a thread.
        static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    metrics.read_bytes.add(data.len() as u64);
    JOINED.with_borrow_mut(|joined| reply.data(data.as_slice(joined)));
}

/// Sends a value, or its length where the caller asks for that by a size of 0 (getxattr(2)).
fn send_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Returns the names as listxattr(2) gives them: each with a NUL behind it.
fn joined_names(names: &[Bytes]) -> Bytes {
    let mut joined = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for name in names {
        joined.extend_from_slice(name);
        joined.push(0);
    }
    Bytes::from(joined)
}

/// Takes a directory's names.
struct PlainSink(ReplyDirectory);

impl DirSink for PlainSink {
    fn add(&mut self, ino: Ino, next: u64, kind: stash_vfs::FileType, name: &[u8], _entry: Option<&Entry>) -> bool {
        self.0.add(INodeNo(ino.0), next, file_type(kind), OsStr::from_bytes(name))
    }
}

/// Takes a directory's names and attributes. Each entry with attributes counts as a lookup, so what was counted and never
/// sent, because the listing failed on its way, is given back.
struct PlusSink<T: ReadTree> {
    tree: T,
    reply: Option<ReplyDirectoryPlus>,
    counted: Vec<Ino>,
}

impl<T: ReadTree> PlusSink<T> {
    fn new(tree: T, reply: ReplyDirectoryPlus) -> Self {
        Self { tree, reply: Some(reply), counted: Vec::new() }
    }

    fn ok(mut self) {
        self.counted.clear();
        if let Some(reply) = self.reply.take() {
            reply.ok();
        }
    }
}

impl<T: ReadTree> Answer for PlusSink<T> {
    fn fail(mut self, errno: Errno) {
        if let Some(reply) = self.reply.take() {
            reply.error(errno);
        }
    }
}

impl<T: ReadTree> Drop for PlusSink<T> {
    fn drop(&mut self) {
        let counted: Vec<(Ino, u64)> = std::mem::take(&mut self.counted).into_iter().map(|ino| (ino, 1)).collect();
        if !counted.is_empty() {
            self.tree.forget(&counted);
        }
    }
}

impl<T: ReadTree> DirSink for PlusSink<T> {
    fn add(&mut self, ino: Ino, next: u64, kind: stash_vfs::FileType, name: &[u8], entry: Option<&Entry>) -> bool {
        let Some(reply) = self.reply.as_mut() else { return true };
        let (ttl, attr) = match entry {
            Some(entry) => (entry.ttl, file_attr(&entry.attr)),
            // The kernel takes nothing but the number of these two.
            None if matches!(name, b"." | b"..") => (Duration::ZERO, bare_attr(ino, file_type(kind))),
            // Node id 0: a name without attributes, which counts no lookup; the kernel asks for them when it needs them.
            None => (Duration::ZERO, bare_attr(Ino(0), file_type(kind))),
        };
        let full = reply.add(INodeNo(ino.0), next, OsStr::from_bytes(name), &ttl, &attr, Generation(0));
        if !full && entry.is_some() {
            self.counted.push(ino);
        }
        full
    }
}

fn file_type(kind: stash_vfs::FileType) -> FileType {
    match kind {
        stash_vfs::FileType::File => FileType::RegularFile,
        stash_vfs::FileType::Dir => FileType::Directory,
        stash_vfs::FileType::Symlink => FileType::Symlink,
        stash_vfs::FileType::BlockDevice => FileType::BlockDevice,
        stash_vfs::FileType::CharDevice => FileType::CharDevice,
        stash_vfs::FileType::Fifo => FileType::NamedPipe,
        stash_vfs::FileType::Socket => FileType::Socket,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink.max(1),
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes of which the kernel reads the number and the kind alone.
fn bare_attr(ino: Ino, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Returns a time as fuser takes it; one that no clock can show becomes 1970.
fn system_time(time: stash_repo::Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let shifted = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    shifted.and_then(|at| at.checked_add(Duration::from_nanos(u64::from(time.nanos)))).unwrap_or(UNIX_EPOCH)
}
