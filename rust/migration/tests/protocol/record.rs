// SPDX-License-Identifier: GPL-2.0

//! Framing: headers and checksums (P50).

use crate::device::{crc, records, sample, Device};
use migration::stream::{
    Checksum, Error, Header, Kind, Totals, CRC_SEED, FLAG_AGAIN, FLAG_START, FLAG_UNCHECKED,
    HEADER_SIZE,
};

const HEADER: Header = Header {
    kind: 2,
    flags: 3,
    length: 0x0102_0304,
    sequence: 0x1112_1314_1516_1718,
    position: 0x2122_2324_2526_2728,
    payload_crc: 0x3132_3334,
};

#[test]
fn p50_the_bytes_of_a_header() {
    let bytes = HEADER.encode::<Device>();
    assert_eq!(
        bytes[..28],
        [
            0x02, 0x00, 0x03, 0x00, 0x04, 0x03, 0x02, 0x01, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13,
            0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31
        ]
    );
    assert_eq!(bytes[28..], crc(&bytes[..28]).to_le_bytes());
    assert_eq!(Header::decode::<Device>(&bytes, 0), Ok(HEADER));
}

#[test]
fn p50_the_checksum_is_crc32c() {
    // The check value of CRC-32C.
    assert_eq!(crc(b"123456789"), 0xe306_9283);
    assert_eq!(crc(b""), 0);
    // The checksum can be computed in pieces.
    let running = Device::crc32c(Device::crc32c(CRC_SEED, b"1234"), b"56789");
    assert_eq!(!running, 0xe306_9283);
}

#[test]
fn p50_every_bit_of_a_header_counts() {
    let bytes = HEADER.encode::<Device>();
    for bit in 0..HEADER_SIZE * 8 {
        let mut bytes = bytes;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Header::decode::<Device>(&bytes, 7).unwrap_err();
        assert!(
            matches!(error, Error::HeaderChecksum { sequence: 7, .. }),
            "{bit}"
        );
        assert_eq!(error.errno(), 74);
    }
}

#[test]
fn p50_a_stream_counts_itself() {
    let stream = sample().save(4096).concat();
    let records = records(&stream);
    let kinds: Vec<_> = records
        .iter()
        .map(|(header, _)| Kind::from_u16(header.kind).unwrap())
        .collect();
    use Kind::*;
    assert_eq!(kinds, [Identity, Memory, Memory, Memory, Device, End]);
    for (number, (header, payload)) in records.iter().enumerate() {
        assert_eq!(header.sequence, number as u64);
        assert_eq!(header.payload_crc, crc(payload));
        assert_eq!(header.flags, if number == 0 { FLAG_START } else { 0 });
    }

    // Compare with an END record that is assembled by hand.
    let (last, before) = records.split_last().unwrap();
    let mut digest = CRC_SEED;
    for (header, _) in before {
        digest =
            crate::device::Device::crc32c(digest, &header.encode::<crate::device::Device>()[..28]);
    }
    let mut end = Vec::new();
    end.extend(5u64.to_le_bytes());
    end.extend((5 * 64u64).to_le_bytes());
    end.extend(0u64.to_le_bytes());
    end.extend(100u64.to_le_bytes());
    end.extend((!digest).to_le_bytes());
    end.extend([0; 4]);
    assert_eq!(last.1, end);
}

#[test]
fn p26_a_count_that_differs_is_named() {
    let totals = Totals {
        records: 1,
        memory_bytes: 2,
        zero_bytes: 3,
        state_bytes: 4,
        digest: 5,
    };
    let bytes = totals.encode();
    assert_eq!(totals.accept(&bytes), Ok(()));
    let names = [
        (0, "records"),
        (8, "memory bytes"),
        (16, "zero bytes"),
        (24, "state bytes"),
        (32, "digest"),
        (36, "reserved"),
    ];
    for (at, name) in names {
        let mut bytes = bytes;
        bytes[at] ^= 0x40;
        let error = totals.accept(&bytes).unwrap_err();
        assert!(matches!(error, Error::Count { field, .. } if field == name));
        assert_eq!(error.errno(), 74);
    }
    assert_eq!(totals.accept(&bytes[..39]).unwrap_err().errno(), 61);
    let long = [&bytes[..], &[0]].concat();
    assert_eq!(totals.accept(&long), Err(Error::Trailing { left: 1 }));
}

#[test]
fn p51_kinds_and_flags_have_the_documented_numbers() {
    for (number, kind, name) in [
        (1, Kind::Identity, "IDENTITY"),
        (2, Kind::Memory, "MEMORY"),
        (3, Kind::Zero, "ZERO"),
        (4, Kind::Device, "DEVICE"),
        (5, Kind::End, "END"),
        (6, Kind::Part, "PART"),
    ] {
        assert_eq!(Kind::from_u16(number), Some(kind));
        assert_eq!(kind as u16, number);
        assert_eq!(kind.to_string(), name);
    }
    assert_eq!(Kind::from_u16(0), None);
    assert_eq!(Kind::from_u16(7), None);
    assert_eq!((FLAG_START, FLAG_AGAIN, FLAG_UNCHECKED), (2, 4, 8));
}
