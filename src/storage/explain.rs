//! What goes wrong with an export, in words for whoever can mend it.

use crate::storage::error::{Errno, Problem, StorageError};
use crate::values::address::ExportAddress;

/// Says what was being done, on which export, what was wrong, and, where a person can mend it, the likely cause
/// and what to do.
#[must_use]
pub fn explain(error: &StorageError, export: &ExportAddress) -> String {
    let StorageError { doing, path, problem } = error;
    let what = format!("{doing} {path:?} on the export {export}: {problem}");
    let advice = match (*doing, *problem) {
        ("chown", Problem::Os(Errno::EPERM | Errno::EACCES)) => Some(CHOWN),
        (PLACE, Problem::Os(Errno::EEXIST | Errno::ENOTEMPTY)) => Some(TAKEN),
        (_, problem) => advice(problem),
    };
    match advice {
        Some(advice) => format!("{what}. {advice}"),
        None => what,
    }
}

/// What is being done when a copy goes to its directory.
const PLACE: &str = "place the copy at";

/// The advice where a copy cannot go to its directory.
const TAKEN: &str = "A copy goes only to a directory that is not there yet, or is empty and no other volume's. Move away \
     what is there, or make the claim again with another path (class parameter pathPattern).";

/// The advice where a directory may not be given away.
const CHOWN: &str = "Only root may give a directory to others, and the NFS server takes this provisioner for another user \
     (root_squash, all_squash). Export with no_root_squash, or take a class without directoryUid, directoryGid and \
     gidRange.";

/// Says what is likely to have caused a problem and what to do, where a person can mend it.
#[must_use]
pub fn advice(problem: Problem) -> Option<&'static str> {
    match problem {
        Problem::Os(errno) => advice_on(errno),
        Problem::NotNfs => Some(
            "Nothing is written there, because it would be lost. Mount the export at that path, or, if it is reached \
             in another way, set NFS_MOUNT_CHECK to off.",
        ),
        Problem::Link | Problem::NotDirectory => Some("Remove or rename what is there, or choose another path."),
        Problem::MountPoint => Some("Unmount what is there, or choose another path."),
        Problem::Capability(_) => Some(
            "Over NFS it would not be needed. Mount the export, or add the capability to the container's \
             securityContext.capabilities.add.",
        ),
        Problem::TooDeep => Some(
            "A copy goes no more than 500 directories deep. Move up or remove what lies deeper in the claim to copy; \
             the copy is then made by itself.",
        ),
        Problem::InGrace => Some("Wait: it lasts 90 seconds unless the server is set up otherwise."),
        Problem::StillOpen | Problem::Reserved | Problem::NotLeading | Problem::TooLate => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "errors that nobody meets here need no advice")]
fn advice_on(errno: Errno) -> Option<&'static str> {
    let advice = match errno {
        Errno::EACCES | Errno::EPERM => {
            "The NFS server takes this provisioner for a user who may not do that (root_squash, all_squash), does not \
             export to this node (any more), or the file is immutable there. Export with no_root_squash, or give the \
             directory above it on the server to the user that root is mapped to."
        }
        Errno::EROFS => {
            "The export is read-only, or mounted so, or the server's disk has become so after a fault. Export and \
             mount it with rw, and see the server's kernel log."
        }
        Errno::ENOSPC => {
            "The server's file system has no free space or no free inodes. Free some there, or enlarge it."
        }
        Errno::EDQUOT => "A quota on the server is used up. Raise it there, or free what counts against it.",
        Errno::ENAMETOOLONG => {
            "The server's file system takes shorter names only. Shorten the class's pathPattern, or the names of \
             claim and namespace."
        }
        Errno::EIO => {
            "The server's disk is at fault, or the mount is soft and the server did not answer in time. See the \
             server's kernel log, and mount with hard."
        }
        Errno::ETIMEDOUT => "The server did not answer in time, and the mount is soft. Mount with hard.",
        Errno::ESTALE => {
            "The server does not know the directory any more: the export was withdrawn, or replaced by another. If \
             it comes back, this goes on by itself; if it was replaced, restart this provisioner's Pod, so that it is \
             mounted anew."
        }
        Errno::ENOENT => "See that the export is mounted there.",
        Errno::ENOTCONN | Errno::ENXIO | Errno::ENODEV => "What is mounted there has died. Mount it anew.",
        Errno::EXDEV => {
            "The server does not move directories between parts of the export, as with a quota or file system for \
             each. Set onDelete to retain in the class, and remove the directory by hand."
        }
        _ => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_can_mend_is_said_with_cause_and_remedy() {
        let rows = [
            (Problem::Os(Errno::EACCES), "permission denied", "no_root_squash"),
            (Problem::Os(Errno::EPERM), "operation not permitted", "no_root_squash"),
            (Problem::Os(Errno::EROFS), "read-only file system", "with rw"),
            (Problem::Os(Errno::ENOSPC), "no space left on device", "inodes"),
            (Problem::Os(Errno::EDQUOT), "quota exceeded", "quota"),
            (Problem::Os(Errno::ENAMETOOLONG), "file name too long", "pathPattern"),
            (Problem::Os(Errno::EIO), "i/o error", "kernel log"),
            (Problem::Os(Errno::ETIMEDOUT), "timed out", "hard"),
            (Problem::Os(Errno::ESTALE), "stale", "restart"),
            (Problem::Os(Errno::EXDEV), "cross-device link", "onDelete"),
            (Problem::NotNfs, "is not an NFS mount", "NFS_MOUNT_CHECK"),
            (Problem::TooDeep, "too deep to be copied", "500 directories"),
            (Problem::Link, "is a symbolic link", "another path"),
        ];
        let export = ExportAddress::new("nas".into(), "/export".into());
        for (problem, what, remedy) in rows {
            let error = StorageError { doing: "mkdir", path: "a/b\n".to_owned(), problem };
            let words = explain(&error, &export);
            assert!(words.starts_with(r#"mkdir "a/b\n" on the export nas:/export: "#), "{words}");
            let (found, advice) = words.split_once(". ").unwrap();
            assert!(found.contains(what) && advice.contains(remedy) && advice.ends_with('.'), "{words}");
        }
    }

    #[test]
    fn who_may_not_give_directories_away_is_told_which_parameters_ask_for_that() {
        let export = ExportAddress::new("nas".into(), "/export".into());
        let words = |problem| explain(&StorageError { doing: "chown", path: "a".to_owned(), problem }, &export);
        let squashed = words(Problem::Os(Errno::EPERM));
        for word in ["chown \"a\"", "not permitted", "root_squash", "no_root_squash", "directoryUid", "gidRange"] {
            assert!(squashed.contains(word), "{word}: {squashed}");
        }
        let lacking = words(Problem::Capability("CHOWN"));
        for word in ["the capability CHOWN", "securityContext.capabilities.add"] {
            assert!(lacking.contains(word), "{word}: {lacking}");
        }
        assert!(words(Problem::Os(Errno::EROFS)).contains("with rw"), "all else is as ever");
    }

    #[test]
    fn what_nobody_can_mend_is_said_alone() {
        let export = ExportAddress::new("nas".into(), "/export".into());
        let error = StorageError { doing: "open", path: "a".to_owned(), problem: Problem::Os(Errno::EINVAL) };
        assert_eq!(explain(&error, &export), r#"open "a" on the export nas:/export: invalid argument"#);
    }
}
