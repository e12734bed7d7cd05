//! Compact records of one kind of object, kept current by a watch.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::time::Instant;

use crate::ledger::generation::Generation;

/// The records of one kind of object, by their keys.
#[derive(Debug)]
pub(super) struct Mirror<K, R> {
    records: HashMap<K, Record<R>>,
    generation: Generation,
    /// Whether a list is under way.
    is_listing: bool,
}

#[derive(Debug)]
struct Record<R> {
    object: Arc<R>,
    /// The list that last showed the object, or after which the watch showed it.
    shown: Generation,
    /// When the watch showed the object as it is recorded; unset if a list did.
    watched: Option<Instant>,
}

impl<K, R> Default for Mirror<K, R> {
    fn default() -> Self {
        Self { records: HashMap::new(), generation: Generation::default(), is_listing: false }
    }
}

impl<K: Clone + Eq + Hash, R: PartialEq> Mirror<K, R> {
    /// Records an object as it is now; `None` stands for an object that does not concern us. Tells whether
    /// anything changed.
    pub(super) fn put(&mut self, key: &K, record: Option<R>) -> bool {
        let Some(record) = record else { return self.remove(key) };
        let watched = (!self.is_listing).then(Instant::now);
        let now = Record { object: Arc::new(record), shown: self.generation, watched };
        let record = Arc::clone(&now.object);
        self.records.insert(key.clone(), now).is_none_or(|before| before.object != record)
    }

    /// Removes an object's record. Tells whether there was one.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        self.records.remove(key).is_some()
    }

    /// Begins a list of all objects.
    pub(super) fn begin_list(&mut self) {
        self.generation.advance();
        self.is_listing = true;
    }

    /// Ends a list: removes the records of the objects that it did not show, and returns their keys.
    pub(super) fn end_list(&mut self) -> Vec<K> {
        self.end_list_but(|_| false)
    }

    /// Ends a list as [`Mirror::end_list`] does, but leaves the records that are to stay without their objects.
    pub(super) fn end_list_but(&mut self, stays: impl Fn(&R) -> bool) -> Vec<K> {
        let generation = self.generation;
        self.is_listing = false;
        let is_gone = |record: &Record<R>| record.shown != generation && !stays(&record.object);
        self.records.extract_if(|_, record| is_gone(record)).map(|(key, _)| key).collect()
    }

    /// Returns the record of an object.
    pub(super) fn get(&self, key: &K) -> Option<Arc<R>> {
        self.records.get(key).map(|record| Arc::clone(&record.object))
    }

    /// Returns when the watch showed an object as it is recorded; `None` if a list did. A list shows objects in the
    /// order of their names, and so tells nothing of the others; what a watch shows comes in the order of its time.
    pub(super) fn watched(&self, key: &K) -> Option<Instant> {
        self.records.get(key)?.watched
    }

    /// Returns all records for which `wanted` is true.
    pub(super) fn all(&self, wanted: impl Fn(&R) -> bool) -> Vec<Arc<R>> {
        let records = self.records.values().map(|record| &record.object);
        records.filter(|record| wanted(record)).map(Arc::clone).collect()
    }

    /// Iterates over all records and their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &R)> {
        self.records.iter().map(|(key, record)| (key, &*record.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Mirror<&'static str, u32>;

    #[test]
    fn only_what_differs_is_a_change() {
        let mut mirror = Numbers::default();
        assert!(mirror.put(&"a", Some(1)));
        assert!(!mirror.put(&"a", Some(1)));
        assert!(mirror.put(&"a", Some(2)));
        assert!(mirror.put(&"a", None));
        assert!(!mirror.put(&"a", None));
    }

    #[test]
    fn what_a_list_does_not_bring_has_gone() {
        let mut mirror = Numbers::default();
        for name in ["a", "b", "c"] {
            mirror.put(&name, Some(1));
        }
        mirror.begin_list();
        assert!(!mirror.put(&"a", Some(1)));
        mirror.put(&"b", None);
        assert_eq!(mirror.end_list(), ["c"]);
        assert_eq!(mirror.iter().count(), 1);
    }

    #[test]
    fn a_list_that_is_cut_short_loses_nothing() {
        let mut mirror = Numbers::default();
        mirror.put(&"a", Some(1));
        mirror.begin_list();
        mirror.begin_list();
        mirror.put(&"a", Some(1));
        assert!(mirror.end_list().is_empty());
        assert!(mirror.get(&"a").is_some());
    }
}
