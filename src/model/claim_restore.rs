//! Whether claims get back what was archived or deleted of earlier ones.

use std::str::FromStr;

/// When a claim gets back what was archived, or deleted and kept, of an earlier one: a class parameter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClaimRestore {
    /// Never.
    #[default]
    Off,
    /// If the claim asks for it by its annotation.
    OnRequest,
    /// Each claim of whose namespace and name there is something, and each that asks for it.
    Always,
}

/// The valid values, in words.
pub const CLAIM_RESTORE: &str = "\"off\", \"onRequest\" or \"always\"";

impl FromStr for ClaimRestore {
    type Err = ();

    /// Reads a value in small or capital letters.
    fn from_str(text: &str) -> Result<Self, ()> {
        let is = |value: &str| text.trim().eq_ignore_ascii_case(value);
        match () {
            () if is("off") => Ok(Self::Off),
            () if is("onRequest") => Ok(Self::OnRequest),
            () if is("always") => Ok(Self::Always),
            () => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_whatever_their_capitals() {
        for (text, value) in [
            ("off", Ok(ClaimRestore::Off)),
            ("onRequest", Ok(ClaimRestore::OnRequest)),
            ("onrequest", Ok(ClaimRestore::OnRequest)),
            (" Always ", Ok(ClaimRestore::Always)),
            ("true", Err(())),
            ("on-request", Err(())),
        ] {
            assert_eq!(text.parse(), value, "{text:?}");
        }
    }
}
