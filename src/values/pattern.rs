//! `pathPattern`: the class parameter that says where a claim's directory lies.

use std::collections::BTreeMap;

/// The values that a pattern may use.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The claim's name.
    pub name: &'a str,
    /// The claim's namespace.
    pub namespace: &'a str,
    /// The claim's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The claim's annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// The name of the claim's volume.
    pub volume: &'a str,
    /// The name of the claim's class.
    pub class: &'a str,
}

/// A parsed `pathPattern`.
///
/// As with upstream, a token is `${.PVC.` up to the next `}` on the same line; all other text is literal, and
/// there is no escape. In addition, `${.PV.name}` and `${.SC.name}` are tokens, and a default may follow the key
/// after `:-`, which no key of a label or annotation contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Token {
        /// The token as it is written.
        text: Box<str>,
        key: Key,
        /// The text for a value that is missing or empty.
        default: Option<Box<str>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Name,
    Namespace,
    Label(Box<str>),
    Annotation(Box<str>),
    Volume,
    Class,
    /// A key that is not known. It renders as nothing, as with upstream.
    Unknown,
}

const OPEN: &str = "${.";

impl Pattern {
    /// Parses a pattern. Every text is one.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(OPEN) {
            literal.push_str(before);
            if let Some((token, behind)) = Part::token(after) {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(token);
                rest = behind;
            } else {
                literal.push_str(OPEN);
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Self(parts)
    }

    /// Fills in the pattern. Works in one pass, so that a token in a tenant's annotation is not expanded.
    ///
    /// The result is a tenant's text. It is not a path before [`crate::values::path::RelPath`] has parsed it.
    #[must_use]
    pub fn render(&self, facts: &Facts<'_>) -> String {
        let values = self.0.iter().map(|part| match part {
            Part::Literal(text) => text,
            Part::Token { key, default, .. } => match (key.value(facts), default) {
                ("", Some(default)) => default,
                (value, _) => value,
            },
        });
        values.collect()
    }

    /// Finds the first token that has neither a value nor a default, as it is written.
    #[must_use]
    pub fn without_value(&self, facts: &Facts<'_>) -> Option<&str> {
        self.0.iter().find_map(|part| match part {
            Part::Token { text, key, default: None } if key.value(facts).is_empty() => Some(&**text),
            Part::Token { .. } | Part::Literal(_) => None,
        })
    }

    /// Finds the first token that is not known, or literal text that looks like a token, as it is written: perhaps
    /// a typo.
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        self.0.iter().find_map(|part| match part {
            Part::Token { text, key: Key::Unknown, .. } => Some(&**text),
            Part::Token { .. } => None,
            Part::Literal(text) => {
                let begun = text.find("${").and_then(|at| text.get(at..))?;
                begun.find('}').and_then(|end| begun.get(..=end)).or(Some(begun))
            }
        })
    }
}

impl Part {
    /// Parses the token whose text follows [`OPEN`]; returns it and the text after it.
    fn token(text: &str) -> Option<(Self, &str)> {
        let (inside, behind) = text.split_once('}')?;
        if inside.contains('\n') {
            return None;
        }
        let (object, key) = inside.split_once('.')?;
        let (key, default) =
            key.split_once(":-").map_or((key, None), |(key, default)| (key, Some(default.into())));
        let key = Key::of(object, key)?;
        Some((Self::Token { text: format!("{OPEN}{inside}}}").into(), key, default }, behind))
    }
}

impl Key {
    /// Parses a key; `None` for text that is literal to upstream and means nothing to us either.
    fn of(object: &str, key: &str) -> Option<Self> {
        Some(match (object, key, key.split_once('.')) {
            ("PVC", "name", _) => Self::Name,
            ("PVC", "namespace", _) => Self::Namespace,
            ("PVC", _, Some(("labels", label))) => Self::Label(label.into()),
            ("PVC", _, Some(("annotations", annotation))) => Self::Annotation(annotation.into()),
            ("PVC", _, _) => Self::Unknown,
            ("PV", "name", _) => Self::Volume,
            ("SC", "name", _) => Self::Class,
            _ => return None,
        })
    }

    fn value<'a>(&self, facts: &Facts<'a>) -> &'a str {
        match self {
            Self::Name => facts.name,
            Self::Namespace => facts.namespace,
            Self::Label(key) => facts.labels.get(&**key).map_or("", String::as_str),
            Self::Annotation(key) => facts.annotations.get(&**key).map_or("", String::as_str),
            Self::Volume => facts.volume,
            Self::Class => facts.class,
            Self::Unknown => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_render_as_the_peers_do() {
        let labels =
            BTreeMap::from([("team".to_owned(), "blue".to_owned()), ("a.b/c".to_owned(), "dotted".to_owned())]);
        let annotations = BTreeMap::from([
            ("nfs.io/storage-path".to_owned(), "deep/er".to_owned()),
            ("sly".to_owned(), "${.PVC.name}".to_owned()),
            ("x${.PVC.name".to_owned(), "nested".to_owned()),
        ]);
        let facts = Facts {
            name: "data",
            namespace: "shop",
            labels: &labels,
            annotations: &annotations,
            volume: "pvc-1",
            class: "nfs",
        };
        let rows = [
            ("", ""),
            ("plain", "plain"),
            ("${.PVC.namespace}/${.PVC.name}", "shop/data"),
            ("${.PVC.namespace}-${.PVC.name}!", "shop-data!"),
            ("${.PVC.labels.team}", "blue"),
            ("${.PVC.labels.a.b/c}", "dotted"),
            ("${.PVC.annotations.nfs.io/storage-path}", "deep/er"),
            ("a${.PVC.labels.absent}b", "ab"),
            ("${.PVC.annotations.absent}", ""),
            ("${.PVC.labels.}${.PVC.labels}${.PVC.annotations}${.PVC.uid}${.PVC.}", ""),
            ("$${.PVC.name}", "$data"),
            ("${ .PVC.name }", "${ .PVC.name }"),
            ("${.pvc.name}", "${.pvc.name}"),
            ("${.PVC.name", "${.PVC.name"),
            ("${.PVC.na\nme}${.PVC.name}", "${.PVC.na\nme}data"),
            ("${.PVC.annotations.x${.PVC.name}}", "nested}"),
            // A value is never expanded again.
            ("${.PVC.annotations.sly}/${.PVC.name}", "${.PVC.name}/data"),
        ];
        for (text, expected) in rows {
            assert_eq!(Pattern::parse(text).render(&facts), expected, "{text:?}");
        }
    }

    #[test]
    fn volume_class_and_defaults_render_where_the_peer_has_nothing() {
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned()), ("none".to_owned(), String::new())]);
        let none = BTreeMap::new();
        let facts = Facts {
            name: "data",
            namespace: "shop",
            labels: &labels,
            annotations: &none,
            volume: "pvc-1",
            class: "nfs",
        };
        // The pattern, its rendering, and the tokens that a strict class refuses: one that is not known, and one
        // that has no value.
        let rows = [
            ("${.SC.name}/${.PV.name}", "nfs/pvc-1", None, None),
            ("${.PVC.labels.team:-red}", "blue", None, None),
            ("${.PVC.labels.absent:-red}/x", "red/x", None, None),
            ("${.PVC.labels.none:-a/b:-c}", "a/b:-c", None, None),
            ("a${.PVC.labels.absent:-}b", "ab", None, None),
            ("a${.PVC.labels.none}b", "ab", None, Some("${.PVC.labels.none}")),
            ("${.PVC.name}${.PVC.annotations.x/y}", "data", None, Some("${.PVC.annotations.x/y}")),
            ("a${.PVC.uid}", "a", Some("${.PVC.uid}"), Some("${.PVC.uid}")),
            ("a${.PVC.uid:-b}", "ab", Some("${.PVC.uid:-b}"), None),
            // Literal, as with upstream.
            ("${.PV.uid}/x", "${.PV.uid}/x", Some("${.PV.uid}"), None),
            ("${.PVC.name}/${ .SC.name }", "data/${ .SC.name }", Some("${ .SC.name }"), None),
            ("x${.PV.name", "x${.PV.name", Some("${.PV.name"), None),
            ("${.PV.x${.PVC.name}}", "${.PV.xdata}", Some("${.PV.x"), None),
            ("$${.PVC.name}$", "$data$", None, None),
        ];
        for (text, rendered, unknown, without_value) in rows {
            let pattern = Pattern::parse(text);
            assert_eq!(pattern.render(&facts), rendered, "{text:?}");
            assert_eq!(pattern.unknown(), unknown, "{text:?}");
            assert_eq!(pattern.without_value(&facts), without_value, "{text:?}");
        }
    }
}
