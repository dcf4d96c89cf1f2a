use super::*;
use crate::testing::{Fake, Node, blob_of};
use Node::{Dir, File};

const LIMITS: Limits = Limits { blobs: 0, bytes: 0, growth: 1, staged: (0, 0), trees: 16, files: 6, file_bytes: 1_000 };

/// a/{a1,a2/{x}}, b/{f}, c/, file
fn tree(fake: &Fake) -> Arc<Tree> {
    let id = fake.tree(&[
        Dir("a", vec![Dir("a1", vec![]), Dir("a2", vec![Dir("x", vec![])])]),
        Dir("b", vec![File("f")]),
        Dir("c", vec![File("last")]),
        File("file"),
    ]);
    fake.any_tree(&id)
}

fn subtree(tree: &Tree, name: &str) -> TreeId {
    tree.find(name.as_bytes()).unwrap().subtree().unwrap()
}

#[test]
fn test_trees_ahead_in_the_order_of_a_walk() {
    let fake = Fake::default();
    let root = tree(&fake);
    let (a, b, c) = (subtree(&root, "a"), subtree(&root, "b"), subtree(&root, "c"));
    let a_tree = fake.any_tree(&a);
    let (a1, a2) = (subtree(&a_tree, "a1"), subtree(&a_tree, "a2"));
    let at_root = || vec![Level::whole(Arc::clone(&root))];
    let nothing = |_: &TreeId| None;
    assert_eq!(plan_trees(at_root(), Order::Forward, 9, nothing), TreePlan { lacking: vec![a, b, c], ready: 0 });
    assert_eq!(plan_trees(at_root(), Order::Forward, 2, nothing), TreePlan { lacking: vec![a, b], ready: 0 });
    let only_a = |id: &TreeId| (*id == a).then(|| fake.any_tree(id));
    assert_eq!(plan_trees(at_root(), Order::Forward, 9, only_a), TreePlan { lacking: vec![a1, a2, b, c], ready: 1 });
    // From inside a: its directories, then what follows a.
    let inside = vec![Level::beyond(Arc::clone(&root), 0, Order::Forward), Level::whole(Arc::clone(&a_tree))];
    let all = |id: &TreeId| Some(fake.any_tree(id));
    assert_eq!(plan_trees(inside.clone(), Order::Forward, 9, all), TreePlan { lacking: vec![], ready: 5 });
    assert_eq!(plan_trees(inside, Order::Forward, 3, nothing).lacking, [a1, a2, b]);
    // Backwards: the last one first, and what stands before the reader.
    assert_eq!(plan_trees(at_root(), Order::Backward, 9, nothing).lacking, [c, b, a]);
    let inside = vec![Level::beyond(Arc::clone(&root), 1, Order::Backward)];
    assert_eq!(plan_trees(inside, Order::Backward, 9, only_a), TreePlan { lacking: vec![a2, a1], ready: 1 });
}

#[test]
fn test_a_walk_is_told_from_a_list() {
    let mut walks = Walks::default();
    let (root, a, b) = (Ino(10), Ino(11), Ino(12));
    assert_eq!(walks.on_list(root, Some((Ino(9), 0)), &LIMITS), Some(2), "alone so far");
    assert_eq!(walks.on_list(a, Some((root, 0)), &LIMITS), Some(16), "its parent was listed before");
    walks.planned(&TreePlan { lacking: vec![], ready: 8 });
    assert_eq!(walks.on_list(b, Some((root, 1)), &LIMITS), None, "enough is ready");
    assert_eq!(walks.on_list(Ino(13), Some((b, 0)), &LIMITS), None);
    assert_eq!(walks.on_list(Ino(14), Some((b, 1)), &LIMITS), Some(16), "a quarter was consumed");
    walks.planned(&TreePlan { lacking: vec![], ready: 8 });
    assert_eq!(walks.on_list(Ino(99), Some((Ino(98), 0)), &LIMITS), Some(2), "somewhere else");
}

#[test]
fn test_a_long_walk_keeps_its_evidence() {
    let mut walks = Walks::default();
    walks.on_list(Ino(5), None, &LIMITS);
    for child in 100..1_000 {
        let position = usize::try_from(child).unwrap();
        let budget = walks.on_list(Ino(child), Some((Ino(5), position)), &LIMITS);
        assert_eq!(budget, Some(16), "{child}");
    }
    assert_eq!(walks.order(), Order::Forward);
}

#[test]
fn test_a_walk_backwards_is_told_by_its_second_directory() {
    let mut walks = Walks::default();
    let root = Ino(5);
    walks.on_list(root, None, &LIMITS);
    assert_eq!(walks.on_list(Ino(10), Some((root, 7)), &LIMITS), Some(16));
    walks.planned(&TreePlan { lacking: vec![], ready: 40 });
    assert_eq!(walks.on_list(Ino(11), Some((Ino(10), 3)), &LIMITS), None, "the first one below tells nothing");
    assert_eq!(walks.order(), Order::Forward);
    assert_eq!(walks.on_list(Ino(12), Some((root, 4)), &LIMITS), Some(16), "all that was planned is behind the reader");
    assert_eq!(walks.order(), Order::Backward);
    walks.planned(&TreePlan { lacking: vec![], ready: 40 });
    assert_eq!(walks.on_list(Ino(13), Some((root, 2)), &LIMITS), None);
    assert_eq!(walks.on_list(Ino(14), Some((root, 3)), &LIMITS), Some(16), "it turns round");
    assert_eq!(walks.order(), Order::Forward);
}

fn file_plan(files: &mut FileRuns, root: &Arc<Tree>, position: usize, fake: &Fake) -> FilePlan {
    let levels = vec![Level::whole(Arc::clone(root))];
    files.plan(Ino(1), position, levels, &LIMITS, |id| Some(fake.any_tree(id)))
}

#[test]
fn test_small_files_are_detected_by_order() {
    let id = TreeId(stash_repo::Id::hash(b""));
    let open = |positions: &[usize]| {
        let mut files = FileRuns::default();
        positions.iter().map(|position| files.on_file(Ino(1), &id, *position, vec![*position])).collect::<Vec<_>>()
    };
    assert_eq!(open(&[0, 1, 2, 3]), [false, false, true, true]);
    assert_eq!(open(&[0, 3, 9, 20]), [false, false, true, true], "others may lie between");
    assert_eq!(open(&[9, 7, 5, 3]), [false; 4], "backwards");
    assert_eq!(open(&[0, 100, 5, 200, 50]), [false; 5], "anywhere");
    assert_eq!(open(&[0, 1, 1, 2, 2]), [false, false, false, true, false], "again");
}

#[test]
fn test_files_ahead_of_this_directory_then_of_the_next() {
    let fake = Fake::default();
    let id = fake.tree(&[
        Dir("before", vec![File("b1")]),
        File("f1"),
        File("f2"),
        Dir("later", vec![File("l1"), Dir("deep", vec![File("d1")]), File("l2")]),
        File("z"),
    ]);
    let root = fake.any_tree(&id);
    let mut files = FileRuns::default();
    let plan = file_plan(&mut files, &root, 1, &fake);
    assert_eq!(plan.blobs, ["f2", "z", "l1", "l2", "d1", "b1"].map(blob_of));
    assert_eq!(plan.files, 6);
    // The directory that the plan has covered is taken up without new evidence.
    let later = subtree(&root, "later");
    for position in [1, 2, 4] {
        files.on_file(Ino(1), &id, position, vec![position]);
    }
    file_plan(&mut files, &root, 4, &fake);
    let taken_up: Vec<bool> = [0, 2].map(|position| files.on_file(Ino(2), &later, position, vec![position])).to_vec();
    assert_eq!(taken_up, [true, true]);
}

#[test]
fn test_one_file_of_each_of_many_directories() {
    let fake = Fake::default();
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let dirs = (0..40)
        .map(|n| Dir(leak(format!("d{n:02}")), ["a", "b", "c"].map(|f| File(leak(format!("{f}{n:02}")))).into()));
    let root = fake.any_tree(&fake.tree(&dirs.collect::<Vec<_>>()));
    let mut files = FileRuns::default();
    let mut plans = Vec::new();
    for dir in 0..20 {
        let id = root.get(dir).unwrap().subtree().unwrap();
        if files.on_file(Ino(100 + dir as u64), &id, 1, vec![dir, 1]) {
            let levels = vec![Level::beyond(Arc::clone(&root), dir, Order::Forward), Level::whole(fake.any_tree(&id))];
            let plan = files.plan(Ino(100 + dir as u64), 1, levels, &LIMITS, |id| Some(fake.any_tree(id)));
            assert_eq!(plan.files, LIMITS.files * SPARSE_FACTOR);
            assert_eq!(plan.blobs[..2], [blob_of(&format!("c{dir:02}")), blob_of(&format!("a{:02}", dir + 1))]);
            plans.push(dir);
        }
    }
    assert_eq!(plans, [3], "with evidence, and not again for what that plan covers");
    // Backwards, or always the same: nothing.
    let mut files = FileRuns::default();
    for dir in (0..20).rev() {
        let id = root.get(dir).unwrap().subtree().unwrap();
        assert!(!files.on_file(Ino(100 + dir as u64), &id, 1, vec![dir, 1]), "{dir}");
    }
}

#[test]
fn test_plans_are_bounded() {
    let fake = Fake::default();
    let many: Vec<Node> = (0..40).map(|n| File(Box::leak(format!("f{n:02}").into_boxed_str()))).collect();
    let root = fake.any_tree(&fake.tree(&many));
    let mut files = FileRuns::default();
    assert_eq!(file_plan(&mut files, &root, 2, &fake).files, LIMITS.files);
    let bytes = Limits { file_bytes: 25, ..LIMITS };
    let levels = vec![Level::whole(Arc::clone(&root))];
    assert_eq!(files.plan(Ino(1), 2, levels.clone(), &bytes, |_| None).files, 2, "of 10 bytes each");
    // A tree that contains itself does not end, the plan does.
    let looping = fake.any_tree(&fake.tree(&[Dir("again", vec![])]));
    let levels = vec![Level::whole(Arc::clone(&looping))];
    let plan = plan_trees(levels, Order::Forward, 500, |_| Some(Arc::clone(&looping)));
    assert_eq!(plan.ready, 500);
}
