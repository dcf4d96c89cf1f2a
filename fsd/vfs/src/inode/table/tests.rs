use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::inode::store::decode;

/// Records in memory that outlive the table, as a memfd does.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Vec<[u8; STORED_BYTES]>>>);

impl TableStore for Shared {
    fn write(&mut self, first: u32, records: &[u8]) -> io::Result<()> {
        let mut stored = self.0.lock();
        for (number, record) in (first as usize..).zip(records.as_chunks().0) {
            if stored.len() <= number {
                stored.resize(number + 1, [0; STORED_BYTES]);
            }
            stored[number] = *record;
        }
        Ok(())
    }
}

impl Shared {
    fn records(&self) -> Vec<Record> {
        self.0.lock().iter().map(decode).collect()
    }
}

/// Takes lookups back; returns whether the inode itself is gone.
fn release(table: &mut InodeTable, ino: Ino, count: u64) -> bool {
    let mut gone = false;
    table.release(ino, count, |freed| gone |= freed == ino);
    gone
}

fn acquire(table: &mut InodeTable, parent: Ino, position: u32) -> Ino {
    let natural = Ino::child(parent.0, &position.to_le_bytes());
    table.acquire(natural, parent, Identity::Position(position)).unwrap()
}

#[test]
fn test_equal_places_are_one_inode() {
    let mut table = InodeTable::new(100, None);
    let a = acquire(&mut table, Ino::ROOT, 0);
    assert_eq!(acquire(&mut table, Ino::ROOT, 0), a);
    assert_ne!(acquire(&mut table, Ino::ROOT, 1), a);
    assert_eq!(table.get(a).unwrap(), Record { id: a.0, parent: 1, position: 0, lookups: 2 });
    assert_eq!(table.len(), 3);
    assert!(!release(&mut table, a, 1));
    assert!(release(&mut table, a, 1));
    assert_eq!((table.get(a), table.len()), (None, 2));
}

#[test]
fn test_a_collision_moves_the_later_one() {
    let mut table = InodeTable::new(100, None);
    let natural = Ino(77);
    let first = table.acquire(natural, Ino::ROOT, Identity::Position(0)).unwrap();
    let second = table.acquire(natural, Ino::ROOT, Identity::Position(1)).unwrap();
    let link = Link { ino: natural, check: 5 };
    let third = table.acquire(natural, Ino::ROOT, Identity::Link(2, link)).unwrap();
    assert_eq!((first, second, third), (natural, natural.next_probe(), natural.next_probe().next_probe()));
    for (identity, ino) in
        [(Identity::Position(0), first), (Identity::Position(1), second), (Identity::Link(9, link), third)]
    {
        assert_eq!(table.peek(natural, Ino::ROOT, identity), ino);
        assert_eq!(table.acquire(natural, Ino::ROOT, identity), Ok(ino), "the same again");
    }
}

#[test]
fn test_hard_links_are_one_inode_and_keep_the_directory_they_were_met_in() {
    let mut table = InodeTable::new(100, None);
    let (a, b) = (acquire(&mut table, Ino::ROOT, 0), acquire(&mut table, Ino::ROOT, 1));
    let link = Link { ino: Ino(1 << 40), check: 9 };
    let met = table.acquire(link.ino, a, Identity::Link(3, link)).unwrap();
    assert_eq!(table.acquire(link.ino, b, Identity::Link(4, link)), Ok(met));
    let other = Link { check: 10, ..link };
    assert_ne!(table.acquire(other.ino, b, Identity::Link(5, other)), Ok(met), "same id, another file");
    assert_eq!(table.get(met).unwrap().tree_position(), Some(3));
    // The kernel drops the directory in which the file was met first; the file is still resolved through it.
    assert!(!release(&mut table, a, 1));
    assert!(table.get(a).is_some());
    assert!(release(&mut table, met, 2));
    assert_eq!(table.get(a), None, "nothing needs it any more");
}

#[test]
fn test_parents_outlive_their_children() {
    let mut table = InodeTable::new(100, None);
    let mut chain = vec![Ino::ROOT];
    for depth in 0..50 {
        chain.push(acquire(&mut table, chain[depth], 0));
    }
    for ino in &chain[1..50] {
        assert!(!release(&mut table, *ino, 1));
    }
    assert_eq!(table.len(), 51);
    assert!(release(&mut table, chain[50], 1));
    assert!(table.is_empty(), "the last child took the whole chain with it");
    assert!(!release(&mut table, Ino::ROOT, u64::MAX) && table.get(Ino::ROOT).is_some(), "the root stays");
}

#[test]
fn test_the_limit_refuses_and_recovers() {
    let mut table = InodeTable::new(3, None);
    let a = acquire(&mut table, Ino::ROOT, 0);
    acquire(&mut table, Ino::ROOT, 1);
    assert_eq!(table.acquire(Ino(99), Ino::ROOT, Identity::Position(2)), Err(Full));
    assert_eq!(acquire(&mut table, Ino::ROOT, 0), a, "what is held is found all the same");
    assert!(release(&mut table, a, 2));
    acquire(&mut table, Ino::ROOT, 2);
}

#[test]
fn test_a_million_inodes_take_less_than_64_bytes_each() {
    const INODES: u32 = 1_000_000;
    let mut table = InodeTable::new(2 * INODES, None);
    let mut dirs = vec![Ino::ROOT];
    for number in 0..INODES {
        let parent = dirs[number as usize / 100];
        let ino = acquire(&mut table, parent, number);
        if number % 50 == 0 {
            dirs.push(ino);
        }
    }
    assert_eq!(table.len(), INODES + 1);
    let each = table.weight_bytes() / INODES as usize;
    assert!(each < 64, "{each} bytes");
}

#[test]
fn test_another_process_goes_on() {
    let store = Shared::default();
    let mut table = InodeTable::new(1_000, Some(Box::new(store.clone())));
    let dir = acquire(&mut table, Ino::ROOT, 4);
    let file = acquire(&mut table, dir, 2);
    let link = Link { ino: Ino(1 << 50), check: 3 };
    table.acquire(link.ino, dir, Identity::Link(7, link)).unwrap();
    let freed = acquire(&mut table, Ino::ROOT, 5);
    table.commit().unwrap();
    release(&mut table, freed, 1);
    release(&mut table, dir, 1);
    table.commit().unwrap();

    let mut other = InodeTable::from_records(store.records(), 1_000, Some(Box::new(store.clone())));
    assert_eq!(other.records().collect::<Vec<_>>().len(), table.records().collect::<Vec<_>>().len());
    assert_eq!(other.len(), table.len());
    for ino in [dir, file, link.ino, Ino::ROOT] {
        assert_eq!(other.get(ino), table.get(ino));
    }
    assert_eq!(other.get(freed), None);
    assert_eq!(other.acquire(link.ino, dir, Identity::Link(7, link)), Ok(link.ino), "a known link is not met anew");
    assert_eq!(acquire(&mut other, dir, 2), file);
    assert!(!release(&mut other, link.ino, 1));
    assert!(release(&mut other, link.ino, 1));
    assert!(release(&mut other, file, 2));
    assert_eq!(other.get(dir), None, "the children's counts were rebuilt");
}

#[test]
fn test_records_that_make_no_sense_are_dropped() {
    let record = |id, parent| Record { id, parent, position: 0, lookups: 1 };
    let table = InodeTable::from_records(
        [
            record(10, 1),
            record(10, 1),
            record(11, 999),
            record(12, 11),
            record(13, 12),
            Record::FREE,
            record(14, 10),
            // Each other's parents.
            record(20, 21),
            record(21, 20),
        ],
        100,
        None,
    );
    let held: Vec<bool> = [10, 11, 12, 13, 14, 20].map(|id| table.get(Ino(id)).is_some()).to_vec();
    assert_eq!(held[..5], [true, false, false, false, true]);
    assert_eq!(table.get(Ino(10)).unwrap().lookups, 1);
}

#[derive(Debug)]
struct FullDisk;

impl TableStore for FullDisk {
    fn write(&mut self, _first: u32, _records: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn test_a_full_store_is_an_error() {
    let mut table = InodeTable::new(100, Some(Box::new(FullDisk)));
    acquire(&mut table, Ino::ROOT, 0);
    assert_eq!(table.commit().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[derive(Debug, Clone)]
enum Op {
    Lookup { parent: usize, position: u32 },
    Link { parent: usize, position: u32, file: u64 },
    Forget { held: usize, count: u64 },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..40_usize, 0..5_u32).prop_map(|(parent, position)| Op::Lookup { parent, position }),
        2 => (0..40_usize, 5..8_u32, 0..3_u64).prop_map(|(parent, position, file)| Op::Link { parent, position, file }),
        6 => (0..40_usize, 1..4_u64).prop_map(|(held, count)| Op::Forget { held, count }),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    /// Against a model that counts what the kernel holds: what it holds resolves to where it was met, through parents that
    /// are there; what nobody needs is gone; and the store always holds the same as the table, from which another goes on.
    #[test]
    fn test_table_is_a_counting_map(ops in prop::collection::vec(op(), 1..120), few_ids: bool) {
        let store = Shared::default();
        let mut table = InodeTable::new(10_000, Some(Box::new(store.clone())));
        // The kernel's side: lookups by id; where each was met first.
        let mut kernel: BTreeMap<Ino, u64> = BTreeMap::new();
        let mut met: HashMap<Ino, (Ino, u32)> = HashMap::new();
        for op in ops {
            let held: Vec<Ino> = kernel.keys().copied().collect();
            // A kernel looks names up only in directories that it holds, and links are no directories.
            let dirs: Vec<Ino> = std::iter::once(Ino::ROOT)
                .chain(held.iter().copied().filter(|ino| table.get(*ino).is_some_and(|r| r.position & Record::LINK == 0)))
                .collect();
            match op {
                Op::Lookup { parent, position } => {
                    let parent = dirs[parent % dirs.len()];
                    // With few natural ids nearly every lookup collides.
                    let hash = Ino::child(parent.0, &position.to_le_bytes());
                    let natural = if few_ids { Ino(2 + hash.0 % 4) } else { hash };
                    let ino = table.acquire(natural, parent, Identity::Position(position)).unwrap();
                    *kernel.entry(ino).or_default() += 1;
                    prop_assert_eq!(*met.entry(ino).or_insert((parent, position)), (parent, position));
                }
                Op::Link { parent, position, file } => {
                    let parent = dirs[parent % dirs.len()];
                    let link = Link { ino: Ino(1_000 + file), check: u32::try_from(file).unwrap() + 1 };
                    let ino = table.acquire(link.ino, parent, Identity::Link(position, link)).unwrap();
                    prop_assert_eq!(ino, link.ino);
                    *kernel.entry(ino).or_default() += 1;
                    met.entry(ino).or_insert((parent, position));
                }
                Op::Forget { held: which, count } => {
                    if let Some(ino) = held.get(which % held.len().max(1)) {
                        let known = kernel.get_mut(ino).unwrap();
                        let count = count.min(*known);
                        *known -= count;
                        if *known == 0 {
                            kernel.remove(ino);
                        }
                        release(&mut table, *ino, count);
                    }
                }
                Op::Restart => {
                    table = InodeTable::from_records(store.records(), 10_000, Some(Box::new(store.clone())));
                }
            }
            table.commit().unwrap();
            met.retain(|ino, _| table.get(*ino).is_some());
            for (ino, lookups) in &kernel {
                let record = table.get(*ino).expect("the kernel holds it");
                prop_assert_eq!(u64::from(record.lookups), *lookups);
                prop_assert_eq!((Ino(record.parent), record.tree_position().unwrap()), (met[ino].0, met[ino].1 as usize));
                prop_assert!(table.get(Ino(record.parent)).is_some(), "a chain of parents is never broken");
            }
            // Nothing lives that neither the kernel nor a child needs.
            for record in table.records().filter(|record| record.id > 1 && record.lookups == 0) {
                prop_assert!(table.records().any(|child| child.id != 0 && child.parent == record.id));
            }
            let stored: Vec<Record> = store.records().into_iter().filter(|record| record.id > 1).collect();
            let live: Vec<Record> = table.records().filter(|record| record.id > 1).collect();
            prop_assert_eq!(stored, live);
        }
    }
}

proptest! {
    /// Whatever another process left, it makes a table that can be worked with: ids once, parents there, a root that stays.
    #[test]
    fn test_any_records_make_a_table(
        left in prop::collection::vec((0..12_u64, 0..12_u64, any::<u32>(), any::<u32>()), 0..40),
        ops in prop::collection::vec((0..12_u64, 1..5_u64), 0..40),
    ) {
        let records = left.into_iter().map(|(id, parent, position, lookups)| Record { id, parent, position, lookups });
        let store = Shared::default();
        let mut table = InodeTable::from_records(records, 100, Some(Box::new(store.clone())));
        for (ino, count) in ops {
            release(&mut table, Ino(ino), count);
            let _ = table.acquire(Ino(ino.max(2)), Ino::ROOT, Identity::Position(1));
            table.commit().unwrap();
        }
        let mut ids: Vec<u64> = table.records().map(|record| record.id).filter(|id| *id != 0).collect();
        prop_assert_eq!(ids.len(), table.len() as usize);
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), table.len() as usize, "every id is there once");
        prop_assert_eq!(table.get(Ino::ROOT).unwrap().lookups, u32::MAX);
        for record in table.records().filter(|record| record.id > 1) {
            prop_assert!(table.get(Ino(record.parent)).is_some());
        }
    }
}
