//! What memory knows of the cache: where each blob lies, and what each segment holds.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::blob::BlobKind;
use crate::format::blob_segment::{Entry, SEGMENT_ID_BYTES, SegmentId, short_key};
use crate::id::BlobId;

/// What a blob counts for at least, so that the size of the cache bounds the number of blobs and thus memory.
pub(super) const BLOB_CHARGE_BYTES: u64 = 4096;
/// What is read out of the oldest of so many parts of a full cache is written anew.
const NEXT_TO_GO_PART: u64 = 8;

/// A segment's name: its age among all, then the random name that its header repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentName {
    /// One more than the highest when it was begun.
    pub(super) sequence: u64,
    /// In the nonces of all its records.
    pub(super) id: SegmentId,
}

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's number in this process.
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// What was found in a segment, or in the part of it that was not known.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    /// Where the next record will begin.
    pub(super) tail: u32,
    /// It has its table and will not change.
    pub(super) complete: bool,
    pub(super) file_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    name: SegmentName,
    records: u64,
    tail: u32,
    complete: bool,
    file_bytes: u64,
    /// Written by this process: not scanned.
    own: bool,
}

impl Segment {
    fn charge(&self) -> u64 {
        self.file_bytes.max(self.records * BLOB_CHARGE_BYTES)
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct State {
    places: HashMap<u64, Place>,
    segments: HashMap<u32, Segment>,
    numbers: BTreeMap<SegmentName, u32>,
    next_number: u32,
    /// Segments up to this one will go next; `None` while there is room.
    next_to_go: Option<SegmentName>,
}

impl State {
    /// Returns where a blob lies.
    pub(super) fn find(&self, id: &BlobId, kind: BlobKind) -> Option<(Place, SegmentName)> {
        let place = self.places.get(&short_key(id, kind))?;
        Some((*place, self.segments.get(&place.segment)?.name))
    }

    /// Returns whether there is a record of this blob that will stay for a while.
    pub(super) fn contains(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.find(id, kind).is_some_and(|(_, name)| !self.is_next_to_go(&name))
    }

    /// Returns whether a segment will be evicted soon.
    pub(super) fn is_next_to_go(&self, name: &SegmentName) -> bool {
        self.next_to_go.as_ref().is_some_and(|last| name <= last)
    }

    /// Forgets a blob.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        self.places.remove(&key).is_some()
    }

    /// Forgets a blob unless it lies elsewhere by now.
    pub(super) fn remove_at(&mut self, key: u64, place: Place) {
        if self.places.get(&key) == Some(&place) {
            self.places.remove(&key);
        }
    }

    /// Forgets a segment.
    pub(super) fn remove_segment(&mut self, number: u32) {
        if let Some(segment) = self.segments.remove(&number) {
            self.numbers.remove(&segment.name);
            self.places.retain(|_, place| place.segment != number);
        }
    }

    /// Forgets segments that are not in `names`; returns for each name from where on it is unknown, `None` where nothing
    /// can be new.
    pub(super) fn begin_rescan(&mut self, names: &[SegmentName]) -> Vec<Option<u32>> {
        let gone: Vec<u32> =
            self.numbers.iter().filter(|(name, _)| names.binary_search(name).is_err()).map(|(_, n)| *n).collect();
        for number in gone {
            self.remove_segment(number);
        }
        let from = |name: &SegmentName| match self.numbers.get(name).and_then(|number| self.segments.get(number)) {
            Some(segment) => (!segment.complete && !segment.own).then_some(segment.tail),
            None => Some(0),
        };
        names.iter().map(from).collect()
    }

    /// Takes in what was found in a segment.
    pub(super) fn insert_segment(&mut self, name: SegmentName, contents: Contents) {
        let number = self.number(name);
        let Some(segment) = self.segments.get_mut(&number) else { return };
        if segment.own {
            return;
        }
        segment.records += contents.entries.len() as u64;
        segment.tail = contents.tail;
        segment.complete = contents.complete;
        segment.file_bytes = contents.file_bytes;
        for entry in contents.entries {
            let place = Place { segment: number, offset: entry.offset };
            let known = self.places.get(&entry.key).and_then(|place| self.segments.get(&place.segment));
            // A later record hides an earlier one, which may have been removed for damage.
            if known.is_none_or(|known| known.name <= name) {
                self.places.insert(entry.key, place);
            }
        }
    }

    /// Begins a segment of this process.
    pub(super) fn begin_own(&mut self, name: SegmentName, file_bytes: u64) -> u32 {
        let number = self.number(name);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.own = true;
            segment.file_bytes = file_bytes;
        }
        number
    }

    /// Takes in a record that was written to a segment of this process.
    pub(super) fn insert_own(&mut self, key: u64, place: Place, file_bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.records += 1;
            segment.file_bytes = file_bytes;
            self.places.insert(key, place);
        }
    }

    /// Notes that a segment of this process is complete.
    pub(super) fn complete_own(&mut self, number: u32, file_bytes: u64) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.complete = true;
            segment.file_bytes = file_bytes;
        }
    }

    fn number(&mut self, name: SegmentName) -> u32 {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(name, number);
        let segment = Segment { name, records: 0, tail: 0, complete: false, file_bytes: 0, own: false };
        self.segments.insert(number, segment);
        number
    }

    /// Returns the sequence number that a new segment gets.
    pub(super) fn next_sequence(&self) -> u64 {
        self.numbers.last_key_value().map_or(1, |(name, _)| name.sequence.saturating_add(1))
    }

    /// Returns the segments from the oldest on, with their numbers.
    pub(super) fn by_age(&self) -> Vec<(SegmentName, u32)> {
        self.numbers.iter().map(|(name, number)| (*name, *number)).collect()
    }

    /// Returns what all segments count for; those that grow count as full.
    pub(super) fn charge(&self, segment_bytes: u64) -> u64 {
        let charge = |segment: &Segment| {
            if segment.complete { segment.charge() } else { segment.charge().max(segment_bytes) }
        };
        self.segments.values().map(charge).sum()
    }

    /// Draws the line below which segments go next.
    pub(super) fn draw_line(&mut self, max_bytes: u64, segment_bytes: u64) {
        let part = max_bytes / NEXT_TO_GO_PART;
        self.next_to_go = None;
        // Room for more than that part: nothing will go soon.
        let mut excess = (self.charge(segment_bytes) + part + segment_bytes).saturating_sub(max_bytes);
        for (name, number) in &self.numbers {
            let Some(segment) = self.segments.get(number).filter(|segment| segment.complete) else { continue };
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(segment.charge());
            self.next_to_go = Some(*name);
        }
    }

    /// Returns the bytes of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.file_bytes).sum()
    }

    /// Returns how many blobs can be found.
    pub(super) fn blobs(&self) -> usize {
        self.places.len()
    }

    /// Returns how many segments there are.
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }
}

impl SegmentName {
    /// What the names of files end with.
    const SUFFIX: &'static str = ".blobs";

    /// Reads a file's name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (sequence, id) = name.strip_suffix(Self::SUFFIX)?.split_once('-')?;
        let mut bytes = [0; SEGMENT_ID_BYTES];
        hex::decode_to_slice(id, &mut bytes).ok()?;
        let sequence = (sequence.len() == 16).then(|| u64::from_str_radix(sequence, 16).ok()).flatten()?;
        let parsed = Self { sequence, id: bytes };
        // One name for one segment: no signs, no capitals.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}{}", self.sequence, hex::encode(self.id), Self::SUFFIX)
    }
}
