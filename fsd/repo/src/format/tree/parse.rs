//! From a tree's JSON to a [`Tree`], in one pass.
//!
//! Source: restic, `internal/restic/node.go` and `tree.go`. What the JSON's grammar or types do not allow fails the tree;
//! an entry that is well formed but cannot be shown is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    ENTRIES_LIMIT, LINK_LIMIT_BYTES, NAME_LIMIT_BYTES, NO_RARE, NodeKind, Owner, Rare, Record, Span, Tree,
    XATTR_LIMIT_BYTES, XATTR_NAME_LIMIT_BYTES, Xattr,
};
use crate::format::go_mode;
use crate::format::json::{JsonError, JsonResult, RawStr, Reader};
use crate::format::quote::unquote_into;
use crate::format::time::parse_rfc3339;
use crate::format::{FormatError, TREE_LIMIT_BYTES};
use crate::id::{BlobId, Id};

/// The places of the times in a record.
pub(super) const ATIME: usize = 0;
/// See [`ATIME`].
pub(super) const MTIME: usize = 1;
/// See [`ATIME`].
pub(super) const CTIME: usize = 2;

/// What an entry takes in JSON, at least, as restic writes it; sizes buffers.
const TYPICAL_ENTRY_BYTES: usize = 320;
/// The longest name of a user or a group that is kept.
const OWNER_NAME_LIMIT_BYTES: usize = 256;

/// Reads a tree. Its bytes must have been hashed to their id.
///
/// # Errors
/// It is too long, has too many entries, or is not a tree.
pub fn parse(json: &[u8]) -> Result<Tree, FormatError> {
    if json.len() > TREE_LIMIT_BYTES {
        return Err(FormatError::new(format!("{} bytes, at most {TREE_LIMIT_BYTES} are read", json.len())));
    }
    let mut builder = Builder::for_json(json.len());
    let mut reader = Reader::new(json);
    reader.object(|reader, key| match key {
        b"nodes" => reader.array(|reader| builder.entry(reader)),
        _ => reader.skip().map_err(FormatError::from),
    })?;
    reader.end()?;
    Ok(builder.finish())
}

/// A tree in the making.
#[derive(Default)]
struct Builder {
    records: Vec<Record>,
    bytes: Vec<u8>,
    texts: String,
    content: Vec<BlobId>,
    owners: Vec<Owner>,
    rare: Vec<Rare>,
    xattrs: Vec<Xattr>,
    rejected: usize,
    /// A string without JSON's escapes, or the user and the group of the entry that is read.
    scratch: Vec<u8>,
}

/// An entry in the making. Its spans lie at the ends of the builder's buffers.
struct Entry<'a> {
    kind: Option<NodeKind>,
    go_mode: u32,
    name: Option<Span>,
    size: u64,
    inode: u64,
    secs: [i64; 3],
    nanos: [u32; 3],
    uid: u32,
    gid: u32,
    user: RawStr<'a>,
    group: RawStr<'a>,
    device_id: u64,
    links: u64,
    rdev: u64,
    content: Span,
    subtree: Option<BlobId>,
    link_target: Option<Span>,
    link_target_is_raw: bool,
    xattrs: Span,
    /// It cannot be shown.
    bad: bool,
}

/// Lengths of the builder's buffers, to go back to.
struct Mark {
    bytes: usize,
    content: usize,
    xattrs: usize,
}

/// A place in a buffer.
fn at(len: usize) -> u32 {
    u32::try_from(len).expect("buffers are no longer than a small multiple of the JSON, which is bounded")
}

impl Builder {
    fn for_json(len: usize) -> Self {
        let entries = len / TYPICAL_ENTRY_BYTES + 1;
        Self {
            records: Vec::with_capacity(entries),
            bytes: Vec::with_capacity(entries * 16),
            content: Vec::with_capacity(entries),
            ..Self::default()
        }
    }

    /// Reads one entry and keeps it if it can be shown.
    fn entry(&mut self, reader: &mut Reader<'_>) -> Result<(), FormatError> {
        let mark = Mark { bytes: self.bytes.len(), content: self.content.len(), xattrs: self.xattrs.len() };
        let mut entry = Entry::default();
        reader.object(|reader, key| self.member(&mut entry, reader, key))?;
        if self.keep(&entry) {
            if self.records.len() > ENTRIES_LIMIT {
                return Err(FormatError::new(format!("more than the {ENTRIES_LIMIT} entries that are read")));
            }
        } else {
            self.rejected += 1;
            self.bytes.truncate(mark.bytes);
            self.content.truncate(mark.content);
            self.xattrs.truncate(mark.xattrs);
        }
        Ok(())
    }

    fn member<'a>(&mut self, entry: &mut Entry<'a>, reader: &mut Reader<'a>, key: &[u8]) -> JsonResult<()> {
        match key {
            b"name" => entry.name = self.name(reader)?,
            b"type" => entry.kind = kind(reader.string()?.bytes),
            b"mode" => entry.go_mode = reader.u32()?,
            b"mtime" => entry.time(MTIME, reader)?,
            b"atime" => entry.time(ATIME, reader)?,
            b"ctime" => entry.time(CTIME, reader)?,
            b"uid" => entry.uid = reader.u32()?,
            b"gid" => entry.gid = reader.u32()?,
            b"user" => entry.user = reader.string()?,
            b"group" => entry.group = reader.string()?,
            b"inode" => entry.inode = reader.u64()?,
            b"device_id" => entry.device_id = reader.u64()?,
            b"size" => entry.size = reader.u64()?,
            b"links" => entry.links = reader.u64()?,
            b"device" => entry.rdev = reader.u64()?,
            b"content" => {
                let start = self.content.len();
                reader.array(|reader| {
                    self.content.push(BlobId(Id::new(reader.id()?)));
                    Ok::<_, JsonError>(())
                })?;
                entry.content = Span { at: at(start), len: at(self.content.len() - start) };
            }
            b"subtree" => {
                entry.subtree = if reader.null()? { None } else { Some(BlobId(Id::new(reader.id()?))) };
            }
            b"linktarget" => {
                let raw = reader.string()?;
                if !entry.link_target_is_raw {
                    let start = self.bytes.len();
                    raw.unescape_into(&mut self.bytes)?;
                    entry.link_target = Some(self.span_from(start));
                }
            }
            b"linktarget_raw" => {
                if !reader.null()? {
                    entry.link_target = Some(self.base64(reader)?);
                    entry.link_target_is_raw = true;
                }
            }
            b"extended_attributes" => {
                let start = self.xattrs.len();
                let mut bytes = 0_usize;
                reader.array(|reader| {
                    let xattr = self.xattr(reader)?;
                    let (name, len) = (xattr.name.of(&self.bytes), xattr.name.len + xattr.value.len);
                    entry.bad |= name.is_empty() || name.len() > XATTR_NAME_LIMIT_BYTES || name.contains(&0);
                    bytes = bytes.saturating_add(len as usize);
                    entry.bad |= bytes > XATTR_LIMIT_BYTES;
                    if !entry.bad {
                        self.xattrs.push(xattr);
                    }
                    Ok::<_, JsonError>(())
                })?;
                entry.xattrs = Span { at: at(start), len: at(self.xattrs.len() - start) };
            }
            _ => reader.skip()?,
        }
        Ok(())
    }

    /// What was appended to `bytes` since it had this length.
    fn span_from(&self, start: usize) -> Span {
        Span { at: at(start), len: at(self.bytes.len() - start) }
    }

    /// Reads a quoted name; `None` where its quoting is wrong.
    #[inline]
    fn name(&mut self, reader: &mut Reader<'_>) -> JsonResult<Option<Span>> {
        let raw = reader.string()?;
        let start = self.bytes.len();
        if !raw.escaped {
            // A quoted name without a backslash stands for itself, and a backslash is escaped in JSON.
            self.bytes.extend_from_slice(raw.bytes);
            return Ok(Some(self.span_from(start)));
        }
        self.scratch.clear();
        raw.unescape_into(&mut self.scratch)?;
        let good = unquote_into(&self.scratch, &mut self.bytes);
        Ok(good.then(|| self.span_from(start)))
    }

    /// Reads base64. `null` is no bytes.
    fn base64(&mut self, reader: &mut Reader<'_>) -> JsonResult<Span> {
        let raw = reader.string()?;
        self.scratch.clear();
        raw.unescape_into(&mut self.scratch)?;
        let start = self.bytes.len();
        STANDARD.decode_vec(&self.scratch, &mut self.bytes).map_err(|_| reader.error("the string is not base64"))?;
        Ok(self.span_from(start))
    }

    fn xattr(&mut self, reader: &mut Reader<'_>) -> JsonResult<Xattr> {
        let mut xattr = Xattr { name: Span::default(), value: Span::default() };
        reader.object(|reader, key| {
            match key {
                b"name" => {
                    let start = self.bytes.len();
                    reader.string()?.unescape_into(&mut self.bytes)?;
                    xattr.name = self.span_from(start);
                }
                b"value" => xattr.value = self.base64(reader)?,
                _ => reader.skip()?,
            }
            Ok::<_, JsonError>(())
        })?;
        Ok(xattr)
    }

    /// Appends a record, unless the entry cannot be shown.
    fn keep(&mut self, entry: &Entry<'_>) -> bool {
        let (Some(name), Some(kind), false) = (entry.name, entry.kind, entry.bad) else {
            return false;
        };
        let bytes = name.of(&self.bytes);
        if matches!(bytes, b"" | b"." | b"..")
            || bytes.len() > NAME_LIMIT_BYTES
            || bytes.iter().any(|b| matches!(b, b'/' | 0))
        {
            return false;
        }
        let (Ok(name_len), Ok(_)) = (u16::try_from(name.len), i64::try_from(entry.size)) else {
            return false;
        };
        let link_target =
            if kind == NodeKind::Symlink { entry.link_target.unwrap_or_default() } else { Span::default() };
        let target = link_target.of(&self.bytes);
        if target.len() > LINK_LIMIT_BYTES || target.contains(&0) {
            return false;
        }
        let content = match kind {
            NodeKind::File => entry.content,
            NodeKind::Dir => self.subtree(entry.subtree),
            _ => Span::default(),
        };
        let rdev = if matches!(kind, NodeKind::BlockDevice | NodeKind::CharDevice) { entry.rdev } else { 0 };
        let rare = self.rare(Rare { rdev, link_target, xattrs: entry.xattrs });
        let owner = self.owner(entry);
        self.records.push(Record {
            size: entry.size,
            inode: entry.inode,
            secs: entry.secs,
            nanos: entry.nanos,
            name_at: name.at,
            name_len,
            // Twelve bits always fit.
            mode: u16::try_from(go_mode::to_unix(entry.go_mode)).unwrap_or_default(),
            owner,
            links: u32::try_from(entry.links).unwrap_or(u32::MAX),
            content,
            rare,
            kind,
        });
        true
    }

    fn subtree(&mut self, subtree: Option<BlobId>) -> Span {
        let start = self.content.len();
        self.content.extend(subtree);
        Span { at: at(start), len: at(self.content.len() - start) }
    }

    fn rare(&mut self, rare: Rare) -> u32 {
        if rare.rdev == 0 && rare.link_target.len == 0 && rare.xattrs.len == 0 {
            return NO_RARE;
        }
        self.rare.push(rare);
        at(self.rare.len() - 1)
    }

    /// Returns the place of the entry's owner in the table: that of the entry before it, or a new one.
    fn owner(&mut self, entry: &Entry<'_>) -> u32 {
        if let Some(last) = self.owners.last() {
            let same_text = |span: Span, raw: RawStr<'_>| !raw.escaped && span.of(self.texts.as_bytes()) == raw.bytes;
            if (last.uid, last.gid, last.device_id) == (entry.uid, entry.gid, entry.device_id)
                && same_text(last.user, entry.user)
                && same_text(last.group, entry.group)
            {
                return at(self.owners.len() - 1);
            }
        }
        let mut text = |raw: RawStr<'_>| {
            let start = self.texts.len();
            self.texts.push_str(&raw.text(OWNER_NAME_LIMIT_BYTES).unwrap_or_default());
            Span { at: at(start), len: at(self.texts.len() - start) }
        };
        let (user, group) = (text(entry.user), text(entry.group));
        self.owners.push(Owner { uid: entry.uid, gid: entry.gid, user, group, device_id: entry.device_id });
        at(self.owners.len() - 1)
    }

    /// Sorts by name, if the writer did not, and drops second entries of a name (the first in the JSON stays).
    fn finish(mut self) -> Tree {
        let bytes = self.bytes;
        let name = |record: &Record| Span { at: record.name_at, len: record.name_len.into() }.of(&bytes);
        if !self.records.is_sorted_by(|a, b| name(a) < name(b)) {
            self.records.sort_by(|a, b| name(a).cmp(name(b)));
            let before = self.records.len();
            self.records.dedup_by(|later, kept| name(later) == name(kept));
            self.rejected += before - self.records.len();
        }
        Tree {
            records: self.records.into(),
            bytes: bytes.into(),
            texts: self.texts.into(),
            content: self.content.into(),
            owners: self.owners.into(),
            rare: self.rare.into(),
            xattrs: self.xattrs.into(),
            rejected: self.rejected,
        }
    }
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: None,
            go_mode: 0,
            name: None,
            size: 0,
            inode: 0,
            secs: [0; 3],
            nanos: [0; 3],
            uid: 0,
            gid: 0,
            user: RawStr::EMPTY,
            group: RawStr::EMPTY,
            device_id: 0,
            links: 0,
            rdev: 0,
            content: Span::default(),
            subtree: None,
            link_target: None,
            link_target_is_raw: false,
            xattrs: Span::default(),
            bad: false,
        }
    }
}

impl Entry<'_> {
    #[inline]
    fn time(&mut self, which: usize, reader: &mut Reader<'_>) -> JsonResult<()> {
        if reader.null()? {
            return Ok(());
        }
        let raw = reader.string()?;
        let (time, _) = parse_rfc3339(raw.bytes).ok_or_else(|| reader.error("the string is not a time"))?;
        self.secs[which] = time.secs;
        self.nanos[which] = time.nanos;
        Ok(())
    }
}

/// Source: restic, `internal/restic/node.go`, `NodeType`.
fn kind(text: &[u8]) -> Option<NodeKind> {
    Some(match text {
        b"file" => NodeKind::File,
        b"dir" => NodeKind::Dir,
        b"symlink" => NodeKind::Symlink,
        b"dev" => NodeKind::BlockDevice,
        b"chardev" => NodeKind::CharDevice,
        b"fifo" => NodeKind::Fifo,
        b"socket" => NodeKind::Socket,
        _ => return None,
    })
}
