//! The content of a batch's files: what is there already, what is fetched, and how a file gets its name.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use stash_repo::{BlobData, BlobId, BlobKind, Id, RepoResult, Repository};

use super::batch::{Batch, Check, FileJob, Piece, groups};
use super::delete::clear_way;
use super::entry::Entry;
use super::root::{file_type, look};
use super::{Action, Origin, Shared, streams};

/// Groups that are fetched or written at once, over all batches.
pub(super) const GROUPS_IN_FLIGHT: usize = 4;
/// Files from this size on get their space before they are written, so that a full disk shows before the download.
const PREALLOCATE_BYTES: u64 = 1 << 20;
/// Zeros are left out in blocks of this size under `--sparse`: the block of common file systems.
const HOLE_BYTES: usize = 4096;

/// Writes all files of a batch. What fails is named; the batch is returned for what follows.
pub(super) async fn run(shared: Arc<Shared>, batch: Batch) -> Batch {
    match shared.origin.clone() {
        Origin::Repository(repository) => of_blobs(shared, repository, batch).await,
        Origin::Mounted(_) => streams::run(shared, batch).await,
    }
}

async fn of_blobs(shared: Arc<Shared>, repository: Repository, mut batch: Batch) -> Batch {
    let pieces = std::mem::take(&mut batch.pieces);
    let files = Arc::new(std::mem::take(&mut batch.files));
    let missing = {
        let (shared, files) = (shared.clone(), files.clone());
        super::join(tokio::task::spawn_blocking(move || use_what_is_there(&shared, &files, pieces)).await)
    };
    let tasks: Vec<_> = groups(missing)
        .into_iter()
        .map(|group| tokio::spawn(fetch_and_write(shared.clone(), repository.clone(), files.clone(), group)))
        .collect();
    for task in tasks {
        super::join(task.await);
    }
    batch
}

/// Looks at files and parts that are there; returns the pieces that are missing. Files without any are finished.
fn use_what_is_there(shared: &Shared, files: &[Arc<FileJob>], pieces: Vec<Piece>) -> Vec<Piece> {
    let mut by_file: Vec<Vec<Piece>> = vec![Vec::new(); files.len()];
    for piece in pieces {
        by_file[piece.file].push(piece);
    }
    files
        .par_iter()
        .zip(by_file)
        .flat_map_iter(|(job, pieces)| {
            let total = pieces.len();
            let missing = if job.is_failed() {
                Vec::new()
            } else {
                match job.check {
                    Check::Existing => check_existing(shared, job, pieces),
                    Check::Part => check_part(shared, job, pieces),
                }
            };
            if job.complete(total - missing.len()) {
                finish(shared, job);
            }
            missing
        })
        .collect()
}

/// Compares the file that stands there; all right: nothing is missing. Else its right pieces are copied into the part.
fn check_existing(shared: &Shared, job: &FileJob, pieces: Vec<Piece>) -> Vec<Piece> {
    let Ok(existing) = open_existing(shared, job) else { return pieces };
    let file = std::fs::File::from(existing);
    let mut buffer = Vec::new();
    let (right, mut missing): (Vec<Piece>, Vec<Piece>) =
        pieces.into_iter().partition(|piece| read_piece(&file, piece, &mut buffer));
    if missing.is_empty() {
        job.state.lock().same = true;
        return missing;
    }
    for piece in right {
        // Read and hashed again: the file may be changing under us.
        if !read_piece(&file, &piece, &mut buffer) {
            missing.push(piece);
        } else if let Err(error) = write_piece(shared, job, &piece, &buffer) {
            job.fail(error);
            return Vec::new();
        }
    }
    missing
}

/// Keeps what a part of an earlier run holds already.
fn check_part(shared: &Shared, job: &FileJob, pieces: Vec<Piece>) -> Vec<Piece> {
    if pieces.is_empty() {
        return pieces;
    }
    let part = match open_part(shared, job, false) {
        Ok(Some(part)) => part,
        Ok(None) => return pieces,
        Err(error) => {
            job.fail(error);
            return Vec::new();
        }
    };
    let Ok(file) = part.try_clone().map(std::fs::File::from) else { return pieces };
    let mut buffer = Vec::new();
    let mut missing = Vec::new();
    for piece in pieces {
        if read_piece(&file, &piece, &mut buffer) {
            shared.observer.wrote(piece.len_bytes.into());
        } else {
            missing.push(piece);
        }
    }
    missing
}

/// Returns whether an open file holds just the content of an entry.
///
/// # Errors
/// What is mounted cannot be read.
pub(super) fn is_same(shared: &Shared, fd: &OwnedFd, entry: &Entry) -> io::Result<bool> {
    match entry {
        Entry::Stored(stored) => Ok(holds(shared.repository()?, fd, stored.node().content())),
        Entry::Mounted(found) => streams::is_same(found, fd),
    }
}

/// Returns whether a file holds just these blobs.
fn holds(repository: &Repository, fd: &OwnedFd, content: &[BlobId]) -> bool {
    let Ok(file) = fd.try_clone().map(std::fs::File::from) else { return false };
    let (mut offset, mut buffer) = (0, Vec::new());
    content.iter().all(|blob| {
        let Ok(Some(len_bytes)) = repository.blobs().plain_bytes(blob) else { return false };
        buffer.resize(len_bytes as usize, 0);
        let right = file.read_exact_at(&mut buffer, offset).is_ok() && Id::hash(&buffer) == blob.0;
        offset += u64::from(len_bytes);
        right
    })
}

/// Reads a piece of a file into `buffer`; returns whether it is the blob.
fn read_piece(file: &std::fs::File, piece: &Piece, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(piece.len_bytes as usize, 0);
    file.read_exact_at(buffer, piece.offset).is_ok() && Id::hash(buffer) == piece.blob.0
}

/// Opens the file at a job's place if it is a regular one.
pub(super) fn open_existing(shared: &Shared, job: &FileJob) -> io::Result<OwnedFd> {
    let (dir, name) = shared.target.parent(&job.path)?;
    open_regular(&dir, &name)
}

/// Opens a regular file for reading, without following or waiting.
pub(super) fn open_regular(dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if file_type(&rustix::fs::fstat(&fd)?) == FileType::RegularFile {
        Ok(fd)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Returns the part: an open one, else one of an earlier run, else (with `create`) a new one.
pub(super) fn open_part(shared: &Shared, job: &FileJob, create: bool) -> io::Result<Option<Arc<OwnedFd>>> {
    let mut state = job.state.lock();
    if let Some(fd) = &state.fd {
        return Ok(Some(fd.clone()));
    }
    let (dir, _) = shared.target.parent(&job.path)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(&dir, job.part.as_c_str(), flags, Mode::empty()) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            // Only one that this user wrote, and that has no other name, is gone on with.
            let ours = file_type(&stat) == FileType::RegularFile
                && stat.st_nlink == 1
                && stat.st_uid == rustix::process::geteuid().as_raw();
            ours.then_some(fd)
        }
        Err(Errno::NOENT) => None,
        // A symbolic link, a device, somebody else's: it is replaced.
        Err(_) => None,
    };
    let fd = match fd {
        Some(fd) => fd,
        None if !create => return Ok(None),
        None => {
            match rustix::fs::unlinkat(&dir, job.part.as_c_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let create = flags | OFlags::CREATE | OFlags::EXCL;
            let fd = rustix::fs::openat(&dir, job.part.as_c_str(), create, Mode::RUSR | Mode::WUSR)?;
            state.fresh = true;
            if job.size >= PREALLOCATE_BYTES && !shared.options.sparse {
                // Not every file system can; only a full one ends it.
                if let Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) =
                    rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, job.size)
                {
                    // The space it got before it failed is given back.
                    let _ = rustix::fs::unlinkat(&dir, job.part.as_c_str(), AtFlags::empty());
                    return Err(error.into());
                }
            }
            fd
        }
    };
    let fd = Arc::new(fd);
    state.fd = Some(fd.clone());
    Ok(Some(fd))
}

/// Fetches the blobs of a group together and writes them to all their places.
async fn fetch_and_write(
    shared: Arc<Shared>,
    repository: Repository,
    files: Arc<Vec<Arc<FileJob>>>,
    group: Vec<Piece>,
) {
    // The semaphore is never closed.
    let Ok(_permit) = shared.groups.clone().acquire_owned().await else { return };
    let mut ids: Vec<BlobId> = Vec::with_capacity(group.len());
    for piece in &group {
        if !files[piece.file].is_failed() && ids.last() != Some(&piece.blob) {
            ids.push(piece.blob);
        }
    }
    let blobs = repository.blobs().get_many(&ids, BlobKind::Data).await;
    let write = move || write_group(&shared, &files, &group, &ids, &blobs);
    super::join(tokio::task::spawn_blocking(write).await);
}

/// Writes fetched blobs. `ids` has the group's blobs in its order, those of failed files left out.
fn write_group(
    shared: &Shared,
    files: &[Arc<FileJob>],
    group: &[Piece],
    ids: &[BlobId],
    blobs: &[RepoResult<BlobData>],
) {
    let mut at = 0;
    for piece in group {
        // Both are in the same order, so the blob is this one or the next.
        if ids.get(at) != Some(&piece.blob) && ids.get(at + 1) == Some(&piece.blob) {
            at += 1;
        }
        let job = &files[piece.file];
        if !job.is_failed() {
            match blobs.get(at).filter(|_| ids.get(at) == Some(&piece.blob)) {
                Some(Ok(data)) if data.len() == piece.len_bytes as usize => {
                    if let Err(error) = write_piece(shared, job, piece, data) {
                        job.fail(error);
                    }
                }
                Some(Ok(data)) => {
                    let (blob, has) = (piece.blob, data.len());
                    job.fail(format_args!("blob {blob} has {has} bytes, the index says {}", piece.len_bytes));
                }
                Some(Err(error)) => job.fail(error),
                None => job.fail(format_args!("blob {} was not fetched", piece.blob)),
            }
        }
        if job.complete(1) {
            finish(shared, job);
        }
    }
}

/// Writes a piece to the part.
fn write_piece(shared: &Shared, job: &FileJob, piece: &Piece, data: &[u8]) -> io::Result<()> {
    let Some(fd) = open_part(shared, job, true)? else { return Ok(()) };
    let fresh = job.state.lock().fresh;
    if shared.options.sparse && fresh {
        write_sparse(&fd, data, piece.offset)?;
    } else {
        write_all(&fd, data, piece.offset)?;
    }
    shared.observer.wrote(data.len() as u64);
    Ok(())
}

pub(super) fn write_all(fd: &OwnedFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(fd, data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes all but blocks of zeros, in runs as long as possible.
pub(super) fn write_sparse(fd: &OwnedFd, data: &[u8], offset: u64) -> io::Result<()> {
    let misaligned = usize::try_from(offset % HOLE_BYTES as u64).unwrap_or(0);
    let mut run: Option<usize> = None;
    let mut at = 0;
    while at < data.len() {
        // The first block ends where a block of the file ends.
        let block = if at == 0 { HOLE_BYTES - misaligned } else { HOLE_BYTES };
        let end = (at + block).min(data.len());
        if data[at..end].iter().all(|&b| b == 0) {
            if let Some(from) = run.take() {
                write_all(fd, &data[from..at], offset + from as u64)?;
            }
        } else if run.is_none() {
            run = Some(at);
        }
        at = end;
    }
    match run {
        Some(from) => write_all(fd, &data[from..], offset + from as u64),
        None => Ok(()),
    }
}

/// Gives a complete file its metadata and its name, or gives it up.
pub(super) fn finish(shared: &Shared, job: &FileJob) {
    let (failed, same) = {
        let state = job.state.lock();
        (state.failed.clone(), state.same)
    };
    let result = match failed {
        Some(error) => Err(error),
        None if same => keep_existing(shared, job).map_err(|error| error.to_string()),
        None => put_in_place(shared, job).map_err(|error| error.to_string()),
    };
    // The descriptor is closed here, not when the batch ends.
    job.state.lock().fd = None;
    match result {
        Ok(()) => shared.done(if same { Action::Unchanged } else { job.action }, &job.path, job.size),
        Err(error) => {
            if let Ok((dir, _)) = shared.target.parent(&job.path) {
                // There may be none.
                let _ = rustix::fs::unlinkat(&dir, job.part.as_c_str(), AtFlags::empty());
            }
            shared.failed(&job.path, error);
        }
    }
}

fn keep_existing(shared: &Shared, job: &FileJob) -> io::Result<()> {
    let existing = open_existing(shared, job)?;
    job.source.meta(shared)?.apply(shared, existing.as_fd())
}

fn put_in_place(shared: &Shared, job: &FileJob) -> io::Result<()> {
    let Some(fd) = open_part(shared, job, true)? else { return Err(io::ErrorKind::NotFound.into()) };
    // Holes at the end, and what an earlier part had too much.
    if rustix::fs::fstat(&fd)?.st_size.cast_unsigned() != job.size {
        rustix::fs::ftruncate(&fd, job.size)?;
    }
    if shared.options.verify {
        verify(shared, job, &fd)?;
    }
    job.source.meta(shared)?.apply(shared, fd.as_fd())?;
    let (dir, name) = shared.target.parent(&job.path)?;
    if look(&dir, &name)?.is_some_and(|stat| file_type(&stat) == FileType::Directory) {
        clear_way(shared, &dir, &name, &job.path, shared.options.delete)?;
    }
    rustix::fs::renameat(&dir, job.part.as_c_str(), &dir, name.as_c_str())?;
    Ok(())
}

/// Reads the whole part again and compares it with its source: with the hashes of its blobs, or with what is mounted.
fn verify(shared: &Shared, job: &FileJob, fd: &OwnedFd) -> io::Result<()> {
    // From the disk, as far as the system lets go of what it holds in memory.
    rustix::fs::fdatasync(fd)?;
    let _ = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::DontNeed);
    if is_same(shared, fd, &job.source)? {
        return Ok(());
    }
    Err(io::Error::other("verification: what was written reads back differently"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_zeros_become_holes() {
        let file = tempfile::tempfile().unwrap();
        let data = [vec![1; 4096], vec![0; 1 << 20], vec![2; 10]].concat();
        let fd = OwnedFd::from(file.try_clone().unwrap());
        write_sparse(&fd, &data, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), data.len() as u64);
        assert!(file.metadata().unwrap().blocks() <= 64, "{} blocks", file.metadata().unwrap().blocks());
    }

    proptest! {
        #[test]
        fn prop_sparse_writes_read_back_the_same(
            runs in proptest::collection::vec((any::<bool>(), 1_usize..9000), 1..8), offset in 0_u64..10_000,
        ) {
            let data: Vec<u8> = runs.iter().flat_map(|&(zero, n)| vec![if zero { 0 } else { 7 }; n]).collect();
            let file = tempfile::tempfile().unwrap();
            write_sparse(&OwnedFd::from(file.try_clone().unwrap()), &data, offset).unwrap();
            file.set_len(offset + data.len() as u64).unwrap();
            let mut back = vec![9; data.len()];
            file.read_exact_at(&mut back, offset).unwrap();
            prop_assert_eq!(back, data);
        }
    }
}
