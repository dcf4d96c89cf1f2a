//! The table of restic 0.17's flags at `backup`: its own and those of every command.
//!
//! Source: restic 0.17.3, the manual page `restic-backup(1)`; `cmd/restic/cmd_backup.go` and `cmd/restic/global.go`.

use super::BackupFlags;
use super::table::Kind::{Count, Switch, Value};
use super::table::Rule::{Mapped, Refused, WithoutEffect};
use super::table::{Flag, IN_THE_REPOSITORY, IN_THE_SECRET, flag, with_short};
use super::value::{compression, group_by, marker, number, option, pack_size, size, switch, text, time};
use crate::units::parse_duration;

const NO_FILES: &str = "the Job has no such file; write what is in it into spec.target.exclude";
const NO_LISTS: &str = "the Job has no such file; write what is in it into spec.target.paths";
const NO_STREAM: &str = "a Job has no standard input; streams are backed up by a Function";

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag<BackupFlags>] = &[
    // Those of `backup`.
    with_short('n', "dry-run", Switch, Refused("a session that stores nothing would count as a backup")),
    with_short('e', "exclude", Value, Mapped(|flags, value| { flags.exclude.push(text(value)?); Ok(()) })),
    flag("exclude-caches", Switch, Mapped(|flags, value| { flags.exclude_caches = switch(value)?; Ok(()) })),
    flag("exclude-file", Value, Refused(NO_FILES)),
    flag("exclude-if-present", Value, Mapped(|flags, value| { flags.exclude_if_present.push(marker(value)?); Ok(()) })),
    flag("exclude-larger-than", Value, Mapped(|flags, value| { flags.exclude_larger_than = size(value)?; Ok(()) })),
    flag("files-from", Value, Refused(NO_LISTS)),
    flag("files-from-raw", Value, Refused(NO_LISTS)),
    flag("files-from-verbatim", Value, Refused(NO_LISTS)),
    with_short('f', "force", Switch, Mapped(|flags, value| { flags.force = switch(value)?; Ok(()) })),
    with_short('g', "group-by", Value, Mapped(|flags, value| { flags.group_by = Some(group_by(value)?); Ok(()) })),
    with_short('h', "help", Switch, Refused("a Job has nobody to help")),
    with_short('H', "host", Value, Refused("hosts are named by the target; spec.target.alias changes the name")),
    flag("hostname", Value, Refused("hosts are named by the target; spec.target.alias changes the name")),
    flag("iexclude", Value, Mapped(|flags, value| { flags.iexclude.push(text(value)?); Ok(()) })),
    flag("iexclude-file", Value, Refused(NO_FILES)),
    flag("ignore-ctime", Switch, Mapped(|flags, value| { flags.ignore_ctime = switch(value)?; Ok(()) })),
    flag("ignore-inode", Switch, Mapped(|flags, value| { flags.ignore_inode = switch(value)?; Ok(()) })),
    // Nobody looks at a Job's progress, so how much there is to read is not found out beforehand.
    flag("no-scan", Switch, WithoutEffect),
    with_short('x', "one-file-system", Switch, Mapped(|flags, value| { flags.one_file_system = switch(value)?; Ok(()) })),
    flag("parent", Value, Mapped(|flags, value| { flags.parent = Some(text(value)?); Ok(()) })),
    flag("read-concurrency", Value, Mapped(|flags, value| { flags.read_concurrency = number(value)?; Ok(()) })),
    flag("skip-if-unchanged", Switch, Mapped(|flags, value| { flags.skip_if_unchanged = switch(value)?; Ok(()) })),
    flag("stdin", Switch, Refused(NO_STREAM)),
    flag("stdin-filename", Value, Refused(NO_STREAM)),
    flag("stdin-from-command", Switch, Refused(NO_STREAM)),
    flag("tag", Value, Mapped(|flags, value| {
        flags.tags.extend(value.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned));
        Ok(())
    })),
    flag("time", Value, Mapped(|flags, value| { flags.time = Some(time(value)?); Ok(()) })),
    flag("use-fs-snapshot", Switch, Refused("it is of Windows")),
    flag("with-atime", Switch, Mapped(|flags, value| { flags.with_atime = switch(value)?; Ok(()) })),
    // Those of every command.
    flag("cacert", Value, Refused("certificates are CA_CERT_DATA in the Repository's Secret")),
    flag("cache-dir", Value, Refused("the cache lies in the Job's spec.tempDir")),
    flag("cleanup-cache", Switch, WithoutEffect),
    flag("compression", Value, Mapped(|flags, value| { flags.compression = Some(compression(value)?); Ok(()) })),
    flag("http-user-agent", Value, Refused("stores are told the program's own name")),
    flag("insecure-no-password", Switch, Refused(IN_THE_SECRET)),
    flag("insecure-tls", Switch, Refused("it is spec.backend.s3.insecureTLS of the Repository")),
    flag("json", Switch, WithoutEffect),
    flag("key-hint", Value, Mapped(|flags, value| { flags.key_hint = Some(text(value)?); Ok(()) })),
    flag("limit-download", Value, Mapped(|flags, value| { flags.limit_download_kib = number(value)?; Ok(()) })),
    flag("limit-upload", Value, Mapped(|flags, value| { flags.limit_upload_kib = number(value)?; Ok(()) })),
    flag("no-cache", Switch, WithoutEffect),
    flag("no-extra-verify", Switch, Mapped(|flags, value| { flags.no_extra_verify = switch(value)?; Ok(()) })),
    flag("no-lock", Switch, Refused("without a lock a prune could remove what a backup relies on")),
    with_short('o', "option", Value, Mapped(|flags, value| {
        for pair in value.split(',') {
            let (name, value) = option(pair)?;
            flags.options.insert(name, value);
        }
        Ok(())
    })),
    flag("pack-size", Value, Mapped(|flags, value| { flags.pack_size_mib = pack_size(value)?; Ok(()) })),
    flag("password-command", Value, Refused(IN_THE_SECRET)),
    with_short('p', "password-file", Value, Refused(IN_THE_SECRET)),
    with_short('q', "quiet", Switch, WithoutEffect),
    with_short('r', "repo", Value, Refused(IN_THE_REPOSITORY)),
    flag("repository-file", Value, Refused(IN_THE_REPOSITORY)),
    flag("retry-lock", Value, Mapped(|flags, value| { flags.retry_lock = Some(parse_duration(value)?); Ok(()) })),
    flag("tls-client-cert", Value, Refused("a Repository has no key for it")),
    with_short('v', "verbose", Count, WithoutEffect),
];
