//! What a request asks for. Pure.

use std::ops::Range;

use stash_repo::{FileKind, Id};

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// All files of a kind.
    List(FileKind),
    /// A file.
    File(FileKind, Id),
}

/// Returns what a path names: `/config`, `/<kind>/` or `/<kind>/<id>`. Nothing is decoded, so that there is one way to write each.
pub(super) fn target(path: &str) -> Option<Target> {
    let path = path.strip_prefix('/')?;
    if path == FileKind::Config.dirname() {
        return Some(Target::File(FileKind::Config, Id::default()));
    }
    let (folder, name) = path.split_once('/')?;
    let kind = FileKind::LISTED.into_iter().find(|kind| kind.dirname() == folder)?;
    if name.is_empty() {
        return Some(Target::List(kind));
    }
    id(name).map(|id| Target::File(kind, id))
}

/// Returns the id that `name` is, in the one spelling that files have.
pub(super) fn id(name: &str) -> Option<Id> {
    let id: Id = name.parse().ok()?;
    (id.to_hex() == name).then_some(id)
}

/// Which bytes of a file are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    Whole,
    /// These, which are there.
    Range(Range<u64>),
    /// Some that are not there.
    Beyond,
}

/// Returns the part of a file of `len_bytes` that the header `Range` asks for. One that cannot be read, or asks for several parts,
/// counts as none (RFC 9110, 14.2).
pub(super) fn part(header: Option<&str>, len_bytes: u64) -> Part {
    let Some((first, last)) = header.and_then(|header| header.strip_prefix("bytes=")?.split_once('-')) else {
        return Part::Whole;
    };
    let digits = |text: &str| -> Option<u64> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let range = match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(len_bytes),
        (Some(first), None) if last.is_empty() => first..len_bytes,
        (None, Some(suffix)) if first.is_empty() && suffix > 0 => len_bytes.saturating_sub(suffix)..len_bytes,
        (None, Some(_)) if first.is_empty() => return Part::Beyond,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Beyond } else { Part::Range(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_paths_name_files_of_a_repository_and_nothing_else() {
        let name = "ab".repeat(32);
        let id: Id = name.parse().unwrap();
        for (path, expected) in [
            ("/config".to_owned(), Some(Target::File(FileKind::Config, Id::default()))),
            ("/data/".to_owned(), Some(Target::List(FileKind::Pack))),
            ("/locks/".to_owned(), Some(Target::List(FileKind::Lock))),
            (format!("/data/{name}"), Some(Target::File(FileKind::Pack, id))),
            (format!("/keys/{name}"), Some(Target::File(FileKind::Key, id))),
        ] {
            assert_eq!(target(&path), expected, "{path}");
        }
        for path in [
            "".to_owned(),
            "/".to_owned(),
            "//".to_owned(),
            "config".to_owned(),
            "/config/".to_owned(),
            "/config/x".to_owned(),
            "/data".to_owned(),
            "/data//".to_owned(),
            "/data/..".to_owned(),
            "/data/../config".to_owned(),
            "/../config".to_owned(),
            "/data/%2e%2e".to_owned(),
            "/etc/passwd".to_owned(),
            format!("/data/ab/{name}"),
            format!("/data/{name}/"),
            format!("/data/./{name}"),
            format!("//data/{name}"),
            format!("/Data/{name}"),
            format!("/data/{}", name.to_uppercase()),
            format!("/data/{}", &name[1..]),
            format!("/data/{name}-tmp-1"),
            format!("/data/{name}%00"),
            format!("/other/{name}"),
        ] {
            assert_eq!(target(&path), None, "{path}");
        }
    }

    #[test]
    fn test_parts_of_files() {
        for (header, expected) in [
            ("bytes=0-9", Part::Range(0..10)),
            ("bytes=90-99", Part::Range(90..100)),
            ("bytes=90-200", Part::Range(90..100)),
            ("bytes=90-", Part::Range(90..100)),
            ("bytes=-5", Part::Range(95..100)),
            ("bytes=-500", Part::Range(0..100)),
            ("bytes=0-18446744073709551615", Part::Range(0..100)),
            ("bytes=100-", Part::Beyond),
            ("bytes=100-200", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=9-8", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=0-18446744073709551616", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 100), expected, "{header}");
        }
        assert_eq!(part(None, 100), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Beyond);
    }
}
