//! Which snapshots stand under which names.
//!
//! * [`filter`]: which snapshots are shown, and which one a `SNAPSHOT[:PATH]` means.
//! * [`template`]: from a path template and a snapshot to paths.
//! * [`gotime`]: times by Go's layouts.
//! * [`layout`]: from snapshots and templates to the tree of directories above them.
//!
//! All of it is pure: a list of snapshots in, names out. Looking the list up again is [`crate::Vfs`]'s.

pub mod filter;
pub mod gotime;
pub(crate) mod layout;
pub mod template;

use stash_repo::{SnapshotId, Timestamp, TreeId};

use crate::error::{VfsError, VfsResult};
use filter::{RootSpec, SnapshotFilter};
use gotime::TimeLayout;
use template::PathTemplate;

/// restic's `--path-template` where none is given.
pub const DEFAULT_PATH_TEMPLATES: [&str; 4] = ["ids/%i", "snapshots/%T", "hosts/%h/%T", "tags/%t/%T"];

/// restic's `--time-template` where none is given: RFC 3339.
pub const DEFAULT_TIME_TEMPLATE: &str = "2006-01-02T15:04:05Z07:00";

/// How snapshots are laid out and which are shown.
#[derive(Debug, Clone, Default)]
pub struct NamespaceOptions {
    /// `SNAPSHOT[:PATH]`: this alone is the root (`latest`, `latest~N`, an id or its prefix).
    pub root: Option<String>,
    /// Which snapshot `root` meant when another process resolved it: no list is asked again, so that a mount goes on although
    /// `latest` is another one now, or the snapshot was forgotten.
    pub pinned: Option<Pin>,
    /// restic's `--path-template`, repeatable; empty: restic's four layouts (`ids/%i`, `snapshots/%T`, `hosts/%h/%T`, `tags/%t/%T`).
    pub path_templates: Vec<String>,
    /// restic's `--time-template` (Go's layout); empty: RFC 3339.
    pub time_template: Option<String>,
    /// Only snapshots of these hosts.
    pub hosts: Vec<String>,
    /// Only snapshots that have all tags of one of these lists (`a,b`).
    pub tags: Vec<String>,
    /// Only snapshots that have all these paths.
    pub paths: Vec<String>,
}

/// A snapshot that is the root of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its own root.
    pub tree: TreeId,
    /// When it was made.
    pub time: Timestamp,
}

/// [`NamespaceOptions`], checked.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(crate) root: Option<RootSpec>,
    pub(crate) pinned: Option<Pin>,
    pub(crate) templates: Vec<PathTemplate>,
    pub(crate) time: TimeLayout,
    pub(crate) filter: SnapshotFilter,
}

impl NamespaceOptions {
    /// Checks the templates and the root's syntax.
    pub(crate) fn check(&self) -> VfsResult<Namespace> {
        let time = self.time_template.as_deref().unwrap_or(DEFAULT_TIME_TEMPLATE);
        // restic refuses the same.
        if time.is_empty() || time.starts_with('/') || time.ends_with('/') {
            return Err(VfsError::Option {
                option: "--time-template",
                reason: "it must not be empty and must not begin or end with '/'".to_owned(),
            });
        }
        let templates = if self.path_templates.is_empty() {
            DEFAULT_PATH_TEMPLATES.iter().map(|template| PathTemplate::parse(template)).collect()
        } else {
            self.path_templates.iter().map(|template| PathTemplate::parse(template)).collect::<Result<_, _>>()
        };
        let templates: Vec<_> =
            templates.map_err(|reason: String| VfsError::Option { option: "--path-template", reason })?;
        Ok(Namespace {
            root: self.root.as_deref().map(RootSpec::parse).transpose()?,
            pinned: self.pinned,
            templates,
            time: TimeLayout::parse(time),
            filter: SnapshotFilter::new(&self.hosts, &self.tags, &self.paths),
        })
    }
}
