//! The table of the inodes that the kernel holds.
//!
//! Each has a record {id, parent's id, position in the parent's tree, lookup count}: enough to find the node again from
//! nothing but the repository. A record lives while the kernel counts lookups of it or a record below it lives, so a chain
//! of parents never breaks, in whatever order FORGETs arrive (a hard link's other directory may go first).
//!
//! Memory: 24 bytes a record, 4 beside it, 4 to 8 for the index (open addressing over record numbers, two thirds full at
//! most); records of a table with a store lie there too, 32 bytes each.

use std::io;

use super::store::{STORED_BYTES, TableStore, encode};
use super::{Ino, Link};

/// What another process needs to find an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The node id; 0 marks a free record.
    pub id: u64,
    /// The parent's node id. In a free record the number of the next free one.
    pub parent: u64,
    /// The position in the parent's tree, [`Record::LAYOUT`] for what no backup holds, and [`Record::LINK`] set on
    /// hard-linked files.
    pub position: u32,
    /// How often the kernel has looked it up; `u32::MAX` sticks, and the record then stays.
    pub lookups: u32,
}

impl Record {
    /// A record that holds nothing.
    pub const FREE: Self = Self { id: 0, parent: 0, position: 0, lookups: 0 };
    /// The position of an inode of the layout, which is found by its id.
    pub const LAYOUT: u32 = u32::MAX >> 1;
    /// The bit that marks a hard-linked file.
    pub const LINK: u32 = 1 << 31;

    /// Returns the place in the parent's tree; `None` for an inode of the layout.
    #[must_use]
    pub const fn tree_position(&self) -> Option<usize> {
        match self.position & !Self::LINK {
            Self::LAYOUT => None,
            position => Some(position as usize),
        }
    }
}

/// What is looked up: where a node stands, or which hard-linked file it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity {
    /// This place in the parent's tree.
    Position(u32),
    /// This file, here met at this place.
    Link(u32, Link),
    /// An inode of the layout.
    Layout,
}

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The table of the inodes that the kernel holds.
#[derive(Debug)]
pub struct InodeTable {
    records: Vec<Record>,
    /// Beside each record: for a directory how many records name it as their parent, for a hard-linked file further bits of
    /// its identity (0: not known, after a take-over).
    beside: Vec<u32>,
    /// Record numbers by id; `EMPTY` where there is none.
    index: Vec<u32>,
    live: u32,
    first_free: u32,
    limit: u32,
    store: Option<Box<dyn TableStore>>,
    /// Records that differ from the store, in the order of their changes.
    dirty: Vec<u32>,
    /// Records of another process that made no sense.
    dropped: u32,
}

const EMPTY: u32 = u32::MAX;

/// The most inodes that a table holds by default: 16 million, about 600 MB if the kernel really held them all (it would
/// spend some 16 GB of its own on them).
pub const DEFAULT_LIMIT: u32 = 16 << 20;

impl InodeTable {
    /// Makes a table that holds the root.
    #[must_use]
    pub fn new(limit: u32, store: Option<Box<dyn TableStore>>) -> Self {
        Self::from_records([], limit, store)
    }

    /// Makes a table from what another wrote, by record number. Records that make no sense (damaged, twice, without
    /// parent) are free; the store, if any, is expected to hold the same records.
    #[must_use]
    pub fn from_records(
        records: impl IntoIterator<Item = Record>,
        limit: u32,
        store: Option<Box<dyn TableStore>>,
    ) -> Self {
        let mut table = Self {
            records: records.into_iter().take(limit as usize).collect(),
            beside: Vec::new(),
            index: Vec::new(),
            live: 0,
            first_free: EMPTY,
            limit: limit.clamp(1, EMPTY - 1),
            store,
            dirty: Vec::new(),
            dropped: 0,
        };
        table.beside.resize(table.records.len(), 0);
        let live = table.records.iter().filter(|record| record.id != 0).count();
        table.index = vec![EMPTY; index_slots(live + 1)];
        for number in 0..table.numbers() {
            let id = table.record(number).id;
            if id != 0 {
                if table.find(id).is_some() {
                    table.records[number as usize] = Record::FREE;
                    // So that a third process does not find it beside what takes its id later.
                    table.touch(number);
                    table.dropped += 1;
                } else {
                    table.index_insert(id, number);
                    table.live += 1;
                }
            }
        }
        // The only record that is never freed: its count sticks.
        let root = Record { id: Ino::ROOT.0, parent: 0, position: Record::LAYOUT, lookups: u32::MAX };
        match table.find(Ino::ROOT.0) {
            Some(number) if *table.record(number) == root => {}
            Some(number) => {
                table.dropped += 1;
                table.records[number as usize] = root;
                table.touch(number);
            }
            None => {
                table.dropped += u32::from(!table.records.is_empty());
                table.insert(root);
            }
        }
        table.link_parents();
        table
    }

    /// Counts children, drops records whose parent is not there (again, until none is left), and chains the free ones.
    fn link_parents(&mut self) {
        loop {
            let orphans: Vec<u32> = (0..self.numbers())
                .filter(|number| {
                    let record = self.record(*number);
                    record.id > Ino::ROOT.0 && self.find(record.parent).is_none()
                })
                .collect();
            if orphans.is_empty() {
                break;
            }
            for number in orphans {
                self.index_remove(self.record(number).id);
                self.records[number as usize] = Record::FREE;
                self.touch(number);
                self.dropped += 1;
                self.live -= 1;
            }
        }
        self.first_free = EMPTY;
        for number in (0..self.numbers()).rev() {
            let record = *self.record(number);
            if record.id == 0 {
                self.records[number as usize].parent = u64::from(self.first_free);
                self.first_free = number;
            } else if let Some(parent) = self.find(record.parent) {
                self.beside[parent as usize] += 1;
            }
        }
    }

    /// Returns how many inodes the table holds, the root among them.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.live
    }

    /// Returns whether the table holds nothing but the root.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live <= 1
    }

    /// Returns how much memory the table takes, without its store.
    #[must_use]
    pub const fn weight_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>() + (self.beside.capacity() + self.index.capacity()) * 4
    }

    /// Returns an inode's record.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Record> {
        self.find(ino.0).map(|number| *self.record(number))
    }

    /// Counts a lookup of a child of `parent` and returns its id: `natural`, or if another inode has that, the next id of
    /// its sequence that is this inode's or nobody's.
    pub(crate) fn acquire(&mut self, natural: Ino, parent: Ino, identity: Identity) -> Result<Ino, Full> {
        let (position, check) = match identity {
            Identity::Position(position) => (position, 0),
            Identity::Link(position, link) => (position | Record::LINK, link.check),
            Identity::Layout => (Record::LAYOUT, 0),
        };
        let mut ino = natural;
        loop {
            let Some(number) = self.find(ino.0) else {
                return self.admit(Record { id: ino.0, parent: parent.0, position, lookups: 1 }, check).map(|()| ino);
            };
            let record = self.record(number);
            let same = if check == 0 {
                record.parent == parent.0 && record.position == position
            } else {
                let known = self.beside[number as usize];
                record.position & Record::LINK != 0 && (known == check || known == 0)
            };
            if same {
                if check != 0 {
                    self.beside[number as usize] = check;
                }
                let record = &mut self.records[number as usize];
                record.lookups = record.lookups.saturating_add(1);
                self.touch(number);
                return Ok(ino);
            }
            ino = ino.next_probe();
        }
    }

    /// Finds a child that the kernel holds, as [`InodeTable::acquire`] would, without counting. Returns the id that it has
    /// or would get.
    pub(crate) fn peek(&self, natural: Ino, parent: Ino, identity: Identity) -> Ino {
        let mut ino = natural;
        while let Some(record) = self.get(ino) {
            let same = match identity {
                Identity::Position(position) => record.parent == parent.0 && record.position == position,
                Identity::Layout => record.parent == parent.0 && record.position == Record::LAYOUT,
                Identity::Link(_, link) => {
                    let known = self.find(ino.0).map_or(0, |number| self.beside[number as usize]);
                    record.position & Record::LINK != 0 && (known == link.check || known == 0)
                }
            };
            if same {
                break;
            }
            ino = ino.next_probe();
        }
        ino
    }

    /// Takes back lookups, and frees what nobody needs any more, parents included; `freed` is told each.
    pub(crate) fn release(&mut self, ino: Ino, count: u64, mut freed: impl FnMut(Ino)) {
        let Some(mut number) = self.find(ino.0) else { return };
        let record = &mut self.records[number as usize];
        if record.lookups != u32::MAX {
            record.lookups = record.lookups.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        }
        self.touch(number);
        loop {
            let record = *self.record(number);
            let children = if record.position & Record::LINK == 0 { self.beside[number as usize] } else { 0 };
            if record.lookups != 0 || children != 0 {
                return;
            }
            freed(Ino(record.id));
            self.index_remove(record.id);
            self.records[number as usize] =
                Record { id: 0, parent: u64::from(self.first_free), position: 0, lookups: 0 };
            self.beside[number as usize] = 0;
            self.first_free = number;
            self.live -= 1;
            self.touch(number);
            let Some(parent) = self.find(record.parent) else { return };
            self.beside[parent as usize] = self.beside[parent as usize].saturating_sub(1);
            number = parent;
        }
    }

    /// Writes to the store what changed since the last call: before a reply names an id of it.
    ///
    /// # Errors
    /// The store failed; what could not be written is tried again at the next call.
    pub fn commit(&mut self) -> io::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        if self.dirty.is_empty() {
            return Ok(());
        }
        self.dirty.sort_unstable();
        self.dirty.dedup();
        // Entries of one directory were first met together, so they mostly are one run.
        for run in self.dirty.chunk_by(|a, b| a + 1 == *b) {
            let bytes: Vec<[u8; STORED_BYTES]> =
                run.iter().map(|number| encode(&self.records[*number as usize])).collect();
            store.write(run[0], bytes.as_flattened())?;
        }
        self.dirty.clear();
        Ok(())
    }

    /// Returns how many records of another process made no sense (double, without parent): the kernel may hold inodes that this
    /// table does not know.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Returns how many changes were not written to the store yet.
    pub(crate) fn uncommitted(&self) -> usize {
        self.dirty.len()
    }

    /// Returns all records by number, free ones included.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.records.iter().copied()
    }

    fn touch(&mut self, number: u32) {
        if self.store.is_some() {
            self.dirty.push(number);
        }
    }

    fn admit(&mut self, record: Record, check: u32) -> Result<(), Full> {
        if self.live >= self.limit {
            return Err(Full);
        }
        let parent = record.parent;
        let number = self.insert(record);
        if check != 0 {
            self.beside[number as usize] = check;
        }
        if let Some(parent) = self.find(parent) {
            self.beside[parent as usize] = self.beside[parent as usize].saturating_add(1);
        }
        Ok(())
    }

    fn insert(&mut self, record: Record) -> u32 {
        if index_slots(self.live as usize + 1) > self.index.len() {
            self.index = vec![EMPTY; index_slots(self.live as usize + 1)];
            for number in 0..self.numbers() {
                if self.record(number).id != 0 {
                    self.index_insert(self.record(number).id, number);
                }
            }
        }
        let number = if self.first_free == EMPTY {
            self.records.push(record);
            self.beside.push(0);
            self.numbers() - 1
        } else {
            let number = self.first_free;
            self.first_free = u32::try_from(self.record(number).parent).unwrap_or(EMPTY);
            self.records[number as usize] = record;
            number
        };
        self.index_insert(record.id, number);
        self.live += 1;
        self.touch(number);
        number
    }

    fn numbers(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(EMPTY)
    }

    fn record(&self, number: u32) -> &Record {
        &self.records[number as usize]
    }

    /// Ids are hashes already: their low bits are the place.
    fn place(&self, id: u64) -> usize {
        usize::try_from(id & (self.index.len() as u64 - 1)).unwrap_or_default()
    }

    fn find(&self, id: u64) -> Option<u32> {
        if id == 0 {
            return None;
        }
        let mut place = self.place(id);
        loop {
            match self.index[place] {
                EMPTY => return None,
                number if self.record(number).id == id => return Some(number),
                _ => place = (place + 1) & (self.index.len() - 1),
            }
        }
    }

    fn index_insert(&mut self, id: u64, number: u32) {
        let mut place = self.place(id);
        while self.index[place] != EMPTY {
            place = (place + 1) & (self.index.len() - 1);
        }
        self.index[place] = number;
    }

    /// Removes an id and moves later ones of its run back, so that no mark stays behind.
    fn index_remove(&mut self, id: u64) {
        let mask = self.index.len() - 1;
        let mut hole = self.place(id);
        loop {
            match self.index[hole] {
                EMPTY => return,
                number if self.record(number).id == id => break,
                _ => hole = (hole + 1) & mask,
            }
        }
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let number = self.index[place];
            if number == EMPTY {
                break;
            }
            let home = self.place(self.record(number).id);
            // It may move if its home is not between the hole (excluded) and where it is now.
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.index[hole] = number;
                hole = place;
            }
        }
        self.index[hole] = EMPTY;
    }
}

/// Returns how many places an index for `live` records has: a power of two, at most two thirds full.
const fn index_slots(live: usize) -> usize {
    let least = live.saturating_add(live / 2).next_power_of_two();
    if least < 16 { 16 } else { least }
}

#[cfg(test)]
mod tests;
