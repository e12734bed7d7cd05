//! The file of exports: one entry for each.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::exports::NamedExport;
use crate::values::address::ExportAddress;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportsFile {
    exports: Vec<ExportEntry>,
}

/// An export in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportEntry {
    name: String,
    server: String,
    path: String,
    mount: PathBuf,
}

/// An export, and the directory where it is mounted.
pub(super) type Mounted = (NamedExport, PathBuf);

/// Reads the exports that a file names: at least one.
///
/// # Errors
/// Returns what is wrong with the file, in words that follow its name.
pub(super) fn read_exports(file: &Path) -> Result<Vec<Mounted>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    let file: ExportsFile = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    if file.exports.is_empty() {
        return Err("names no export".to_owned());
    }
    file.exports.into_iter().enumerate().map(|(number, entry)| entry.read(number)).collect()
}

impl ExportEntry {
    fn read(self, number: usize) -> Result<Mounted, String> {
        let at = |field: &str, words: String| format!("exports[{number}].{field} {words}");
        if !is_name(&self.name) {
            let words = format!("must be of at most 63 lower case letters, digits and \"-\", not {:?}", self.name);
            return Err(at("name", words));
        }
        if !self.mount.is_absolute() {
            return Err(at("mount", format!("must be an absolute path, not \"{}\"", self.mount.display())));
        }
        let server = ExportAddress::server(&self.server).map_err(|words| at("server", words))?;
        let path = ExportAddress::path(&self.path).map_err(|words| at("path", words))?;
        Ok((NamedExport { name: self.name.into(), address: ExportAddress::new(server, path) }, self.mount))
    }
}

/// Returns whether a text can be an export's name, which the chart makes a name of a volume in a Pod, too.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_end = |c: Option<char>| c.is_some_and(|c| c != '-');
    text.len() <= 63 && text.chars().all(plain) && is_end(text.chars().next()) && is_end(text.chars().next_back())
}
