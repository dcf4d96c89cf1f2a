//! Labels of what is made for a backup: functions of what it is made for, so that whoever makes it makes the same. Pure.

use std::collections::BTreeMap;

use crate::names as labels;
use crate::reference::TargetRef;

/// The longest name of a label's value, and so of what is named in one.
pub const LIMIT: usize = 63;

/// Cuts the middle out of what is longer than `limit`, and joins the ends.
pub fn cut_middle(name: &str, limit: usize) -> String {
    let characters: Vec<char> = name.chars().collect();
    let kept: String = if characters.len() <= limit {
        name.to_owned()
    } else {
        let (head, tail) = (limit.div_ceil(2), limit / 2);
        characters[..head].iter().chain(&characters[characters.len() - tail..]).collect()
    };
    kept.trim_matches('-').to_owned()
}

/// Returns `name` with its middle cut out where it is longer than 63 characters.
pub fn cut63(name: &str) -> String {
    cut_middle(name, LIMIT)
}

/// Returns the selector of the Snapshots of a Repository. Those of another one whose name is cut to the same may be among them.
pub fn snapshots_of(repository: &str) -> String {
    format!("{}={}", labels::SNAPSHOT_REPOSITORY_LABEL, cut63(repository))
}

/// Returns the labels of what backs up for an object with `own` labels.
pub fn backup_labels(own: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut made = own.cloned().unwrap_or_default();
    made.insert(labels::COMPONENT_LABEL.to_owned(), labels::COMPONENT_BACKUP.to_owned());
    made.insert(labels::MANAGED_BY_LABEL.to_owned(), labels::MANAGED_BY.to_owned());
    made
}

/// Returns the labels of a session of a BackupConfiguration in `namespace`.
///
/// The value of a label has 63 characters at most. The invoker's own name is in `spec.invoker`, and that is what is read.
pub fn session_labels(
    own: Option<&BTreeMap<String, String>>,
    invoker: &str,
    target: &TargetRef,
    namespace: &str,
) -> BTreeMap<String, String> {
    let mut made = backup_labels(own);
    let text = |value: &Option<String>| cut63(value.as_deref().unwrap_or_default());
    made.insert(labels::INVOKER_TYPE_LABEL.to_owned(), "BackupConfiguration".to_owned());
    made.insert(labels::INVOKER_NAME_LABEL.to_owned(), cut63(invoker));
    made.insert(labels::TARGET_KIND_LABEL.to_owned(), text(&target.kind));
    made.insert(labels::TARGET_NAME_LABEL.to_owned(), text(&target.name));
    let namespace = target.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(namespace);
    made.insert(labels::TARGET_NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_long_names_lose_their_middle() {
        let long = format!("{}{}", "a".repeat(40), "b".repeat(40));
        for (name, expected) in [
            ("short", "short".to_owned()),
            ("-trimmed-", "trimmed".to_owned()),
            (long.as_str(), format!("{}{}", "a".repeat(32), "b".repeat(31))),
        ] {
            assert_eq!(cut63(name), expected);
        }
        assert_eq!(cut63(&"é".repeat(70)).chars().count(), 63);
    }

    #[test]
    fn test_sessions_say_whose_they_are() {
        let own = BTreeMap::from([
            ("team".to_owned(), "a".to_owned()),
            (labels::MANAGED_BY_LABEL.to_owned(), "me".to_owned()),
        ]);
        let target = TargetRef {
            kind: Some("PersistentVolumeClaim".to_owned()),
            name: Some("data".to_owned()),
            ..TargetRef::default()
        };
        let made = session_labels(Some(&own), "nightly", &target, "shop");
        let expected = [
            ("app.kubernetes.io/component", "stash-backup"),
            ("app.kubernetes.io/managed-by", "stash.appscode.com"),
            ("stash.appscode.com/invoker-name", "nightly"),
            ("stash.appscode.com/invoker-type", "BackupConfiguration"),
            ("stash.appscode.com/target-kind", "PersistentVolumeClaim"),
            ("stash.appscode.com/target-name", "data"),
            ("stash.appscode.com/target-namespace", "shop"),
            ("team", "a"),
        ];
        let made: Vec<_> = made.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(made, expected);
    }
}
