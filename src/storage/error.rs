//! What goes wrong with an export, in terms of our own: no engine's error reaches past this module.

use std::fmt;

/// Defines [`Errno`] from a list of names and texts.
macro_rules! errnos {
    ($($name:ident = $text:literal,)*) => {
        /// What a file system answers instead of doing what it was asked to, whichever engine asked it.
        ///
        /// The names are those of Unix, because everybody who runs an NFS server knows them, and because NFS has
        /// taken its own from there. Each engine maps what it is told to one of these, in one table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the text of each is beside it, in the list")]
        pub enum Errno {
            $($name,)*
            /// Any other answer, by the number that the engine knows it by.
            Other(i32),
        }

        impl Errno {
            /// Lists all that have a name.
            pub const NAMED: &[(Self, &'static str)] = &[$((Self::$name, stringify!($name)),)*];
        }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Other(0) => f.write_str("unknown error"),
                    Self::Other(number) => write!(f, "unknown error {number}"),
                }
            }
        }
    };
}

// In lower case, as all errors of this program are.
errnos! {
    EPERM = "operation not permitted",
    ENOENT = "no such file or directory",
    EINTR = "interrupted system call",
    EIO = "i/o error",
    ENXIO = "no such device or address",
    E2BIG = "argument list too long",
    EBADF = "bad file number",
    EAGAIN = "try again",
    ENOMEM = "out of memory",
    EACCES = "permission denied",
    EFAULT = "bad address",
    EBUSY = "device or resource busy",
    EEXIST = "file exists",
    EXDEV = "cross-device link",
    ENODEV = "no such device",
    ENOTDIR = "not a directory",
    EISDIR = "is a directory",
    EINVAL = "invalid argument",
    ENFILE = "file table overflow",
    EMFILE = "too many open files",
    ETXTBSY = "text file busy",
    EFBIG = "file too large",
    ENOSPC = "no space left on device",
    ESPIPE = "illegal seek",
    EROFS = "read-only file system",
    EMLINK = "too many links",
    EPIPE = "broken pipe",
    ERANGE = "math result not representable",
    EDEADLK = "resource deadlock would occur",
    ENAMETOOLONG = "file name too long",
    ENOLCK = "no record locks available",
    ENOSYS = "function not implemented",
    ENOTEMPTY = "directory not empty",
    ELOOP = "too many symbolic links encountered",
    ENODATA = "no data available",
    EPROTO = "protocol error",
    EOVERFLOW = "value too large for defined data type",
    EILSEQ = "illegal byte sequence",
    EUSERS = "too many users",
    EPROTONOSUPPORT = "protocol not supported",
    EOPNOTSUPP = "operation not supported on transport endpoint",
    ENETDOWN = "network is down",
    ENETUNREACH = "network is unreachable",
    ECONNABORTED = "software caused connection abort",
    ECONNRESET = "connection reset by peer",
    ENOBUFS = "no buffer space available",
    ENOTCONN = "transport endpoint is not connected",
    ESHUTDOWN = "cannot send after transport endpoint shutdown",
    ETIMEDOUT = "connection timed out",
    ECONNREFUSED = "connection refused",
    EHOSTDOWN = "host is down",
    EHOSTUNREACH = "no route to host",
    ESTALE = "stale file handle",
    EUCLEAN = "structure needs cleaning",
    EBADMSG = "not a data message",
    ENOLINK = "link has been severed",
    EREMOTE = "object is remote",
    EADDRINUSE = "address already in use",
    EADDRNOTAVAIL = "cannot assign requested address",
    ENOKEY = "required key not available",
    EKEYEXPIRED = "key has expired",
    EKEYREVOKED = "key has been revoked",
    EKEYREJECTED = "key was rejected by service",
    EREMOTEIO = "remote i/o error",
    EDQUOT = "quota exceeded",
    ECANCELED = "operation canceled",
}

/// Why a call on the file system failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A symbolic link is where a directory should be.
    Link,
    /// Something else than a directory is where one should be.
    NotDirectory,
    /// Another file system is mounted there.
    MountPoint,
    /// The file was removed while this machine had it open: the NFS client keeps it, under a name that begins with
    /// `.nfs`, until it is closed.
    StillOpen,
    /// The path is one of the provisioner's own directories.
    Reserved,
    /// This process does not lead, or not any more, and so changes nothing.
    NotLeading,
    /// The change was put off for so long that it may not be wanted any more.
    TooLate,
    /// A directory that was to be copied lies in too many others.
    TooDeep,
    /// The server was restarted a moment ago, and waits for those who had something open before.
    InGrace,
    /// No NFS export is mounted there, though one should be.
    NotNfs,
    /// This process lacks the capability of this name.
    Capability(&'static str),
    /// The file system, or what stands before it, refused for this reason.
    Os(Errno),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => f.write_str("is a symbolic link, which is never followed"),
            Self::NotDirectory => f.write_str("is not a directory"),
            Self::MountPoint => f.write_str("is a mount point of another file system, which is never crossed"),
            Self::StillOpen => f.write_str("is still open on this node, and goes when it is closed"),
            Self::Reserved => f.write_str("is kept by the provisioner for itself"),
            Self::NotLeading => f.write_str("is not changed, because this provisioner does not lead any more"),
            Self::TooLate => f.write_str("is not changed, because it is no longer certain that it is to be"),
            Self::TooDeep => f.write_str("has directories that lie too deep to be copied"),
            Self::InGrace => f.write_str("cannot be changed yet, because the server has just been restarted"),
            Self::NotNfs => f.write_str("is not an NFS mount"),
            Self::Capability(name) => write!(f, "takes the capability {name}, which this process does not have"),
            Self::Os(errno) => errno.fmt(f),
        }
    }
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

/// What a problem tells of where it lies, and so of what is worth doing next.
///
/// This is the one place where the errors of file systems are sorted; operations ask here, except where one error
/// has a meaning of its own in one call.
impl Problem {
    /// Tells whether the problem is likely to be the whole export's and not one directory's: all calls that have
    /// failed are worth another try once it has passed.
    pub(crate) fn concerns_export(self) -> bool {
        use Errno::{ECONNREFUSED, ECONNRESET, EDQUOT, EHOSTUNREACH, EIO, ENETUNREACH, ENOSPC, EPIPE, EROFS};
        use Errno::{ESTALE, ETIMEDOUT};
        let is_lost = matches!(self, Self::Os(ECONNREFUSED | ECONNRESET | EHOSTUNREACH | ENETUNREACH | EPIPE));
        is_lost || matches!(self, Self::InGrace | Self::Os(EDQUOT | EIO | ENOSPC | EROFS | ESTALE | ETIMEDOUT))
    }

    /// Tells whether there is no room for anything new.
    #[must_use]
    pub fn is_lack_of_room(self) -> bool {
        matches!(self, Self::Os(Errno::EDQUOT | Errno::ENOSPC))
    }

    /// Tells whether we may not use what is there, because it is another user's.
    pub(crate) fn is_denial(self) -> bool {
        matches!(self, Self::Os(Errno::EACCES | Errno::EPERM))
    }

    /// Tells whether nothing new may be made in a directory, whatever is there.
    pub(crate) fn is_refusal(self) -> bool {
        use Errno::{EACCES, EDQUOT, ENOSPC, EPERM, EROFS};
        matches!(self, Self::Os(EACCES | EDQUOT | ENOSPC | EPERM | EROFS))
    }

    /// Tells whether an entry that was listed is absent when it is looked at, or is something else by then.
    pub(crate) fn has_gone(self) -> bool {
        matches!(self, Self::Os(Errno::ENOENT | Errno::ESTALE) | Self::Link | Self::NotDirectory)
    }

    /// Tells whether an entry that was to be removed is absent, or is something else than it was when it was
    /// listed. If there is one, another listing shows what it is.
    ///
    /// Unlike [`Problem::has_gone`], a stale handle is not enough: whoever removes must be sure.
    pub(crate) fn is_another(self) -> bool {
        use Errno::{EISDIR, ELOOP, ENOENT, ENOTDIR};
        matches!(self, Self::Link | Self::NotDirectory | Self::Os(ENOENT | ELOOP | ENOTDIR | EISDIR))
    }
}

/// What a call on an export was doing, to which entry, and what was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing} {path:?}: {problem}")]
pub struct StorageError {
    /// What was being done: "mkdir", "rename".
    pub doing: &'static str,
    /// The path beneath the export. Tenants choose it: it is shown escaped.
    pub path: String,
    /// What was wrong.
    pub problem: Problem,
}

/// Puts what was being done and to what beside a [`Problem`].
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl ToString) -> Result<T, StorageError>;
}

impl<T> Doing<T> for Result<T, Problem> {
    fn doing(self, doing: &'static str, path: impl ToString) -> Result<T, StorageError> {
        self.map_err(|problem| StorageError { doing, path: path.to_string(), problem })
    }
}
