//! A tree that holds every kind of inode, odd names, holes, links, ACLs, attributes and times.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

/// Makes the tree in `root` (as root: devices, owners, trusted attributes).
pub fn make_every_kind(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let at = |name: &str| root.join(name);

    fs::write(at("empty"), b"").unwrap();
    fs::write(at("one"), b"1").unwrap();
    fs::write(at("page"), pattern(4096, 1)).unwrap();
    fs::write(at("big"), pattern(9 << 20, 2)).unwrap();

    // Holes: at the beginning, in the middle, at the end, and nothing else.
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(&pattern(70_000, 3), 5 << 20).unwrap();
    sparse.write_all_at(b"tail", 40 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    File::create(at("hole")).unwrap().set_len(32 << 20).unwrap();

    fs::create_dir_all(at("dir/deep/er/and/deeper")).unwrap();
    fs::create_dir(at("dir/void")).unwrap();
    fs::write(at("dir/deep/er/and/deeper/leaf"), b"leaf").unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..1500 {
        fs::write(at("many").join(format!("f{i:05}")), i.to_string()).unwrap();
    }

    fs::write(at("linked"), b"three names").unwrap();
    fs::hard_link(at("linked"), at("dir/linked-too")).unwrap();
    fs::hard_link(at("linked"), at("many/linked-three")).unwrap();

    symlink("one", at("to-one")).unwrap();
    symlink("/nowhere/at/all", at("dangling")).unwrap();
    symlink("a".repeat(1000), at("long-link")).unwrap();
    // No target that is not UTF-8: restic 0.14, which judges here, stores another one.

    let mode = Mode::from_bits_truncate(0o640);
    mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, at("socket"), FileType::Socket, mode, 0).unwrap();
    mknodat(CWD, at("char"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
    mknodat(CWD, at("block"), FileType::BlockDevice, mode, rustix::fs::makedev(259, 70_000)).unwrap();

    for (name, bits) in [("suid", 0o4755), ("sgid", 0o2755), ("none", 0o000), ("all", 0o777)] {
        fs::write(at(name), name).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(bits)).unwrap();
    }
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(at("sgid-dir")).unwrap();
    fs::set_permissions(at("sgid-dir"), fs::Permissions::from_mode(0o2770)).unwrap();

    fs::write(at("owned"), b"somebody's").unwrap();
    std::os::unix::fs::chown(at("owned"), Some(12_345), Some(4_294_967_000)).unwrap();
    std::os::unix::fs::lchown(at("dangling"), Some(12_345), Some(54_321)).unwrap();

    let longest = "n".repeat(255);
    for name in [
        &b"new\nline"[..],
        b"tab\there",
        b"quote\"'`",
        b"back\\slash",
        b" space ",
        b"-dash",
        b"*star?[x]",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"\xf0\x9f\x97\x83",
        b"...",
        b"..x",
        b"\\x41",
        b"\x01\x7f",
        b"\x1b[0m",
        "no-break\u{a0}soft\u{ad}zero\u{200b}line\u{2028}".as_bytes(),
        "private\u{e000}\u{10ffff}unassigned\u{378}replaced\u{fffd}".as_bytes(),
        "\u{301}e\u{301}".as_bytes(),
        b"<&>",
        b"%T%i",
        b"#hash",
        longest.as_bytes(),
    ] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }

    xattr::set(at("one"), "user.colour", b"blue").unwrap();
    xattr::set(at("one"), "user.empty", b"").unwrap();
    xattr::set(at("one"), "user.bytes", &[0, 255, 10, 0]).unwrap();
    xattr::set(at("one"), "user.long", &pattern(3000, 9)).unwrap();
    xattr::set(at("dir"), "trusted.of-root", b"x").unwrap();
    xattr::set(root, "user.of-the-top", b"x").unwrap();
    run(Command::new("setfacl").args(["-m", "u:1234:rwx"]).arg(root));
    run(Command::new("setfacl").args(["-m", "u:1234:rwx,g:4321:r"]).arg(at("page")));
    run(Command::new("setfacl").args(["-d", "-m", "u:1234:rx"]).arg(at("sgid-dir")));

    // Times last: with nanoseconds, before 1970, far ahead; directories after what is in them.
    for (name, secs, nanos) in
        [("one", 1_234_567_890, 987_654_321), ("page", -1, 1), ("big", 4_102_444_800, 999_999_999), ("dir", 86_400, 5)]
    {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        utimensat(CWD, at(name), &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
    }
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, at("dangling"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    utimensat(CWD, root, &times, AtFlags::empty()).unwrap();
}

/// Returns bytes that do not repeat within a mebibyte and shrink a little.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"pattern ");
    }
    bytes.truncate(len);
    bytes
}

/// Runs a program that must succeed; returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns what rsync would change to make `copy` equal to `source`; nothing if they are equal in content and in all that the
/// flags name (`-aHAX`: modes, owners, times, links, ACLs and attributes).
pub fn rsync_differences(flags: &[&str], source: &Path, copy: &Path) -> String {
    run(Command::new("rsync")
        .args(flags)
        .args(["--numeric-ids", "--devices", "--specials", "--checksum", "--delete", "--dry-run", "--itemize-changes"])
        .arg(format!("{}/", source.display()))
        .arg(format!("{}/", copy.display())))
}

/// How often a loop that looks for races is run: 20 times, or as often as `STASH_FS_ROUNDS` says (`make soak`).
#[must_use]
pub fn rounds() -> usize {
    std::env::var("STASH_FS_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}
