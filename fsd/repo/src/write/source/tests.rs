use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use rustic_core::ReadSourceOpen as _;
use tempfile::TempDir;

use super::files::Files;
use super::targets::{Entry, Targets, clean};
use super::*;

/// Keeps what it is told.
#[derive(Default)]
struct Told {
    losses: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
}

impl Listener for Told {
    fn loss(&self, loss: &Loss) {
        self.losses.lock().push(loss.to_string());
    }

    fn note(&self, note: &Note) {
        self.notes.lock().push(note.to_string());
    }
}

struct Fixture {
    folder: TempDir,
    told: Arc<Told>,
    ledger: Ledger,
}

impl Fixture {
    fn new(files: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let told = Arc::new(Told::default());
        let ledger = Ledger::new(told.clone(), None);
        Self { folder, told, ledger }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self, targets: &[&str], options: SourceOptions) -> LocalSource {
        let targets = targets.iter().map(|name| self.path(name)).collect();
        LocalSource::new(SourceOptions { targets, ..options }, self.ledger.clone()).unwrap()
    }

    /// The entries below the fixture's folder.
    fn names(&self, source: &LocalSource) -> Vec<String> {
        let entries = source.entries().map(|entry| entry.unwrap().path);
        let below = entries.filter_map(|path| path.strip_prefix(self.folder.path()).ok().map(Path::to_owned));
        below.map(|path| path.display().to_string()).filter(|name| !name.is_empty()).collect()
    }

    fn open(&self, source: &LocalSource, name: &str) -> FileOpen {
        let mut entries = source.entries().map(|entry| entry.unwrap());
        entries.find(|entry| entry.path == self.path(name)).unwrap().open.unwrap()
    }

    fn losses(&self) -> Vec<String> {
        self.told.losses.lock().clone()
    }
}

fn tree(targets: &[&str]) -> Vec<String> {
    fn walk(branch: &targets::Branch, prefix: &str, out: &mut Vec<String>) {
        for (name, entry) in &branch.children {
            let place = format!("{prefix}/{}", name.to_string_lossy());
            match entry {
                Entry::Branch(inner) => walk(inner, &place, out),
                Entry::Leaf(path) => out.push(format!("{place} = {}", path.display())),
            }
        }
    }
    let targets: Vec<PathBuf> = targets.iter().map(PathBuf::from).collect();
    let mut out = Vec::new();
    walk(&Targets::new(&targets, &Files::default()).unwrap().root, "", &mut out);
    out
}

#[test]
fn test_targets_stand_where_restic_puts_them() {
    for (targets, expected) in [
        (&["/a/b", "/a/c"][..], &["/a/b = /a/b", "/a/c = /a/c"][..]),
        (&["x/y", "../x/y"], &["/x/y = x/y", "/x-1/y = ../x/y"]),
        (&["/a", "a"], &["/a = /a", "/a-1 = a"]),
        (&["../../deep/a"], &["/deep/a = ../../deep/a"]),
        (&["/a//b/./", "/a/b"], &["/a/b = /a/b"]),
        (&["x/../y"], &["/y = y"]),
    ] {
        assert_eq!(tree(targets), expected, "{targets:?}");
    }
}

#[test]
fn test_paths_are_cleaned_in_the_text_alone() {
    for (path, expected) in
        [("", "."), ("/", "/"), ("//a//", "/a"), ("a/./b/..", "a"), ("../x", "../x"), ("/../x", "/x"), ("a/..", ".")]
    {
        assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
    }
}

#[test]
fn test_entries_come_depth_first_by_bytes() {
    let fixture = Fixture::new(&["a/z", "a.b", "a-b", "b", "a/B"]);
    let source = fixture.source(&["."], SourceOptions::default());
    assert_eq!(fixture.names(&source), ["a", "a/B", "a/z", "a-b", "a.b", "b"]);
    assert_eq!(fixture.ledger.expected(), 5);
    assert_eq!(source.size().unwrap(), Some(3 + 3 + 3 + 1 + 3));
    assert!(fixture.losses().is_empty());
}

#[test]
fn test_a_target_within_a_target_is_stored_once() {
    let fixture = Fixture::new(&["a/b/c", "a/b/d", "a/e"]);
    for targets in [["a", "a/b/c"], ["a/b/c", "a"]] {
        let source = fixture.source(&targets, SourceOptions::default());
        assert_eq!(fixture.names(&source), ["a", "a/b", "a/b/c", "a/b/d", "a/e"], "{targets:?}");
    }
}

#[test]
fn test_missing_targets_are_losses_and_none_is_an_error() {
    let fixture = Fixture::new(&["a"]);
    let source = fixture.source(&["a", "gone"], SourceOptions::default());
    assert_eq!(fixture.names(&source), ["a"]);
    assert_eq!(fixture.losses().len(), 1);
    let options = SourceOptions { targets: vec![fixture.path("gone")], ..SourceOptions::default() };
    assert!(LocalSource::new(options, fixture.ledger.clone()).is_err());
}

#[test]
fn test_what_options_leave_out() {
    let fixture = Fixture::new(&["a/x", "a/.nobackup", "b/CACHEDIR.TAG", "b/y", "large-name-here", "d/e"]);
    fs::write(fixture.path("b/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55 etc").unwrap();
    let exclude: Exclude = Arc::new(|path: &Path| path.ends_with("d"));
    let markers = vec![Marker::parse(".nobackup").unwrap(), Marker::cache()];
    let options =
        SourceOptions { exclude: Some(exclude), markers, exclude_larger_than: Some(12), ..SourceOptions::default() };
    let source = fixture.source(&["."], options);
    // The tag of `b` is larger than 12 bytes; it marks all the same.
    assert_eq!(fixture.names(&source), ["a", "a/.nobackup", "b"]);
    assert!(fixture.losses().is_empty(), "what was left out was told as lost: {:?}", fixture.losses());
}

#[test]
fn test_a_file_that_vanished_or_was_replaced_is_withdrawn() {
    let fixture = Fixture::new(&["gone", "replaced", "fifo"]);
    let source = fixture.source(&["."], SourceOptions::default());
    let opens: Vec<_> = ["gone", "replaced", "fifo"].map(|name| fixture.open(&source, name)).into();
    let expected = fixture.ledger.expected();
    fs::remove_file(fixture.path("gone")).unwrap();
    fs::write(fixture.path("new"), "replaced").unwrap();
    fs::rename(fixture.path("new"), fixture.path("replaced")).unwrap();
    fs::remove_file(fixture.path("fifo")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for open in opens {
        assert!(open.open().is_err());
    }
    assert_eq!(fixture.ledger.expected(), expected - 3);
    assert_eq!(fixture.losses().len(), 3);
}

#[test]
fn test_a_shorter_file_is_lost_and_a_longer_one_is_stored_as_it_was() {
    let fixture = Fixture::new(&["shrinks", "grows"]);
    let content = vec![7; 3 << 20];
    for name in ["shrinks", "grows"] {
        fs::write(fixture.path(name), &content).unwrap();
    }
    let source = fixture.source(&["."], SourceOptions::default());
    let (shrinks, grows) = (fixture.open(&source, "shrinks"), fixture.open(&source, "grows"));
    let (mut shrinks, mut grows) = (shrinks.open().unwrap(), grows.open().unwrap());
    let mut begin = vec![0; 100];
    shrinks.read_exact(&mut begin).unwrap();
    fs::File::options().write(true).open(fixture.path("shrinks")).unwrap().set_len(1 << 20).unwrap();
    assert!(shrinks.read_to_end(&mut Vec::new()).is_err());
    assert!(
        fixture.losses()[0].contains("it became shorter: 1048576 of 3145728 bytes were there"),
        "{:?}",
        fixture.losses()
    );
    fs::File::options().append(true).open(fixture.path("grows")).unwrap().set_len(4 << 20).unwrap();
    let mut read = Vec::new();
    grows.read_to_end(&mut read).unwrap();
    assert!(read == content);
    assert_eq!(fixture.told.notes.lock().len(), 1);
    assert_eq!(fixture.losses().len(), 1);
}

#[test]
fn test_names_that_are_not_utf8_come_back() {
    let fixture = Fixture::new(&["x"]);
    let name = std::ffi::OsStr::from_bytes(b"a\xff\"\\\n");
    fs::write(fixture.folder.path().join(name), "").unwrap();
    let source = fixture.source(&["."], SourceOptions::default());
    let nodes: Vec<_> = source.entries().map(|entry| entry.unwrap().node).collect();
    let node = nodes.iter().find(|node| node.name() == name).unwrap();
    assert_eq!(node.name, r#"a\xff\"\\\n"#);
}

#[test]
fn test_a_stopped_source_ends() {
    let fixture = Fixture::new(&["a", "b"]);
    let source = fixture.source(&["."], SourceOptions::default());
    let mut entries = source.entries();
    entries.next().unwrap().unwrap();
    let open = fixture.open(&source, "a");
    fixture.ledger.stop();
    assert!(entries.next().is_none());
    assert!(open.open().unwrap().read(&mut [0; 10]).is_err());
    assert!(fixture.losses().is_empty(), "what was not wanted any more was told as lost");
}

#[test]
fn test_markers_parse_as_restics() {
    for (text, good) in [("x", true), ("x:header", true), ("", false), (":x", false), ("a/b", false)] {
        assert_eq!(Marker::parse(text).is_ok(), good, "{text}");
    }
}

#[test]
fn test_a_root_of_its_own_is_never_left() {
    let fixture = Fixture::new(&["root/data/a", "root/data/sub/b", "root/etc/hostname", "outside/secret"]);
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, fixture.path(name)).unwrap();
    link("/etc", "root/data/own");
    link("../../../../../../etc", "root/data/up");
    link(fixture.path("outside").to_str().unwrap(), "root/data/out");
    let source = |targets: &[&str]| {
        let targets = targets.iter().map(PathBuf::from).collect();
        let root = Some(fixture.path("root"));
        LocalSource::new(SourceOptions { targets, root, ..SourceOptions::default() }, fixture.ledger.clone())
    };
    let whole = source(&["/data"]).unwrap();
    assert_eq!(whole.paths(), [PathBuf::from("/data")]);
    let entries: Vec<_> = whole.entries().map(|entry| entry.unwrap()).collect();
    let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/data", "/data/a", "/data/out", "/data/own", "/data/sub", "/data/sub/b", "/data/up"]);
    assert_eq!(entries[3].node.node_type, rustic_core::repofile::NodeType::from_link(Path::new("/etc")));

    // What stands above a target is followed, as restic does, and leads where it leads in the workload.
    for target in ["/data/own/hostname", "/data/up/hostname", "/data/../../etc/hostname"] {
        let source = source(&[target]).unwrap();
        let file = source.entries().map(|entry| entry.unwrap()).last().unwrap();
        let mut content = String::new();
        file.open.unwrap().open().unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "root/etc/hostname", "{target}");
    }
    for target in ["/data/out/secret", "/data/up/passwd"] {
        assert!(matches!(source(&[target]), Err(RepoError::NoSource)), "{target}");
    }
    // A directory that becomes a link while the walk is on its way.
    let source = source(&["/data/sub"]).unwrap();
    let mut entries = source.entries();
    let file = entries.find(|entry| entry.as_ref().unwrap().open.is_some()).unwrap().unwrap();
    fs::rename(fixture.path("root/data/sub"), fixture.path("root/data/old")).unwrap();
    link(fixture.path("outside").to_str().unwrap(), "root/data/sub");
    fs::write(fixture.path("outside/b"), "secret").unwrap();
    assert!(file.open.unwrap().open().is_err());
}

#[test]
fn test_extended_attributes_below_a_root_are_read() {
    let fixture = Fixture::new(&["root/a"]);
    // A file system without any stores none.
    let stored = xattr::set(fixture.path("root/a"), "user.colour", b"blue").is_ok();
    let files = Files::beneath(&fixture.path("root")).unwrap();
    let names: Vec<_> = files.list_xattrs(Path::new("/a")).unwrap();
    assert_eq!(names.iter().any(|name| name == "user.colour"), stored);
    let value = files.read_xattr(Path::new("/a"), "user.colour".as_ref()).unwrap();
    assert_eq!(value, stored.then(|| b"blue".to_vec()));
}
