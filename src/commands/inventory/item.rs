//! What is listed, and by what it is chosen.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::values::path::RelPath;
use crate::values::retention::Retention;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This provisioner's volumes.
    Volumes,
    /// The directories that were kept when their volumes went.
    Archives,
    /// The directories that are to be removed.
    Trash,
    /// The directories that belong to no volume of this cluster.
    Orphans,
}

/// A volume, an archive, an entry of the trash or an orphan. What is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is called: the volume's name, the archive's, the trash entry's, or the orphan's path.
    pub name: String,
    /// The name of the export that it is on.
    pub export: String,
    /// The path of the volume's directory beneath the export, as it is or was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The namespace of the volume's claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the volume's claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The name of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The name of the volume's class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The mark of the cluster that has noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What the claim had asked for, as Kubernetes spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// How many bytes it takes on the export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// The volume's phase, or what is to be known of the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What becomes of the directory when the claim goes: `archive`, `delete` or `retain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
    /// When the volume was made, the directory was archived or put into the trash, or the orphan last changed.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Until when it is certainly kept.
    #[serde(serialize_with = "time", skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Timestamp>,
    /// Where what it holds lies on the export.
    #[serde(skip)]
    pub lies_at: Option<RelPath>,
}

#[expect(clippy::ref_option, reason = "serde passes fields so")]
fn time<S: serde::Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&seconds(*time)),
        None => serializer.serialize_none(),
    }
}

/// Cuts a time to whole seconds, which people can read.
pub(super) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Which items are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Of claims in this namespace alone.
    pub namespace: Option<String>,
    /// Of this class alone.
    pub class: Option<String>,
    /// On the export of this name alone.
    pub export: Option<String>,
    /// Older than this alone.
    pub older_than: Option<SignedDuration>,
    /// Of one of these names alone, unless there are none.
    pub names: Vec<String>,
}

impl Query {
    /// Tells whether an item is asked for. One of which that is not known is not.
    #[must_use]
    pub fn asks_for(&self, item: &Item, now: Timestamp) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(&self.namespace, &item.namespace)
            && is(&self.class, &item.class)
            && self.export.as_ref().is_none_or(|export| *export == item.export)
            && (self.names.is_empty() || self.names.contains(&item.name))
            && self.older_than.is_none_or(|age| item.at.is_some_and(|at| now.duration_since(at) > age))
    }
}

/// Reads an age such as `30d`, as retentions are written.
///
/// # Errors
/// Says what it must be.
pub fn age(text: &str) -> Result<SignedDuration, String> {
    let age = text.parse().map_err(|()| format!("must be an age such as 12h or 30d, not {text:?}"));
    age.map(|age: Retention| SignedDuration::from_secs(i64::try_from(age.seconds()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_number_and_a_unit() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("12h", 43200), ("30d", 2_592_000), ("2w", 1_209_600)] {
            assert_eq!(age(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "30", "-1d", "1.5d", "1d2h", "1 d", "9223372036854775807w", "1D", "0s"] {
            assert!(age(text).is_err_and(|words| words.contains("30d")), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_asked_for() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let item = Item {
            name: "a".into(),
            export: "fast".into(),
            namespace: Some("shop".into()),
            at: Timestamp::from_second(999_000).ok(),
            ..Item::default()
        };
        let some = |text: &str| Some(text.to_owned());
        let rows = [
            (Query::default(), true),
            (Query { namespace: some("shop"), ..Query::default() }, true),
            (Query { namespace: some("other"), ..Query::default() }, false),
            (Query { class: some("nfs"), ..Query::default() }, false),
            (Query { export: some("fast"), ..Query::default() }, true),
            (Query { export: some("slow"), ..Query::default() }, false),
            (Query { names: vec!["b".into()], ..Query::default() }, false),
            (Query { names: vec!["b".into(), "a".into()], ..Query::default() }, true),
            (Query { older_than: Some(SignedDuration::from_secs(999)), ..Query::default() }, true),
            (Query { older_than: Some(SignedDuration::from_secs(1000)), ..Query::default() }, false),
        ];
        for (query, expected) in rows {
            assert_eq!(query.asks_for(&item, now), expected, "{query:?}");
        }
        let ageless = Item { at: None, ..item };
        let old = Query { older_than: Some(SignedDuration::ZERO), ..Query::default() };
        assert!(!old.asks_for(&ageless, now));
    }
}
