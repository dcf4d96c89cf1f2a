//! Which snapshots stand under which names.

/// How snapshots are laid out and which are shown.
#[derive(Debug, Clone, Default)]
pub struct NamespaceOptions {
    /// `SNAPSHOT[:PATH]`: this alone is the root (`latest`, `latest~N`, an id or its prefix).
    pub root: Option<String>,
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
