//! What a server answers to an operation, and what that is called here.

use crate::storage::direct::xdr::Malformed;
use crate::storage::error::{Errno, Problem};

/// An `nfsstat4` (RFC 8881, section 15; RFC 7862, section 11; RFC 8276, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Status(pub(crate) u32);

impl Status {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const NOENT: Self = Self(2);
    pub(crate) const EXIST: Self = Self(17);
    pub(crate) const NOTEMPTY: Self = Self(66);
    pub(crate) const BAD_COOKIE: Self = Self(10003);
    pub(crate) const DELAY: Self = Self(10008);
    pub(crate) const SAME: Self = Self(10009);
    pub(crate) const EXPIRED: Self = Self(10011);
    pub(crate) const GRACE: Self = Self(10013);
    pub(crate) const STALE_CLIENTID: Self = Self(10022);
    pub(crate) const STALE_STATEID: Self = Self(10023);
    pub(crate) const OLD_STATEID: Self = Self(10024);
    pub(crate) const BAD_STATEID: Self = Self(10025);
    pub(crate) const NOT_SAME: Self = Self(10027);
    pub(crate) const ADMIN_REVOKED: Self = Self(10047);
    pub(crate) const BADSESSION: Self = Self(10052);
    pub(crate) const BADSLOT: Self = Self(10053);
    pub(crate) const COMPLETE_ALREADY: Self = Self(10054);
    pub(crate) const CONN_NOT_BOUND: Self = Self(10055);
    pub(crate) const SEQ_MISORDERED: Self = Self(10063);
    pub(crate) const RETRY_UNCACHED_REP: Self = Self(10068);
    pub(crate) const SEQ_FALSE_RETRY: Self = Self(10076);
    pub(crate) const BAD_HIGH_SLOT: Self = Self(10077);
    pub(crate) const DEADSESSION: Self = Self(10078);

    /// No answer of a server's, but one that cannot be read.
    const MALFORMED: Self = Self(u32::MAX);

    /// Tells whether the server wants to be asked again in a while.
    pub(crate) fn is_not_yet(self) -> bool {
        matches!(self, Self::DELAY | Self::GRACE)
    }

    /// Tells whether the session, or the client that has it, is none for the server any more.
    pub(crate) fn is_loss_of_session(self) -> bool {
        matches!(
            self,
            Self::BADSESSION
                | Self::DEADSESSION
                | Self::BADSLOT
                | Self::BAD_HIGH_SLOT
                | Self::CONN_NOT_BOUND
                | Self::SEQ_MISORDERED
                | Self::SEQ_FALSE_RETRY
                | Self::STALE_CLIENTID
                | Self::EXPIRED
        )
    }

    /// Tells whether what was open is not open any more.
    pub(crate) fn is_loss_of_open(self) -> bool {
        matches!(
            self,
            Self::BAD_STATEID | Self::STALE_STATEID | Self::OLD_STATEID | Self::EXPIRED | Self::ADMIN_REVOKED
        )
    }
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Self {
        Self::MALFORMED
    }
}

impl From<Malformed> for Problem {
    fn from(_: Malformed) -> Self {
        Self::Os(Errno::EPROTO)
    }
}

/// The words are those that the kernel's client has for the same answer, where it has any.
impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let errno = match status.0 {
            1 | 10016 | 10082 => Errno::EPERM,
            2 => Errno::ENOENT,
            5 => Errno::EIO,
            6 => Errno::ENXIO,
            13 => Errno::EACCES,
            17 => Errno::EEXIST,
            18 => Errno::EXDEV,
            20 => Errno::ENOTDIR,
            21 => Errno::EISDIR,
            22 | 10007 | 10039 | 10040 | 10041 | 10083 => Errno::EINVAL,
            27 => Errno::EFBIG,
            28 => Errno::ENOSPC,
            30 => Errno::EROFS,
            31 => Errno::EMLINK,
            63 => Errno::ENAMETOOLONG,
            66 => Errno::ENOTEMPTY,
            69 => Errno::EDQUOT,
            70 | 10001 | 10014 => Errno::ESTALE,
            10004 | 10032 | 10044 | 10090 | 10094 => Errno::EOPNOTSUPP,
            10006 | 10018 => Errno::EREMOTEIO,
            10008 => Errno::EAGAIN,
            10010 | 10012 | 10015 | 10046 => Errno::EBUSY,
            10013 => return Self::InGrace,
            10019 => Errno::EREMOTE,
            10021 => Errno::EPROTONOSUPPORT,
            10029 => return Self::Link,
            10095 => Errno::ENODATA,
            10096 => Errno::E2BIG,
            10036 | u32::MAX => Errno::EPROTO,
            other => Errno::Other(i32::try_from(other).unwrap_or(i32::MAX)),
        };
        Self::Os(errno)
    }
}
