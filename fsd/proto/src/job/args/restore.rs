//! restic 0.17's flags at `restore`: its own and those of every command.
//!
//! Source: restic 0.17.3, the manual page `restic-restore(1)`; `cmd/restic/cmd_restore.go` and `cmd/restic/global.go`.

use std::collections::BTreeMap;

use super::ArgsError;
use super::table::Kind::{Count, Switch, Value};
use super::table::Rule::{Mapped, Refused, WithoutEffect};
use super::table::{Flag, IN_THE_REPOSITORY, IN_THE_SECRET, Verb, flag, with_short};
use super::value::{number, option, overwrite, switch, text};

/// What a user's flags ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreFlags {
    /// `--include`.
    pub include: Vec<String>,
    /// `--iinclude`.
    pub iinclude: Vec<String>,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--iexclude`.
    pub iexclude: Vec<String>,
    /// `--tag`: lists of tags, of which a latest snapshot has all of one.
    pub tags: Vec<String>,
    /// `--overwrite`.
    pub overwrite: Overwrite,
    /// `--delete`.
    pub delete: bool,
    /// `--sparse`.
    pub sparse: bool,
    /// `--verify`.
    pub verify: bool,
    /// `--key-hint`.
    pub key_hint: Option<String>,
    /// `--limit-download`, in KiB a second.
    pub limit_download_kib: Option<u64>,
    /// `--option`.
    pub options: BTreeMap<String, String>,
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It is replaced, unless its content is the same.
    #[default]
    Always,
    /// It is replaced, unless size and modification time are the same.
    IfChanged,
    /// It is replaced if the snapshot's is newer.
    IfNewer,
    /// It is kept.
    Never,
}

static RESTORE: Verb<RestoreFlags> = Verb { name: "restore", place: "spec.target.rules[].paths", flags: FLAGS };

/// Reads a user's flags of `restore`.
///
/// # Errors
/// As [`super::parse`].
pub fn parse_restore(args: &[String]) -> Result<RestoreFlags, ArgsError> {
    super::read(&RESTORE, args)
}

const NO_FILES: &str = "the Job has no such file; write what is in it into include or exclude of spec.target.rules";

#[rustfmt::skip]
static FLAGS: &[Flag<RestoreFlags>] = &[
    // Those of `restore`.
    flag("delete", Switch, Mapped(|flags, value| { flags.delete = switch(value)?; Ok(()) })),
    flag("dry-run", Switch, Refused("a restore that writes nothing would count as one")),
    with_short('e', "exclude", Value, Mapped(|flags, value| { flags.exclude.push(text(value)?); Ok(()) })),
    flag("exclude-file", Value, Refused(NO_FILES)),
    with_short('h', "help", Switch, Refused("a Job has nobody to help")),
    with_short('H', "host", Value, Refused("spec.target.rules[].sourceHost says whose snapshots are restored")),
    flag("iexclude", Value, Mapped(|flags, value| { flags.iexclude.push(text(value)?); Ok(()) })),
    flag("iexclude-file", Value, Refused(NO_FILES)),
    flag("iinclude", Value, Mapped(|flags, value| { flags.iinclude.push(text(value)?); Ok(()) })),
    flag("iinclude-file", Value, Refused(NO_FILES)),
    with_short('i', "include", Value, Mapped(|flags, value| { flags.include.push(text(value)?); Ok(()) })),
    flag("include-file", Value, Refused(NO_FILES)),
    flag("overwrite", Value, Mapped(|flags, value| { flags.overwrite = overwrite(value)?; Ok(()) })),
    flag("path", Value, Refused("spec.target.rules[].paths says of which paths snapshots are restored")),
    flag("sparse", Switch, Mapped(|flags, value| { flags.sparse = switch(value)?; Ok(()) })),
    flag("tag", Value, Mapped(|flags, value| { flags.tags.push(value.to_owned()); Ok(()) })),
    with_short('t', "target", Value, Refused("what is restored goes to the volumes of spec.target")),
    flag("verify", Switch, Mapped(|flags, value| { flags.verify = switch(value)?; Ok(()) })),
    // Those of every command.
    flag("cacert", Value, Refused("certificates are CA_CERT_DATA in the Repository's Secret")),
    flag("cache-dir", Value, Refused("the cache lies in the Job's spec.tempDir")),
    flag("cleanup-cache", Switch, WithoutEffect),
    // Nothing is written to the repository.
    flag("compression", Value, WithoutEffect),
    flag("http-user-agent", Value, Refused("stores are told the program's own name")),
    flag("insecure-no-password", Switch, Refused(IN_THE_SECRET)),
    flag("insecure-tls", Switch, Refused("it is spec.backend.s3.insecureTLS of the Repository")),
    flag("json", Switch, WithoutEffect),
    flag("key-hint", Value, Mapped(|flags, value| { flags.key_hint = Some(text(value)?); Ok(()) })),
    flag("limit-download", Value, Mapped(|flags, value| { flags.limit_download_kib = number(value)?; Ok(()) })),
    flag("limit-upload", Value, WithoutEffect),
    flag("no-cache", Switch, WithoutEffect),
    flag("no-extra-verify", Switch, WithoutEffect),
    // Readers take no lock.
    flag("no-lock", Switch, WithoutEffect),
    with_short('o', "option", Value, Mapped(|flags, value| {
        for pair in value.split(',') {
            let (name, value) = option(pair)?;
            flags.options.insert(name, value);
        }
        Ok(())
    })),
    flag("pack-size", Value, WithoutEffect),
    flag("password-command", Value, Refused(IN_THE_SECRET)),
    with_short('p', "password-file", Value, Refused(IN_THE_SECRET)),
    with_short('q', "quiet", Switch, WithoutEffect),
    with_short('r', "repo", Value, Refused(IN_THE_REPOSITORY)),
    flag("repository-file", Value, Refused(IN_THE_REPOSITORY)),
    flag("retry-lock", Value, WithoutEffect),
    flag("tls-client-cert", Value, Refused("a Repository has no key for it")),
    with_short('v', "verbose", Count, WithoutEffect),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// All flags of `restic restore` in restic 0.17.3's manual page, and what became of each here.
    const RESTIC: &[(char, &str)] = &[
        ('m', "delete exclude iexclude iinclude include key-hint limit-download option overwrite sparse tag verify"),
        (
            '-',
            "cleanup-cache compression json limit-upload no-cache no-extra-verify no-lock pack-size quiet retry-lock verbose",
        ),
        (
            'r',
            "cacert cache-dir dry-run exclude-file help host http-user-agent iexclude-file iinclude-file include-file",
        ),
        (
            'r',
            "insecure-no-password insecure-tls password-command password-file path repo repository-file target tls-client-cert",
        ),
    ];

    fn parse(args: &[&str]) -> Result<RestoreFlags, String> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        parse_restore(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn test_every_flag_of_restic_is_mapped_or_refused_by_name() {
        let mut named = 0;
        for (fate, names) in RESTIC {
            for name in names.split(' ') {
                let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap_or_else(|| panic!("{name}"));
                let is = match flag.rule {
                    Mapped(_) => 'm',
                    WithoutEffect => '-',
                    Refused(_) => 'r',
                };
                assert_eq!(is, *fate, "{name}");
                named += 1;
                if *fate == 'r' {
                    let word = format!("--{name}");
                    let args = if flag.kind == Value { vec![word.as_str(), "value"] } else { vec![word.as_str()] };
                    assert!(parse(&args).unwrap_err().starts_with(&format!("{word}: ")));
                }
            }
        }
        assert_eq!(named, FLAGS.len());
    }

    #[test]
    fn test_what_flags_ask_for() {
        let flags = parse(&[
            "-i",
            "/data/a",
            "--overwrite=if-newer",
            "--tag",
            "a,b",
            "--sparse",
            "--no-lock",
            "-o",
            "s3.connections=9",
        ]);
        let flags = flags.unwrap();
        assert_eq!((flags.include.as_slice(), flags.overwrite), (&["/data/a".to_owned()][..], Overwrite::IfNewer));
        assert_eq!((flags.tags.as_slice(), flags.sparse, flags.delete), (&["a,b".to_owned()][..], true, false));
        assert_eq!(flags.options["s3.connections"], "9");
        assert!(parse(&["--overwrite", "sometimes"]).unwrap_err().contains("is none of"));
        assert!(parse(&["/data"]).unwrap_err().contains("spec.target.rules[].paths"));
        assert!(parse(&["--parent=x"]).unwrap_err().contains("no such flag at `restore`"));
    }
}
