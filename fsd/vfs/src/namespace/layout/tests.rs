use std::collections::BTreeMap;

use super::*;
use crate::namespace::NamespaceOptions;
use crate::testing::snapshot;

fn options(templates: &[&str], time: Option<&str>) -> NamespaceOptions {
    NamespaceOptions {
        path_templates: templates.iter().map(|template| (*template).to_owned()).collect(),
        time_template: time.map(str::to_owned),
        ..NamespaceOptions::default()
    }
}

fn part(options: &NamespaceOptions, snapshots: Vec<Snapshot>) -> Part {
    Part::Templates {
        namespace: Arc::new(options.check().unwrap()),
        snapshots: snapshots.into_iter().map(Arc::new).collect(),
    }
}

/// All paths: links with their targets, snapshots with their day, directories with nothing.
fn paths(layout: &Layout) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![(String::new(), layout.get(Ino::ROOT).unwrap())];
    while let Some((path, dir)) = left.pop() {
        for node in layout.children(dir) {
            let path = format!("{path}{}", node.name);
            let what = match &node.kind {
                LayoutKind::Link(target) => format!("-> {target}"),
                LayoutKind::Snapshot(_) => format!("at {}", node.time.secs),
                LayoutKind::Dir { .. } => {
                    left.push((format!("{path}/"), node));
                    "/".to_owned()
                }
            };
            assert!(found.insert(path, what).is_none());
        }
    }
    found
}

fn build(options: &NamespaceOptions, snapshots: Vec<Snapshot>) -> Layout {
    let part = part(options, snapshots);
    Layout::build([("repo", &part)].into_iter())
}

fn at(number: u32, secs: u32) -> Snapshot {
    snapshot(number, &format!("1970-01-01T00:00:{secs:02}+00:00[UTC]"))
}

#[track_caller]
fn assert_paths(layout: &Layout, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect();
    assert_eq!(paths(layout), expected);
}

#[test]
fn test_no_snapshots_leave_the_directories() {
    let layout = build(&NamespaceOptions::default(), Vec::new());
    assert_paths(&layout, &[("hosts", "/"), ("ids", "/"), ("snapshots", "/"), ("tags", "/")]);
}

#[test]
fn test_equal_names_get_numbers_oldest_first_and_latest_points_to_the_newest() {
    let layout = build(&options(&["s/%T"], Some("2006")), vec![at(3, 3), at(1, 1), at(2, 2)]);
    let expected =
        [("s", "/"), ("s/1970", "at 1"), ("s/1970-1", "at 2"), ("s/1970-2", "at 3"), ("s/latest", "-> 1970-2")];
    assert_paths(&layout, &expected);
}

#[test]
fn test_times_with_slashes_and_stems() {
    let layout = build(&options(&["%h/%T", "x-%T"], Some("2006/05")), vec![at(1, 7)]);
    let expected = [
        ("host", "/"),
        ("host/1970", "/"),
        ("host/1970/07", "at 7"),
        ("host/latest", "-> 1970/07"),
        ("x-1970", "/"),
        ("x-1970/07", "at 7"),
        ("x-latest", "-> x-1970/07"),
    ];
    assert_paths(&layout, &expected);
}

#[test]
fn test_a_snapshot_in_the_way_of_a_directory() {
    let layout = build(&options(&["%h", "%h/%i", "%u", "%T"], Some("2006")), {
        let mut odd = at(1, 1);
        "latest".clone_into(&mut odd.username);
        vec![odd]
    });
    let id = at(1, 1).id.0.short();
    assert_paths(
        &layout,
        &[
            ("1970", "at 1"),
            ("host", "at 1"),
            ("host-1", "/"),
            (&format!("host-1/{id}"), "at 1"),
            // A user called "latest" has the name before the link.
            ("latest", "at 1"),
        ],
    );
}

#[test]
fn test_a_template_without_directory_is_the_root() {
    let layout = build(&options(&["%T"], Some("05")), vec![at(1, 1), at(2, 2)]);
    assert_paths(&layout, &[("01", "at 1"), ("02", "at 2"), ("latest", "-> 02")]);
}

#[test]
fn test_several_repositories_have_a_directory_each() {
    let (a, b) =
        (part(&options(&["%T"], Some("05")), vec![at(1, 1)]), part(&options(&["%T"], Some("05")), vec![at(1, 2)]));
    let layout = Layout::build([("one", &a), ("one", &b)].into_iter());
    let expected = [
        ("one", "/"),
        ("one-1", "/"),
        ("one-1/02", "at 2"),
        ("one-1/latest", "-> 02"),
        ("one/01", "at 1"),
        ("one/latest", "-> 01"),
    ];
    assert_paths(&layout, &expected);
    let root = layout.get(Ino::ROOT).unwrap();
    assert!(matches!(root.kind, LayoutKind::Dir { repo: None, .. }), "no list decides the repositories");
    let two = layout.child(root, b"one-1").unwrap();
    assert!(matches!(two.kind, LayoutKind::Dir { repo: Some(1), .. }));
}

#[test]
fn test_lookup_finds_what_is_listed_and_nothing_else() {
    let layout = build(&NamespaceOptions::default(), (0..50).map(|n| at(n, n)).collect());
    for node in layout.nodes() {
        assert_eq!(layout.get(node.ino).unwrap().name, node.name);
        for child in layout.children(node) {
            assert_eq!(layout.child(node, child.name.as_bytes()).unwrap().ino, child.ino);
            assert_eq!(child.parent, node.ino);
        }
        assert!(layout.child(node, b"").is_none() && layout.child(node, b"nothing").is_none());
    }
}

#[test]
fn test_ids_and_offsets_do_not_depend_on_other_snapshots() {
    let all: Vec<Snapshot> = (0..40).map(|n| at(n, n)).collect();
    let whole = build(&NamespaceOptions::default(), all.clone());
    let fewer = build(&NamespaceOptions::default(), all.into_iter().skip(13).collect());
    for node in fewer.nodes() {
        let same = whole.get(node.ino).unwrap();
        assert_eq!((&same.name, same.offset, same.parent), (&node.name, node.offset, node.parent));
    }
    for node in whole.nodes() {
        let offsets: Vec<u64> = whole.children(node).map(|child| child.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b) && offsets.iter().all(|offset| *offset > FIRST_OFFSET));
        assert!(offsets.iter().all(|offset| i64::try_from(*offset).is_ok()), "off_t is signed");
    }
}

#[test]
fn test_a_name_that_another_snapshot_takes_has_another_id() {
    let template = options(&["%T"], Some("2006"));
    let (before, after) = (build(&template, vec![at(1, 1), at(2, 2)]), build(&template, vec![at(2, 2)]));
    let find = |layout: &Layout| layout.child(layout.get(Ino::ROOT).unwrap(), b"1970").unwrap().ino;
    assert_ne!(find(&before), find(&after));
}

#[test]
fn test_a_link_that_points_elsewhere_is_another_inode() {
    let latest = |snapshots: Vec<Snapshot>| {
        let layout = build(&options(&["%T"], Some("05")), snapshots);
        layout.child(layout.get(Ino::ROOT).unwrap(), b"latest").unwrap().ino
    };
    let before = latest(vec![at(1, 1)]);
    assert_ne!(before, latest(vec![at(1, 1), at(2, 2)]));
    assert_eq!(before, latest(vec![at(0, 0), at(1, 1)]));
}

#[test]
fn test_a_directorys_time_changes_with_its_entries() {
    let time = |snapshots: Vec<Snapshot>| {
        let layout = build(&options(&["s/%T"], None), snapshots);
        layout.child(layout.get(Ino::ROOT).unwrap(), b"s").unwrap().time
    };
    let all = time(vec![at(1, 1), at(2, 2), at(3, 3)]);
    assert_eq!(all.secs, 3);
    assert_eq!(all, time(vec![at(1, 1), at(2, 2), at(3, 3)]));
    assert_ne!(all, time(vec![at(1, 1), at(3, 3)]), "one in the middle was forgotten");
    assert_ne!(all, time(vec![at(1, 1), at(2, 2), at(4, 3)]));
}
