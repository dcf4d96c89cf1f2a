//! mount(8)'s way to call a filesystem: `stash-fs REPOSITORY MOUNTPOINT -o OPTIONS`.
//!
//! `mount -t fuse.stash-fs REPOSITORY MOUNTPOINT` and lines of `/etc/fstab` run `mount.fuse.stash-fs` if there is such a link
//! to this program, or else `mount.fuse`, which runs `stash-fs`, both with these arguments (mount(8), "External helpers").
//! They are turned into those of `stash-fs mount`. A helper returns when the mount is there, so it is always a daemon.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::{Cli, CliError, CliResult};

/// Words that mean something to mount(8), systemd or the kernel, and nothing more to us: a mount is always read-only,
/// without devices and set-user-id programs.
const IGNORED: &[&str] = &[
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "defaults",
    "_netdev",
    "nofail",
    "default_permissions",
    "silent",
    "loud",
    "nonempty",
];

/// Beginnings of such words.
const IGNORED_BEGINNINGS: &[&str] = &["x-", "X-", "comment=", "subtype=", "fsname=", "user="];

/// What to parse instead.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Arguments {
    /// These.
    Of(Vec<OsString>),
    /// Nothing: mount(8) only tries what it would do (`-f`).
    Fake,
}

/// Turns mount(8)'s arguments into ours, and leaves others as they are.
///
/// # Errors
/// It is mount(8)'s form, and a part of it is missing.
pub(in crate::cli) fn rewrite(arguments: Vec<OsString>) -> CliResult<Arguments> {
    if !is_helper_call(&arguments) {
        return Ok(Arguments::Of(arguments));
    }
    let mut given = arguments.into_iter();
    let program = given.next().unwrap_or_default();
    let mut places = Vec::new();
    let mut options = Vec::new();
    while let Some(argument) = given.next() {
        match argument.as_bytes() {
            b"-o" => options.extend(split_options(given.next().unwrap_or_default().as_bytes())),
            // The type and the namespace come with a value that says nothing new.
            b"-t" | b"-N" => drop(given.next()),
            b"-f" => return Ok(Arguments::Fake),
            [b'-', b'o', list @ ..] => options.extend(split_options(list)),
            // Sloppy, no mtab, verbose.
            [b'-', ..] => {}
            _ => places.push(argument),
        }
    }
    let [repository, mountpoint] = places.as_slice() else {
        return Err(CliError::usage("mount(8) gives a repository and a mountpoint"));
    };
    let mut ours: Vec<OsString> = vec![program, "mount".into(), "--daemon".into(), joined("--repo=", repository)];
    let mut snapshot = None;
    for option in options {
        match our_option(&option) {
            Our::Nothing => {}
            Our::Option(option) => ours.push(option),
            Our::Snapshot(name) => snapshot = Some(name),
        }
    }
    ours.push("--".into());
    ours.extend(snapshot);
    ours.push(mountpoint.clone());
    Ok(Arguments::Of(ours))
}

/// It is mount(8) where the program's name begins with `mount.`, or where two places come first of which none is a verb.
fn is_helper_call(arguments: &[OsString]) -> bool {
    let [program, rest @ ..] = arguments else { return false };
    let name = Path::new(program).file_name().unwrap_or_default();
    if name.as_bytes().starts_with(b"mount.") {
        return true;
    }
    let [first, second, ..] = rest else { return false };
    let is_place = |argument: &OsStr| !argument.as_bytes().starts_with(b"-") && !argument.is_empty();
    let command = Cli::command();
    let is_verb = first == "help" || command.find_subcommand(first).is_some();
    is_place(first) && is_place(second) && !is_verb
}

enum Our {
    Nothing,
    Option(OsString),
    Snapshot(OsString),
}

/// `allow_other`, `password-file=X` and so on become `--allow-other`, `--password-file=X`; `snapshot=X` is what to mount;
/// `option=KEY=VALUE` is restic's `-o`.
fn our_option(option: &[u8]) -> Our {
    let text = String::from_utf8_lossy(option);
    if option.is_empty()
        || IGNORED.contains(&text.as_ref())
        || IGNORED_BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
    {
        return Our::Nothing;
    }
    if let Some(snapshot) = option.strip_prefix(b"snapshot=") {
        return Our::Snapshot(OsString::from_vec(snapshot.to_vec()));
    }
    let name_len = option.iter().position(|byte| *byte == b'=').unwrap_or(option.len());
    let (name, value) = option.split_at(name_len);
    let mut ours = b"--".to_vec();
    ours.extend(name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }));
    ours.extend_from_slice(value);
    Our::Option(OsString::from_vec(ours))
}

/// Options are separated by commas; `\,` is a comma in one of them.
fn split_options(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        match (byte, options.last_mut()) {
            (b',', _) => options.push(Vec::new()),
            (b'\\', Some(option)) => option.extend(bytes.next()),
            (_, Some(option)) => option.push(*byte),
            (_, None) => {}
        }
    }
    options
}

fn joined(prefix: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(prefix);
    joined.push(value);
    joined
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn test_calls_of_mount_become_ours() {
        let table = [
            (
                "stash-fs /srv/repo /mnt -o rw,dev,suid,password-file=/etc/pw,allow_other,_netdev,x-systemd.automount",
                "stash-fs mount --daemon --repo=/srv/repo --password-file=/etc/pw --allow-other -- /mnt",
            ),
            (
                "/sbin/mount.fuse.stash-fs s3:host/bucket /mnt -s -n -o ro,snapshot=latest:/home,cache_dir=/var/c -t fuse.stash-fs",
                "/sbin/mount.fuse.stash-fs mount --daemon --repo=s3:host/bucket --cache-dir=/var/c -- latest:/home /mnt",
            ),
            ("stash-fs repo /mnt", "stash-fs mount --daemon --repo=repo -- /mnt"),
            (
                r"stash-fs repo /mnt -otag=a\,b,option=s3.region=x",
                "stash-fs mount --daemon --repo=repo --tag=a,b --option=s3.region=x -- /mnt",
            ),
        ];
        for (call, expected) in table {
            assert_eq!(rewrite(words(call)).unwrap(), Arguments::Of(words(expected)), "{call}");
            assert!(Cli::try_parse_from(words(expected)).is_ok(), "{expected}");
        }
        assert_eq!(rewrite(words("/sbin/mount.fuse.stash-fs repo /mnt -f")).unwrap(), Arguments::Fake);
        assert!(rewrite(words("/sbin/mount.stash-fs repo")).is_err());
    }

    #[test]
    fn test_our_own_calls_stay() {
        for call in [
            "stash-fs",
            "stash-fs mount /mnt",
            "stash-fs snapshots x",
            "stash-fs -r repo mount /mnt",
            "stash-fs help ls",
            "stash-fs nonsense",
        ] {
            assert_eq!(rewrite(words(call)).unwrap(), Arguments::Of(words(call)), "{call}");
        }
    }

    proptest! {
        #[test]
        fn test_any_call_is_rewritten_or_refused(arguments: Vec<Vec<u8>>, helper: bool) {
            let program = if helper { "mount.stash-fs" } else { "stash-fs" };
            let call: Vec<_> =
                std::iter::once(program.into()).chain(arguments.into_iter().map(OsString::from_vec)).collect();
            // Each option is one word that no place can be taken for.
            if let Ok(Arguments::Of(ours)) = rewrite(call.clone())
                && ours != call
            {
                let end = ours.iter().position(|word| word == "--").unwrap();
                prop_assert!(ours[2..end].iter().all(|word| word.as_bytes().starts_with(b"--")));
            }
        }

        #[test]
        fn test_options_with_escaped_commas_come_out_whole(options in prop::collection::vec("[a-z,=\\\\]*", 1..5)) {
            let escaped: Vec<_> = options.iter().map(|one| one.replace('\\', r"\\").replace(',', r"\,")).collect();
            let split = split_options(escaped.join(",").as_bytes());
            prop_assert_eq!(split, options.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }
    }
}
