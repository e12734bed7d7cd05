//! The volumes that claims are to be copies of, as far as this process has judged the claims.
//!
//! Pure bookkeeping. A volume that a copy was ordered of stays, with its directory, from the order on, whether the
//! copy is under way or waits for its turn.

use std::collections::HashMap;

use crate::values::names::{ClaimUid, VolumeName};

/// What was found out about the source of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// The claim is to be a copy of this volume.
    CopyOf {
        /// The volume's name.
        volume: VolumeName,
        /// The volume's uid.
        uid: Box<str>,
    },
    /// The claim is not to be a copy of anything, as it is.
    NoCopy,
}

/// The claims that were judged.
#[derive(Debug, Default)]
pub struct Sources(HashMap<ClaimUid, Judged>);

impl Sources {
    /// Notes what a claim is to be a copy of. Returns the volume that the claim was to be a copy of before, if that
    /// was another one.
    pub fn judge(&mut self, claim: &ClaimUid, judged: Judged) -> Option<VolumeName> {
        let now = match &judged {
            Judged::CopyOf { volume, .. } => Some(volume.clone()),
            Judged::NoCopy => None,
        };
        let before = self.0.insert(claim.clone(), judged).and_then(volume_of);
        before.filter(|before| now.as_ref() != Some(before))
    }

    /// Forgets what was found out about a claim. Returns the volume that it was to be a copy of.
    pub fn forget(&mut self, claim: &ClaimUid) -> Option<VolumeName> {
        self.0.remove(claim).and_then(volume_of)
    }

    /// Forgets which claims are not to be copies of anything.
    pub fn forget_refused(&mut self) {
        self.0.retain(|_, judged| *judged != Judged::NoCopy);
    }

    /// Returns what was found out about a claim.
    #[must_use]
    pub fn of(&self, claim: &ClaimUid) -> Option<&Judged> {
        self.0.get(claim)
    }

    /// Tells whether any claim is to be a copy of a volume of this name.
    #[must_use]
    pub fn is_source(&self, volume: &VolumeName) -> bool {
        let is_it = |judged: &Judged| matches!(judged, Judged::CopyOf { volume: of, .. } if of == volume);
        self.0.values().any(is_it)
    }
}

fn volume_of(judged: Judged) -> Option<VolumeName> {
    match judged {
        Judged::CopyOf { volume, .. } => Some(volume),
        Judged::NoCopy => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_source_until_no_claim_is_to_be_a_copy_of_it() {
        let copy_of = |volume: &str| Judged::CopyOf { volume: volume.into(), uid: "1".into() };
        let is_source = |sources: &Sources| ["v", "w"].map(|volume| sources.is_source(&volume.into()));
        let mut sources = Sources::default();
        for claim in ["a", "b"] {
            assert_eq!(sources.judge(&claim.into(), copy_of("v")), None);
            assert_eq!(sources.judge(&claim.into(), copy_of("v")), None, "the same again");
        }
        assert_eq!(is_source(&sources), [true, false]);
        assert_eq!(sources.forget(&"a".into()), Some("v".into()));
        assert_eq!(is_source(&sources), [true, false], "there is another one");
        assert_eq!(sources.judge(&"b".into(), copy_of("w")), Some("v".into()));
        assert_eq!(is_source(&sources), [false, true]);
        assert_eq!(sources.judge(&"b".into(), Judged::NoCopy), Some("w".into()));
        assert_eq!(sources.of(&"b".into()), Some(&Judged::NoCopy));
        assert_eq!(is_source(&sources), [false, false]);
        sources.judge(&"c".into(), copy_of("v"));
        sources.forget_refused();
        assert_eq!((sources.of(&"b".into()), is_source(&sources)), (None, [true, false]));
        assert_eq!((sources.forget(&"b".into()), sources.of(&"b".into())), (None, None));
    }
}
