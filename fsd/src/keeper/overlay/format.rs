//! An empty ext4 of any size, written into a sparse file.
//!
//! The image of the keeper has no mkfs, and growing a small one that was made elsewhere (`EXT4_IOC_RESIZE_FS`) needs CAP_SYS_RESOURCE.
//! An empty filesystem is little: a superblock, a descriptor and two bitmaps for each group of 128 MiB, two directories. No
//! journal, since what is written does not outlive the mount; no checksums, since nobody else reads it; no backups of the
//! superblock, since nobody repairs it. `e2fsck` judges it in the tests.
//!
//! Sources: the kernel's `fs/ext4/ext4.h` and `Documentation/filesystems/ext4/`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const BLOCK: u64 = 4096;
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
/// One for each 16 KiB, as mke2fs has it.
const INODES_PER_GROUP: u64 = 8192;
const INODE: u64 = 256;
const TABLE_BLOCKS: u64 = INODES_PER_GROUP * INODE / BLOCK;
const DESCRIPTOR: u64 = 32;
/// Bitmap of blocks, bitmap of inodes, inodes.
const GROUP_OVERHEAD: u64 = 2 + TABLE_BLOCKS;
/// A last group with less beside its overhead is left out.
const LEAST_LAST_GROUP: u64 = GROUP_OVERHEAD + 50;
/// The first ten are reserved, the eleventh is `lost+found`.
const USED_INODES: u64 = 11;
const ROOT: u32 = 2;
const LOST_AND_FOUND: u32 = 11;

/// The smallest and the largest size, in bytes: numbers of blocks have 32 bits.
pub const SIZES: std::ops::RangeInclusive<u64> = (16 << 20)..=(8 << 40);

/// What lies where. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    blocks: u64,
    groups: u64,
    descriptor_blocks: u64,
}

impl Layout {
    /// `None` for a size beyond [`SIZES`].
    fn new(bytes: u64) -> Option<Self> {
        if !SIZES.contains(&bytes) {
            return None;
        }
        let mut blocks = bytes / BLOCK;
        let rest = blocks % BLOCKS_PER_GROUP;
        if blocks > BLOCKS_PER_GROUP && rest < LEAST_LAST_GROUP {
            blocks -= rest;
        }
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        Some(Self { blocks, groups, descriptor_blocks: (groups * DESCRIPTOR).div_ceil(BLOCK) })
    }

    /// The first block behind the superblock and the descriptors, which only the first group has.
    fn start(&self, group: u64) -> u64 {
        group * BLOCKS_PER_GROUP + if group == 0 { 1 + self.descriptor_blocks } else { 0 }
    }

    fn blocks_in(&self, group: u64) -> u64 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }

    /// How many blocks of a group are used: those at its beginning. The first group has two directories besides.
    fn used_blocks(&self, group: u64) -> u64 {
        let directories = if group == 0 { 2 } else { 0 };
        self.start(group) - group * BLOCKS_PER_GROUP + GROUP_OVERHEAD + directories
    }

    fn free_blocks(&self, group: u64) -> u64 {
        self.blocks_in(group) - self.used_blocks(group)
    }

    fn used_inodes(group: u64) -> u64 {
        if group == 0 { USED_INODES } else { 0 }
    }

    /// The block of the root directory; that of `lost+found` is behind it.
    fn root_block(&self) -> u64 {
        self.start(0) + GROUP_OVERHEAD
    }
}

/// Writes an empty filesystem of at most `bytes` into an empty file, which gets that size and stays sparse.
///
/// # Errors
/// The disk failed or is full; `InvalidInput` for a size beyond [`SIZES`].
pub(super) fn format(file: &File, bytes: u64) -> io::Result<()> {
    let layout = Layout::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    file.set_len(layout.blocks * BLOCK)?;
    file.write_all_at(&superblock(&layout), 1024)?;
    let mut descriptors = Vec::new();
    for group in 0..layout.groups {
        let start = layout.start(group);
        descriptors.extend_from_slice(&descriptor(&layout, group));
        file.write_all_at(&bitmap(layout.used_blocks(group), layout.blocks_in(group)), start * BLOCK)?;
        file.write_all_at(&bitmap(Layout::used_inodes(group), INODES_PER_GROUP), (start + 1) * BLOCK)?;
    }
    file.write_all_at(&descriptors, BLOCK)?;
    let table = (layout.start(0) + 2) * BLOCK;
    for (number, links, block) in [(ROOT, 3, layout.root_block()), (LOST_AND_FOUND, 2, layout.root_block() + 1)] {
        file.write_all_at(&directory_inode(links, block), table + u64::from(number - 1) * INODE)?;
    }
    file.write_all_at(
        &directory(&[(ROOT, "."), (ROOT, ".."), (LOST_AND_FOUND, "lost+found")]),
        layout.root_block() * BLOCK,
    )?;
    file.write_all_at(&directory(&[(LOST_AND_FOUND, "."), (ROOT, "..")]), (layout.root_block() + 1) * BLOCK)
}

/// Little-endian fields at their offsets.
struct Fields(Vec<u8>);

impl Fields {
    fn new(bytes: u64) -> Self {
        Self(vec![0; usize::try_from(bytes).unwrap_or_default()])
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        if let Some(place) = self.0.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// What fits by [`SIZES`] is never cut.
    fn u16(&mut self, offset: usize, value: u64) {
        self.set(offset, &u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes());
    }

    fn u32(&mut self, offset: usize, value: u64) {
        self.set(offset, &u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }
}

fn superblock(layout: &Layout) -> Vec<u8> {
    let free_blocks = (0..layout.groups).map(|group| layout.free_blocks(group)).sum();
    let inodes = layout.groups * INODES_PER_GROUP;
    let mut fields = Fields::new(1024);
    fields.u32(0x00, inodes);
    fields.u32(0x04, layout.blocks);
    fields.u32(0x0c, free_blocks);
    fields.u32(0x10, inodes - USED_INODES);
    // A block, and a cluster, has 1024 << 2 bytes.
    fields.u32(0x18, 2);
    fields.u32(0x1c, 2);
    fields.u32(0x20, BLOCKS_PER_GROUP);
    fields.u32(0x24, BLOCKS_PER_GROUP);
    fields.u32(0x28, INODES_PER_GROUP);
    // Never checked by the number of mounts.
    fields.u16(0x36, 0xffff);
    fields.u16(0x38, 0xef53);
    // Clean; on an error it is read-only.
    fields.u16(0x3a, 1);
    fields.u16(0x3c, 2);
    fields.u32(0x4c, 1);
    fields.u32(0x54, USED_INODES);
    fields.u16(0x58, INODE);
    // Compatible: ext_attr, dir_index, sparse_super2 (with no backup).
    fields.u32(0x5c, 0x08 | 0x20 | 0x200);
    // Incompatible: filetype, extents, ea_inode (attributes longer than a block, which a backup of another filesystem may have).
    fields.u32(0x60, 0x02 | 0x40 | 0x400);
    // Read-only compatible: large_file, huge_file, dir_nlink, extra_isize.
    fields.u32(0x64, 0x02 | 0x08 | 0x20 | 0x40);
    fields.set(0x68, b"stash-fs scratch");
    fields.set(0x78, b"stash-fs");
    fields.set(0xec, b"stash-fs scratch");
    // half_md4, and signed characters in it.
    fields.set(0xfc, &[1]);
    // Mounted with user_xattr and acl.
    fields.u32(0x100, 0x04 | 0x08);
    fields.u16(0x15c, 32);
    fields.u16(0x15e, 32);
    fields.u32(0x160, 0x01);
    fields.0
}

fn descriptor(layout: &Layout, group: u64) -> Vec<u8> {
    let start = layout.start(group);
    let mut fields = Fields::new(DESCRIPTOR);
    fields.u32(0x00, start);
    fields.u32(0x04, start + 1);
    fields.u32(0x08, start + 2);
    fields.u16(0x0c, layout.free_blocks(group));
    fields.u16(0x0e, INODES_PER_GROUP - Layout::used_inodes(group));
    fields.u16(0x10, if group == 0 { 2 } else { 0 });
    fields.0
}

/// The first `used` bits, and those that are none: from `all` on.
fn bitmap(used: u64, all: u64) -> Vec<u8> {
    let bit = |bit: u64| u8::from(bit < used || bit >= all);
    (0..BLOCK).map(|byte| (0..8).fold(0, |bits, number| bits | bit(byte * 8 + number) << number)).collect()
}

/// A directory of one block.
fn directory_inode(links: u64, block: u64) -> Vec<u8> {
    let mut fields = Fields::new(INODE);
    fields.u16(0x00, 0o040_700);
    fields.u32(0x04, BLOCK);
    fields.u16(0x1a, links);
    fields.u32(0x1c, BLOCK / 512);
    // By extents: a header (magic, entries, most entries, depth), and one extent (first block, length, where).
    fields.u32(0x20, 0x8_0000);
    fields.u16(0x28, 0xf30a);
    fields.u16(0x2a, 1);
    fields.u16(0x2c, 4);
    fields.u16(0x38, 1);
    fields.u32(0x3c, block);
    fields.u16(0x80, 32);
    fields.0
}

/// A block of entries, all directories; the last one reaches to the end.
fn directory(entries: &[(u32, &str)]) -> Vec<u8> {
    let mut fields = Fields::new(BLOCK);
    let mut offset = 0;
    for (position, (inode, name)) in entries.iter().enumerate() {
        let own = (8 + name.len()).next_multiple_of(4);
        let length = if position + 1 == entries.len() { fields.0.len() - offset } else { own };
        fields.u32(offset, u64::from(*inode));
        fields.u16(offset + 4, length as u64);
        fields.set(offset + 6, &[u8::try_from(name.len()).unwrap_or_default(), 2]);
        fields.set(offset + 8, name.as_bytes());
        offset += own;
    }
    fields.0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    const GROUP: u64 = BLOCKS_PER_GROUP * BLOCK;

    #[test]
    fn test_layout() {
        assert_eq!(Layout::new(SIZES.start() - 1), None);
        assert_eq!(Layout::new(SIZES.end() + 1), None);
        for (bytes, blocks, groups) in [
            (16 << 20, 4096, 1),
            ((16 << 20) + 4095, 4096, 1),
            (GROUP, BLOCKS_PER_GROUP, 1),
            // A last group that would hold nothing is none.
            (GROUP + (LEAST_LAST_GROUP - 1) * BLOCK, BLOCKS_PER_GROUP, 1),
            (GROUP + LEAST_LAST_GROUP * BLOCK, BLOCKS_PER_GROUP + LEAST_LAST_GROUP, 2),
            (1 << 30, 8 * BLOCKS_PER_GROUP, 8),
        ] {
            let layout = Layout::new(bytes).unwrap();
            assert_eq!((layout.blocks, layout.groups), (blocks, groups), "{bytes}");
        }
        let largest = Layout::new(*SIZES.end()).unwrap();
        assert!(largest.used_blocks(0) < BLOCKS_PER_GROUP && u32::try_from(largest.blocks).is_ok());
    }

    /// mke2fs's own checker finds nothing to say, at each size at which the layout changes.
    #[test]
    fn test_e2fsck_finds_nothing_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = [16 << 20, (17 << 20) + 1, GROUP, GROUP + LEAST_LAST_GROUP * BLOCK, 1 << 30, 100 << 30];
        for bytes in sizes {
            let path = folder.path().join("image");
            let file = File::create(&path).unwrap();
            format(&file, bytes).unwrap();
            let stored = file.metadata().unwrap().blocks() * 512;
            assert!(stored < 64 * 1024 + bytes / 4096, "{bytes} bytes take {stored}");
            let said = Command::new("e2fsck").args(["-f", "-n"]).arg(&path).output().expect("e2fsprogs is installed");
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.status.success(), "{bytes} bytes: {text}{}", String::from_utf8_lossy(&said.stderr));
        }
    }

    #[test]
    fn test_sizes_beyond_the_bounds_are_refused() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, SIZES.start() - 1, SIZES.end() + 1, u64::MAX] {
            assert_eq!(format(&file, bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
