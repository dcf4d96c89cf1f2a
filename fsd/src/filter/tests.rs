use proptest::prelude::*;

use super::*;

fn matches(pattern: &str, path: &str) -> (bool, bool) {
    Patterns::parse([pattern], false).unwrap().matches(path.as_bytes())
}

#[test]
fn test_patterns_match_as_restics_do() {
    // (pattern, path, matched, something below may match)
    let table = [
        ("*.go", "/foo/bar/test.go", true, true),
        ("*.c", "/foo/bar/test.go", false, true),
        ("foo", "/foo/bar/baz", true, true),
        ("bar", "/foo/bar/baz", true, true),
        ("foo/baz", "/foo/bar/baz", false, true),
        ("bar/baz", "/foo/bar/baz", true, true),
        ("ba", "/foo/bar/baz", false, true),
        ("/foo", "/foo/bar", true, true),
        ("/foo", "/bar/foo", false, false),
        ("/foo/bar", "/foo", false, true),
        ("/foo/bar", "/foo/baz", false, false),
        ("/foo/bar/", "/foo/bar/baz", true, true),
        ("/*/bar", "/foo/bar", true, true),
        ("/*/bar", "/foo/baz", false, false),
        ("/foo/**/baz", "/foo/baz", true, true),
        ("/foo/**/baz", "/foo/a/b/c/baz/d", true, true),
        ("/foo/**/baz", "/foo/a/b", false, true),
        ("/foo/**/baz", "/bar", false, false),
        ("/foo/**/bar/**/baz", "/foo/x/bar/y/z/baz", true, true),
        ("/foo/**/bar/**/baz", "/foo/bar/baz", false, true),
        ("foo/**/baz", "/a/foo/x/baz", true, true),
        ("foo/**/baz", "/a/foo/x/bar", false, true),
        ("**", "/foo", true, true),
        ("/**", "/foo", true, true),
        ("**/foo", "/foo", true, true),
        ("**/*.go", "/a/b/c.go", true, true),
        ("/foo/**", "/foo", true, true),
        ("/foo/**", "/fo", false, false),
        ("foo/../bar", "/bar", true, true),
        ("/../bar", "/bar", true, true),
        ("./bar", "/a/bar", true, true),
        ("*", "/foo", true, true),
        ("[a-c]x", "/bx", true, true),
        ("[^a-c]x", "/bx", false, true),
        ("\\*", "/*", true, true),
        ("\\*", "/a", false, true),
        ("?", "/ü", true, true),
        ("??", "/ü", false, true),
        ("u*", "/user", true, true),
    ];
    for (pattern, path, matched, below) in table {
        assert_eq!(matches(pattern, path), (matched, below), "{pattern} on {path}");
    }
}

#[test]
fn test_in_a_list_the_last_word_counts() {
    let list = Patterns::parse(["*.c", "!keep.c", "keep.c/x"], false).unwrap();
    assert_eq!(list.matches(b"/a.c"), (true, true));
    assert_eq!(list.matches(b"/keep.c"), (false, true));
    assert_eq!(list.matches(b"/keep.c/x"), (true, true));
    // A negation alone takes back nothing: nothing was matched before it.
    assert_eq!(Patterns::parse(["!a"], false).unwrap().matches(b"/b"), (false, false));
}

#[test]
fn test_case_is_ignored_on_both_sides() {
    let list = Patterns::parse(["*.JPG", "Ä"], true).unwrap();
    assert!(list.matches(b"/a/Photo.jpg").0);
    assert!(list.matches("/ä".as_bytes()).0);
    assert!(!Patterns::parse(["*.JPG"], false).unwrap().matches(b"/a.jpg").0);
}

#[test]
fn test_names_that_are_not_utf8() {
    assert!(matches("a*z", "/a").eq(&(false, true)));
    let list = Patterns::parse(["a?z", "x[^a]"], false).unwrap();
    assert!(list.matches(b"/a\xffz").0);
    assert!(list.matches(b"/x\xff").0);
}

#[test]
fn test_malformed_patterns_are_named() {
    for pattern in ["[", "[]", "[a", "[a-", "[a-]", "[]a]", "[^]", "a\\", "/x/[b", "!["] {
        let error = Patterns::parse([pattern], false).unwrap_err();
        assert_eq!(error.pattern, pattern);
    }
    assert!(Patterns::parse(["", "!"], false).is_ok());
}

#[test]
fn test_filter_selects() {
    let all = Filter::exclude::<&str>(&[], &[]).unwrap();
    assert_eq!(all.select(b"/x", true), Selection { selected: true, descend: true });
    let exclude = Filter::exclude(&["*.o"], &["TMP"]).unwrap();
    assert_eq!(exclude.select(b"/a.o", false), Selection { selected: false, descend: false });
    assert_eq!(exclude.select(b"/tmp", true), Selection { selected: false, descend: false });
    assert_eq!(exclude.select(b"/src", true), Selection { selected: true, descend: true });
    let include = Filter::include(&["/a/b"], &[]).unwrap();
    assert_eq!(include.select(b"/a", true), Selection { selected: false, descend: true });
    assert_eq!(include.select(b"/c", true), Selection { selected: false, descend: false });
    assert_eq!(include.select(b"/a/b", false), Selection { selected: true, descend: false });
}

/// restic's own way, slow and plain: `**` is replaced by none, one, two, ... stars, and every place is tried.
fn model(parts: &[&str], path: &[&str]) -> bool {
    if let Some(at) = parts.iter().position(|&part| part == "**") {
        return (0..=path.len()).any(|stars| {
            let mut longer = parts[..at].to_vec();
            longer.extend(std::iter::repeat_n("*", stars));
            longer.extend(&parts[at + 1..]);
            longer.len() <= path.len() && model(&longer, path)
        });
    }
    if parts.is_empty() || parts.len() > path.len() {
        return false;
    }
    let (first, last) = if parts[0] == "/" { (0, 0) } else { (1, path.len() - parts.len()) };
    (first..=last).any(|place| {
        parts.iter().zip(&path[place..]).all(|(part, name)| *part == *name || (*part == "*" && *name != "/"))
    })
}

proptest! {
    #[test]
    fn prop_never_panics(patterns in proptest::collection::vec(".{0,20}", 0..4), path: Vec<u8>, ignore_case: bool) {
        if let Ok(list) = Patterns::parse(&patterns, ignore_case) {
            let _ = list.matches(&path);
        }
    }

    #[test]
    fn prop_globs_of_special_characters_never_panic(pattern in r"[\[\]\\*?^ab/!-]{0,12}", path in "/[ab/]{0,12}") {
        if let Ok(list) = Patterns::parse([&pattern], false) {
            let _ = list.matches(path.as_bytes());
        }
    }

    #[test]
    fn prop_matches_as_the_plain_way_does(
        absolute: bool,
        parts in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "*", "**"]), 1..6),
        path in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]), 1..6),
    ) {
        let pattern = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        let mut model_parts = parts.clone();
        if absolute {
            model_parts.insert(0, "/");
        }
        let mut model_path = path.clone();
        model_path.insert(0, "/");
        let text = format!("/{}", path.join("/"));
        prop_assert_eq!(matches(&pattern, &text).0, model(&model_parts, &model_path), "{} on {}", pattern, text);
    }

    #[test]
    fn prop_what_matches_below_may_match_below(
        pattern in "/?([ab*]|\\*\\*)(/([ab*]|\\*\\*)){0,3}",
        path in proptest::collection::vec(proptest::sample::select(vec!["a", "b"]), 2..6),
    ) {
        let full = format!("/{}", path.join("/"));
        let parent = format!("/{}", path[..path.len() - 1].join("/"));
        prop_assert!(!matches(&pattern, &full).0 || matches(&pattern, &parent).1, "{} on {}", pattern, full);
    }
}

#[test]
fn test_a_filter_of_the_whole_holds_below_a_directory() {
    let exclude = Filter::exclude(&["/data/*.log", "tmp"], &[]).unwrap().below(b"/data");
    let selected = |filter: &Filter, path: &str| filter.select(path.as_bytes(), false).selected;
    assert!(!selected(&exclude, "/a.log") && !selected(&exclude, "/x/tmp/y"));
    assert!(selected(&exclude, "/x/a.log") && selected(&exclude, ""));
    let include = Filter::include(&["/data/keep"], &[]).unwrap().below(b"/data");
    assert!(selected(&include, "/keep/x") && !selected(&include, "/other") && !selected(&include, ""));
    assert!(selected(&Filter::include(&["/data"], &[]).unwrap().below(b"/data"), ""));
    assert!(!selected(&Filter::exclude(&["/data"], &[]).unwrap().below(b"/data/deep"), "/x"));
    assert!(matches!(Filter::All.below(b"/data"), Filter::All));
}
