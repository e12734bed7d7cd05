//! Remote procedure calls (RFC 5531): the envelope of what is sent to a server and of what it answers.

use std::io::{self, Read};

use crate::storage::direct::xdr::{Decoder, Encoder, Malformed};
use crate::storage::error::{Errno, Problem};

/// The bit of a fragment's header that tells that it is the record's last.
const LAST: u32 = 1 << 31;

/// How many fragments a record may have. Servers send one.
const FRAGMENTS_MAX: usize = 64;

/// The number of the program NFS, its version, and its only procedure beside the one that does nothing.
const NFS: u32 = 100_003;
const VERSION: u32 = 4;
const COMPOUND: u32 = 1;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// How long a credential may be (RFC 5531, section 8.2).
const CREDENTIAL_MAX: usize = 400;

/// The name that this machine gives itself. Servers make nothing of it.
const MACHINE: &[u8] = b"nfs-provisioner";

/// As whom a call is made. A server that admits this address believes it (RFC 5531, appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Who {
    /// The user to whom a server leaves everything unless it takes it for somebody else.
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Writes a call with its arguments, and before it the header of its only fragment.
pub(crate) fn call(xid: u32, who: Who, arguments: &[&[u8]]) -> Vec<u8> {
    let mut credential = Encoder::default();
    credential.u32(0).opaque(MACHINE).u32(who.uid).u32(who.gid).u32(0);
    let mut record = Encoder::default();
    record.u32(xid).u32(CALL).u32(2).u32(NFS).u32(VERSION).u32(COMPOUND);
    record.u32(AUTH_SYS).opaque(credential.bytes()).u32(AUTH_NONE).u32(0);
    let length = record.len() + arguments.iter().map(|part| part.len()).sum::<usize>();
    let mut sent = Encoder::default();
    sent.u32(LAST | u32::try_from(length).unwrap_or(LAST - 1)).fixed(record.bytes());
    for part in arguments {
        sent.fixed(part);
    }
    sent.into_bytes()
}

/// Returns the number of the call that a record answers.
pub(crate) fn xid(record: &[u8]) -> Result<u32, Malformed> {
    let mut record = Decoder::new(record);
    let xid = record.u32()?;
    if record.u32()? == REPLY { Ok(xid) } else { Err(Malformed) }
}

/// Opens the envelope of an answer.
///
/// # Errors
/// If the server has not called the procedure at all.
pub(crate) fn results(record: &[u8]) -> Result<Decoder<'_>, Problem> {
    let mut record = Decoder::new(record);
    let (_, _, denied) = (record.u32()?, record.u32()?, record.u32()?);
    if denied != 0 {
        // Another version of the envelope, which there is not, or a credential that does not do.
        let is_credential = record.u32()? == 1;
        return Err(Problem::Os(if is_credential { Errno::EACCES } else { Errno::EPROTO }));
    }
    record.u32()?;
    record.opaque(CREDENTIAL_MAX)?;
    match record.u32()? {
        0 => Ok(record),
        // It has no such program, or no such version of it.
        1 | 2 => Err(Problem::Os(Errno::EPROTONOSUPPORT)),
        5 => Err(Problem::Os(Errno::EREMOTEIO)),
        _ => Err(Problem::Os(Errno::EPROTO)),
    }
}

/// Reads a record of `longest` bytes at the most. `header` tells of its first fragment.
///
/// # Errors
/// If the connection breaks, or the record is longer.
pub(crate) fn read_record(stream: &mut impl Read, mut header: [u8; 4], longest: usize) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    for _ in 0..FRAGMENTS_MAX {
        let header_of = u32::from_be_bytes(header);
        let length = usize::try_from(header_of & !LAST).unwrap_or(usize::MAX);
        if length > longest.saturating_sub(record.len()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = stream.take(length as u64).read_to_end(&mut record)?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if header_of & LAST != 0 {
            return Ok(record);
        }
        stream.read_exact(&mut header)?;
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], longest: usize) -> io::Result<Vec<u8>> {
        let mut stream = bytes;
        let mut header = [0; 4];
        stream.read_exact(&mut header)?;
        read_record(&mut stream, header, longest)
    }

    #[test]
    fn a_record_may_come_in_fragments_and_not_be_longer_than_is_allowed() {
        let sent = [&[0, 0, 0, 2, 1, 2][..], &[0x80, 0, 0, 3, 3, 4, 5]].concat();
        assert_eq!(read(&sent, 5).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(read(&sent, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&sent[..10], 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[255; 4], 1 << 20).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&[0; 4096], 1 << 20).unwrap_err().kind(), io::ErrorKind::InvalidData, "no end of nothing");
    }

    #[test]
    fn a_call_tells_its_length_and_is_padded() {
        let sent = call(7, Who { uid: 1000, gid: 100 }, &[&[0, 0, 0, 1], &[0, 0, 0, 2]]);
        let record = read(&sent, 1 << 20).unwrap();
        assert_eq!(record.len(), sent.len() - 4);
        assert_eq!(record[..4], [0, 0, 0, 7]);
        assert!(record.ends_with(&[0, 0, 0, 1, 0, 0, 0, 2]));
    }

    #[test]
    fn answers_that_are_none_say_why() {
        let answer = |words: &[u32]| {
            let record: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            results(&record).map(|rest| rest.left())
        };
        assert_eq!(answer(&[1, 1, 0, 0, 0, 0, 9]), Ok(4));
        assert_eq!(answer(&[1, 1, 1, 1, 5]), Err(Problem::Os(Errno::EACCES)));
        assert_eq!(answer(&[1, 1, 1, 0, 2, 2]), Err(Problem::Os(Errno::EPROTO)));
        assert_eq!(answer(&[1, 1, 0, 0, 0, 2, 3, 3]), Err(Problem::Os(Errno::EPROTONOSUPPORT)));
        assert_eq!(answer(&[1, 1, 0, 0, 0, 4]), Err(Problem::Os(Errno::EPROTO)));
        assert_eq!(answer(&[1, 1, 0]), Err(Problem::Os(Errno::EPROTO)));
        assert_eq!(xid(&[0, 0, 0, 9, 0, 0, 0, 1]), Ok(9));
        assert_eq!(xid(&[0, 0, 0, 9, 0, 0, 0, 0]), Err(Malformed), "a call, not an answer");
    }
}
