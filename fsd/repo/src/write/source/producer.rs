//! One file from standard input or from a command's output.
//!
//! A command that does not end with exit code 0 makes the whole backup fail: what it wrote until then is no backup of
//! anything.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use rustic_core::repofile::{Metadata, NodeType};
use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};

use super::node::{dir_mode, named};
use crate::error::{RepoError, RepoResult};
use crate::write::gate::Gate;

/// restic's permissions of a file from standard input.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// What makes the file's content.
#[derive(Debug, Clone)]
pub enum Producer {
    /// Standard input of this process.
    Stdin,
    /// The output of a command: program and arguments. It gets this environment without the variables in `hidden`.
    Command {
        /// Program and arguments.
        argv: Vec<std::ffi::OsString>,
        /// Variables that hold secrets.
        hidden: Vec<String>,
    },
}

/// The stream while it is read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Taken by the reader.
    output: Mutex<Option<Output>>,
    child: Mutex<Option<Child>>,
    program: String,
    read_bytes: AtomicU64,
    /// The end was seen, and it was a good one.
    complete: AtomicBool,
    failure: Mutex<Option<String>>,
    gate: Gate,
}

#[derive(Debug)]
enum Output {
    Stdin(File),
    Command(ChildStdout),
}

impl Stream {
    /// Starts the command, or takes standard input.
    ///
    /// # Errors
    /// The command cannot be started.
    pub(crate) fn start(producer: &Producer, gate: Gate) -> RepoResult<Self> {
        let failed = |what: String, error: &dyn std::fmt::Display| RepoError::Local { what, reason: error.to_string() };
        let (output, child, program) = match producer {
            Producer::Stdin => {
                let stdin = io::stdin().as_fd().try_clone_to_owned();
                let stdin = stdin.map_err(|error| failed("standard input".to_owned(), &error))?;
                (Output::Stdin(stdin.into()), None, "standard input".to_owned())
            }
            Producer::Command { argv, hidden } => {
                let Some((program, arguments)) = argv.split_first() else {
                    return Err(failed("command".to_owned(), &"none was given"));
                };
                let shown = program.to_string_lossy().into_owned();
                let mut command = Command::new(program);
                command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
                for variable in hidden {
                    command.env_remove(variable);
                }
                let mut child = command.spawn().map_err(|error| failed(format!("start {shown}"), &error))?;
                let Some(output) = child.stdout.take() else {
                    return Err(failed(format!("start {shown}"), &"it has no output"));
                };
                (Output::Command(output), Some(child), shown)
            }
        };
        Ok(Self(Arc::new(Inner {
            output: Mutex::new(Some(output)),
            child: Mutex::new(child),
            program,
            read_bytes: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            failure: Mutex::default(),
            gate,
        })))
    }

    /// Ends the command, if there is one and it runs.
    pub(crate) fn kill(&self) {
        // Not while its end is waited for: then its output has ended, and so will it.
        if let Some(mut child) = self.0.child.try_lock()
            && let Some(child) = child.as_mut()
            && let Err(error) = child.kill()
        {
            tracing::warn!(program = %self.0.program, %error, "the command cannot be ended");
        }
    }

    /// Returns how long the file is.
    ///
    /// # Errors
    /// The stream failed, or its command did; or its end was not seen.
    pub(crate) fn complete_bytes(&self) -> RepoResult<u64> {
        let local = |reason: String| RepoError::Local { what: self.0.program.clone(), reason };
        if let Some(reason) = &*self.0.failure.lock() {
            return Err(local(reason.clone()));
        }
        if !self.0.complete.load(Ordering::Acquire) {
            return Err(local("it was not read to its end".to_owned()));
        }
        Ok(self.0.read_bytes.load(Ordering::Acquire))
    }

    fn fail(&self, reason: String) -> io::Error {
        self.0.failure.lock().get_or_insert_with(|| reason.clone());
        io::Error::other(reason)
    }

    /// The output has ended; was it a good end?
    fn end(&self) -> io::Result<()> {
        if let Some(child) = self.0.child.lock().as_mut() {
            match child.wait() {
                Ok(status) if status.success() => {}
                Ok(status) => return Err(self.fail(format!("the command failed: {status}"))),
                Err(error) => return Err(self.fail(format!("the command's end is not known: {error}"))),
            }
        }
        self.0.complete.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A child that nobody waited for would stay as a zombie; one that still runs writes to nobody.
        if let Some(child) = self.child.get_mut() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Reads the stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    output: Output,
    stream: Stream,
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stream.0.gate.check().is_err() {
            return Err(self.stream.fail("the backup was stopped".to_owned()));
        }
        let read = match &mut self.output {
            Output::Stdin(file) => file.read(buffer),
            Output::Command(output) => output.read(buffer),
        };
        match read {
            Ok(0) if !buffer.is_empty() => self.stream.end().map(|()| 0),
            Ok(read) => {
                self.stream.0.read_bytes.fetch_add(read as u64, Ordering::AcqRel);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.stream.fail(error.to_string())),
        }
    }
}

impl ReadSourceOpen for Stream {
    type Reader = StreamReader;

    fn open(self) -> RusticResult<StreamReader> {
        let output = self.0.output.lock().take();
        let output = output.ok_or_else(|| RusticError::new(ErrorKind::Internal, "a stream is read once"))?;
        Ok(StreamReader { output, stream: self })
    }
}

/// The stream as a source: the directories above the file, and the file.
#[derive(Debug)]
pub(crate) struct StreamSource {
    path: PathBuf,
    time: Timestamp,
    stream: Stream,
}

impl StreamSource {
    /// `filename` as restic takes it: `/` is put before it.
    ///
    /// # Errors
    /// It names no file.
    pub(crate) fn new(filename: &Path, time: Timestamp, stream: Stream) -> RepoResult<Self> {
        let names: Vec<_> =
            filename.components().filter(|component| matches!(component, Component::Normal(_))).collect();
        if names.is_empty() {
            let reason = "it names no file".to_owned();
            return Err(RepoError::Local { what: format!("file name {}", filename.display()), reason });
        }
        let path = std::iter::once(Component::RootDir).chain(names).collect();
        Ok(Self { path, time, stream })
    }

    /// The file's place in the snapshot.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn entry(&self, path: &Path, open: Option<Stream>) -> Option<ReadSourceEntry<Stream>> {
        let (node_type, mode) = match open {
            Some(_) => (NodeType::File, FILE_MODE),
            None => (NodeType::Dir, dir_mode(DIR_MODE)),
        };
        let time = Some(self.time);
        let (uid, gid) = (Some(0), Some(0));
        let meta =
            Metadata { mode: Some(mode), mtime: time, atime: time, ctime: time, uid, gid, ..Metadata::default() };
        let node = named(path.file_name()?, node_type, meta);
        Some(ReadSourceEntry { path: path.to_owned(), node, open })
    }
}

impl ReadSource for StreamSource {
    type Open = Stream;
    type Iter = std::vec::IntoIter<RusticResult<ReadSourceEntry<Stream>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let mut above: Vec<&Path> = self.path.ancestors().skip(1).filter(|path| path.file_name().is_some()).collect();
        above.reverse();
        let dirs = above.into_iter().filter_map(|path| self.entry(path, None));
        let file = self.entry(&self.path, Some(self.stream.clone()));
        dirs.chain(file).map(Ok).collect::<Vec<_>>().into_iter()
    }
}
