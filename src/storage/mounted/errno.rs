//! From the kernel's error numbers to ours.

use std::io;

use nix::errno::Errno as Raw;

use crate::storage::error::{Errno, Problem};

/// Maps each error of the same name.
macro_rules! same {
    ($raw:expr; $($name:ident)*) => {
        match $raw {
            $(Raw::$name => Errno::$name,)*
            other => Errno::Other(other as i32),
        }
    };
}

/// Returns our name for what the kernel answers.
fn errno(raw: Raw) -> Errno {
    same!(raw;
        EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR
        EINVAL ENFILE EMFILE ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS
        ENOTEMPTY ELOOP ENODATA EPROTO EOVERFLOW EILSEQ EUSERS EPROTONOSUPPORT EOPNOTSUPP ENETDOWN ENETUNREACH
        ECONNABORTED ECONNRESET ENOBUFS ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH ESTALE
        EUCLEAN EBADMSG ENOLINK EREMOTE EADDRINUSE EADDRNOTAVAIL ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED
        EREMOTEIO EDQUOT ECANCELED
    )
}

/// Returns our name for a number of the kernel's.
fn from_number(number: i32) -> Errno {
    let raw = Raw::from_raw(number);
    // Such as ENOTSUPP, which the kernel's NFS client lets out and no library knows.
    if raw == Raw::UnknownErrno { Errno::Other(number) } else { errno(raw) }
}

impl From<Raw> for Problem {
    fn from(raw: Raw) -> Self {
        Self::Os(errno(raw))
    }
}

impl From<rustix::io::Errno> for Problem {
    fn from(raw: rustix::io::Errno) -> Self {
        Self::Os(from_number(raw.raw_os_error()))
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Os(error.raw_os_error().map_or(Errno::EIO, from_number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_the_words_that_the_kernels_has() {
        let mut named = 0;
        for number in 1..200 {
            let ours = from_number(number);
            if ours == Errno::Other(number) {
                continue;
            }
            let raw = Raw::from_raw(number);
            assert_eq!(ours.to_string(), raw.desc().to_lowercase(), "{number}");
            assert!(Errno::NAMED.contains(&(ours, &*format!("{raw:?}"))), "{ours:?} is {raw:?}");
            named += 1;
        }
        assert_eq!(named, Errno::NAMED.len(), "all are mapped to");
    }

    #[test]
    fn what_has_no_name_is_told_by_its_number() {
        assert_eq!(from_number(524), Errno::Other(524));
        assert_eq!(Problem::from(io::Error::from_raw_os_error(524)).to_string(), "unknown error 524");
        assert_eq!(Problem::from(io::Error::other("no number")), Problem::Os(Errno::EIO));
    }
}
