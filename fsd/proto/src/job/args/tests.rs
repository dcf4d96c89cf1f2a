use std::collections::BTreeSet;

use proptest::prelude::*;

use super::flags::FLAGS;
use super::table::{Kind, Rule};
use super::*;

fn parse(args: &[&str]) -> Result<BackupFlags, ArgsError> {
    super::parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
}

fn refused(args: &[&str]) -> Vec<String> {
    parse(args).unwrap_err().refused.into_iter().map(|refused| refused.flag).collect()
}

/// All flags of `restic backup` in restic 0.17.3's manual page, and what became of each here.
const RESTIC: &[(&str, char)] = &[
    ("cacert", 'r'),
    ("cache-dir", 'r'),
    ("cleanup-cache", '-'),
    ("compression", 'm'),
    ("dry-run", 'r'),
    ("exclude", 'm'),
    ("exclude-caches", 'm'),
    ("exclude-file", 'r'),
    ("exclude-if-present", 'm'),
    ("exclude-larger-than", 'm'),
    ("files-from", 'r'),
    ("files-from-raw", 'r'),
    ("files-from-verbatim", 'r'),
    ("force", 'm'),
    ("group-by", 'm'),
    ("help", 'r'),
    ("host", 'r'),
    ("hostname", 'r'),
    ("http-user-agent", 'r'),
    ("iexclude", 'm'),
    ("iexclude-file", 'r'),
    ("ignore-ctime", 'm'),
    ("ignore-inode", 'm'),
    ("insecure-no-password", 'r'),
    ("insecure-tls", 'r'),
    ("json", '-'),
    ("key-hint", 'm'),
    ("limit-download", 'm'),
    ("limit-upload", 'm'),
    ("no-cache", '-'),
    ("no-extra-verify", 'm'),
    ("no-lock", 'r'),
    ("no-scan", '-'),
    ("one-file-system", 'm'),
    ("option", 'm'),
    ("pack-size", 'm'),
    ("parent", 'm'),
    ("password-command", 'r'),
    ("password-file", 'r'),
    ("quiet", '-'),
    ("read-concurrency", 'm'),
    ("repo", 'r'),
    ("repository-file", 'r'),
    ("retry-lock", 'm'),
    ("skip-if-unchanged", 'm'),
    ("stdin", 'r'),
    ("stdin-filename", 'r'),
    ("stdin-from-command", 'r'),
    ("tag", 'm'),
    ("time", 'm'),
    ("tls-client-cert", 'r'),
    ("use-fs-snapshot", 'r'),
    ("verbose", '-'),
    ("with-atime", 'm'),
];

#[test]
fn test_every_flag_of_restic_is_mapped_or_refused_by_name() {
    let table: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    let restic: BTreeSet<&str> = RESTIC.iter().map(|(name, _)| *name).collect();
    assert_eq!(table, restic);
    let letters: BTreeSet<char> = FLAGS.iter().filter_map(|flag| flag.short).collect();
    assert_eq!(letters.into_iter().collect::<String>(), "Hefghnopqrvx");
    for (name, fate) in RESTIC {
        let flag = FLAGS.iter().find(|flag| flag.name == *name).unwrap();
        let is = match flag.rule {
            Rule::Mapped(_) => 'm',
            Rule::WithoutEffect => '-',
            Rule::Refused(_) => 'r',
        };
        assert_eq!(is, *fate, "{name}");
        if *fate == 'r' {
            let word = format!("--{name}");
            let args = if flag.kind == Kind::Value { vec![word.as_str(), "value"] } else { vec![word.as_str()] };
            assert_eq!(refused(&args), std::slice::from_ref(&word));
        }
    }
}

#[test]
fn test_words_are_read_as_restic_reads_them() {
    let exclude = |patterns: &[&str]| BackupFlags {
        exclude: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..BackupFlags::default()
    };
    let force = |base: BackupFlags| BackupFlags { force: true, one_file_system: true, ..base };
    let table: &[(&[&str], BackupFlags)] = &[
        (&[], BackupFlags::default()),
        (&["--exclude", "*.log"], exclude(&["*.log"])),
        (&["--exclude=*.log", "--exclude=a=b"], exclude(&["*.log", "a=b"])),
        (&["-e", "*.log", "-e*.tmp", "-e=x"], exclude(&["*.log", "*.tmp", "x"])),
        // A value may look like a flag.
        (&["--exclude", "--force"], exclude(&["--force"])),
        (&["-fx"], force(BackupFlags::default())),
        (&["-fxe", "a"], force(exclude(&["a"]))),
        (&["-xfea"], force(exclude(&["a"]))),
        (&["--force", "--force=false"], BackupFlags::default()),
        (&["--force=T", "-x=1"], force(BackupFlags::default())),
        (&["-q", "-vv", "--verbose=2", "--json", "--no-cache", "--cleanup-cache=false"], BackupFlags::default()),
        // What is off asks for nothing.
        (&["--dry-run=false", "--stdin=false"], BackupFlags::default()),
    ];
    for (args, expected) in table {
        assert_eq!(parse(args).as_ref(), Ok(expected), "{args:?}");
    }
}

#[test]
fn test_values_are_mapped() {
    let flags = parse(&[
        "--iexclude=*.TMP",
        "--exclude-caches",
        "--exclude-if-present=.nobackup:head:er",
        "--exclude-larger-than=2G",
        "--with-atime",
        "--ignore-inode",
        "--ignore-ctime",
        "--tag=a, b",
        "--tag=c",
        "--time=2024-02-29 23:59:59",
        "--parent=latest",
        "--group-by=host,tags",
        "--skip-if-unchanged",
        "--read-concurrency=4",
        "--no-extra-verify",
        "--compression=max",
        "--pack-size=64",
        "--limit-upload=100",
        "--limit-download=0",
        "--key-hint=abcd",
        "--retry-lock=1h30m",
        "-o",
        "s3.connections=10,s3.retries=3",
    ])
    .unwrap();
    let options = [("s3.connections", "10"), ("s3.retries", "3")];
    let expected = BackupFlags {
        iexclude: vec!["*.TMP".to_owned()],
        exclude_caches: true,
        exclude_if_present: vec![".nobackup:head:er".to_owned()],
        exclude_larger_than: Some(2 << 30),
        with_atime: true,
        ignore_inode: true,
        ignore_ctime: true,
        tags: ["a", "b", "c"].map(str::to_owned).to_vec(),
        time: Some("2024-02-29 23:59:59".to_owned()),
        parent: Some("latest".to_owned()),
        group_by: Some(GroupBy { host: true, paths: false, tags: true }),
        skip_if_unchanged: true,
        read_concurrency: Some(4),
        no_extra_verify: true,
        compression: Some(Compression::Max),
        pack_size_mib: Some(64),
        limit_upload_kib: Some(100),
        key_hint: Some("abcd".to_owned()),
        retry_lock: Some(Duration::from_secs(5400)),
        options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..BackupFlags::default()
    };
    assert_eq!(flags, expected);
    assert_eq!(parse(&["--group-by", ""]).unwrap().group_by, Some(GroupBy::default()));
}

#[test]
fn test_wrong_words_are_refused_by_name() {
    let table: &[(&[&str], &[&str], &str)] = &[
        (&["/data"], &["/data"], "spec.target.paths"),
        (&["--", "/data"], &["--", "/data"], "spec.target.paths"),
        (&["-"], &["-"], "no flag"),
        (&[""], &[""], "no flag"),
        (&["---force"], &["---force"], "no such flag"),
        (&["--forse", "--stdin"], &["--forse"], "no such flag"),
        (&["--exclude *.log"], &["--exclude *.log"], "two items"),
        (&["-z"], &["-z"], "no such flag"),
        (&["-fz"], &["-z"], "no such flag"),
        (&["--exclude"], &["--exclude"], "needs a value"),
        (&["--exclude="], &["--exclude"], "needs a value"),
        (&["--force=maybe"], &["--force"], "neither true nor false"),
        (&["--pack-size=3", "--pack-size=x"], &["--pack-size", "--pack-size"], "4 to 128"),
        (&["--compression=best"], &["--compression"], "auto, off, max"),
        (&["--exclude-larger-than=much"], &["--exclude-larger-than"], "not a size"),
        (&["--exclude-if-present=a/b"], &["--exclude-if-present"], "the name of a file"),
        (&["--group-by=colour"], &["--group-by"], "host, paths, tags"),
        (&["--time=2023-02-29 00:00:00"], &["--time"], "not a time"),
        (&["--time=yesterday"], &["--time"], "not a time"),
        (&["--read-concurrency=-1"], &["--read-concurrency"], "not a number"),
        (&["-o", "sftp.command=sh"], &["--option"], "not for args to set"),
        (&["-o", "s3.connections"], &["--option"], "KEY=VALUE"),
        (&["-H", "other", "-n", "--stdin"], &["--host", "--dry-run", "--stdin"], "spec.target.alias"),
        (&["-nr", "s3:x", "--repo=y"], &["--dry-run", "--repo", "--repo"], "spec.repository"),
    ];
    for (args, flags, words) in table {
        let error = parse(args).unwrap_err();
        assert!(error.to_string().contains(words), "{args:?}: {error}");
        assert_eq!(refused(args), *flags, "{args:?}");
    }
}

proptest! {
    #[test]
    fn test_any_words_are_flags_or_refused(args in proptest::collection::vec(r"(-{0,3}[a-zA-Z-]{0,12}=?)?\PC{0,8}", 0..8)) {
        if let Err(error) = super::parse(&args) {
            prop_assert!(!error.refused.is_empty());
        }
    }
}
