//! A zip archive as a stream: each entry is written once, and what is known only at its end follows it.
//!
//! Source: PKWARE, APPNOTE.TXT 6.3.10 (sections 4.3 and 4.5); Info-ZIP, `extrafld.txt` for times (`UT`) and owners (`ux`).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// A size or offset from this value on needs the longer form.
const LONG: u64 = 0xffff_ffff;
/// Sizes follow the content (bit 3); names are UTF-8 (bit 11).
const FLAG_SIZES_FOLLOW: u16 = 1 << 3;
const FLAG_UTF8: u16 = 1 << 11;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Version 4.5 knows the longer form; the upper byte says that modes are Unix's.
const VERSION: u16 = 45;
const MADE_BY: u16 = 3 << 8 | VERSION;

/// What an entry is, beside its content.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its name, a directory's with a slash at the end.
    pub(super) name: Vec<u8>,
    /// `st_mode`.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) mtime: i64,
    /// Date and time in MS-DOS's form.
    pub(super) dos: (u16, u16),
}

/// What is known of an entry once it is written.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    crc: u32,
    stored_bytes: u64,
    plain_bytes: u64,
    offset: u64,
    method: u16,
    flags: u16,
}

/// Writes an archive.
pub(super) struct ZipStream<W> {
    to: Counting<W>,
    written: Vec<(Entry, Written)>,
}

/// Counts what goes through.
#[derive(Debug)]
struct Counting<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The content of a file on its way into the archive.
pub(super) struct Content<'a, W: Write> {
    zip: &'a mut ZipStream<W>,
    entry: Entry,
    begun: Written,
    long: bool,
    start: u64,
    crc: flate2::Crc,
    plain_bytes: u64,
    deflate: Option<DeflateEncoder<Vec<u8>>>,
}

impl<W: Write> ZipStream<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to: Counting { to, bytes: 0 }, written: Vec::new() }
    }

    /// Writes a directory, or a symbolic link with its target as content.
    pub(super) fn small(&mut self, entry: Entry, content: &[u8]) -> io::Result<()> {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let length = content.len() as u64;
        let written = Written {
            crc: crc.sum(),
            stored_bytes: length,
            plain_bytes: length,
            offset: self.to.bytes,
            method: STORED,
            flags: FLAG_UTF8,
        };
        self.local_header(&entry, written, false)?;
        self.to.write_all(content)?;
        self.written.push((entry, written));
        Ok(())
    }

    /// Begins a file; `bytes` is how long its content is expected to be, for the longer form must be chosen here.
    pub(super) fn file(&mut self, entry: Entry, bytes: u64) -> io::Result<Content<'_, W>> {
        // What does not shrink grows by less than this.
        let long = bytes.saturating_add(bytes / 1000).saturating_add(1 << 16) >= LONG;
        let begun = Written {
            offset: self.to.bytes,
            method: DEFLATED,
            flags: FLAG_SIZES_FOLLOW | FLAG_UTF8,
            ..Written::default()
        };
        self.local_header(&entry, begun, long)?;
        let start = self.to.bytes;
        let deflate = Some(DeflateEncoder::new(Vec::with_capacity(64 << 10), Compression::fast()));
        Ok(Content { zip: self, entry, begun, long, start, crc: flate2::Crc::new(), plain_bytes: 0, deflate })
    }

    fn local_header(&mut self, entry: &Entry, written: Written, long: bool) -> io::Result<()> {
        let mut extra = extra(entry, true);
        if long {
            // Both sizes, not known yet.
            extra.extend(field(0x0001, &[0; 16]));
        }
        let sizes = if long { [LONG; 2] } else { [written.stored_bytes, written.plain_bytes] };
        let mut header = Vec::with_capacity(64 + entry.name.len());
        header.extend(0x0403_4b50_u32.to_le_bytes());
        for value in [VERSION, written.flags, written.method, entry.dos.1, entry.dos.0] {
            header.extend(value.to_le_bytes());
        }
        header.extend(written.crc.to_le_bytes());
        sizes.iter().for_each(|&size| header.extend(short(size).to_le_bytes()));
        header.extend(length(&entry.name)?.to_le_bytes());
        header.extend(length(&extra)?.to_le_bytes());
        header.extend(&entry.name);
        header.extend(extra);
        self.to.write_all(&header)
    }

    /// Writes the directory of the archive, its end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let start = self.to.bytes;
        let count = self.written.len() as u64;
        for (entry, written) in std::mem::take(&mut self.written) {
            self.central_header(&entry, written)?;
        }
        let size = self.to.bytes - start;
        let mut end = Vec::new();
        if count >= 0xffff || start >= LONG || size >= LONG {
            let at = self.to.bytes;
            end.extend(0x0606_4b50_u32.to_le_bytes());
            end.extend(44_u64.to_le_bytes());
            end.extend(MADE_BY.to_le_bytes());
            end.extend(VERSION.to_le_bytes());
            end.extend([0; 8]);
            [count, count, size, start].iter().for_each(|value| end.extend(value.to_le_bytes()));
            end.extend(0x0706_4b50_u32.to_le_bytes());
            end.extend(0_u32.to_le_bytes());
            end.extend(at.to_le_bytes());
            end.extend(1_u32.to_le_bytes());
        }
        end.extend(0x0605_4b50_u32.to_le_bytes());
        end.extend([0; 4]);
        let shown = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        end.extend(shown);
        end.extend(shown);
        end.extend(short(size).to_le_bytes());
        end.extend(short(start).to_le_bytes());
        end.extend([0; 2]);
        self.to.write_all(&end)
    }

    fn central_header(&mut self, entry: &Entry, written: Written) -> io::Result<()> {
        let mut extra = extra(entry, false);
        let long = [written.plain_bytes, written.stored_bytes, written.offset];
        let wide: Vec<u8> = long.iter().filter(|&&value| value >= LONG).flat_map(|value| value.to_le_bytes()).collect();
        if !wide.is_empty() {
            extra.extend(field(0x0001, &wide));
        }
        let mut header = Vec::with_capacity(64 + entry.name.len());
        header.extend(0x0201_4b50_u32.to_le_bytes());
        for value in [MADE_BY, VERSION, written.flags, written.method, entry.dos.1, entry.dos.0] {
            header.extend(value.to_le_bytes());
        }
        header.extend(written.crc.to_le_bytes());
        header.extend(short(written.stored_bytes).to_le_bytes());
        header.extend(short(written.plain_bytes).to_le_bytes());
        header.extend(length(&entry.name)?.to_le_bytes());
        header.extend(length(&extra)?.to_le_bytes());
        header.extend([0; 6]);
        // The mode, and MS-DOS's bit of a directory.
        let attributes = entry.mode << 16 | if entry.name.ends_with(b"/") { 0x10 } else { 0 };
        header.extend(attributes.to_le_bytes());
        header.extend(short(written.offset).to_le_bytes());
        header.extend(&entry.name);
        header.extend(extra);
        self.to.write_all(&header)
    }
}

impl<W: Write> Content<'_, W> {
    /// Hands on what is compressed so far.
    fn drain(&mut self) -> io::Result<()> {
        if let Some(deflate) = &mut self.deflate {
            self.zip.to.write_all(deflate.get_ref())?;
            deflate.get_mut().clear();
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(deflate) = self.deflate.take() {
            let rest = deflate.finish()?;
            self.zip.to.write_all(&rest)?;
        }
        let stored_bytes = self.zip.to.bytes - self.start;
        let written = Written { crc: self.crc.sum(), stored_bytes, plain_bytes: self.plain_bytes, ..self.begun };
        if !self.long && stored_bytes.max(self.plain_bytes) >= LONG {
            return Err(io::Error::other("a file is much longer than its snapshot says"));
        }
        let mut after = 0x0807_4b50_u32.to_le_bytes().to_vec();
        after.extend(written.crc.to_le_bytes());
        for size in [written.stored_bytes, written.plain_bytes] {
            if self.long {
                after.extend(size.to_le_bytes());
            } else {
                after.extend(short(size).to_le_bytes());
            }
        }
        self.zip.to.write_all(&after)?;
        self.zip.written.push((self.entry, written));
        Ok(())
    }
}

impl<W: Write> Write for Content<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(deflate) = &mut self.deflate {
            deflate.write_all(bytes)?;
        }
        self.crc.update(bytes);
        self.plain_bytes += bytes.len() as u64;
        self.drain()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value of 32 bits, or the mark that the longer form has it.
fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn length(bytes: &[u8]) -> io::Result<u16> {
    u16::try_from(bytes.len()).map_err(|_| io::Error::other("a path is longer than a zip can hold (65,535 bytes)"))
}

fn field(id: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&id.to_le_bytes()[..], &length.to_le_bytes(), value].concat()
}

/// Time and owner.
fn extra(entry: &Entry, local: bool) -> Vec<u8> {
    let mut extra = Vec::new();
    if let Ok(mtime) = i32::try_from(entry.mtime) {
        extra.extend(field(0x5455, &[&[1][..], &mtime.to_le_bytes()].concat()));
    }
    if local {
        let owner = [&[1, 4][..], &entry.uid.to_le_bytes(), &[4], &entry.gid.to_le_bytes()].concat();
        extra.extend(field(0x7875, &owner));
    }
    extra
}
