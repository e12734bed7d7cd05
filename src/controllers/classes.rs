//! The classes that were read, apart from the watch, for the last look before something is destroyed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::class::Class;
use crate::values::names::ClassName;
use crate::values::time::BootTime;

/// How long a class that was read is taken to be so. With the time for which a proof lasts after that, what is destroyed
/// follows the class as it was at most ten seconds before.
const CLASS_FOR: Duration = Duration::from_secs(5);

/// Classes, where they exist, and when it was asked for each.
#[derive(Debug, Default)]
pub struct ReadClasses(HashMap<ClassName, (BootTime, Option<Arc<Class>>)>);

impl ReadClasses {
    /// Returns a class as it was at most [`CLASS_FOR`] before `now`, unless the watch has shown something else;
    /// `Some(None)` if there was none of this name.
    #[expect(clippy::option_option, reason = "not known and not there are different answers")]
    pub(super) fn get(
        &self,
        name: &ClassName,
        shown: Option<&Arc<Class>>,
        now: BootTime,
    ) -> Option<Option<Arc<Class>>> {
        let (asked, class) = self.0.get(name)?;
        (now < *asked + CLASS_FOR && class.as_ref() == shown).then(|| class.clone())
    }

    /// Notes what the answer was to a question of this time, unless a later one has been answered.
    pub(super) fn put(&mut self, name: &ClassName, asked: BootTime, class: Option<Arc<Class>>) {
        self.0.retain(|_, (before, _)| asked < *before + CLASS_FOR);
        if self.0.get(name).is_none_or(|(before, _)| *before <= asked) {
            self.0.insert(name.clone(), (asked, class));
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::StorageClass;
    use serde_json::json;

    use super::*;

    fn class(fate: &str) -> Arc<Class> {
        let class = json!({
            "metadata": {"name": "nfs", "uid": "1"}, "provisioner": "p", "parameters": {"onDelete": fate},
        });
        Arc::new(Class::read(&serde_json::from_value::<StorageClass>(class).unwrap()))
    }

    #[test]
    fn the_latest_answer_counts_for_a_while_and_only_as_long_as_the_watch_says_the_same() {
        let (mut read, name, now) = (ReadClasses::default(), ClassName::from("nfs"), BootTime::now());
        let (old, new) = (class("delete"), class("retain"));
        assert_eq!(read.get(&name, None, now), None);
        let second = Duration::from_secs(1);
        read.put(&name, now + second, Some(Arc::clone(&new)));
        // An answer that was long on its way.
        read.put(&name, now, Some(Arc::clone(&old)));
        assert_eq!(read.get(&name, Some(&old), now + second), None, "the watch has not shown it yet");
        assert_eq!(read.get(&name, Some(&new), now + second), Some(Some(Arc::clone(&new))));
        assert_eq!(read.get(&name, None, now + second), None);
        assert_eq!(read.get(&name, Some(&new), now + second + CLASS_FOR), None);
        read.put(&name, now + second + CLASS_FOR, None);
        assert_eq!(read.get(&name, None, now + second + CLASS_FOR), Some(None), "there is none");
    }
}
