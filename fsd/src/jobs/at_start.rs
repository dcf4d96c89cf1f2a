//! A restore before a workload's containers start: which host this pod is, whether anything is left to do, and what is remembered of it.
//!
//! Kubernetes starts an init container again whenever it failed, its pod was made anew, or its node was. What tells what happened before:
//!
//! * the driver shows something else in place of a snapshot once the session knows how the host ended;
//! * `record`: the volumes remember by which session and for which host they were restored, so that what an application wrote since is never
//!   written over, and nobody takes another's restore into a volume that they share for his own;
//! * the directory of the pod's state remembers that it failed: an application does not start on what is not whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stash_proto::job::{AtStart, ErrorCode, INSTEAD_FILE, Instead, JobError, JobSpec, JobTask, RestoreTask};

use super::error::of_spec;
use super::restore::Volumes;
use super::secret::read_file;

/// The file of the pod's state that says how it failed.
const FAILED_FILE: &str = "failed.json";
/// More than any orders, and than any text of a failure.
const LIMIT_BYTES: u64 = 1 << 20;
/// Where the kernel says what is mounted. A mount that does not answer is not looked at.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The pod, as it is told.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Its name.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// A directory that lives as long as the pod.
    pub(crate) state: PathBuf,
}

/// A host that is restored now.
#[derive(Debug)]
pub(super) struct Pending {
    /// What to do.
    pub(super) spec: JobSpec,
    session: String,
    host: String,
    deadline: Option<i64>,
    state: PathBuf,
}

/// Finds out what is to be done; nothing: the containers may start.
///
/// # Errors
/// They may not: it failed before, or a volume is not whole.
pub(super) fn prepare(orders: &Path, start: &Start) -> Result<Option<Pending>, JobError> {
    let bad =
        |error: String| JobError::new(ErrorCode::BadSpec, format!("read the orders {}: {error}", orders.display()));
    let text = read_file(orders, LIMIT_BYTES).map_err(|error| bad(error.to_string()))?;
    let text = std::str::from_utf8(&text).map_err(|error| bad(error.to_string()))?;
    let mut orders = AtStart::parse(text).map_err(|error| of_spec(&error))?;
    let key = orders.by.of(&start.pod, &start.node);
    let Some(host) = orders.hosts.remove(key) else {
        tracing::info!(key, "the session restores nothing for this pod");
        return Ok(None);
    };
    let JobTask::Restore(task) = &host.spec.task else { return Ok(None) };
    let mounts = fs::read_to_string(MOUNTS).map_err(|error| internal(MOUNTS, &error))?;
    if let Some(root) = host.shown().into_keys().find(|root| !is_snapshot(&mounts, root)) {
        return match read_instead(root)? {
            Instead::Nothing => whole(task).map(|()| None),
            Instead::Failed(why) => Err(JobError::new(ErrorCode::NotWhole, why)),
        };
    }
    let volumes = Volumes::open(task)?;
    if volumes.are_restored_by(&orders.session, &host.host)? {
        tracing::info!("the volumes were restored already");
        return Ok(None);
    }
    if let Some(error) = read_failure(&start.state)? {
        return Err(error);
    }
    Ok(Some(Pending {
        spec: host.spec,
        session: orders.session,
        host: host.host,
        deadline: orders.deadline,
        state: start.state.clone(),
    }))
}

/// Whether a filesystem of a program is mounted at `root`, by what the kernel says (proc_pid_mountinfo(5)).
fn is_snapshot(mounts: &str, root: &str) -> bool {
    mounts.lines().any(|line| {
        let (place, kind) = line.split_once(" - ").unwrap_or((line, ""));
        place.split(' ').nth(4) == Some(root) && kind.split(' ').next().is_some_and(|kind| kind.starts_with("fuse"))
    })
}

fn read_instead(root: &str) -> Result<Instead, JobError> {
    let path = Path::new(root).join(INSTEAD_FILE);
    let read = || -> io::Result<Instead> { Ok(serde_json::from_slice(&read_file(&path, LIMIT_BYTES)?)?) };
    read().map_err(|error| {
        JobError::new(
            ErrorCode::Unreachable,
            format!("no snapshot is mounted at {root}, and nothing says why: {error}"),
        )
    })
}

/// Whether nobody left the volumes in the middle of a restore.
fn whole(task: &RestoreTask) -> Result<(), JobError> {
    match Volumes::open(task)?.unfinished()? {
        None => Ok(()),
        Some(mount) => Err(JobError::new(
            ErrorCode::NotWhole,
            format!("the volume at {mount} is not whole: a restore into it has begun and has not ended well"),
        )),
    }
}

fn internal(what: &str, error: &io::Error) -> JobError {
    JobError::new(ErrorCode::Internal, format!("{what}: {error}"))
}

fn read_failure(state: &Path) -> Result<Option<JobError>, JobError> {
    let path = state.join(FAILED_FILE);
    match read_file(&path, LIMIT_BYTES) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(internal(&format!("read {}", path.display()), &error)),
    }
}

impl Pending {
    /// Returns how much time is left, if there is an end.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.deadline?).unwrap_or(0));
        Some(end.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Remembers how it ended.
    ///
    /// # Errors
    /// Of what failed, or of remembering it.
    pub(super) fn settle(&self, result: Result<(), JobError>) -> Result<(), JobError> {
        let Err(error) = result else {
            let JobTask::Restore(task) = &self.spec.task else { return Ok(()) };
            return Volumes::open(task)?.record(&self.session, &self.host);
        };
        let error = match self.time_left() {
            Some(Duration::ZERO) => {
                JobError::new(ErrorCode::DeadlineExceeded, "the time for the session was over before all was restored")
            }
            _ => error,
        };
        if error.code == ErrorCode::Disrupted {
            // The next one goes on.
            return Err(error);
        }
        let path = self.state.join(FAILED_FILE);
        let text = serde_json::to_vec(&error).unwrap_or_default();
        // Whether it can be remembered or not: what is not whole is marked, and the session is told.
        if let Err(failed) = fs::write(&path, text) {
            tracing::warn!(path = %path.display(), error = %failed, "it cannot be remembered that it failed");
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Pod {
        folder: tempfile::TempDir,
        start: Start,
    }

    impl Pod {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["w/data", "snapshot", "state"] {
                fs::create_dir_all(folder.path().join(name)).unwrap();
            }
            let start = Start { pod: "db-1".to_owned(), node: "n".to_owned(), state: folder.path().join("state") };
            Self { folder, start }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn prepare(&self, key: &str, deadline: Option<i64>) -> Result<Option<Pending>, ErrorCode> {
            let source = json!({"mounted": {"snapshot": "a", "root": self.at("snapshot"), "paths": ["/data"]}});
            let task = json!({"sources": [source], "mounts": ["/data"], "root": self.at("w")});
            let host = json!({"host": "host-1", "spec": {"version": 1, "task": {"restore": task}}});
            let orders =
                json!({"version": 1, "session": "u", "by": "ordinal", "deadline": deadline, "hosts": {key: host}});
            fs::write(self.at("orders"), orders.to_string()).unwrap();
            prepare(&self.at("orders"), &self.start).map_err(|error| error.code)
        }

        fn pending(&self, deadline: Option<i64>) -> Pending {
            let task = RestoreTask {
                mounts: vec!["/data".to_owned()],
                root: Some(self.at("w").display().to_string()),
                ..RestoreTask::default()
            };
            let spec = JobSpec {
                version: 1,
                repository: Default::default(),
                dead_hosts: Vec::new(),
                task: JobTask::Restore(task),
            };
            Pending { spec, session: "u".to_owned(), host: "host-1".to_owned(), deadline, state: self.at("state") }
        }

        fn shows(&self, instead: &Instead) {
            fs::write(self.at("snapshot").join(INSTEAD_FILE), serde_json::to_vec(instead).unwrap()).unwrap();
        }
    }

    #[test]
    fn test_a_snapshot_is_told_from_what_is_shown_in_its_place() {
        let mounts = "36 35 0:40 / /snapshot/0 ro,nosuid shared:1 - fuse.stash-fs stash rw\n\
            37 35 8:1 /pods/x /snapshot/1 ro - ext4 /dev/sda rw\n38 35 0:41 / /snapshot ro - fuse x rw\n";
        let found: Vec<bool> =
            ["/snapshot/0", "/snapshot/1", "/snapshot", "/"].iter().map(|root| is_snapshot(mounts, root)).collect();
        assert_eq!(found, [true, false, true, false]);
    }

    #[test]
    fn test_containers_start_only_on_what_is_whole() {
        let pod = Pod::new();
        // Of another pod's host nothing is asked.
        assert!(pod.prepare("0", None).unwrap().is_none());
        assert_eq!(pod.prepare("1", None).unwrap_err(), ErrorCode::Unreachable);
        pod.shows(&Instead::Nothing);
        assert!(pod.prepare("1", None).unwrap().is_none());
        let mark = pod.at("w/data").join(crate::restore::UNFINISHED);
        fs::write(&mark, "").unwrap();
        assert_eq!(pod.prepare("1", None).unwrap_err(), ErrorCode::NotWhole);
        fs::remove_file(&mark).unwrap();
        pod.shows(&Instead::Failed("why".to_owned()));
        assert_eq!(pod.prepare("1", None).unwrap_err(), ErrorCode::NotWhole);
    }

    #[test]
    fn test_what_happened_is_remembered() {
        let failure = |code| Err(JobError::new(code, "x"));
        for (result, deadline, code, remembered) in [
            (Ok(()), None, None, false),
            (failure(ErrorCode::Disrupted), None, Some(ErrorCode::Disrupted), false),
            (failure(ErrorCode::Disrupted), Some(1), Some(ErrorCode::DeadlineExceeded), true),
            (failure(ErrorCode::PartlyRestored), Some(i64::MAX >> 8), Some(ErrorCode::PartlyRestored), true),
        ] {
            let pod = Pod::new();
            let is_well = result.is_ok();
            let settled = pod.pending(deadline).settle(result);
            assert_eq!(settled.err().map(|error| error.code), code);
            let failed = read_failure(&pod.start.state).unwrap();
            assert_eq!(failed.map(|error| error.code), code.filter(|_| remembered));
            let JobTask::Restore(task) = pod.pending(None).spec.task else { panic!("it is one") };
            let volumes = Volumes::open(&task).unwrap();
            assert_eq!(volumes.are_restored_by("u", "host-1").unwrap(), is_well);
            // Another pod has a new volume beside it: what is in the old one is not written over.
            fs::create_dir(pod.at("w/new")).unwrap();
            let both = RestoreTask { mounts: vec!["/new".to_owned(), "/data".to_owned()], ..task };
            assert_eq!(Volumes::open(&both).unwrap().are_restored_by("u", "host-1").unwrap(), is_well);
            assert!(!volumes.are_restored_by("another", "host-1").unwrap());
        }
    }

    #[test]
    fn test_a_host_is_not_done_when_another_restored_a_volume_that_they_share() {
        let pod = Pod::new();
        for name in ["w/a", "w/b", "w/shared"] {
            fs::create_dir(pod.at(name)).unwrap();
        }
        let pending = |host: &str, own: &str| {
            let mut pending = Pending { host: host.to_owned(), ..pod.pending(None) };
            let JobTask::Restore(task) = &mut pending.spec.task else { panic!("it is one") };
            task.mounts = vec![own.to_owned(), "/shared".to_owned()];
            pending
        };
        let is_done = |host: &str, mounts: &[&str]| {
            let JobTask::Restore(task) = pod.pending(None).spec.task else { panic!("it is one") };
            let task = RestoreTask { mounts: mounts.iter().map(|&mount| mount.to_owned()).collect(), ..task };
            Volumes::open(&task).unwrap().are_restored_by("u", host).unwrap()
        };
        pending("host-1", "/a").settle(Ok(())).unwrap();
        assert!(is_done("host-1", &["/a", "/shared"]) && !is_done("host-0", &["/b", "/shared"]));
        pending("host-0", "/b").settle(Ok(())).unwrap();
        // The second took nothing from the first, whose own volume may be a new one.
        assert!(is_done("host-0", &["/b", "/shared"]) && is_done("host-1", &["/data", "/shared"]));
        assert!(!is_done("host-2", &["/data", "/shared"]) && !is_done("host", &["/shared"]));
    }

    #[test]
    fn test_what_an_earlier_version_remembered_counts() {
        let pod = Pod::new();
        fs::create_dir(pod.at("w/new")).unwrap();
        if xattr::set(pod.at("w/data"), "user.stash-fs.restored-by", b"u").is_err() {
            fs::write(pod.at("w/data/.stash-fs-restored-by"), "u").unwrap();
        }
        let is_done = |session: &str, mounts: &[&str]| {
            let JobTask::Restore(task) = pod.pending(None).spec.task else { panic!("it is one") };
            let task = RestoreTask { mounts: mounts.iter().map(|&mount| mount.to_owned()).collect(), ..task };
            Volumes::open(&task).unwrap().are_restored_by(session, "host-1").unwrap()
        };
        assert!(is_done("u", &["/data"]) && !is_done("v", &["/data"]));
        assert!(!is_done("u", &["/data", "/new"]), "another host may have left it on a volume that is shared");
    }
}
