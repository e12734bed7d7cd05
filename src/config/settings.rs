//! Reads settings one by one, and collects what is wrong with them, so that all of it is said at once.

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

/// The settings that are being read, as far as something is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    wrong: Vec<String>,
}

impl Settings {
    /// Reads a setting that must be there. Where it is not, or is wrong, that is noted.
    ///
    /// `name` is the environment variable, from which the flag's name follows.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        value: Option<&str>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let read = match value {
            None | Some("") => Err("is not set".to_owned()),
            Some(text) => read(text),
        };
        let flag = name.to_lowercase().replace('_', "-");
        let with_names = |error| format!("{name} {error} (environment variable {name} or flag --{flag})");
        read.map_err(|error| self.wrong(with_names(error))).ok()
    }

    /// Reads a setting that is `default` where it is empty.
    pub(super) fn or_default<T>(
        &mut self,
        name: &str,
        value: &str,
        default: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.required(name, Some(if value.is_empty() { default } else { value }), read)
    }

    /// Notes what is wrong.
    pub(super) fn wrong(&mut self, words: String) {
        self.wrong.push(words);
    }

    /// Returns how much is wrong so far.
    pub(super) fn faults(&self) -> usize {
        self.wrong.len()
    }

    /// Returns what the settings were made into, unless anything is wrong with them: then all of that.
    ///
    /// # Errors
    /// Returns everything that is wrong.
    pub(super) fn take<T>(self, made: Option<T>) -> Result<T, BadSettings> {
        made.filter(|_| self.wrong.is_empty()).ok_or(BadSettings(self.wrong))
    }
}
