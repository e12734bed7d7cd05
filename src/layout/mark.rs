//! The mark of a cluster.

use std::fmt;

/// The length of the longest mark, in bytes.
const MARK_MAX: usize = 64;

/// The mark under which a cluster's notes are kept, apart from those of other clusters that share the export: the uid of
/// its namespace `kube-system`, which lives as long as the cluster, and which no other cluster has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterMark(Box<str>);

impl ClusterMark {
    /// The mark of a cluster whose uid may not be read.
    const UNKNOWN: &str = "unknown";

    /// Returns the mark of a cluster whose uid may not be read. Several clusters may have it.
    #[must_use]
    pub fn unknown() -> Self {
        Self(Self::UNKNOWN.into())
    }

    /// Reads a mark: small letters, digits and `-`, as a uid has them. Any other text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let is_mark = (1..=MARK_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        is_mark.then(|| Self(text.into()))
    }

    /// Tells whether it is one cluster's, and no other's.
    #[must_use]
    pub fn is_known(&self) -> bool {
        &*self.0 != Self::UNKNOWN
    }

    /// Returns the mark as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_name_of_one_directory() {
        let uid = "7b0ddc22-5a1c-4a39-9a0b-3f1f6cbb8b5e";
        assert_eq!(ClusterMark::parse(uid).map(|mark| mark.to_string()).as_deref(), Some(uid));
        assert!(ClusterMark::parse(uid).is_some_and(|mark| mark.is_known()) && !ClusterMark::unknown().is_known());
        assert_eq!(ClusterMark::parse(ClusterMark::unknown().as_str()), Some(ClusterMark::unknown()));
        for text in ["", ".", "..", "a/b", "a.b", "A", "\0", "é", &"a".repeat(MARK_MAX + 1)] {
            assert_eq!(ClusterMark::parse(text), None, "{text:?}");
        }
    }
}
