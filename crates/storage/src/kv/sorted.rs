//! An ordered map of byte strings for very many entries that mostly come in key order: slotted pages, as engines keep them on disk,
//! under a flat directory.
//!
//! A load keeps each of its rows here until it commits. So an entry costs its bytes and a slot, without an allocation of its own,
//! and an entry behind the one written last is appended after two comparisons. Elsewhere an entry is found by binary search, first
//! among pages, then among a page's slots; to come between others it moves slots, not records.
//!
//! Invariants: no page is empty; keys ascend from slot to slot and from page to page; the records of a page take at most [`PAGE`]
//! bytes unless there is one record only.

use fjall::Slice;
use std::mem;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// Bytes of records in a page: some hundred small rows.
const PAGE: usize = 16 << 10;

/// Length that stands for no payload.
const NOTHING: u32 = u32::MAX;

/// Longest payload of an entry.
pub(crate) const MAX_PAYLOAD: usize = NOTHING as usize - 1;

/// A key and its payload.
pub(crate) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

/// Where a record is: the key, and behind it the payload.
#[derive(Clone, Copy)]
struct Slot {
    /// What follows in the key on what all of the page's keys begin with: most comparisons need no more of it.
    head: u32,
    start: u32,
    payload: u32,
    key: u16,
}

/// Records in the order in which they came, and slots in the order of their keys.
#[derive(Clone, Default)]
struct Page {
    records: Vec<u8>,
    slots: Vec<Slot>,
    /// So many bytes the keys have in common.
    shared: usize,
    /// Bytes of records that belong to no slot any more.
    garbage: usize,
}

/// The first bytes of the rest of a key as a number of the same order.
fn head(rest: &[u8]) -> u32 {
    let mut head = [0; 4];
    let length = rest.len().min(head.len());
    head[..length].copy_from_slice(&rest[..length]);
    u32::from_be_bytes(head)
}

fn in_common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Page {
    /// A page with room for a record of this size, and for some more entries than another has.
    fn with_room(record: usize, slots: usize) -> Page {
        let records = Vec::with_capacity(record.max(PAGE));
        Page { records, slots: Vec::with_capacity(slots + slots / 8), ..Page::default() }
    }

    fn key(&self, slot: Slot) -> &[u8] {
        let start = slot.start as usize;
        &self.records[start..start + usize::from(slot.key)]
    }

    fn payload(&self, slot: Slot) -> Option<&[u8]> {
        let start = slot.start as usize + usize::from(slot.key);
        (slot.payload != NOTHING).then(|| &self.records[start..start + slot.payload as usize])
    }

    fn entry(&self, slot: Slot) -> Entry<'_> {
        (self.key(slot), self.payload(slot))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.slots.iter().map(|slot| self.entry(*slot))
    }

    fn first_key(&self) -> &[u8] {
        self.slots.first().map_or(&[], |slot| self.key(*slot))
    }

    fn last_key(&self) -> &[u8] {
        self.slots.last().map_or(&[], |slot| self.key(*slot))
    }

    /// The slot of a key, or of the next one.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let first = self.first_key();
        match key.strip_prefix(&first[..self.shared]) {
            Some(rest) => {
                let head = head(rest);
                self.slots.binary_search_by(|slot| slot.head.cmp(&head).then_with(|| self.key(*slot).cmp(key)))
            }
            // It has not what all have in common, and so stands to all as to one.
            None => Err(if key < first { 0 } else { self.slots.len() }),
        }
    }

    /// Lets the page's keys have no more in common than they have with this one.
    fn share(&mut self, key: &[u8]) {
        let first = self.first_key();
        if self.slots.is_empty() {
            self.shared = key.len();
        } else if !key.starts_with(&first[..self.shared]) {
            self.shared = in_common(first, key);
            for at in 0..self.slots.len() {
                self.slots[at].head = head(&self.key(self.slots[at])[self.shared..]);
            }
        }
    }

    /// Bytes of memory that it takes.
    fn bytes(&self) -> usize {
        self.records.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    fn fits(&self, record: usize) -> bool {
        self.slots.is_empty() || self.records.len() + record <= PAGE
    }

    fn insert(&mut self, at: usize, (key, payload): Entry<'_>) {
        self.share(key);
        // Of a record that is not the first, the page's bound limits the start; key and payload have the caller's bounds.
        let slot = Slot {
            head: head(&key[self.shared..]),
            start: self.records.len() as u32,
            payload: payload.map_or(NOTHING, |payload| payload.len() as u32),
            key: key.len() as u16,
        };
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(payload.unwrap_or_default());
        self.slots.insert(at, slot);
    }

    fn remove(&mut self, at: usize) {
        let slot = self.slots.remove(at);
        let (key, payload) = self.entry(slot);
        self.garbage += key.len() + payload.map_or(0, <[u8]>::len);
    }

    /// Gives an entry another payload where that takes no more room than the one it had.
    fn overwrite(&mut self, at: usize, payload: Option<&[u8]>) -> bool {
        let slot = self.slots[at];
        let room = self.payload(slot).map_or(0, <[u8]>::len);
        let bytes = payload.unwrap_or_default();
        if bytes.len() > room {
            return false;
        }
        let start = slot.start as usize + usize::from(slot.key);
        self.records[start..start + bytes.len()].copy_from_slice(bytes);
        self.slots[at].payload = payload.map_or(NOTHING, |_| bytes.len() as u32);
        self.garbage += room - bytes.len();
        true
    }

    /// A page of some of the entries, without garbage.
    fn part(&self, slots: Range<usize>) -> Page {
        let mut part = Page::with_room(0, self.slots.len());
        for slot in &self.slots[slots] {
            part.insert(part.slots.len(), self.entry(*slot));
        }
        part
    }
}

/// A page in the directory.
#[derive(Clone)]
struct Listed {
    /// No key of the page lies below (except in the first page), and none of the pages before it lies at or above.
    from: Slice,
    /// Shared with clones of the map until one of them writes to it.
    page: Arc<Page>,
}

/// The map.
#[derive(Clone, Default)]
pub(crate) struct SortedMap {
    pages: Vec<Listed>,
    len: usize,
    bytes: usize,
    /// The page that was written to last: the next entry probably goes there too.
    last: usize,
}

impl SortedMap {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Bytes of memory that the pages take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn first_key(&self) -> Option<&[u8]> {
        self.pages.first().map(|listed| listed.page.first_key())
    }

    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        self.pages.last().map(|listed| listed.page.last_key())
    }

    /// `None`: there is no such key; `Some(None)`: it has no payload.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let Listed { page, .. } = self.pages.get(self.page_of(key))?;
        page.find(key).ok().map(|at| page.payload(page.slots[at]))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.pages.iter().flat_map(|listed| listed.page.entries())
    }

    /// The entries in order, in as many consecutive parts of about one size.
    pub(crate) fn parts(&self, count: usize) -> impl Iterator<Item = impl Iterator<Item = Entry<'_>>> {
        let pages = self.pages.len().div_ceil(count.max(1)).max(1);
        self.pages.chunks(pages).map(|part| part.iter().flat_map(|listed| listed.page.entries()))
    }

    /// Gives a key of at most `u16::MAX` bytes a payload of at most [`MAX_PAYLOAD`], in the place of what it may have had.
    pub(crate) fn set(&mut self, key: &[u8], payload: Option<&[u8]>) {
        let (at, place) = self.locate(key);
        let place = match place {
            Ok(slot) if self.change(at, |page| page.overwrite(slot, payload)) => return,
            Ok(slot) => {
                self.remove_at(at, slot);
                return self.set(key, payload);
            }
            Err(place) => place,
        };
        let record = key.len() + payload.map_or(0, <[u8]>::len);
        let (at, place) = match self.pages.get(at).map(|listed| &listed.page) {
            None => {
                // Most transactions are small, so the first page grows.
                self.list(0, Slice::new(key), Page::default());
                (0, 0)
            }
            Some(page) if page.fits(record) => (at, place),
            Some(page) if place == page.slots.len() => {
                let next = Page::with_room(record, page.slots.len());
                self.list(at + 1, Slice::new(key), next);
                (at + 1, 0)
            }
            Some(page) if page.slots.len() == 1 => {
                // Before the only record, which does not move.
                let only = Slice::new(page.first_key());
                let from = mem::replace(&mut self.pages[at].from, only);
                self.list(at, from, Page::with_room(record, 0));
                (at, 0)
            }
            Some(_) => {
                self.split(at);
                return self.set(key, payload);
            }
        };
        self.change(at, |page| page.insert(place, (key, payload)));
        self.len += 1;
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let (at, Ok(slot)) = self.locate(key) {
            self.remove_at(at, slot);
        }
    }

    /// The page where a key is or belongs, and its slot there or that of the next key. Without any page: 0.
    fn locate(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        let next = self.pages.get(self.last + 1);
        if let Some(Listed { page, .. }) = self.pages.get(self.last)
            && page.last_key() < key
            && next.is_none_or(|next| key < next.from.as_ref())
        {
            return (self.last, Err(page.slots.len()));
        }
        let at = self.page_of(key);
        (at, self.pages.get(at).map_or(Err(0), |listed| listed.page.find(key)))
    }

    fn page_of(&self, key: &[u8]) -> usize {
        self.pages.partition_point(|listed| listed.from.as_ref() <= key).saturating_sub(1)
    }

    fn change<R>(&mut self, at: usize, change: impl FnOnce(&mut Page) -> R) -> R {
        // A page that is copied here may come out smaller.
        self.bytes -= self.pages[at].page.bytes();
        let page = Arc::make_mut(&mut self.pages[at].page);
        let result = change(page);
        self.bytes += page.bytes();
        self.last = at;
        result
    }

    fn remove_at(&mut self, at: usize, slot: usize) {
        self.change(at, |page| page.remove(slot));
        self.len -= 1;
        if self.pages[at].page.slots.is_empty() {
            self.bytes -= self.pages.remove(at).page.bytes();
        }
    }

    fn list(&mut self, at: usize, from: Slice, page: Page) {
        self.bytes += page.bytes();
        self.pages.insert(at, Listed { from, page: Arc::new(page) });
    }

    /// Makes two pages of one that has two slots or more, or one without garbage where that is half of it.
    fn split(&mut self, at: usize) {
        let Listed { from, page } = self.pages.remove(at);
        self.bytes -= page.bytes();
        let end = page.slots.len();
        let middle = if page.garbage > page.records.len() / 2 { end } else { end / 2 };
        self.list(at, from, page.part(0..middle));
        if middle < end {
            let from = Slice::new(page.key(page.slots[middle]));
            self.list(at + 1, from, page.part(middle..end));
        }
    }

    /// The first entry at a key, or (`after`) behind it.
    fn position(&self, key: &[u8], after: bool) -> Position {
        let at = self.page_of(key);
        let Some(Listed { page, .. }) = self.pages.get(at) else { return Position::default() };
        let slot = page.find(key).map_or_else(|slot| slot, |slot| slot + usize::from(after));
        if slot < page.slots.len() { Position { page: at, slot } } else { Position { page: at + 1, slot: 0 } }
    }
}

/// A place before an entry, or (a page further than the last) behind all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Position {
    page: usize,
    slot: usize,
}

/// Walks through a range of a map from both ends. It owns what it reads from.
pub(crate) struct Cursor {
    map: Arc<SortedMap>,
    from: Position,
    to: Position,
}

impl Cursor {
    /// One over all entries in the bounds; none if they are inverted.
    pub(crate) fn new(map: Arc<SortedMap>, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Cursor {
        let from = match lower {
            Bound::Included(key) => map.position(key, false),
            Bound::Excluded(key) => map.position(key, true),
            Bound::Unbounded => Position::default(),
        };
        let to = match upper {
            Bound::Included(key) => map.position(key, true),
            Bound::Excluded(key) => map.position(key, false),
            Bound::Unbounded => Position { page: map.pages.len(), slot: 0 },
        };
        Cursor { map, from, to }
    }

    fn entry(&self, at: Position) -> Option<(Slice, Option<Slice>)> {
        let Listed { page, .. } = self.map.pages.get(at.page)?;
        let (key, payload) = page.entry(*page.slots.get(at.slot)?);
        Some((Slice::new(key), payload.map(Slice::new)))
    }
}

impl Iterator for Cursor {
    type Item = (Slice, Option<Slice>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        let entry = self.entry(self.from);
        self.from.slot += 1;
        if self.from.slot == self.map.pages[self.from.page].page.slots.len() {
            self.from = Position { page: self.from.page + 1, slot: 0 };
        }
        entry
    }
}

impl DoubleEndedIterator for Cursor {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        if self.to.slot == 0 {
            self.to.page -= 1;
            self.to.slot = self.map.pages[self.to.page].page.slots.len();
        }
        self.to.slot -= 1;
        self.entry(self.to)
    }
}

#[cfg(test)]
mod tests;
