//! Values of flags, as restic reads them.

use std::str::FromStr;

use super::{Compression, GroupBy, Overwrite};
use crate::units::parse_bytes;

/// restic's bounds of a pack's size in MiB (restic, `internal/repository/repository.go`, `MinPackSize`, `MaxPackSize`).
const PACK_MIB: std::ops::RangeInclusive<u32> = 4..=128;

/// The extended options that a user may set. Others name a program, a place or how far a server is trusted, which is the
/// Repository's to say.
const OPTIONS: &[&str] = &[
    "azure.access-tier",
    "azure.connections",
    "b2.connections",
    "gs.connections",
    "local.connections",
    "rest.connections",
    "s3.connections",
    "s3.retries",
    "s3.storage-class",
    "swift.connections",
];

type Parsed<T> = Result<T, String>;

/// A truth value, as Go's `strconv.ParseBool`.
pub(super) fn switch(value: &str) -> Parsed<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{value}` is neither true nor false")),
    }
}

pub(super) fn text(value: &str) -> Parsed<String> {
    if value.is_empty() || value.contains('\0') { Err("it needs a value".to_owned()) } else { Ok(value.to_owned()) }
}

/// A number; 0 stands for restic's default.
pub(super) fn number<N: FromStr + PartialEq + Default>(value: &str) -> Parsed<Option<N>> {
    let number: N = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    Ok(Some(number).filter(|number| *number != N::default()))
}

pub(super) fn pack_size(value: &str) -> Parsed<Option<u32>> {
    match number(value)? {
        Some(mib) if !PACK_MIB.contains(&mib) => {
            Err(format!("a pack has {} to {} MiB", PACK_MIB.start(), PACK_MIB.end()))
        }
        mib => Ok(mib),
    }
}

/// A size; the empty one is no limit.
pub(super) fn size(value: &str) -> Parsed<Option<u64>> {
    if value.is_empty() { Ok(None) } else { parse_bytes(value).map(Some) }
}

/// `NAME` or `NAME:HEADER`.
pub(super) fn marker(value: &str) -> Parsed<String> {
    let name = value.split(':').next().unwrap_or_default();
    if name.is_empty() || name.contains('/') || name.contains('\0') {
        return Err(format!("`{value}` is not NAME or NAME:HEADER with the name of a file"));
    }
    Ok(value.to_owned())
}

pub(super) fn compression(value: &str) -> Parsed<Compression> {
    match value {
        "auto" => Ok(Compression::Auto),
        "off" => Ok(Compression::Off),
        "max" => Ok(Compression::Max),
        _ => Err(format!("`{value}` is none of auto, off, max")),
    }
}

pub(super) fn overwrite(value: &str) -> Parsed<Overwrite> {
    match value {
        "always" => Ok(Overwrite::Always),
        "if-changed" => Ok(Overwrite::IfChanged),
        "if-newer" => Ok(Overwrite::IfNewer),
        "never" => Ok(Overwrite::Never),
        _ => Err(format!("`{value}` is none of always, if-changed, if-newer, never")),
    }
}

pub(super) fn group_by(value: &str) -> Parsed<GroupBy> {
    let mut by = GroupBy::default();
    for word in value.split(',') {
        match word.trim() {
            "host" | "hosts" => by.host = true,
            "path" | "paths" => by.paths = true,
            "tag" | "tags" => by.tags = true,
            "" => {}
            other => return Err(format!("`{other}` is none of host, paths, tags")),
        }
    }
    Ok(by)
}

pub(super) fn option(pair: &str) -> Parsed<(String, String)> {
    let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not KEY=VALUE"))?;
    let name = name.trim().to_ascii_lowercase();
    if !OPTIONS.contains(&name.as_str()) {
        return Err(format!("{name} is not for args to set; allowed are {}", OPTIONS.join(", ")));
    }
    Ok((name, value.trim().to_owned()))
}

/// `2012-11-01 22:08:41`, in the Job's zone.
pub(super) fn time(value: &str) -> Parsed<String> {
    const FORM: &[u8] = b"dddd-dd-dd dd:dd:dd";
    let fits = value.len() == FORM.len()
        && value
            .bytes()
            .zip(FORM)
            .all(|(byte, form)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form });
    let part = |at: usize, len: usize| value.get(at..at + len).and_then(|text| text.parse::<u32>().ok()).unwrap_or(99);
    let exists = || {
        let (year, month, day) = (part(0, 4), part(5, 2), part(8, 2));
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1..=days).contains(&day) && part(11, 2) < 24 && part(14, 2) < 60 && part(17, 2) < 60
    };
    if fits && exists() {
        Ok(value.to_owned())
    } else {
        Err(format!("`{value}` is not a time like `2012-11-01 22:08:41`"))
    }
}
