//! Numbers of lists, which tell what is gone: an object that the latest complete list has not shown no longer
//! exists.

use std::num::NonZeroU32;

/// The number of a list. A record keeps the number of the list that last showed its object, or after which the
/// watch showed it.
///
/// A list that is cut short and begun anew has a new number, so that only what the complete list shows counts.
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
