// SPDX-License-Identifier: GPL-2.0

//! Malformed streams. Each has one error, and the device refuses it because of that error.

use migration::stream::{Kind, END_SIZE, FLAG_AGAIN, FLAG_START};
use vfio_client::v1::State;

use crate::env::Env;
use crate::fixture::PAGE;
use crate::harness::check::Errno;
use crate::harness::result::Result;
use crate::stream::bench::Bench;
use crate::tests;
use records::{Record, Stream};

tests! { "stream":
    p50_truncated ["P50", "P26"],
    p50_reordered_repeated_or_missing_records ["P50", "P26"],
    p50_every_bit_of_every_control_record ["P50", "P26"],
    p50_bits_of_memory ["P50", "P26"] needs [DeviceMemory],
    p50_positions_outside_memory ["P50"],
    p50_oversized_lengths ["P50"],
    p50_illegal_shapes ["P50"],
    p50_counts_of_the_closing_record ["P50"],
    p50_data_after_the_end ["P50"],
    p50_a_state_no_device_can_have ["P50", "P26"] needs [Mdma],
    p50_a_state_that_is_too_short ["P50", "P26"],
    p51_unknown_optional_records_are_skipped ["P51"],
    p51_unknown_mandatory_records_are_refused ["P51"],
    p51_unknown_flags_are_refused ["P51"],
}

fn p50_truncated(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let intact = bench.stream.bytes();
    // Cut small records at each byte, and large ones at regular intervals.
    let mut at = 0;
    for record in &bench.stream.records {
        let step = if record.size() > 1000 { 499 } else { 1 };
        for cut in (at..at + record.size()).step_by(step) {
            let refusal = bench.attempt(&intact[..cut], 1 << 20)?;
            let found = refusal.as_ref().and_then(Errno::errno);
            assert_eq!(found, Some(libc::ENODATA), "cut at {cut}: {refusal:?}");
            bench.fixture.device.reset()?;
        }
        at += record.size();
    }
    bench.usable()
}

fn p50_reordered_repeated_or_missing_records(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let records = &bench.stream.records;
    let refused = |what: String, errno: i32, order: &[usize]| {
        let records = order.iter().map(|n| records[*n].clone()).collect();
        // The records keep their sequence numbers.
        bench.refused(&Stream { records }.bytes(), errno, &what)
    };
    let all: Vec<usize> = (0..records.len()).collect();
    assert!(all.len() >= 3, "identity, state, end");
    for n in 1..all.len() {
        let mut without = all.clone();
        without.remove(n);
        // A stream without its last record is valid but incomplete.
        let last = n == all.len() - 1;
        let errno = if last { libc::ENODATA } else { libc::EPROTO };
        refused(format!("without record {n}"), errno, &without)?;
        let mut twice = all.clone();
        twice.insert(n, n);
        refused(format!("record {n} twice"), libc::EPROTO, &twice)?;
        for m in n + 1..all.len() {
            let mut swapped = all.clone();
            swapped.swap(n, m);
            refused(
                format!("records {n} and {m} exchanged"),
                libc::EPROTO,
                &swapped,
            )?;
        }
    }
    // A second IDENTITY record restarts the stream, even after the end.
    let again = |from: &[usize]| Stream {
        records: from
            .iter()
            .chain(&all)
            .map(|n| records[*n].clone())
            .collect(),
    };
    bench.accepted(&again(&[0]), "the identity twice")?;
    bench.accepted(
        &again(&all[..2]),
        "the first records, then the complete stream",
    )?;
    bench.accepted(&again(&all), "the complete stream twice")?;
    // A repeated record is illegal even with corrected sequence numbers.
    bench.spoilt("a second identity", libc::EPROTO, |s| {
        let again = s.records[0].clone();
        s.records.insert(1, again);
    })?;
    bench.spoilt("the same state twice", libc::EPROTO, |s| {
        let at = s.position(Kind::Device);
        let again = s.records[at].clone();
        s.records.insert(at, again);
    })?;
    // Only a record with FLAG_AGAIN may go back, and only to the start of the last buffer.
    let mut back = bench.stream.clone();
    let mut again = back.records[1].clone();
    again.header.flags |= FLAG_START | FLAG_AGAIN;
    back.records.insert(2, again);
    bench.refused(
        &back.bytes(),
        libc::EPROTO,
        "again, but not from the start of a buffer",
    )?;
    bench.usable()
}

/// The errnos that a flipped bit may cause. Its position decides which check fails first.
const CORRUPT: [i32; 2] = [libc::EBADMSG, libc::EINVAL];

/// Flips a bit and checks that the device refuses the stream, at once or at the end.
fn flip(bench: &Bench, intact: &[u8], at: usize, bit: usize) -> Result {
    let mut bytes = intact.to_vec();
    bytes[at] ^= 1 << bit;
    let Some(refusal) = bench.attempt(&bytes, 1 << 20)? else {
        crate::fail!("the device accepted the stream with bit {bit} of byte {at} flipped");
    };
    let errno = refusal.errno().unwrap_or(0);
    assert!(
        CORRUPT.contains(&errno),
        "bit {bit} of byte {at}: {refusal}"
    );
    assert_eq!(bench.fixture.state()?, State::ERROR);
    Ok(bench.fixture.device.reset()?)
}

fn p50_every_bit_of_every_control_record(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let intact = bench.stream.bytes();
    let mut at = 0;
    let mut flipped = 0;
    for record in &bench.stream.records {
        // Flip only the header of a memory record, but all of any other record.
        let len = match record.kind() {
            Some(Kind::Memory) => record.size() - record.payload.len(),
            _ => record.size(),
        };
        for byte in at..at + len {
            for bit in 0..8 {
                flip(&bench, &intact, byte, bit)?;
                flipped += 1;
            }
        }
        at += record.size();
    }
    crate::note!("flipped {flipped} bits of {} bytes", intact.len());
    bench.usable()
}

fn p50_bits_of_memory(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let intact = bench.stream.bytes();
    let seed = 51;
    crate::note!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at = 0;
    for record in &bench.stream.records {
        let payload = at + record.size() - record.payload.len()..at + record.size();
        if record.kind() == Some(Kind::Memory) {
            flip(&bench, &intact, payload.start, 0)?;
            flip(&bench, &intact, payload.end - 1, 7)?;
            for _ in 0..100 {
                flip(&bench, &intact, rng.usize(payload.clone()), rng.usize(0..8))?;
            }
        }
        at += record.size();
    }
    bench.usable()
}

fn p50_positions_outside_memory(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let identity = bench.identity()?;
    let size = identity.memory_size;
    let page = PAGE as usize;
    let add = |kind: Kind, position: u64, payload: Vec<u8>| {
        move |s: &mut Stream| {
            s.records
                .insert(1, Record::new(kind as u16, position, payload))
        }
    };
    for (position, len) in [
        (size, page),
        (size.saturating_sub(PAGE), 2 * page),
        (size + (1 << 40), page),
        (0u64.wrapping_sub(PAGE), page),
        (0u64.wrapping_sub(PAGE), 2 * page),
        (1 << 63, page),
    ] {
        let what = format!("{len:#x} bytes of memory at {position:#x}");
        bench.spoilt(
            &what,
            libc::ERANGE,
            add(Kind::Memory, position, vec![1; len]),
        )?;
        let what = format!("{len:#x} bytes of zeroes at {position:#x}");
        let zero = (len as u64).to_le_bytes().to_vec();
        bench.spoilt(&what, libc::ERANGE, add(Kind::Zero, position, zero))?;
    }
    for extent in [size + PAGE, 1 << 63, 0u64.wrapping_sub(PAGE)] {
        let what = format!("{extent:#x} bytes of zeroes at 0");
        let zero = extent.to_le_bytes().to_vec();
        bench.spoilt(&what, libc::ERANGE, add(Kind::Zero, 0, zero))?;
    }
    for (position, len) in [
        (1, page),
        (PAGE - 1, page),
        (0, page - 1),
        (0, 1),
        (2048, 2048),
    ] {
        let what = format!("{len:#x} bytes of memory at {position:#x}");
        bench.spoilt(
            &what,
            libc::EPROTO,
            add(Kind::Memory, position, vec![1; len]),
        )?;
        let what = format!("{len:#x} bytes of zeroes at {position:#x}");
        let zero = (len as u64).to_le_bytes().to_vec();
        bench.spoilt(&what, libc::EPROTO, add(Kind::Zero, position, zero))?;
    }
    // Device state beyond its maximal size.
    let max = identity.state_size_max as usize;
    bench.spoilt("state that is too long", libc::ERANGE, |s| {
        let at = s.position(Kind::Device);
        s.records[at].payload.resize(max + 1, 0);
    })?;
    // A state that is shorter leaves a gap.
    let device = bench.stream.position(Kind::Device);
    let errno = match bench.stream.records[device].payload.len() {
        len if len == max => libc::ERANGE,
        _ => libc::EPROTO,
    };
    bench.spoilt("more state after the state", errno, |s| {
        let at = device + 1;
        let more = Record::new(Kind::Device as u16, max as u64, vec![0; 8]);
        s.records.insert(at, more);
    })?;
    bench.usable()
}

fn p50_oversized_lengths(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    // The device refuses the length in the header, before the payload arrives.
    for (kind, position, length, errno) in [
        (Kind::Memory, 0, 0xffff_f000, libc::ERANGE),
        (Kind::Memory, 0, u32::MAX, libc::EPROTO),
        (
            Kind::Memory,
            0u64.wrapping_sub(PAGE),
            0xffff_f000,
            libc::ERANGE,
        ),
        (Kind::Zero, 0, u32::MAX, libc::EPROTO),
        (Kind::Device, 0, u32::MAX, libc::ERANGE),
        (Kind::Device, u64::MAX, 1, libc::EPROTO),
        (Kind::End, 0, u32::MAX, libc::EPROTO),
    ] {
        let mut stream = bench.stream.clone();
        stream.records.truncate(2);
        stream.records[1] = Record::new(kind as u16, position, vec![]);
        stream.seal();
        stream.records[1].header.length = length;
        let what = format!("{kind} of {length:#x} bytes at {position:#x}");
        bench.refused(&stream.bytes(), errno, &what)?;
    }
    // A record that is skipped may be long, so this stream is incomplete.
    let mut stream = bench.stream.clone();
    stream.records.truncate(2);
    stream.records[1] = Record::new(99, u64::MAX, vec![]).optional();
    stream.seal();
    stream.records[1].header.length = u32::MAX;
    bench.refused(&stream.bytes(), libc::ENODATA, "four gigabytes to skip")?;
    bench.usable()
}

fn p50_illegal_shapes(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let add = |record: Record| move |s: &mut Stream| s.records.insert(1, record);
    for (what, record) in [
        (
            "memory of no bytes",
            Record::new(Kind::Memory as u16, 0, vec![]),
        ),
        (
            "state of no bytes",
            Record::new(Kind::Device as u16, 0, vec![]),
        ),
        (
            "zeroes of no bytes",
            Record::new(Kind::Zero as u16, 0, vec![0; 8]),
        ),
        (
            "a short count of zeroes",
            Record::new(Kind::Zero as u16, 0, vec![0; 7]),
        ),
        (
            "a long count of zeroes",
            Record::new(Kind::Zero as u16, 0, vec![0; 9]),
        ),
        (
            "an end that is too short",
            Record::new(Kind::End as u16, 0, vec![0; END_SIZE - 1]),
        ),
        (
            "an end that is too long",
            Record::new(Kind::End as u16, 0, vec![0; END_SIZE + 1]),
        ),
        (
            "state that starts in the middle",
            Record::new(Kind::Device as u16, 8, vec![0; 8]),
        ),
    ] {
        bench.spoilt(what, libc::EPROTO, add(record))?;
    }
    bench.spoilt("an identity with a position", libc::EPROTO, |s| {
        s.records[0].header.position = 1;
    })?;
    bench.spoilt("an end with a position", libc::EPROTO, |s| {
        let at = s.position(Kind::End);
        s.records[at].header.position = 1 << 32;
    })?;
    bench.spoilt("an identity with a reserved field", libc::EPROTO, |s| {
        s.records[0].payload[12] = 1;
    })?;
    bench.spoilt("an identity that is too long", libc::EPROTO, |s| {
        s.records[0].payload.push(0);
    })?;
    bench.usable()
}

fn p50_counts_of_the_closing_record(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let end = bench.stream.position(Kind::End);
    for field in 0..5 {
        for change in [1u64, u64::MAX, 1 << 31] {
            let mut stream = bench.stream.clone();
            let record = &mut stream.records[end];
            let at = field * 8;
            let old = records::u64_at(&record.payload, at);
            let new = old.wrapping_add(change);
            record.payload[at..at + 8].copy_from_slice(&new.to_le_bytes());
            record.header.payload_crc = records::crc(&record.payload);
            let what = format!("field {field} of the end is {new:#x}");
            bench.refused(&stream.bytes(), libc::EBADMSG, &what)?;
        }
    }
    // A record is missing and the sequence numbers are corrected: the counts of the END record do not match.
    let mut stream = bench.stream.clone();
    stream.records.remove(1);
    for (record, number) in stream.records.iter_mut().zip(0..) {
        record.header.sequence = number;
    }
    bench.refused(&stream.bytes(), libc::EBADMSG, "a removed record")?;
    // The stream contains no device state, and the counts match.
    bench.spoilt("no state", libc::ENODATA, |s| {
        s.records.remove(s.position(Kind::Device));
    })?;
    bench.usable()
}

fn p50_data_after_the_end(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    for (more, errno) in [
        // It may be the start of another stream.
        (1, libc::ENODATA),
        (31, libc::ENODATA),
        (32, libc::EPROTO),
        (4096, libc::EPROTO),
    ] {
        let mut bytes = bench.stream.bytes();
        bytes.extend(vec![0; more]);
        bench.refused(&bytes, errno, &format!("{more} bytes after the end"))?;
    }
    bench.spoilt("a record after the end", libc::EPROTO, |s| {
        s.records.push(Record::new(0x70, 0, vec![1; 8]).optional());
    })?;
    bench.usable()
}

fn p50_a_state_no_device_can_have(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    // All checksums are right. The device refuses the value of one field.
    let uses: [(&str, usize, u64); 12] = [
        ("flags", 0, 4),
        ("error", 4, 12),
        ("error", 4, 0xffff_ffff),
        ("cause", 8, 4),
        ("mask", 12, 0x8000_0000),
        ("ring_order", 32, 13),
        ("throttle", 36, 1_000_001),
        ("head", 40, 1),
        ("tail", 44, 1),
        ("job.done", 72, 1 << 16),
        ("job.crc", 80, 1),
        ("job.descriptor", 96, 1),
    ];
    for (field, at, value) in uses {
        let layout = mdma::state::LAYOUT.iter().rev();
        let row = layout.clone().find(|f| f.offset <= at).expect("a field");
        assert_eq!(row.name, field, "the layout has changed");
        let size = row.size.min(8);
        bench.spoilt(field, libc::EINVAL, |s| {
            let device = s.position(Kind::Device);
            s.records[device].payload[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        })?;
    }
    bench.usable()
}

fn p50_a_state_that_is_too_short(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    bench.spoilt("state that is too short", libc::ENODATA, |s| {
        let device = s.position(Kind::Device);
        s.records[device].payload.pop();
    })?;
    bench.usable()
}

fn p51_unknown_optional_records_are_skipped(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    let section = bench.fixture.section();
    for kind in [0, 6, 99, 0xffff] {
        for len in [0, 1, 55, 56, 57, 4096, section + 5] {
            for at in [1, 2, bench.stream.records.len() - 1] {
                let mut stream = bench.stream.clone();
                let record = Record::new(kind, 0xdead_beef_0000_0001, vec![0xa5; len]).optional();
                stream.records.insert(at, record);
                stream.seal();
                bench.accepted(&stream, &format!("kind {kind}, {len} bytes, before {at}"))?;
            }
        }
    }
    // The device checks records that it skips, too.
    let mut stream = bench.stream.clone();
    stream
        .records
        .insert(1, Record::new(99, 0, vec![1; 100]).optional());
    stream.seal();
    stream.records[1].payload[50] = 2;
    bench.refused(&stream.bytes(), libc::EBADMSG, "a corrupt optional record")?;
    bench.usable()
}

fn p51_unknown_mandatory_records_are_refused(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    for kind in [0, 6, 99, 0xffff] {
        for len in [0, 1, 4096] {
            let record = Record::new(kind, 0, vec![0; len]);
            let what = format!("mandatory kind {kind} of {len} bytes");
            bench.spoilt(&what, libc::EPROTONOSUPPORT, |s| {
                s.records.insert(1, record)
            })?;
        }
    }
    bench.usable()
}

fn p51_unknown_flags_are_refused(env: &Env) -> Result {
    let bench = Bench::new(env)?;
    for bit in 4..16 {
        let what = format!("flag {bit}");
        bench.spoilt(&what, libc::EPROTO, |s| {
            s.records[1].header.flags |= 1 << bit
        })?;
    }
    // FLAG_AGAIN is valid only with FLAG_START.
    bench.spoilt("again without start", libc::EPROTO, |s| {
        s.records[1].header.flags |= FLAG_AGAIN;
    })?;
    bench.usable()
}
