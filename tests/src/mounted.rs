//! The program itself, and a mount of it that is gone when the test is, even if it panics.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use stash_fs::fuse::mountinfo;
use tempfile::TempDir;

/// Longer than anything that works takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Returns the program.
#[must_use]
pub fn program() -> PathBuf {
    sibling("stash-fs")
}

/// Returns a program of ours, which lies beside the test's own executable (`release/deps/..`).
#[must_use]
pub fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {name} beside {}: run `cargo build --release -p {name}`", own.display()))
}

/// Copies the program. A process of its own writes the copy: a child that another test is just starting would have ours open for writing,
/// and the kernel starts no program that somebody writes (ETXTBSY).
pub fn copy_program(to: &Path) {
    assert!(Command::new("cp").arg(program()).arg(to).status().unwrap().success(), "{}", to.display());
}

/// Returns a call of the program without any variable that would name a repository, a password or a cache.
#[must_use]
pub fn stash_fs() -> Command {
    clean(Command::new(program()))
}

/// The same call by root without CAP_SYS_ADMIN, as root is in a container.
#[must_use]
pub fn without_sys_admin(command: &Command) -> Command {
    let mut bounded = Command::new("setpriv");
    bounded
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    bounded
}

/// Takes all variables away from which restic, stash-fs or a store would take an address or a secret.
#[must_use]
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if ["RESTIC_", "STASH_FS_", "AWS_", "XDG_CACHE", "NOTIFY_SOCKET", "RUST_LOG"]
            .iter()
            .any(|part| shown.starts_with(part))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Waits until `condition` gives something, or panics with `what`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited {} s for {what}", LIMIT.as_secs());
        // A pause between two looks at a condition, not a wait for time to pass.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Unmounts by `attempt`, again and again while that gives nothing, which says that the mount is in use: a child that another test is just
/// starting has a copy of every file that was open here until it is another program.
pub fn unmount_when_free<T>(attempt: impl FnMut() -> Option<T>) -> T {
    wait_for("the mount not to be in use", attempt)
}

/// Unmounts what is there once nothing of it is open.
pub fn unmount_at(place: &Path) {
    unmount_when_free(|| match rustix::mount::unmount(place, UnmountFlags::empty()) {
        Err(rustix::io::Errno::BUSY) => None,
        ended => ended.map(Some).unwrap(),
    });
}

/// Unmounts with `stash-fs umount` once nothing of the mount is open.
pub fn umount_when_free(mountpoint: &Path) {
    unmount_when_free(|| {
        let output = stash_fs().arg("umount").arg(mountpoint).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("in use"), "{said}");
        output.status.success().then_some(())
    });
}

/// Returns the device of the mount of ours on `mountpoint`.
#[must_use]
pub fn mounted_device(mountpoint: &Path) -> Option<(u32, u32)> {
    let mounts = mountinfo::read().unwrap();
    mountinfo::topmost(&mounts, mountpoint).filter(|entry| entry.is_ours()).map(|entry| entry.device)
}

/// How to mount.
#[derive(Debug)]
pub struct MountBuilder {
    repository: OsString,
    password: String,
    cache_dir: Option<PathBuf>,
    arguments: Vec<OsString>,
    root: Option<String>,
    variables: Vec<(OsString, OsString)>,
    mountpoint: Option<PathBuf>,
}

impl MountBuilder {
    /// Adds an argument of `stash-fs mount`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Mounts one snapshot, `SNAPSHOT[:PATH]`.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Keeps the cache in this folder; without it there is none on disk.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Mounts on this directory; without it on a new one.
    #[must_use]
    pub fn on(mut self, mountpoint: impl Into<PathBuf>) -> Self {
        self.mountpoint = Some(mountpoint.into());
        self
    }

    fn command(&self, mountpoint: &Path) -> Command {
        let mut command = stash_fs();
        command.env("RESTIC_PASSWORD", &self.password).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.arg("mount").arg("--repo").arg(&self.repository).arg("--json");
        match &self.cache_dir {
            Some(folder) => command.arg("--cache-dir").arg(folder),
            None => command.arg("--no-cache"),
        };
        command.args(&self.arguments).arg("--").args(&self.root).arg(mountpoint);
        command
    }

    /// Mounts, and returns when the tree can be read.
    #[must_use]
    pub fn mount(self) -> Mounted {
        match self.try_mount() {
            Ok(mounted) => mounted,
            Err(refused) => panic!("mount ended with {}:\n{}", refused.status, refused.stderr),
        }
    }

    /// Mounts, or returns how the program ended.
    ///
    /// # Errors
    /// It ended before the tree could be read.
    pub fn try_mount(self) -> Result<Mounted, Refused> {
        let folder = TempDir::with_prefix("stash-fs-mount-").unwrap();
        let mountpoint = match &self.mountpoint {
            Some(mountpoint) => mountpoint.clone(),
            None => folder.path().canonicalize().unwrap(),
        };
        let stderr = tempfile::tempfile().unwrap();
        let mut child = self
            .command(&mountpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut mounted = Mounted { child, mountpoint, device: None, stderr, ended: None, _folder: folder };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // The test may have given up.
            drop(sender.send(read.map(|_| line)));
        });
        match receiver.recv_timeout(LIMIT) {
            Ok(Ok(line)) if line.contains("\"mounted\"") => {
                mounted.device = mounted_device(&mounted.mountpoint);
                Ok(mounted)
            }
            Ok(Ok(line)) if line.is_empty() => {
                let status = mounted.wait();
                Err(Refused { status, stderr: mounted.stderr() })
            }
            other => panic!("mount said {other:?}:\n{}", mounted.stderr()),
        }
    }
}

/// A program that ended instead of mounting.
#[derive(Debug)]
pub struct Refused {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A mount. Dropping it ends it.
#[derive(Debug)]
pub struct Mounted {
    child: Child,
    mountpoint: PathBuf,
    /// What was mounted there; nothing else is ever unmounted.
    device: Option<(u32, u32)>,
    stderr: File,
    ended: Option<ExitStatus>,
    _folder: TempDir,
}

impl Mounted {
    /// Prepares a mount of the repository at `repository` (restic's syntax).
    #[must_use]
    pub fn builder(repository: impl Into<OsString>, password: &str) -> MountBuilder {
        MountBuilder {
            repository: repository.into(),
            password: password.to_owned(),
            cache_dir: None,
            arguments: Vec::new(),
            root: None,
            variables: Vec::new(),
            mountpoint: None,
        }
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns a path below the mountpoint.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(path)
    }

    /// Returns the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the value of a line of the process's `/proc/PID/status` in KiB, as `VmHWM`.
    #[must_use]
    pub fn status_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let child = &mut self.child;
        let status = wait_for("the end of stash-fs", || child.try_wait().unwrap());
        self.ended = Some(status);
        status
    }

    /// Returns what the process has written to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        // Read at its place: the position is the process's own, which writes there.
        let mut bytes = vec![0; usize::try_from(self.stderr.metadata().unwrap().len()).unwrap()];
        self.stderr.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Unmounts by SIGTERM, and returns how the program ended.
    pub fn unmount(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.ended.is_none() && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // Without a panic here: it may be one that drops us. First by its own way, so that its code is run.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(5) && self.child.try_wait().is_ok_and(|status| status.is_none())
            {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if self.device.is_some() && mounted_device(&self.mountpoint) == self.device {
            let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
        }
    }
}
