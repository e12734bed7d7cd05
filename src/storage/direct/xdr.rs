//! External data representation (RFC 4506): what a server is sent, and what it has sent.
//!
//! A server is not trusted: nothing is read past the end of a record, and nothing is allocated because a record
//! says that it is long.

/// A record that is not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Writes a record. Lengths are those of what is there, so that nothing written can be malformed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// Writes bytes of which both sides know how many they are, a multiple of four.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Writes bytes after their length, filled up to a multiple of four.
    pub(crate) fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        // No record of ours comes near the largest length.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a record from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(record: &'a [u8]) -> Self {
        Self(record)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads as many bytes as the type says, a multiple of four.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// Reads a boolean; anything but 0 and 1 is none.
    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Reads bytes after their length, which is `longest` at the most.
    pub(crate) fn opaque(&mut self, longest: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > longest {
            return Err(Malformed);
        }
        let bytes = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(bytes)
    }

    /// Returns how many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut encoder = Encoder::default();
        encoder.u32(7).u64(1 << 40).bool(true).opaque(b"abcde").fixed(&[1; 8]);
        let bytes = encoder.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u32(), Ok(7));
        assert_eq!(decoder.u64(), Ok(1 << 40));
        assert_eq!(decoder.bool(), Ok(true));
        assert_eq!(decoder.opaque(5), Ok(&b"abcde"[..]));
        assert_eq!(decoder.fixed(), Ok([1; 8]));
        assert_eq!(decoder.left(), 0);
        assert_eq!(decoder.u32(), Err(Malformed), "the record is over");
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let lengths = [&[0, 0, 0, 9][..], &[255; 4], &[0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0], &[0, 0, 0, 1], &[0, 0]];
        for record in lengths {
            assert_eq!(Decoder::new(record).opaque(64), Err(Malformed), "{record:?}");
        }
        let six = [0, 0, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0];
        assert_eq!(Decoder::new(&six).opaque(5), Err(Malformed), "longer than it may be");
        assert_eq!(Decoder::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
    }
}
