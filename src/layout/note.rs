//! Notes on the export, which say whose a directory there is or was.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use crate::values::path::RelPath;

/// The version of the notes that are written. A note from before there were versions has none, and is read too.
const VERSION: u64 = 1;

/// The largest size in bytes of a note that is read. Notes made of the API server's names are far smaller.
pub const NOTE_MAX: usize = 64 * 1024;

/// The largest number of characters that an error tells about an unreadable note: they may quote it.
const WORDS_MAX: usize = 200;

/// The origin of a directory on the export, as one line of JSON.
///
/// A note informs and never authorises a removal: anybody who can write at the export's root can write a note. The only thing
/// that is handed out because a note says so is an archive, or what the trash keeps, to a claim of a class that wants that
/// (`claimRestore`). A volume's Pods cannot: they mount the volume's directory, and
/// notes lie beside it, in a directory that is root's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The path of the volume's directory beneath the export.
    #[serde(serialize_with = "as_text", deserialize_with = "directory")]
    pub directory: RelPath,
    /// The volume's name.
    pub volume: Box<str>,
    /// The name of the volume's class; empty if it named none.
    pub class: Box<str>,
    /// The namespace of the claim that the volume was made for, if it was made for one.
    pub namespace: Option<Box<str>>,
    /// The claim's name.
    pub claim: Option<Box<str>>,
    /// The claim's uid, which tells the claim from a later one of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<Box<str>>,
    /// The time at which the directory was archived; unset in the note of a volume.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub archived: Option<Timestamp>,
    /// The time at which the volume was made, or its first note was written if the API server did not tell that.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The time at which the claim had gone while the directory stayed where it was; unset if it had not.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub released: Option<Timestamp>,
    /// The time until which the archive is kept; unset if that is for ever.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Timestamp>,
    /// The volume's capacity, as the API server spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Box<str>>,
    /// The volume's access modes; empty if they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_modes: Vec<Box<str>>,
    /// The options that the volume was mounted with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_options: Vec<Box<str>>,
    /// The volume's reclaim policy, as the API server spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<Box<str>>,
    /// The fate of the directory that the class set, in the word of its parameter `onDelete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<Box<str>>,
    /// The fate that the claim chose, where its class let it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete_of_claim: Option<Box<str>>,
    /// The fate that an admin had set on the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete_of_volume: Option<Box<str>>,
    /// For how long what is deleted was to be kept in the trash, as the class's parameter had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_retention: Option<Box<str>>,
    /// The free space below which that was to go earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_retention_min_free: Option<Box<str>>,
    /// For how long archives were to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_retention: Option<Box<str>>,
    /// The group that the volume's Pods had besides their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The directory's mode and owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owners: Option<Owners>,
    /// The number of the directory's inode when it was put away, or is about to be brought back: the name alone may be that
    /// of another one later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// The name of the provisioner that made the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<Box<str>>,
    /// The name of the archive, or of the entry of the trash, that the directory was before, if it was brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<Box<str>>,
    /// The [`ClusterMark`](super::ClusterMark) of the cluster that had the volume, if it was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Box<str>>,
}

/// A directory's mode and owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    /// The mode, in octal digits.
    pub mode: Box<str>,
    /// The number of the owner.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
}

/// The reason why a text is not a note that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// A later version wrote the note.
    #[error("has version {0}, but this provisioner reads notes only up to version {VERSION}")]
    Newer(u64),
    /// The text is torn, or was never a note.
    #[error("is not a note: {0}")]
    Unreadable(Box<str>),
}

impl Note {
    /// Writes the note as one line with a line feed at the end. The text has no other control character, whatever
    /// tenants have put into their names, so a terminal can show it safely.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u64,
            #[serde(flatten)]
            note: &'a Note,
        }
        // Text, numbers and lists of text can always be written.
        let json = serde_json::to_string(&Versioned { version: VERSION, note: self }).unwrap_or_default();
        let mut line = String::with_capacity(json.len() + 1);
        for character in json.chars() {
            // JSON does not escape control characters from U+007F on.
            if character.is_control() {
                // Writing to a String does not fail.
                let _ = write!(line, "\\u{:04x}", u32::from(character));
            } else {
                line.push(character);
            }
        }
        line + "\n"
    }

    /// Reads a note. Unknown fields are ignored.
    ///
    /// # Errors
    /// Returns an error if a later version wrote the note, or if the text is no note: torn, foreign, or longer
    /// than [`NOTE_MAX`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(default)]
            version: u64,
        }
        if text.len() > NOTE_MAX {
            return Err(NoteError::Unreadable(format!("has more than {NOTE_MAX} bytes").into()));
        }
        // The version is read first: a later one may have given other fields another shape.
        let Versioned { version } = read(text)?;
        if version > VERSION { Err(NoteError::Newer(version)) } else { read(text) }
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, NoteError> {
    let words = |error: serde_json::Error| error.to_string().chars().take(WORDS_MAX).collect::<String>();
    serde_json::from_str(text).map_err(|error| NoteError::Unreadable(words(error).into()))
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
    let text = Box::<str>::deserialize(deserializer)?;
    RelPath::parse(&text).map_err(|error| D::Error::custom(format_args!("the directory {error}")))
}

/// Times as in RFC 3339, where there may be none.
mod time {
    use jiff::Timestamp;
    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::{Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes fields so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Box::<str>::deserialize(deserializer)?;
        // The error would quote the text, control characters and all.
        text.parse().map(Some).map_err(|_| D::Error::custom("a time is not one as in RFC 3339"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note as the program wrote it before notes had a version.
    const OLD: &str = r#"{"archived":"2025-06-01T12:00:00.5Z","claim":"data","class":"nfs","directory":"shop/data","namespace":"shop","volume":"pvc-1"}"#;

    fn old() -> Note {
        Note {
            directory: RelPath::parse("shop/data").unwrap(),
            volume: "pvc-1".into(),
            class: "nfs".into(),
            namespace: Some("shop".into()),
            claim: Some("data".into()),
            claim_uid: None,
            archived: "2025-06-01T12:00:00.5Z".parse().ok(),
            created: None,
            released: None,
            kept_until: None,
            capacity: None,
            access_modes: Vec::new(),
            mount_options: Vec::new(),
            reclaim_policy: None,
            on_delete: None,
            on_delete_of_claim: None,
            gid: None,
            on_delete_of_volume: None,
            delete_retention: None,
            delete_retention_min_free: None,
            archive_retention: None,
            owners: None,
            inode: None,
            provisioner: None,
            restored_from: None,
            cluster: None,
        }
    }

    #[test]
    fn notes_are_one_line_that_never_changes() {
        let bare = Note { namespace: None, claim: None, class: "".into(), ..old() };
        let full = Note {
            claim_uid: Some("1-2".into()),
            capacity: Some("1Gi".into()),
            access_modes: vec!["ReadWriteMany".into()],
            gid: Some(2000),
            provisioner: Some("example.com/nfs".into()),
            kept_until: "2025-07-01T12:00:00Z".parse().ok(),
            ..old()
        };
        let live = Note {
            archived: None,
            created: "2025-06-01T12:00:00Z".parse().ok(),
            released: None,
            mount_options: vec!["nfsvers=4.2".into()],
            reclaim_policy: Some("Delete".into()),
            on_delete: Some("archive".into()),
            on_delete_of_claim: Some("retain".into()),
            owners: Some(Owners { mode: "2770".into(), uid: 0, gid: 2000 }),
            on_delete_of_volume: None,
            delete_retention: None,
            delete_retention_min_free: None,
            archive_retention: None,
            cluster: Some("7-8".into()),
            ..old()
        };
        let rows = [
            (
                live,
                r#"{"version":1,"directory":"shop/data","volume":"pvc-1","class":"nfs","namespace":"shop","claim":"data","created":"2025-06-01T12:00:00Z","mountOptions":["nfsvers=4.2"],"reclaimPolicy":"Delete","onDelete":"archive","onDeleteOfClaim":"retain","owners":{"mode":"2770","uid":0,"gid":2000},"cluster":"7-8"}"#,
            ),
            (
                bare,
                r#"{"version":1,"directory":"shop/data","volume":"pvc-1","class":"","namespace":null,"claim":null,"archived":"2025-06-01T12:00:00.5Z"}"#,
            ),
            (
                full,
                r#"{"version":1,"directory":"shop/data","volume":"pvc-1","class":"nfs","namespace":"shop","claim":"data","claimUid":"1-2","archived":"2025-06-01T12:00:00.5Z","keptUntil":"2025-07-01T12:00:00Z","capacity":"1Gi","accessModes":["ReadWriteMany"],"gid":2000,"provisioner":"example.com/nfs"}"#,
            ),
        ];
        for (note, expected) in rows {
            assert_eq!(note.to_json(), format!("{expected}\n"));
            assert_eq!(Note::parse(&note.to_json()), Ok(note));
        }
        let odd = RelPath::parse("a\n\u{1b}[2J\u{7f}\u{9b}é\u{2028}\"\\").unwrap();
        let odd = Note { directory: odd, ..old() };
        assert!(odd.to_json().contains("a\\n\\u001b[2J\\u007f\\u009bé\u{2028}\\\"\\\\\""), "{}", odd.to_json());
        assert_eq!(Note::parse(&odd.to_json()), Ok(odd));
    }

    #[test]
    fn notes_of_other_versions_are_read_if_they_are_older() {
        let with = |fields: &str| OLD.replacen('{', &format!("{{{fields},"), 1);
        for text in [OLD.to_owned(), format!("\n {OLD}\n"), with("\"version\":0"), with("\"later\":[{}]")] {
            assert_eq!(Note::parse(&text), Ok(old()), "{text}");
        }
        assert_eq!(Note::parse(&with("\"version\":2")), Err(NoteError::Newer(2)));
        assert_eq!(Note::parse(r#"{"version":7,"directory":{"export":1}}"#), Err(NoteError::Newer(7)));
    }

    #[test]
    fn what_is_torn_or_foreign_is_no_note() {
        let long = format!("{OLD}{}", " ".repeat(NOTE_MAX));
        let deep = "[".repeat(NOTE_MAX);
        let quoted = OLD.replace("2025-06-01T12:00:00.5Z", &"\u{9b}".repeat(500));
        let texts =
            ["", "\n", "{}", "[]", "null", "note", "{\"version\":1}", "{\"version\":-1}", &long, &deep, &quoted];
        let edited = [
            ("shop/data", "shop/../data"),
            ("shop/data", "/"),
            ("\"shop/data\"", "1"),
            ("\"pvc-1\"", "null"),
            ("{", "{\"version\":\"1\","),
            ("{", "{\"volume\":\"pvc-2\","),
            ("{", "{\"gid\":-1,"),
            ("{", "{\"keptUntil\":\"soon\","),
            ("{", "{\"keptUntil\":null,"),
            ("{", "{\"keptUntil\":1,"),
            ("2025-06", "2025-13"),
        ];
        let edited = edited.map(|(from, to)| OLD.replacen(from, to, 1));
        let torn = (0..OLD.len()).map(|end| &OLD[..end]);
        for text in texts.into_iter().chain(edited.iter().map(String::as_str)).chain(torn) {
            let Err(NoteError::Unreadable(words)) = Note::parse(text) else { panic!("{text}") };
            assert!(!words.is_empty() && words.len() < 1000 && !words.contains(char::is_control), "{words:?}");
        }
    }
}
