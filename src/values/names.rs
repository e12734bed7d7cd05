//! Names of Kubernetes objects, each kind a type of its own, so that one cannot be taken for another.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Declares a type for one kind of name. Clones share the text.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        /// Lets a map be searched by text that Kubernetes has sent as this kind of name.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name! {
    /// The uid of a PersistentVolumeClaim. No other claim ever has it.
    ClaimUid
}

name! {
    /// The name of a PersistentVolume.
    VolumeName
}

name! {
    /// The name of a StorageClass; empty if a claim or a volume names none.
    ClassName
}

/// The text that upstream's library puts before a claim's uid to name the claim's volume.
const VOLUME_PREFIX: &str = "pvc-";

impl ClaimUid {
    /// Returns the name of the claim's volume, which no other claim's volume has.
    #[must_use]
    pub fn volume_name(&self) -> VolumeName {
        VolumeName([VOLUME_PREFIX, self.as_str()].concat().into())
    }
}

impl VolumeName {
    /// Returns the uid of the claim whose volume has this name; `None` if the name is not one that
    /// [`ClaimUid::volume_name`] returns.
    #[must_use]
    pub fn claim_uid(&self) -> Option<ClaimUid> {
        self.0.strip_prefix(VOLUME_PREFIX).map(ClaimUid::from)
    }
}

impl ClassName {
    /// Tells whether a class may have this name: the API server takes DNS subdomains alone
    /// (`ValidateStorageClassName`), and what an annotation names may be anything.
    #[must_use]
    pub fn may_exist(&self) -> bool {
        is_dns_subdomain(&self.0)
    }
}

/// Tells whether a text is a DNS subdomain, as the names of most objects must be
/// ([the rule](https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names)).
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_plain) && label.ends_with(is_plain) && label.chars().all(|c| is_plain(c) || c == '-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A reference to a claim. Displays as `<namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    /// The claim's namespace.
    pub namespace: Box<str>,
    /// The claim's name.
    pub name: Box<str>,
    /// The claim's uid.
    pub uid: ClaimUid,
}

impl fmt::Display for ClaimRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volumes_name_tells_its_claim() {
        let uid = ClaimUid::from("1-2");
        assert_eq!(uid.volume_name(), VolumeName::from("pvc-1-2"));
        assert_eq!(uid.volume_name().claim_uid(), Some(uid));
        assert_eq!(VolumeName::from("by-hand").claim_uid(), None);
    }

    #[test]
    fn no_class_has_a_name_that_the_api_server_does_not_take() {
        for name in ["nfs", "a", "9-x.example.com", &"x".repeat(253)] {
            assert!(ClassName::from(name).may_exist(), "{name}");
        }
        let others = [
            "",
            "NFS",
            "a b",
            "x\ny",
            "nfs?x",
            "../persistentvolumes/v",
            "-a",
            "a-",
            "a..b",
            "a.",
            "a_b",
            "\u{fc}",
        ];
        for name in others.into_iter().chain([&*"x".repeat(254)]) {
            assert!(!ClassName::from(name).may_exist(), "{name}");
        }
    }

    #[test]
    fn a_claim_is_shown_as_kubectl_users_write_it() {
        let claim = ClaimRef { namespace: "shop".into(), name: "data".into(), uid: "1".into() };
        assert_eq!(claim.to_string(), "shop/data");
    }
}
