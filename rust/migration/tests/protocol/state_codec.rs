// SPDX-License-Identifier: GPL-2.0

//! The fields of the device state.

use migration::stream::{Error, Reader, Writer};
use proptest::prelude::*;

#[test]
fn p50_fields_are_little_endian_and_come_back() {
    let mut buf = [0xee; 20];
    let mut w = Writer::new(&mut buf);
    assert!(w.is_empty());
    w.put_u8(0x11).unwrap();
    w.put_u16(0x2233).unwrap();
    w.put_u32(0x4455_6677).unwrap();
    w.put_u64(0x8899_aabb_ccdd_eeff).unwrap();
    w.put_bytes(b"end").unwrap();
    assert_eq!((w.len(), w.remaining()), (18, 2));
    assert_eq!(
        buf,
        [
            0x11, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99,
            0x88, b'e', b'n', b'd', 0xee, 0xee
        ]
    );

    let mut r = Reader::new(&buf[..18]);
    assert_eq!(r.get_u8(), Ok(0x11));
    assert_eq!(r.get_u16(), Ok(0x2233));
    assert_eq!(r.get_u32(), Ok(0x4455_6677));
    assert_eq!(r.get_u64(), Ok(0x8899_aabb_ccdd_eeff));
    assert_eq!(r.get_array(), Ok(*b"end"));
    assert_eq!(r.finish(), Ok(()));
}

#[test]
fn p26_a_field_that_does_not_fit_changes_nothing() {
    let mut buf = [0xee; 7];
    let mut w = Writer::new(&mut buf);
    w.put_u32(1).unwrap();
    let space = Error::Space {
        needed: 4,
        available: 3,
    };
    assert_eq!(w.put_u32(2), Err(space));
    assert_eq!((w.len(), w.remaining()), (4, 3));
    w.put_u16(3).unwrap();
    assert_eq!(buf, [1, 0, 0, 0, 3, 0, 0xee]);
}

#[test]
fn p26_a_field_that_is_cut_short_is_refused() {
    let bytes = [1, 2, 3, 4, 5, 6, 7];
    let mut r = Reader::new(&bytes);
    let short = Error::Short {
        needed: 8,
        available: 7,
    };
    assert_eq!(r.get_u64(), Err(short));
    assert_eq!(r.get_bytes(8), Err(short));
    assert_eq!(r.get_bytes(usize::MAX).map_err(|e| e.errno()), Err(61));
    assert_eq!(r.get_u32(), Ok(0x0403_0201));
    assert_eq!(r.remaining(), 3);
    assert_eq!(r.clone().finish(), Err(Error::Trailing { left: 3 }));
    assert_eq!(r.get_bytes(3), Ok(&bytes[4..]));
    assert_eq!(r.get_bytes(0), Ok(&[][..]));
    assert_eq!(r.finish(), Ok(()));
}

proptest! {
    #[test]
    fn p26_a_reader_never_passes_the_end(bytes: Vec<u8>, lens: Vec<usize>) {
        let mut r = Reader::new(&bytes);
        let mut read = Vec::new();
        for len in lens {
            let len = len % 9;
            match r.get_bytes(len) {
                Ok(part) => read.extend(part),
                Err(_) => prop_assert!(bytes.len() - read.len() < len),
            }
        }
        prop_assert_eq!(&bytes[..read.len()], &read[..]);
        prop_assert_eq!(r.remaining(), bytes.len() - read.len());
    }
}
