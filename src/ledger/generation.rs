//! Which list of all objects has shown one last: what the latest complete list has not shown does not exist any more.

use std::num::NonZeroU32;

/// The number of a list. Records keep that of the list, or of the watch behind it, that has last shown them.
///
/// A list that is cut short and begun anew has a new number, so that only what the complete one has shown counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(NonZeroU32);

impl Default for Generation {
    fn default() -> Self {
        Self(NonZeroU32::MIN)
    }
}

impl Generation {
    /// Begins the next list.
    pub fn advance(&mut self) {
        self.0 = self.0.checked_add(1).unwrap_or(NonZeroU32::MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_has_another_number_and_a_record_has_room_for_none() {
        let mut generation = Generation::default();
        let first = generation;
        generation.advance();
        assert_ne!(generation, first);
        assert_eq!(size_of::<Option<Generation>>(), 4);
        let mut last = Generation(NonZeroU32::MAX);
        last.advance();
        assert_eq!(last, first);
    }
}
