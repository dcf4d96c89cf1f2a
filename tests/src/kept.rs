//! A mount in the background, with its keeper, whose processes can be killed.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::mounted::{mounted_device, stash_fs, umount_when_free, wait_for};

/// A mount by `stash-fs mount --daemon`. Dropping it ends all of it.
#[derive(Debug)]
pub struct KeptMount {
    mountpoint: TempDir,
    log: PathBuf,
    /// What was mounted.
    pub device: (u32, u32),
}

impl KeptMount {
    /// Mounts, with these arguments behind `mount --daemon` and before the mountpoint.
    #[must_use]
    pub fn start(repository: &Path, password: &str, arguments: &[&str]) -> Self {
        let mountpoint = TempDir::with_prefix("stash-fs-kept-").unwrap();
        let log = mountpoint.path().with_extension("log");
        let mut command = stash_fs();
        command.env("RESTIC_PASSWORD", password).arg("--repo").arg(repository).args(["--no-cache", "-v", "mount"]);
        command.args(["--daemon", "--log-file"]).arg(&log).args(arguments).arg(mountpoint.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let device = mounted_device(mountpoint.path()).unwrap();
        Self { mountpoint, log, device }
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    /// Returns a path below the mountpoint.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// Returns what daemons and keepers have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the processes of this mount: (pid, whether it is a keeper).
    #[must_use]
    pub fn processes(&self) -> Vec<(Pid, bool)> {
        let wanted = self.path().to_str().unwrap();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                let ours = arguments.first().is_some_and(|program| program.ends_with("stash-fs"))
                    && arguments.iter().any(|argument| argument == wanted);
                let is_keeper = arguments.get(1).is_some_and(|verb| verb == "keep");
                ours.then(|| (Pid::from_raw(pid).unwrap(), is_keeper))
            })
            .collect()
    }

    /// Returns the daemon, once there is exactly one.
    #[must_use]
    pub fn daemon(&self) -> Pid {
        self.one(false)
    }

    /// Returns the keeper, once there is exactly one.
    #[must_use]
    pub fn keeper(&self) -> Pid {
        self.one(true)
    }

    fn one(&self, keeper: bool) -> Pid {
        wait_for("one process", || {
            let of_kind: Vec<Pid> =
                self.processes().into_iter().filter(|(_, is)| *is == keeper).map(|(p, _)| p).collect();
            <[Pid; 1]>::try_from(of_kind).ok().map(|[pid]| pid)
        })
    }

    /// Kills the daemon and returns when another one serves.
    pub fn kill_daemon(&self) {
        let count = || self.log().matches("going on with the mount").count();
        let before = count();
        kill_process(self.daemon(), Signal::KILL).unwrap();
        wait_for("another daemon", || (count() > before).then_some(()));
    }

    /// Kills the keeper and returns when another one holds the mount.
    pub fn kill_keeper(&self) {
        let count = || self.log().matches("another one holds the mounts now").count();
        let before = count();
        kill_process(self.keeper(), Signal::KILL).unwrap();
        wait_for("another keeper", || (count() > before).then_some(()));
    }

    /// Kills both at a time: neither sees the other's end.
    pub fn kill_both(&self) {
        let both = [self.daemon(), self.keeper()];
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in both {
                kill_process(pid, signal).unwrap();
            }
        }
        wait_for("their end", || self.processes().is_empty().then_some(()));
    }

    /// Opens the keeper's descriptor of the memory file with this name.
    #[must_use]
    pub fn memory_file(&self, name: &str) -> OwnedFd {
        let folder = format!("/proc/{}/fd", self.keeper().as_raw_nonzero());
        let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with(&format!("/memfd:{name}")))
        });
        fs::File::options().read(true).write(true).open(found.unwrap()).unwrap().into()
    }

    /// Runs `stash-fs umount`.
    #[must_use]
    pub fn umount(&self, arguments: &[&str]) -> Output {
        stash_fs().arg("umount").args(arguments).arg(self.path()).output().unwrap()
    }

    /// Unmounts it with `stash-fs umount` once nothing of it is open.
    pub fn umount_when_free(&self) {
        umount_when_free(self.path());
    }

    /// Waits until no process of this mount is left.
    pub fn wait_for_the_end(&self) {
        wait_for("the end of daemon and keeper", || self.processes().is_empty().then_some(()));
    }
}

impl Drop for KeptMount {
    fn drop(&mut self) {
        for _ in 0..10 {
            if mounted_device(self.path()) == Some(self.device) {
                let _ = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
            }
            // Keeper and daemon start each other: both at once.
            for signal in [Signal::STOP, Signal::KILL] {
                for (pid, _) in self.processes() {
                    let _ = kill_process(pid, signal);
                }
            }
            if self.processes().is_empty() {
                break;
            }
        }
        let _ = fs::remove_file(&self.log);
    }
}
