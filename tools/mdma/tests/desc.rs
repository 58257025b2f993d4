// SPDX-License-Identifier: GPL-2.0

//! Descriptors and completion records.

use mdma::desc::{self, Completion, Descriptor, Error, Op, Place};
use mdma::{desc::OPERATIONS, job};
use proptest::prelude::*;

/// Generates any valid descriptor.
fn legal() -> impl Strategy<Value = Descriptor> {
    (
        0..OPERATIONS.len(),
        any::<[u64; 4]>(),
        1..=desc::MAX_LEN,
        any::<u32>(),
        any::<[u32; 2]>(),
    )
        .prop_map(|(op, [src, dst, value, cookie], len, flags, entries)| {
            let op = OPERATIONS[op].op;
            let mut flags = flags & op.flags();
            // At most one of the flags that say what a side is.
            for kinds in [
                [desc::SRC_LIST, desc::SRC_DEVICE, desc::SRC_KEY],
                [desc::DST_LIST, desc::DST_DEVICE, desc::DST_KEY],
            ] {
                if let Some(kind) = kinds.iter().find(|&kind| flags & kind != 0) {
                    flags &= !kinds.iter().sum::<u32>() | kind;
                }
            }
            let entries_of = |flag, n| if flags & flag != 0 { n } else { 0 };
            Descriptor {
                op,
                flags,
                src,
                dst,
                len: match op {
                    Op::Nop | Op::Deregister => 0,
                    _ => len,
                },
                value: if op == Op::Register { value & 1 } else { value },
                cookie,
                src_entries: entries_of(desc::SRC_LIST, entries[0]),
                dst_entries: entries_of(desc::DST_LIST, entries[1]),
                src_key: entries_of(desc::SRC_KEY, entries[1]),
                dst_key: entries_of(desc::DST_KEY, entries[0]),
            }
        })
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in any::<[u8; 64]>()) {
        if let Ok(desc) = Descriptor::decode(&bytes) {
            prop_assert_eq!(desc.encode(), bytes);
            let _ = desc.check(1 << 24);
        }
    }

    #[test]
    fn legal_descriptors_round_trip(desc in legal()) {
        prop_assert_eq!(Descriptor::decode(&desc.encode()), Ok(desc));
    }

    #[test]
    fn one_wrong_bit_is_refused_for_its_reason(desc in legal(), bit in 7u32..32, at in 48usize..64) {
        let bytes = desc.encode();

        let mut wrong = bytes;
        wrong[4..8].copy_from_slice(&(desc.flags | (1 << bit)).to_le_bytes());
        prop_assert_eq!(Descriptor::decode(&wrong), Err(Error::BadFlags));

        wrong = bytes;
        wrong[0..4].copy_from_slice(&(desc.op as u32 | (1 << bit)).to_le_bytes());
        prop_assert_eq!(Descriptor::decode(&wrong), Err(Error::BadOp));

        // The number of entries or the key of a side that has none.
        let flag = [desc::SRC_LIST, desc::DST_LIST, desc::SRC_KEY, desc::DST_KEY][at / 4 - 12];
        if desc.flags & flag == 0 {
            wrong = bytes;
            wrong[at] |= 1 << (bit % 8);
            prop_assert_eq!(Descriptor::decode(&wrong), Err(Error::BadReserved));
        }
    }

    #[test]
    fn records_round_trip(cookie: u64, error: u32, result: u32, bytes: u64, sequence: u64) {
        let record = Completion { cookie, error, result, bytes, sequence };
        prop_assert_eq!(Completion::decode(&record.encode()), record);
    }
}

#[test]
fn lengths() {
    let refused = |desc: Descriptor| Descriptor::decode(&desc.encode()).err();
    let fill = |len| job::fill(Place::Device(0), 0, len);

    assert_eq!(refused(fill(0)), Some(Error::BadLength));
    assert_eq!(refused(fill(1)), None);
    assert_eq!(refused(fill(1 << 32)), None);
    assert_eq!(refused(fill((1 << 32) + 1)), Some(Error::BadLength));
    assert_eq!(
        refused(Descriptor {
            len: 1,
            ..job::nop()
        }),
        Some(Error::BadLength)
    );
}

#[test]
fn flags_without_use_are_refused() {
    for row in OPERATIONS {
        for (flag, used) in [
            (desc::INTERRUPT, true),
            (desc::SRC_DEVICE, row.source),
            (desc::DST_DEVICE, row.destination),
            (desc::SRC_LIST, row.source),
            (desc::DST_LIST, row.destination),
            (desc::SRC_KEY, row.source),
            (desc::DST_KEY, row.destination),
        ] {
            let desc = Descriptor {
                op: row.op,
                flags: flag,
                len: u64::from(!matches!(row.op, Op::Nop | Op::Deregister)),
                ..job::nop()
            };
            let expected = if used { Ok(desc) } else { Err(Error::BadFlags) };
            assert_eq!(
                Descriptor::decode(&desc.encode()),
                expected,
                "{} {flag}",
                row.name
            );
        }
    }
}

#[test]
fn ranges() {
    const MEMORY: u64 = 1 << 24;
    let copy = |src, dst, len| job::copy(src, dst, len).check(MEMORY);
    use Place::{Device, Guest};

    assert_eq!(copy(Device(0), Device(0), MEMORY), Ok(()));
    assert_eq!(copy(Device(1), Device(0), MEMORY), Err(Error::SrcRange));
    assert_eq!(copy(Device(0), Device(1), MEMORY), Err(Error::DstRange));
    assert_eq!(copy(Device(u64::MAX), Device(0), 2), Err(Error::SrcRange));
    assert_eq!(copy(Device(0), Device(u64::MAX), 2), Err(Error::DstRange));
    assert_eq!(copy(Device(MEMORY), Device(0), 1), Err(Error::SrcRange));
    assert_eq!(copy(Guest(u64::MAX), Guest(u64::MAX), 1), Ok(()));
    assert_eq!(copy(Guest(u64::MAX), Guest(0), 2), Err(Error::SrcFault));
    assert_eq!(copy(Guest(0), Guest(u64::MAX), 2), Err(Error::DstFault));
    // Fields that an operation does not use are ignored.
    let fill = Descriptor {
        src: u64::MAX,
        ..job::fill(Device(0), 0, 8)
    };
    assert_eq!(fill.check(MEMORY), Ok(()));
}
