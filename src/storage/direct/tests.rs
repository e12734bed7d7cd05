//! Replies that no honest server sends, to each decoder: none may panic, hang, or take memory that was not sent.

use std::time::Instant;

use fastrand::Rng;

use crate::storage::direct::attributes::{Changes, Facts};
use crate::storage::direct::compound::Results;
use crate::storage::direct::rpc;
use crate::storage::direct::status::Status;
use crate::storage::direct::xdr::{Decoder, Encoder};

/// How many replies each decoder gets unless `FUZZED_REPLIES` says otherwise.
const REPLIES: u64 = 20_000;

/// A decoder, by the number of its operation.
type Reads = fn(&mut Results<'_>) -> Result<(), Status>;

const DECODERS: &[(u32, Reads)] = &[
    (4, |from| from.close()),
    (5, |from| from.commit().map(drop)),
    (6, |from| from.create()),
    (9, |from| from.attributes().map(drop)),
    (10, |from| from.handle().map(drop)),
    (11, |from| from.link()),
    (15, |from| from.lookup()),
    (18, |from| from.open().map(drop)),
    (22, |from| from.put()),
    (24, |from| from.put_root()),
    (25, |from| from.read().map(drop)),
    (26, |from| {
        let page = from.list(7)?;
        assert!(page.is_last || page.cookie != 7, "it does not advance");
        for (name, _) in page.entries {
            let name = name.to_bytes();
            assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'), "{name:?} is no name");
        }
        Ok(())
    }),
    (27, |from| from.read_link().map(drop)),
    (28, |from| from.remove()),
    (29, |from| from.rename()),
    (32, |from| from.save()),
    (34, |from| from.set()),
    (38, |from| from.write().map(drop)),
    (42, |from| from.exchange_id().map(drop)),
    (43, |from| from.create_session().map(drop)),
    (53, |from| from.sequence()),
    (58, |from| from.reclaim_complete()),
    (60, |from| from.copy_range().map(drop)),
    (69, |from| from.seek().map(drop)),
    (71, |from| from.clone_range()),
    (72, |from| from.xattr().map(drop)),
    (73, |from| from.set_xattr()),
    (74, |from| from.xattr_names().map(drop)),
];

/// Words that have a meaning somewhere, or are near the end of something.
const WORDS: &[u32] =
    &[0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 129, 4096, 4097, 1 << 20, 1 << 31, u32::MAX - 3, u32::MAX];

/// A reply that begins like one to this operation.
fn reply(number: u32, random: &mut Rng) -> Vec<u8> {
    let mut reply = Encoder::default();
    reply.u32(0).opaque(b"").u32(1 + random.u32(..3)).u32(number).u32(u32::from(random.u8(..8) == 0));
    for _ in 0..random.usize(..24) {
        match random.u8(..8) {
            0 => reply.u32(random.u32(..)),
            1 => reply.opaque(&vec![random.u8(..); random.usize(..40)]),
            2 => reply.opaque(b"name").u32(2).u32(0x0010_0102).u32(2),
            3 => {
                Changes { size: Some(9), ..Changes::mode(0o755) }.encode(&mut reply);
                &mut reply
            }
            4 => reply.fixed(&[0; 20]),
            _ => reply.u32(WORDS[random.usize(..WORDS.len())]),
        };
    }
    let mut bytes = reply.into_bytes();
    if random.u8(..4) == 0 {
        bytes.truncate(random.usize(..=bytes.len()));
    }
    if random.u8(..4) == 0 && !bytes.is_empty() {
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
    }
    bytes
}

#[test]
fn no_reply_does_a_decoder_harm() {
    let count = std::env::var("FUZZED_REPLIES").ok().map_or(REPLIES, |text| text.parse().unwrap());
    let seed = std::env::var("PROPERTY_SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    eprintln!("the seed is {seed}");
    let mut random = Rng::with_seed(seed);
    for (number, reads) in DECODERS {
        let (begun, mut read) = (Instant::now(), 0_u64);
        for _ in 0..count {
            let reply = reply(*number, &mut random);
            if let Ok((_, mut results)) = Results::new(Decoder::new(&reply)) {
                read += u64::from(reads(&mut results).is_ok());
            }
        }
        eprintln!("{number}: {read} of {count} could be read, in {:?}", begun.elapsed());
    }
}

#[test]
fn no_envelope_and_no_attributes_do_harm_either() {
    let mut random = Rng::new();
    for _ in 0..REPLIES {
        let bytes = reply(1, &mut random);
        let _ = rpc::results(&bytes);
        let _ = rpc::xid(&bytes);
        let _ = Facts::decode(&mut Decoder::new(&bytes)).map(|facts| (facts.attributes(), facts.usage()));
        let header = u32::from(random.u16(..)).to_be_bytes();
        let longest = random.usize(..4096);
        if let Ok(record) = rpc::read_record(&mut &*bytes, header, longest) {
            assert!(record.len() <= longest);
        }
    }
}
