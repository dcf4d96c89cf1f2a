//! From a task and the user's flags to what each backup is asked for. Pure: what is wrong is told before anything is opened.

use std::path::PathBuf;

use jiff::Zoned;
use stash_proto::job::args::{BackupFlags, Compression};
use stash_proto::job::{BackupTask, ErrorCode, JobError};
use stash_repo::write::PackOptions;
use stash_repo::write::backup::{BackupRequest, BackupSource, GroupBy, Parent};
use stash_repo::write::source::{Marker, SourceOptions};

use crate::cli::{PROGRAM, parse_time};
use crate::filter::Filter;

/// What the backups of all paths have in common.
#[derive(Debug)]
pub(super) struct Plan {
    /// How packs are made.
    pub(super) pack: PackOptions,
    /// The request, without a target.
    request: BackupRequest,
    source: SourceOptions,
    /// The snapshots' time, if it is not the time at which each begins.
    time: Option<Zoned>,
}

impl Plan {
    /// Puts task and flags together.
    ///
    /// # Errors
    /// `BadArguments`: a pattern, a mark or a time is none.
    pub(super) fn new(task: &BackupTask, flags: &BackupFlags) -> Result<Self, JobError> {
        let bad = |reason: String| JobError::new(ErrorCode::BadArguments, reason);
        let patterns: Vec<String> = task.exclude.iter().chain(&flags.exclude).cloned().collect();
        let filter = Filter::exclude(&patterns, &flags.iexclude).map_err(|error| bad(error.to_string()))?;
        let markers = flags.exclude_if_present.iter().map(|text| Marker::parse(text).map_err(bad));
        let mut markers = markers.collect::<Result<Vec<_>, _>>()?;
        if flags.exclude_caches {
            markers.push(Marker::cache());
        }
        let pack = PackOptions {
            compression: flags.compression.map(compression).unwrap_or_default(),
            pack_mib: flags.pack_size_mib,
            no_extra_verify: flags.no_extra_verify,
        };
        pack.check().map_err(|error| bad(error.to_string()))?;
        let time =
            flags.time.as_deref().map(|text| parse_time(text).map_err(|reason| bad(format!("--time: {reason}"))));
        let time = time.transpose()?;
        let source = SourceOptions {
            targets: Vec::new(),
            root: task.root.as_ref().map(PathBuf::from),
            exclude: filter.excluded(),
            markers,
            exclude_larger_than: flags.exclude_larger_than,
            one_file_system: flags.one_file_system,
            with_atime: flags.with_atime,
            read_concurrency: flags.read_concurrency.and_then(|files| usize::try_from(files).ok()),
        };
        let group_by = flags.group_by.map(|by| GroupBy { host: by.host, paths: by.paths, tags: by.tags });
        let request = BackupRequest {
            source: BackupSource::Files(SourceOptions::default()),
            hostname: task.host.clone(),
            tags: task.tags.iter().chain(&flags.tags).cloned().collect(),
            time: Zoned::now(),
            excludes: patterns,
            program_version: PROGRAM.to_owned(),
            parent: match (&flags.parent, flags.force) {
                (_, true) => Parent::None,
                (Some(name), false) => Parent::Named(name.clone()),
                (None, false) => Parent::Newest,
            },
            group_by: group_by.unwrap_or_default(),
            ignore_ctime: flags.ignore_ctime,
            ignore_inode: flags.ignore_inode,
            skip_if_unchanged: flags.skip_if_unchanged,
            no_scan: true,
            dry_run: false,
        };
        Ok(Self { pack, request, source, time })
    }

    /// Returns the request for a path, made now.
    pub(super) fn request(&self, path: &str) -> BackupRequest {
        let source = SourceOptions { targets: vec![PathBuf::from(path)], ..self.source.clone() };
        let time = self.time.clone().unwrap_or_else(Zoned::now);
        BackupRequest { source: BackupSource::Files(source), time, ..self.request.clone() }
    }
}

fn compression(wanted: Compression) -> stash_repo::write::Compression {
    use stash_repo::write::Compression as To;
    match wanted {
        Compression::Auto => To::Auto,
        Compression::Off => To::Off,
        Compression::Max => To::Max,
    }
}

#[cfg(test)]
mod tests {
    use stash_proto::job::args;

    use super::*;

    fn plan(task: &BackupTask) -> Result<Plan, String> {
        let flags = args::parse(&task.args).unwrap();
        Plan::new(task, &flags).map_err(|error| error.message)
    }

    fn task(args: &[&str]) -> BackupTask {
        BackupTask {
            host: "h".to_owned(),
            paths: vec!["/data".to_owned()],
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ..BackupTask::default()
        }
    }

    #[test]
    fn test_task_and_flags_come_together() {
        let mut task = task(&["--exclude=*.tmp", "--tag=b", "--parent=abcd", "-x", "--time=2020-01-02 03:04:05"]);
        task.exclude = vec!["*.log".to_owned()];
        task.tags = vec!["a".to_owned()];
        task.root = Some("/stash/source".to_owned());
        let plan = plan(&task).unwrap();
        let request = plan.request("/data/x");
        assert_eq!(
            (request.excludes, request.tags),
            (vec!["*.log".into(), "*.tmp".into()], vec!["a".into(), "b".into()])
        );
        assert_eq!((request.hostname.as_str(), request.parent), ("h", Parent::Named("abcd".to_owned())));
        assert_eq!(request.time.datetime().to_string(), "2020-01-02T03:04:05");
        let BackupSource::Files(source) = request.source else { panic!("files") };
        assert_eq!((source.targets, source.root), (vec!["/data/x".into()], Some("/stash/source".into())));
        let exclude = source.exclude.unwrap();
        assert!(exclude("/data/x.log".as_ref()) && exclude("/data/x.tmp".as_ref()) && !exclude("/data/x".as_ref()));
        assert!(source.one_file_system);
    }

    #[test]
    fn test_force_goes_before_a_parent_and_patterns_are_checked() {
        let request = plan(&task(&["--force", "--parent=abcd"])).unwrap().request("/data");
        assert_eq!((request.parent, request.group_by), (Parent::None, GroupBy::default()));
        let message = plan(&task(&["--exclude=[a"])).unwrap_err();
        assert!(message.contains("[a"), "{message}");
    }
}
