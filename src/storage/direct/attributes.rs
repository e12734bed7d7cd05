//! File attributes (RFC 8881, section 5): which are asked for, and what is made of the answer.

use crate::storage::direct::status::Status;
use crate::storage::direct::xdr::{Decoder, Encoder, Malformed};
use crate::storage::entry::{Attributes, FileKind, Time};
use crate::values::headroom::FsUsage;

/// The owner that stands for one that the server does not tell as a number. Nobody has it.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// How long the name of an owner may be.
const OWNER_MAX: usize = 1024;

/// How long all attributes of an entry may be. Nothing long is asked for.
const ATTRIBUTES_MAX: usize = 16 << 10;

/// How many words a bitmap may have; those that are known have three.
const WORDS_MAX: u32 = 8;

const TYPE: u32 = 1;
const SIZE: u32 = 4;
const FSID: u32 = 8;
const RDATTR_ERROR: u32 = 11;
const FILEID: u32 = 20;
const FILES_AVAIL: u32 = 21;
const FILES_TOTAL: u32 = 23;
const MODE: u32 = 33;
const NUMLINKS: u32 = 35;
const OWNER: u32 = 36;
const OWNER_GROUP: u32 = 37;
const RAWDEV: u32 = 41;
const SPACE_AVAIL: u32 = 42;
const SPACE_TOTAL: u32 = 44;
const SPACE_USED: u32 = 45;
const TIME_ACCESS: u32 = 47;
const TIME_ACCESS_SET: u32 = 48;
const TIME_CREATE: u32 = 50;
const TIME_METADATA: u32 = 52;
const TIME_MODIFY: u32 = 53;
const TIME_MODIFY_SET: u32 = 54;

/// A set of attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mask([u32; 3]);

impl Mask {
    /// What a directory on the way must tell.
    pub(crate) const PLACE: Self = Self::of(&[TYPE, FSID, FILEID]);

    /// What is told of each entry of a listing.
    pub(crate) const LISTED: Self = Self::of(&[TYPE, FSID, RDATTR_ERROR]);

    /// All that [`Attributes`] have.
    pub(crate) const ALL: Self = Self::of(&[
        TYPE,
        SIZE,
        FSID,
        FILEID,
        MODE,
        NUMLINKS,
        OWNER,
        OWNER_GROUP,
        RAWDEV,
        SPACE_USED,
        TIME_ACCESS,
        TIME_METADATA,
        TIME_MODIFY,
    ]);

    /// When it was made.
    pub(crate) const BORN: Self = Self::of(&[TIME_CREATE]);

    /// How full the file system is.
    pub(crate) const USAGE: Self = Self::of(&[FILES_AVAIL, FILES_TOTAL, SPACE_AVAIL, SPACE_TOTAL]);

    const fn of(attributes: &[u32]) -> Self {
        let (mut mask, mut rest) = (Self([0; 3]), attributes);
        while let [first, others @ ..] = rest {
            mask = mask.and(*first);
            rest = others;
        }
        mask
    }

    const fn and(self, attribute: u32) -> Self {
        let Self([mut first, mut second, mut third]) = self;
        match attribute / 32 {
            0 => first |= 1 << (attribute % 32),
            1 => second |= 1 << (attribute % 32),
            _ => third |= 1 << (attribute % 32),
        }
        Self([first, second, third])
    }

    fn has(self, attribute: u32) -> bool {
        let word = usize::try_from(attribute / 32).ok().and_then(|word| self.0.get(word));
        word.is_some_and(|word| word & (1 << (attribute % 32)) != 0)
    }

    pub(crate) fn encode(self, into: &mut Encoder) {
        let length = 3 - self.0.iter().rev().take_while(|word| **word == 0).count();
        into.u32(u32::try_from(length).unwrap_or(3));
        for word in self.0.iter().take(length) {
            into.u32(*word);
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let length = from.u32()?;
        if length > WORDS_MAX {
            return Err(Malformed);
        }
        let mut mask = Self::default();
        for index in 0..length {
            let word = from.u32()?;
            match usize::try_from(index).ok().and_then(|index| mask.0.get_mut(index)) {
                Some(known) => *known = word,
                None if word != 0 => return Err(Malformed),
                None => {}
            }
        }
        Ok(mask)
    }
}

/// The number of a file system. Both halves count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Fsid(pub(crate) u64, pub(crate) u64);

/// What a server has told of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Option<FileKind>,
    pub(crate) fsid: Option<Fsid>,
    pub(crate) fileid: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) links: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) used: Option<u64>,
    pub(crate) accessed: Option<Time>,
    pub(crate) born: Option<Time>,
    pub(crate) changed: Option<Time>,
    pub(crate) modified: Option<Time>,
    files: (Option<u64>, Option<u64>),
    space: (Option<u64>, Option<u64>),
    /// Why nothing is told of it.
    pub(crate) error: Option<Status>,
}

impl Facts {
    /// Reads a `fattr4`. Attributes come in the order of their numbers, without their lengths: one that was not
    /// asked for, and is not known here, makes all of them unreadable.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mask = Mask::decode(from)?;
        let mut values = Decoder::new(from.opaque(ATTRIBUTES_MAX)?);
        let mut facts = Self::default();
        for attribute in (0..96).filter(|attribute| mask.has(*attribute)) {
            facts.read(attribute, &mut values)?;
        }
        if values.left() == 0 { Ok(facts) } else { Err(Malformed) }
    }

    /// Writes the attributes of which every directory has the same.
    pub(crate) fn encode_directory(into: &mut Encoder) {
        Mask::of(&[TYPE]).encode(into);
        into.opaque(&2u32.to_be_bytes());
    }

    fn read(&mut self, attribute: u32, from: &mut Decoder<'_>) -> Result<(), Malformed> {
        match attribute {
            TYPE => self.kind = Some(kind(from.u32()?)),
            SIZE => self.size = Some(from.u64()?),
            FSID => self.fsid = Some(Fsid(from.u64()?, from.u64()?)),
            RDATTR_ERROR => self.error = Some(Status(from.u32()?)).filter(|status| *status != Status::OK),
            FILEID => self.fileid = Some(from.u64()?),
            FILES_AVAIL => self.files.0 = Some(from.u64()?),
            FILES_TOTAL => self.files.1 = Some(from.u64()?),
            MODE => self.mode = Some(from.u32()? & 0o7777),
            NUMLINKS => self.links = Some(from.u32()?),
            OWNER => self.uid = Some(owner(from.opaque(OWNER_MAX)?)),
            OWNER_GROUP => self.gid = Some(owner(from.opaque(OWNER_MAX)?)),
            RAWDEV => self.device = Some((from.u32()?, from.u32()?)),
            SPACE_AVAIL => self.space.0 = Some(from.u64()?),
            SPACE_TOTAL => self.space.1 = Some(from.u64()?),
            SPACE_USED => self.used = Some(from.u64()?),
            TIME_ACCESS => self.accessed = Some(time(from)?),
            TIME_CREATE => self.born = Some(time(from)?),
            TIME_METADATA => self.changed = Some(time(from)?),
            TIME_MODIFY => self.modified = Some(time(from)?),
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Returns the attributes. What a server need not tell, and does not, is the least that it can be.
    ///
    /// # Errors
    /// If it does not even tell what the entry is, and on which file system.
    pub(crate) fn attributes(&self) -> Result<Attributes, Malformed> {
        let fsid = self.fsid.ok_or(Malformed)?;
        let size = self.size.unwrap_or_default();
        let modified = self.modified.unwrap_or_default();
        Ok(Attributes {
            kind: self.kind.ok_or(Malformed)?,
            mode: self.mode.unwrap_or_default(),
            uid: self.uid.unwrap_or(UNKNOWN),
            gid: self.gid.unwrap_or(UNKNOWN),
            size,
            on_disk: self.used.unwrap_or(size),
            inode: self.fileid.ok_or(Malformed)?,
            links: self.links.unwrap_or(1).into(),
            file_system: fsid.0 ^ fsid.1.rotate_left(32),
            device: self.device.map_or(0, |(major, minor)| rustix::fs::makedev(major, minor)),
            accessed: self.accessed.unwrap_or(modified),
            modified,
            changed: self.changed.unwrap_or(modified),
        })
    }

    /// Returns how full the file system is. A server that does not tell the number of files has no limit there.
    ///
    /// # Errors
    /// If it does not tell how large it is.
    pub(crate) fn usage(&self) -> Result<FsUsage, Malformed> {
        let (Some(bytes_free), Some(bytes)) = self.space else { return Err(Malformed) };
        let (inodes_free, inodes) = match self.files {
            (Some(free), Some(all)) => (free, all),
            _ => (0, 0),
        };
        Ok(FsUsage { bytes, bytes_free, inodes, inodes_free })
    }
}

fn kind(number: u32) -> FileKind {
    match number {
        1 => FileKind::File,
        2 => FileKind::Directory,
        3 => FileKind::BlockDevice,
        4 => FileKind::CharacterDevice,
        5 => FileKind::Link,
        6 => FileKind::Socket,
        7 => FileKind::Fifo,
        _ => FileKind::Other,
    }
}

fn time(from: &mut Decoder<'_>) -> Result<Time, Malformed> {
    Ok(Time { seconds: from.i64()?, nanoseconds: from.u32()? })
}

/// Reads an owner. A name is nobody that is known here, "nobody" least of all: it stands for all who are not known
/// there.
fn owner(text: &[u8]) -> u32 {
    let digits = Some(text).filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit));
    digits.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(UNKNOWN)
}

/// A time that is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// That of the server's clock.
    Now,
    /// This one.
    At(Time),
}

/// Attributes that are to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) accessed: Option<Stamp>,
    pub(crate) modified: Option<Stamp>,
}

impl Changes {
    pub(crate) fn mode(mode: u32) -> Self {
        Self { mode: Some(mode & 0o7777), ..Self::default() }
    }

    /// An owner that is not known is left as it is.
    pub(crate) fn owners(uid: Option<u32>, gid: Option<u32>) -> Self {
        let known = |id: &u32| *id != UNKNOWN;
        Self { uid: uid.filter(known), gid: gid.filter(known), ..Self::default() }
    }

    pub(crate) fn times(accessed: Stamp, modified: Stamp) -> Self {
        Self { accessed: Some(accessed), modified: Some(modified), ..Self::default() }
    }

    pub(crate) fn encode(&self, into: &mut Encoder) {
        let set: [(u32, bool); 6] = [
            (SIZE, self.size.is_some()),
            (MODE, self.mode.is_some()),
            (OWNER, self.uid.is_some()),
            (OWNER_GROUP, self.gid.is_some()),
            (TIME_ACCESS_SET, self.accessed.is_some()),
            (TIME_MODIFY_SET, self.modified.is_some()),
        ];
        let mask = set.iter().filter(|(_, is_set)| *is_set).fold(Mask::default(), |mask, (bit, _)| mask.and(*bit));
        let mut values = Encoder::default();
        self.size.map(|size| values.u64(size));
        self.mode.map(|mode| values.u32(mode));
        self.uid.map(|uid| values.opaque(uid.to_string().as_bytes()));
        self.gid.map(|gid| values.opaque(gid.to_string().as_bytes()));
        for stamp in [self.accessed, self.modified].into_iter().flatten() {
            match stamp {
                Stamp::Now => values.u32(0),
                Stamp::At(Time { seconds, nanoseconds }) => {
                    values.u32(1).u64(seconds.cast_unsigned()).u32(nanoseconds)
                }
            };
        }
        mask.encode(into);
        into.opaque(values.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_nobody_known() {
        for (text, uid) in [("0", 0), ("65534", 65534), ("4294967295", UNKNOWN), ("4294967296", UNKNOWN)] {
            assert_eq!(owner(text.as_bytes()), uid, "{text}");
        }
        for text in ["", "nobody", "root@example.com", "+5", " 5", "-1", "1000@example.com"] {
            assert_eq!(owner(text.as_bytes()), UNKNOWN, "{text}");
        }
    }

    #[test]
    fn attributes_come_in_the_order_of_their_numbers() {
        let mut sent = Encoder::default();
        let mut values = Encoder::default();
        values.u32(2).u64(5).u64(6).u64(77).u32(0o40755).opaque(b"1000").opaque(b"nobody@x");
        Mask::of(&[OWNER_GROUP, OWNER, MODE, FILEID, FSID, TYPE]).encode(&mut sent);
        sent.opaque(values.bytes());
        let facts = Facts::decode(&mut Decoder::new(sent.bytes())).unwrap();
        let found = facts.attributes().unwrap();
        assert_eq!((found.kind, found.inode, found.mode), (FileKind::Directory, 77, 0o755));
        assert_eq!((found.uid, found.gid, facts.fsid), (1000, UNKNOWN, Some(Fsid(5, 6))));
    }

    #[test]
    fn what_was_not_asked_for_and_what_is_left_over_cannot_be_read() {
        let decode = |mask: Mask, values: &[u8]| {
            let mut sent = Encoder::default();
            mask.encode(&mut sent);
            sent.opaque(values);
            Facts::decode(&mut Decoder::new(sent.bytes()))
        };
        assert!(decode(Mask::of(&[TYPE]), &[0, 0, 0, 1]).is_ok());
        assert!(decode(Mask::of(&[TYPE]), &[0, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(decode(Mask::of(&[TYPE, SIZE]), &[0, 0, 0, 1]).is_err());
        assert!(decode(Mask::of(&[12]), &[0, 0, 0, 1]).is_err());
    }
}
