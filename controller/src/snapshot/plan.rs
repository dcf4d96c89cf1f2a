//! Decides which objects lack, and which are too many. Pure.

use std::collections::{BTreeSet, HashMap};

use stash_crds::names as labels;
use stash_repo::SnapshotId;

use super::{Meta, is_held, object};

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The snapshots of the repository: a whole list.
    pub listed: &'a BTreeSet<SnapshotId>,
    /// The objects of the Repository.
    pub objects: &'a [std::sync::Arc<Meta>],
    /// Of what objects are made now, beside their snapshots.
    pub made_of: &'a str,
}

/// What is done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Snapshots whose files are read and whose objects are made, or made anew.
    pub lacking: Vec<SnapshotId>,
    /// Objects that go: their snapshot is gone, or they do not say which it is.
    pub gone: Vec<std::sync::Arc<Meta>>,
    /// The names of the objects that stay.
    pub named: HashMap<SnapshotId, String>,
}

/// Returns the snapshot that an object is of: what it says, if its name says the same.
pub fn id_of(meta: &Meta) -> Option<SnapshotId> {
    let id: SnapshotId = meta.metadata.annotations.as_ref()?.get(labels::SNAPSHOT_ID_ANNOTATION)?.parse().ok()?;
    let (_, digits) = meta.metadata.name.as_ref()?.rsplit_once('-')?;
    (digits == id.0.short() || digits == id.to_string()).then_some(id)
}

/// Decides it. Objects that are being deleted are left alone: what becomes of them is decided by [`super::forget`].
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut deleted = BTreeSet::new();
    let mut lacking: BTreeSet<SnapshotId> = observed.listed.clone();
    // The same of several objects of one snapshot stays each time.
    let mut objects: Vec<_> = observed.objects.iter().collect();
    objects.sort_by_key(|meta| (meta.metadata.name.as_ref().map(String::len), meta.metadata.name.clone()));
    for meta in objects {
        let is_deleted = meta.metadata.deletion_timestamp.is_some();
        match id_of(meta) {
            _ if is_deleted => deleted.extend(id_of(meta)),
            Some(id) if observed.listed.contains(&id) && !plan.named.contains_key(&id) => {
                plan.named.insert(id, meta.metadata.name.clone().unwrap_or_default());
                if is_whole(meta, observed.made_of) {
                    lacking.remove(&id);
                }
            }
            _ => plan.gone.push(std::sync::Arc::clone(meta)),
        }
    }
    plan.lacking = lacking.into_iter().filter(|id| !deleted.contains(id) || plan.named.contains_key(id)).collect();
    plan
}

/// Whether an object has all that it was made with, as far as metadata tells.
fn is_whole(meta: &Meta, made_of: &str) -> bool {
    let own = meta.metadata.labels.as_ref();
    let has = |key: &str| own.is_some_and(|own| own.contains_key(key));
    let said = meta.metadata.annotations.as_ref().and_then(|said| said.get(object::MADE_OF_ANNOTATION));
    is_held(meta)
        && has(labels::SNAPSHOT_REPOSITORY_LABEL)
        && has(labels::SNAPSHOT_HOSTNAME_LABEL)
        && said.is_some_and(|said| said == made_of)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    const WHOLE: &str = "r-aa00000000000000000000000000000000000000000000000000000000000000";

    fn id(digits: &str) -> SnapshotId {
        format!("{digits:0<64}").parse().unwrap()
    }

    fn meta(name: &str, id: &str, change: impl FnOnce(&mut Value)) -> Arc<Meta> {
        let mut metadata = json!({
            "name": name, "namespace": "shop", "finalizers": ["stash.appscode.com/forget"],
            "labels": {"repository": "r", "hostname": "h"},
            "annotations": {
                "stash.appscode.com/repository": "r", "stash.appscode.com/snapshot-id": format!("{id:0<64}"),
                "stash.appscode.com/mirrored-of": "now"
            }
        });
        change(&mut metadata);
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn test_objects_follow_the_list() {
        let same = |_: &mut Value| {};
        let deleted = |metadata: &mut Value| metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let stale = |metadata: &mut Value| metadata["annotations"]["stash.appscode.com/mirrored-of"] = json!("before");
        let unheld = |metadata: &mut Value| metadata["finalizers"] = json!([]);
        let unlabelled = |metadata: &mut Value| metadata["labels"] = json!({"repository": "r"});
        let nameless = |metadata: &mut Value| metadata["annotations"]["stash.appscode.com/snapshot-id"] = json!("x");
        type Case = (&'static str, Vec<&'static str>, Vec<Arc<Meta>>, Vec<&'static str>, Vec<&'static str>);
        let table: Vec<Case> = vec![
            ("nothing", vec![], vec![], vec![], vec![]),
            ("all new", vec!["aa", "bb"], vec![], vec!["aa", "bb"], vec![]),
            ("all there", vec!["aa"], vec![meta("r-aa000000", "aa", same)], vec![], vec![]),
            (
                "one went",
                vec!["aa"],
                vec![meta("r-aa000000", "aa", same), meta("r-bb000000", "bb", same)],
                vec![],
                vec!["r-bb000000"],
            ),
            ("all went", vec![], vec![meta("r-aa000000", "aa", same)], vec![], vec!["r-aa000000"]),
            ("of another form", vec!["aa"], vec![meta("r-aa000000", "aa", stale)], vec!["aa"], vec![]),
            ("without finalizer", vec!["aa"], vec![meta("r-aa000000", "aa", unheld)], vec!["aa"], vec![]),
            ("without a label", vec!["aa"], vec![meta("r-aa000000", "aa", unlabelled)], vec!["aa"], vec![]),
            (
                "which, it does not say",
                vec!["aa"],
                vec![meta("r-aa000000", "aa", nameless)],
                vec!["aa"],
                vec!["r-aa000000"],
            ),
            (
                "it says another one than its name",
                vec!["aa"],
                vec![meta("r-bb000000", "aa", same)],
                vec!["aa"],
                vec!["r-bb000000"],
            ),
            ("deleted by somebody", vec!["aa"], vec![meta("r-aa000000", "aa", deleted)], vec![], vec![]),
            ("deleted, and went", vec![], vec![meta("r-aa000000", "aa", deleted)], vec![], vec![]),
            ("twice", vec!["aa"], vec![meta(WHOLE, "aa", same), meta("r-aa000000", "aa", same)], vec![], vec![WHOLE]),
        ];
        for (what, listed, objects, lacking, gone) in table {
            let listed = listed.into_iter().map(id).collect();
            let plan = plan(&Observed { listed: &listed, objects: &objects, made_of: "now" });
            assert_eq!(plan.lacking, lacking.into_iter().map(id).collect::<Vec<_>>(), "{what}");
            let names: Vec<_> = plan.gone.iter().map(|meta| meta.metadata.name.as_deref().unwrap()).collect();
            assert_eq!(names, gone, "{what}");
        }
    }

    #[test]
    fn test_an_object_that_is_made_anew_keeps_its_name() {
        let objects = [meta(WHOLE, "aa", |metadata| metadata["finalizers"] = json!([]))];
        let listed = BTreeSet::from([id("aa")]);
        let plan = plan(&Observed { listed: &listed, objects: &objects, made_of: "now" });
        assert_eq!(plan.named[&id("aa")], WHOLE);
    }
}
