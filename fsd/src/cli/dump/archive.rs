//! Directories as archives.
//!
//! A file whose blobs are lost can only be noticed half way: the archive then ends there with an error, so that nobody
//! takes it for whole. A file whose blobs the index does not know is left out and named.

use std::collections::HashMap;
use std::io::{self, Write};

use stash_repo::{NodeKind, NodeRef, Repository, Timestamp, TreeId};
use tar::{EntryType, Header};

use super::super::output::show_name;
use super::super::{CliError, CliResult, Exit};
use super::zip::{Entry, ZipStream};
use super::{acl, content_bytes, write_content};
use crate::walk::{Located, Step, Visited, Walk};

/// The end of a tar archive and the padding of its entries.
const BLOCK: usize = 512;

/// Says that an entry is not in the archive.
fn left_out(path: &[u8], why: impl std::fmt::Display) {
    eprintln!("stash-fs: dump {}: {why}", show_name(path));
}

/// Names in the archive begin where restic's do: at the directory's own name, and without a slash.
fn prefix(located: &Located) -> Vec<u8> {
    match located {
        Located::Root(_) => Vec::new(),
        Located::Entry(entry) => entry.path.strip_prefix(b"/").unwrap_or(&entry.path).to_vec(),
    }
}

fn name_in(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    let path = if prefix.is_empty() { path.strip_prefix(b"/").unwrap_or(path) } else { path };
    [prefix, path].concat()
}

/// Writes a POSIX (pax) tar.
pub(super) async fn tar(
    repository: &Repository,
    located: &Located,
    root: TreeId,
    to: &mut (impl Write + Send),
) -> CliResult<Exit> {
    let prefix = prefix(located);
    let mut exit = Exit::Success;
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    if let Located::Entry(entry) = located {
        tar_entry(repository, entry, &prefix, &mut links, to).await?;
    }
    let mut walk = Walk::new(repository, root);
    while let Some(step) = walk.next().await {
        match step {
            Step::Entry(entry) => {
                let name = name_in(&prefix, &entry.path);
                if !tar_entry(repository, &entry, &name, &mut links, to).await? {
                    exit = Exit::Incomplete;
                }
            }
            Step::Failed { path, error } => {
                exit = Exit::Incomplete;
                left_out(&path, error);
            }
            Step::Leave { .. } => {}
        }
    }
    to.write_all(&[0; 2 * BLOCK])?;
    Ok(exit)
}

/// Writes one entry; returns whether it could be.
async fn tar_entry(
    repository: &Repository,
    entry: &Visited,
    name: &[u8],
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    to: &mut (impl Write + Send),
) -> CliResult<bool> {
    let node = entry.node();
    let mut pax = Pax::default();
    let mut header = Header::new_ustar();
    let mut size = 0;
    let mut link: Option<Vec<u8>> = None;
    header.set_entry_type(match node.kind() {
        NodeKind::File => EntryType::Regular,
        NodeKind::Dir => EntryType::Directory,
        NodeKind::Symlink => EntryType::Symlink,
        NodeKind::BlockDevice => EntryType::Block,
        NodeKind::CharDevice => EntryType::Char,
        NodeKind::Fifo => EntryType::Fifo,
        // No archive can hold one; it means nothing without the process that listens.
        NodeKind::Socket => return Ok(true),
    });
    match node.kind() {
        NodeKind::Symlink => link = Some(node.link_target().to_vec()),
        NodeKind::BlockDevice | NodeKind::CharDevice => {
            let device = node.rdev();
            // Two's complement of makedev(3): the parts always fit.
            header.set_device_major(libc::major(device)).map_err(CliError::from)?;
            header.set_device_minor(libc::minor(device)).map_err(CliError::from)?;
        }
        NodeKind::File => match content_bytes(repository, node) {
            Ok(bytes) => size = bytes,
            Err(error) => {
                left_out(&entry.path, error);
                return Ok(false);
            }
        },
        _ => {}
    }
    if node.links() > 1 && node.inode() != 0 && node.kind() != NodeKind::Dir {
        if let Some(first) = links.get(&(node.device_id(), node.inode())) {
            header.set_entry_type(EntryType::Link);
            link = Some(first.clone());
            size = 0;
        } else {
            links.insert((node.device_id(), node.inode()), name.to_vec());
        }
    }
    let mut name = name.to_vec();
    if node.kind() == NodeKind::Dir {
        name.push(b'/');
    }
    header.set_mode(node.mode());
    pax.number(&mut header, "uid", node.uid().into(), Header::set_uid);
    pax.number(&mut header, "gid", node.gid().into(), Header::set_gid);
    pax.number(&mut header, "size", size, Header::set_size);
    for (field, name) in [(Field::User, node.user()), (Field::Group, node.group())] {
        pax.user(&mut header, field, name);
    }
    pax.text(&mut header, Field::Name, &name);
    if let Some(link) = &link {
        pax.text(&mut header, Field::Link, link);
    }
    pax.times(&mut header, node);
    for (key, value) in node.xattrs() {
        pax.attribute(key, value);
    }
    pax.write(to)?;
    header.set_cksum();
    to.write_all(header.as_bytes())?;
    if size > 0 {
        let written = write_content(repository, node, to)
            .await
            .map_err(|error| error.context(format_args!("dump {}", show_name(&entry.path))))?;
        if written != size {
            let path = show_name(&entry.path);
            return Err(CliError::failure(format!("dump {path}: it has {written} bytes, the index says {size}")));
        }
        let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if rest > 0 {
            to.write_all(&[0; BLOCK][rest..])?;
        }
    }
    Ok(true)
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Name,
    Link,
    User,
    Group,
}

/// Extended headers of the next entry.
///
/// Source: POSIX.1-2017, `pax`, "pax Extended Header"; GNU tar and bsdtar for `SCHILY.xattr` and `SCHILY.acl`.
#[derive(Default)]
struct Pax {
    records: Vec<u8>,
}

impl Pax {
    /// Adds `length key=value\n`, where the length counts itself.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.records.extend_from_slice(length.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    /// Adds an extended attribute. An ACL travels as its text: GNU tar sets none from the attribute that holds it.
    fn attribute(&mut self, key: &[u8], value: &[u8]) {
        let acl: Option<&[u8]> = match key {
            b"system.posix_acl_access" => Some(b"SCHILY.acl.access"),
            b"system.posix_acl_default" => Some(b"SCHILY.acl.default"),
            _ => None,
        };
        if let Some((record, text)) = acl.zip(acl::to_text(value)) {
            return self.record(record, text.as_bytes());
        }
        // `=` ends a record's key: GNU tar writes it as a URL does, and so the sign that this begins with.
        let mut record = b"SCHILY.xattr.".to_vec();
        for byte in key {
            match byte {
                b'%' => record.extend_from_slice(b"%25"),
                b'=' => record.extend_from_slice(b"%3D"),
                byte => record.push(*byte),
            }
        }
        self.record(&record, value);
    }

    /// Sets a number in the header, or in a record where the header's octal digits do not hold it.
    fn number(&mut self, header: &mut Header, key: &str, value: u64, set: fn(&mut Header, u64)) {
        // 7 digits for ids, 11 for the size.
        let holds = if key == "size" { 1 << 33 } else { 1 << 21 };
        if value < holds {
            set(header, value);
        } else {
            set(header, 0);
            self.record(key.as_bytes(), value.to_string().as_bytes());
        }
    }

    /// Sets a name in the header, or in a record where it is too long or not ASCII.
    fn text(&mut self, header: &mut Header, field: Field, text: &[u8]) {
        let (key, place): (&[u8], &mut [u8]) = match (field, header.as_ustar_mut()) {
            (Field::Name, Some(ustar)) => (b"path", &mut ustar.name),
            (Field::Link, Some(ustar)) => (b"linkpath", &mut ustar.linkname),
            (Field::User, Some(ustar)) => (b"uname", &mut ustar.uname),
            (Field::Group, Some(ustar)) => (b"gname", &mut ustar.gname),
            (_, None) => return,
        };
        if text.len() < place.len() && text.is_ascii() {
            place[..text.len()].copy_from_slice(text);
        } else {
            // Readers of old take the beginning.
            let length = text.len().min(place.len() - 1);
            place[..length].copy_from_slice(&text[..length]);
            self.record(key, text);
        }
    }

    fn user(&mut self, header: &mut Header, field: Field, name: &str) {
        if !name.is_empty() {
            self.text(header, field, name.as_bytes());
        }
    }

    fn times(&mut self, header: &mut Header, node: NodeRef<'_>) {
        let mtime = node.mtime();
        let whole = u64::try_from(mtime.secs).ok().filter(|&secs| secs < 1 << 33);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || mtime.nanos != 0 {
            self.record(b"mtime", decimal(mtime).as_bytes());
        }
        self.record(b"atime", decimal(node.atime()).as_bytes());
        self.record(b"ctime", decimal(node.ctime()).as_bytes());
    }

    fn write(self, to: &mut impl Write) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.records.len() as u64);
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.name[..7].copy_from_slice(b"PaxHead");
        }
        header.set_cksum();
        to.write_all(header.as_bytes())?;
        to.write_all(&self.records)?;
        let rest = self.records.len() % BLOCK;
        if rest > 0 {
            to.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }
}

/// Writes a time as decimal seconds; before 1970 with a sign, the fraction counting on from the whole seconds' side.
fn decimal(time: Timestamp) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let (secs, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    if nanos == 0 { format!("{sign}{secs}") } else { format!("{sign}{secs}.{nanos:09}") }
}

/// Writes a zip.
pub(super) async fn zip(
    repository: &Repository,
    located: &Located,
    root: TreeId,
    to: &mut (impl Write + Send),
) -> CliResult<Exit> {
    let prefix = prefix(located);
    let mut exit = Exit::Success;
    let mut zip = ZipStream::new(to);
    if let Located::Entry(entry) = located {
        zip.small(zip_entry(entry.node(), [prefix.as_slice(), b"/"].concat()), b"")?;
    }
    let mut walk = Walk::new(repository, root);
    while let Some(step) = walk.next().await {
        let entry = match step {
            Step::Entry(entry) => entry,
            Step::Failed { path, error } => {
                exit = Exit::Incomplete;
                left_out(&path, error);
                continue;
            }
            Step::Leave { .. } => continue,
        };
        let node = entry.node();
        let mut name = name_in(&prefix, &entry.path);
        match node.kind() {
            NodeKind::Dir => {
                name.push(b'/');
                zip.small(zip_entry(node, name), b"")?;
            }
            NodeKind::Symlink => zip.small(zip_entry(node, name), node.link_target())?,
            NodeKind::File => {
                let size = match content_bytes(repository, node) {
                    Ok(size) => size,
                    Err(error) => {
                        exit = Exit::Incomplete;
                        left_out(&entry.path, error);
                        continue;
                    }
                };
                let mut content = zip.file(zip_entry(node, name), size)?;
                write_content(repository, node, &mut content)
                    .await
                    .map_err(|error| error.context(format_args!("dump {}", show_name(&entry.path))))?;
                content.finish()?;
            }
            // A zip cannot hold them; tar does.
            _ => {
                exit = Exit::Incomplete;
                left_out(&entry.path, "a zip cannot hold devices, fifos and sockets; --archive tar can");
            }
        }
    }
    zip.finish()?;
    Ok(exit)
}

fn zip_entry(node: NodeRef<'_>, name: Vec<u8>) -> Entry {
    let kind = match node.kind() {
        NodeKind::Dir => libc::S_IFDIR,
        NodeKind::Symlink => libc::S_IFLNK,
        _ => libc::S_IFREG,
    };
    let mtime = node.mtime().secs;
    Entry { name, mode: kind | node.mode(), uid: node.uid(), gid: node.gid(), mtime, dos: dos_time(mtime) }
}

/// MS-DOS's date and time, in the zone of this machine, from 1980 to 2107.
fn dos_time(secs: i64) -> (u16, u16) {
    use jiff::tz::TimeZone;
    let first = (1 << 5 | 1, 0);
    let Ok(time) = jiff::Timestamp::from_second(secs) else { return first };
    let time = time.to_zoned(TimeZone::system());
    let part = |value: i8| u16::try_from(value).unwrap_or(0);
    match u16::try_from(time.year()).ok().and_then(|year| year.checked_sub(1980)).filter(|&years| years < 128) {
        Some(years) => (
            years << 9 | part(time.month()) << 5 | part(time.day()),
            part(time.hour()) << 11 | part(time.minute()) << 5 | (part(time.second()) / 2),
        ),
        None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_record_counts_its_own_length() {
        for (value, want) in [(1, 6), (90, 96), (92, 98), (93, 99), (94, 101), (990, 997)] {
            let mut pax = Pax::default();
            pax.record(b"a", &vec![b'x'; value]);
            let text = String::from_utf8(pax.records.clone()).unwrap();
            assert_eq!(pax.records.len(), want, "{value}");
            assert!(text.starts_with(&format!("{want} a=")), "{text}");
        }
    }

    #[test]
    fn test_decimal() {
        let table = [
            (0, 0, "0"),
            (1, 500_000_000, "1.500000000"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.500000000"),
            (i64::MIN, 0, "-9223372036854775808"),
        ];
        for (secs, nanos, want) in table {
            assert_eq!(decimal(Timestamp { secs, nanos }), want);
        }
    }
}
