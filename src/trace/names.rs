//! Interned text: every distinct string of a rank is stored once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Index of a string in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

impl NameId {
    /// The empty string, which every [`Names`] holds.
    pub const EMPTY: Self = Self(0);

    /// The position in [`Names::iter`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A table of distinct strings in the order in which they were first seen.
#[derive(Clone, Debug)]
pub struct Names {
    text: String,
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: FixedState,
}

impl Default for Names {
    fn default() -> Self {
        let mut names = Self {
            text: String::new(),
            ends: Vec::new(),
            table: HashTable::new(),
            // The order of ids is the order of insertion, so the hash shows nowhere.
            hasher: FixedState::default(),
        };
        names.intern("");
        names
    }
}

impl Names {
    /// The id of `text`, which is stored if it is new.
    pub fn intern(&mut self, text: &str) -> NameId {
        let hash = self.hasher.hash_one(text.as_bytes());
        if let Some(id) = self.lookup(hash, text.as_bytes()) {
            return id;
        }
        let id = self.ends.len() as u32;
        self.text.push_str(text);
        self.ends.push(self.text.len());
        let Self { text, ends, table, hasher } = self;
        table
            .insert_unique(hash, id, |other| hasher.hash_one(slice(text, ends, *other).as_bytes()));
        NameId(id)
    }

    /// The id of a string that is already stored.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<NameId> {
        self.lookup(self.hasher.hash_one(text), text)
    }

    fn lookup(&self, hash: u64, text: &[u8]) -> Option<NameId> {
        self.table
            .find(hash, |id| slice(&self.text, &self.ends, *id).as_bytes() == text)
            .map(|id| NameId(*id))
    }

    /// The string of an id; empty for an id of another table.
    #[must_use]
    pub fn get(&self, id: NameId) -> &str {
        if id.index() < self.ends.len() { slice(&self.text, &self.ends, id.0) } else { "" }
    }

    /// How many strings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is nothing but the empty string.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.len() <= 1
    }

    /// All strings, by id.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len() as u32).map(|id| slice(&self.text, &self.ends, id))
    }

    /// Bytes held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.table.capacity() * (size_of::<u32>() + 1)
    }
}

fn slice<'a>(text: &'a str, ends: &[usize], id: u32) -> &'a str {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &text[start..ends[id]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_stored_once() {
        let mut names = Names::default();
        let a = names.intern("gemm");
        let b = names.intern("copy");
        assert_eq!(names.intern("gemm"), a);
        assert_ne!(a, b);
        assert_eq!(names.get(a), "gemm");
        assert_eq!(names.intern(""), NameId::EMPTY);
        assert_eq!(names.find(b"copy"), Some(b));
        assert_eq!(names.find(b"none"), None);
        assert_eq!(names.iter().collect::<Vec<_>>(), ["", "gemm", "copy"]);
    }
}
