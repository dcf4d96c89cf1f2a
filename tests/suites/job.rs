//! `stash-fs job` as a Kubernetes Job runs it: a spec, a Secret's files and a report, judged by Debian's restic.

mod ends;
mod maintain;
mod restore;
mod restore_mounted;
mod snapshots;
mod store;
mod wipe;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stash_proto::job::{
    BackupOutcome, BackupTask, ErrorCode, JobReport, JobSpec, JobTask, MaintainOutcome, MaintainTask, Outcome,
    REPORT_LIMIT_BYTES, RepositoryAccess, RestoreOutcome, VERSION,
};
use stash_tests::mounted::stash_fs;
use stash_tests::restic::Restic;
use tempfile::TempDir;

/// The files of a Job.
struct Files {
    folder: TempDir,
    spec: JobSpec,
}

/// How a Job ended.
struct Ended {
    code: i32,
    report: JobReport,
    /// All that it said.
    said: String,
}

impl Files {
    fn new(address: &str, task: JobTask, secret: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("secret")).unwrap();
        let repository = RepositoryAccess { address: address.to_owned(), ..RepositoryAccess::default() };
        let files = Self { folder, spec: JobSpec { version: VERSION, repository, dead_hosts: Vec::new(), task } };
        secret.iter().for_each(|(key, value)| files.set(key, value));
        files
    }

    /// A backup into a directory.
    fn backup(restic: &Restic, paths: &[&Path]) -> Self {
        let paths = paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
        let task = BackupTask { host: "host-0".to_owned(), paths, ..BackupTask::default() };
        Self::new(restic.path().to_str().unwrap(), JobTask::Backup(task), &[("RESTIC_PASSWORD", restic.password())])
    }

    fn maintain(restic: &Restic, task: MaintainTask) -> Self {
        let secret = [("RESTIC_PASSWORD", restic.password())];
        Self::new(restic.path().to_str().unwrap(), JobTask::Maintain(task), &secret)
    }

    fn task(&mut self) -> &mut BackupTask {
        match &mut self.spec.task {
            JobTask::Backup(task) => task,
            JobTask::Maintain(_) | JobTask::Restore(_) => panic!("it is a backup"),
        }
    }

    /// Sets a key of the Secret.
    fn set(&self, key: &str, value: &str) {
        fs::write(self.folder.path().join("secret").join(key), value).unwrap();
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report")
    }

    /// The call of the program, with the spec as it is now.
    fn command(&self) -> Command {
        let spec = self.folder.path().join("spec.json");
        fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        self.command_on(&spec)
    }

    /// The call of a Job that has no Secret.
    fn command_without_secret(&self) -> Command {
        let spec = self.folder.path().join("spec.json");
        fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut command = stash_fs();
        command.arg("job").arg("--spec").arg(spec).arg("--report").arg(self.report());
        command
    }

    fn command_on(&self, spec: &Path) -> Command {
        let mut command = stash_fs();
        command.arg("job").arg("--spec").arg(spec).arg("--secret").arg(self.folder.path().join("secret"));
        command.arg("--report").arg(self.report());
        command
    }

    fn ended(&self, output: &Output) -> Ended {
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        let message = fs::read_to_string(self.report()).unwrap_or_else(|error| panic!("no report: {error}: {said}"));
        assert!(message.len() <= REPORT_LIMIT_BYTES, "{} bytes", message.len());
        let report = JobReport::parse(&message).unwrap();
        assert_eq!(report.version, VERSION);
        for time in [&report.started, &report.finished] {
            assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{time}");
        }
        let code = output.status.code().unwrap_or(-1);
        let expected = match &report.error {
            None => 0,
            Some(error) if matches!(error.code, ErrorCode::PartlyRead | ErrorCode::PartlyRestored) => 3,
            Some(_) => 1,
        };
        assert_eq!(code, expected, "{message} {said}");
        Ended { code, report, said: said + &message }
    }

    fn run(&self) -> Ended {
        self.ended(&self.command().output().unwrap())
    }
}

impl Ended {
    fn error(&self) -> Option<ErrorCode> {
        self.report.error.as_ref().map(|error| error.code)
    }

    fn message(&self) -> &str {
        self.report.error.as_ref().map_or("", |error| error.message.as_str())
    }

    /// The outcome of a backup that went well.
    fn backup(&self) -> &BackupOutcome {
        assert_eq!(self.report.error, None, "{}", self.said);
        self.backup_so_far()
    }

    fn backup_so_far(&self) -> &BackupOutcome {
        match &self.report.outcome {
            Outcome::Backup(outcome) => outcome,
            other => panic!("{other:?}: {}", self.said),
        }
    }

    fn restored(&self) -> &RestoreOutcome {
        match &self.report.outcome {
            Outcome::Restore(outcome) => outcome,
            other => panic!("{other:?}: {}", self.said),
        }
    }

    fn maintain(&self) -> &MaintainOutcome {
        match &self.report.outcome {
            Outcome::Maintain(outcome) => outcome,
            other => panic!("{other:?}: {}", self.said),
        }
    }
}

/// A folder with two small trees.
fn sources() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    for (dir, files) in [(&one, 3), (&two, 2)] {
        fs::create_dir(dir).unwrap();
        for n in 0..files {
            fs::write(dir.join(format!("file-{n}")), format!("{} {n}", dir.display()).repeat(1000)).unwrap();
        }
    }
    (folder, one, two)
}
