// SPDX-License-Identifier: GPL-2.0

//! Streams whose memory has no checksum.

use crate::device::{crc, fill_all, join, records, sample, Device};
use migration::stream::{
    Error, Header, Kind, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, FLAG_UNCHECKED,
};

const MEMORY: u16 = Kind::Memory as u16;

/// Returns a device, and its stream with all kinds of records, in which memory has no checksum.
fn source() -> (Device, Vec<Vec<u8>>) {
    let device = sample();
    let mut session = device.begin().with_checksums(false);
    let mut buffers = fill_all(&mut session, &device, 300);
    device.write(5, 5);
    device.discard(2);
    session.stop();
    buffers.extend(fill_all(&mut session, &device, 300));
    (device, buffers)
}

/// Loads a stream into a new device.
fn load(stream: &[u8]) -> Result<Device, Error> {
    let target = Device::new(40);
    target.load(stream).map(|()| target)
}

/// Changes the header of the first record of a kind, and corrects the checksum of the header.
fn with_header(stream: &[u8], kind: u16, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut change = Some(change);
    for (mut header, payload) in records(stream) {
        if header.kind == kind {
            if let Some(change) = change.take() {
                change(&mut header);
            }
        }
        out.extend(header.encode::<Device>());
        out.extend(payload);
    }
    assert!(change.is_none(), "no record of kind {kind}");
    out
}

#[test]
fn p50_only_memory_has_no_checksum_and_says_so() {
    let (source, buffers) = source();
    let stream = buffers.concat();
    let mut memory = 0;
    for (header, payload) in records(&stream) {
        let is_memory = header.kind == MEMORY;
        memory += u32::from(is_memory);
        assert_eq!(header.flags & FLAG_UNCHECKED != 0, is_memory, "{header:?}");
        assert_eq!(
            header.payload_crc,
            if is_memory { 0 } else { crc(&payload) }
        );
    }
    assert!(memory > 1);
    load(&stream).unwrap().assert_same(&source);
}

#[test]
fn p50_the_device_is_asked_for_no_checksum() {
    // Both streams differ in nothing but the flag, the checksums and what depends on them.
    let with = sample().save(4096).concat();
    let device = sample();
    let mut session = device.begin().with_checksums(false);
    session.stop();
    let without = fill_all(&mut session, &device, 4096).concat();
    let (with, without) = (records(&with), records(&without));
    assert_eq!(with.len(), without.len());
    for ((with, payload), (without, same)) in with.iter().zip(&without) {
        assert_eq!((with.kind, with.position), (without.kind, without.position));
        assert!(payload == same || with.kind == Kind::End as u16);
    }
}

#[test]
fn p26_a_flipped_bit_is_noticed_in_a_header_and_not_in_memory() {
    let (source, buffers) = source();
    let stream = buffers.concat();
    let mut unnoticed = 0;
    let mut at = 0;
    for (header, payload) in records(&stream) {
        let payload_at = at + 32;
        for bit in at * 8..(payload_at + payload.len()) * 8 {
            let mut bytes = stream.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let is_memory = header.kind == MEMORY && bit / 8 >= payload_at;
            match load(&bytes) {
                Ok(target) => {
                    assert!(is_memory, "bit {bit} of {header:?}");
                    assert_eq!(*target.state.borrow(), *source.state.borrow());
                    unnoticed += 1;
                }
                Err(error) => {
                    assert!(!is_memory, "bit {bit} of {header:?}: {error}");
                    assert!(error.errno() > 0);
                }
            }
        }
        at = payload_at + payload.len();
    }
    assert!(unnoticed > 0);
}

#[test]
fn p26_the_flag_of_another_kind_is_refused() {
    let (_, buffers) = source();
    let stream = buffers.concat();
    for kind in [1, 3, 4, 5, 77] {
        let stream = match kind {
            77 => {
                // A record that would be skipped.
                let mut records = records(&stream);
                records[1].0.kind = 77;
                records[1].0.flags = FLAG_OPTIONAL;
                join(&records)
            }
            _ => stream.clone(),
        };
        let bytes = with_header(&stream, kind, |header| {
            header.flags |= FLAG_UNCHECKED;
            header.payload_crc = 0;
        });
        let error = load(&bytes).map(|_| ()).unwrap_err();
        let found = matches!(error, Error::Flags { found, .. } if found & FLAG_UNCHECKED != 0);
        assert!(found, "kind {kind}: {error:?}");
        assert_eq!(error.errno(), 71);
    }
}

#[test]
fn p26_a_checksum_that_is_none_must_be_0() {
    let (_, buffers) = source();
    let bytes = with_header(&buffers.concat(), MEMORY, |header| header.payload_crc = 7);
    let target = Device::new(40);
    let error = target.load(&bytes).unwrap_err();
    let kind = Kind::Memory;
    assert_eq!(error, Error::Reserved { kind, found: 7 });
    assert_eq!(error.errno(), 71);
    // Nothing of it was written.
    assert_eq!(target.copied.get(), 0);
}

#[test]
fn p26_a_flag_that_is_removed_is_noticed() {
    let (_, buffers) = source();
    let bytes = with_header(&buffers.concat(), MEMORY, |header| {
        header.flags &= !FLAG_UNCHECKED;
    });
    let error = load(&bytes).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::PayloadChecksum { stored: 0, .. }));
    assert_eq!(error.errno(), 74);
}

#[test]
fn p23_a_buffer_is_offered_again_with_the_flag() {
    let source = sample();
    let mut session = source.begin().with_checksums(false);
    let mut first = vec![0; 4096];
    let used = session.fill(&source, &mut first, 200).unwrap();
    first.truncate(used);
    let mut second = vec![0; 4096];
    let used = session.fill(&source, &mut second, 200).unwrap();
    second.truncate(used);
    session.stop();
    let mut again = second.clone();
    session.restage(&source, &mut again).unwrap();
    let header = Header::decode::<Device>(again.first_chunk().unwrap(), 0).unwrap();
    assert_eq!(header.flags, FLAG_START | FLAG_AGAIN | FLAG_UNCHECKED);
    let rest = fill_all(&mut session, &source, 200).concat();
    // Read once or twice.
    for parts in [
        &[&first, &again, &rest][..],
        &[&first, &second, &again, &rest],
    ] {
        let stream: Vec<u8> = parts.iter().copied().flatten().copied().collect();
        load(&stream).unwrap().assert_same(&source);
    }
}
