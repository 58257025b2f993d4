// SPDX-License-Identifier: GPL-2.0

//! Streams that are not quite right: what is wrong with each is one thing, and that thing is why it is refused.
//!
//! Everything here goes the way of [`Bench::refused`]: the intact stream is loaded by the same calls first, so that what
//! fails afterwards fails for the change that was made.

use mdma::regs::Reg;
use migration::stream::{device_type, Identity, Kind, END_SIZE, FLAG_AGAIN, FLAG_START};
use vfio_client::v1::State;
use vfio_client::Error;

use crate::check::Errno;
use crate::lab::Lab;
use crate::memory::random_bytes;
use crate::outcome::Outcome;
use crate::records::{Record, Stream};
use crate::scene::{device, run_jobs, Scene, PAGE};
use crate::{assert_errno, assert_refused, tests};

tests! { "stream":
    p49_another_identity_is_refused_by_field ["P49"],
    p49_foreign_bytes_are_refused ["P49"],
    p49_a_refused_stream_leaves_the_device ["P49"],
    p49_another_type_of_the_same_device ["P49"],
    p50_truncated ["P50", "P26"],
    p50_reordered_repeated_or_missing_records ["P50", "P26"],
    p50_every_bit_of_every_control_record ["P50", "P26"],
    p50_bits_of_memory ["P50", "P26"],
    p50_positions_outside_memory ["P50"],
    p50_shapes_that_are_not_legal ["P50"],
    p50_counts_of_the_closing_record ["P50"],
    p50_data_after_the_end ["P50"],
    p50_a_state_no_device_can_have ["P50", "P26"],
    p51_unknown_optional_records_are_skipped ["P51"],
    p51_unknown_mandatory_records_are_refused ["P51"],
    p51_unknown_flags_are_refused ["P51"],
}

/// A saved device, and one to try streams on.
pub(crate) struct Bench {
    scene: Scene,
    stream: Stream,
}

/// Pages of device memory that the stream sends: two runs.
const PAGES: [u64; 3] = [3, 4, 9];

impl Bench {
    pub(crate) fn new(lab: &Lab) -> Outcome<Self> {
        let scene = Scene::new(lab)?;
        let mut rng = fastrand::Rng::with_seed(49);
        for page in PAGES {
            scene.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
        }
        scene.mdma.set(Reg::Scratch, 0x4950_5152)?;
        let stream = scene.save_stream()?;
        scene.device.reset()?;
        let bench = Bench { scene, stream };
        // The way itself: the stream as it was saved, and the same bytes taken apart and sealed.
        bench.accepted(&bench.stream, "as it was saved")?;
        let mut sealed = bench.stream.clone();
        sealed.seal();
        bench.accepted(&sealed, "sealed again")?;
        Ok(bench)
    }

    /// Loads a stream that is right, compares, and resets.
    fn accepted(&self, stream: &Stream, what: &str) -> Outcome {
        let scene = &self.scene;
        if let Err(e) = scene.load(&stream.bytes()) {
            crate::fail!("{what}: {e}");
        }
        assert_eq!(scene.mdma.get(Reg::Scratch)?, 0x4950_5152, "{what}");
        let len = 16 * PAGE as usize;
        let found = scene.read_memory(0, len)?;
        crate::memory::same(&found, &self.stream.memory(len), device(0), what);
        Ok(scene.device.reset()?)
    }

    /// Hands bytes over and asks for the end of the load; returns the refusal, if there was one.
    fn attempt(&self, bytes: &[u8], piece: usize) -> Outcome<Option<Error>> {
        let scene = &self.scene;
        scene.go(&[State::RESUMING])?;
        let mut first = None;
        for piece in bytes.chunks(piece) {
            first = scene.migration.load_buffer(piece).err();
            if first.is_some() {
                break;
            }
        }
        let end = scene.migration.write_state(State::RUNNING);
        Ok(match (first, end) {
            (Some(first), Err(end)) => {
                assert_eq!(end.errno(), first.errno(), "the end says something else");
                Some(first)
            }
            (Some(first), Ok(())) => panic!("{first}, and the device runs nevertheless"),
            (None, Err(end)) => Some(end),
            (None, Ok(())) => None,
        })
    }

    /// A stream must be refused with an errno; the device is in the error state then, and a reset makes it usable.
    fn refused(&self, bytes: &[u8], errno: i32, what: &str) -> Outcome {
        let scene = &self.scene;
        let before = scene.registers()?;
        for piece in [scene.section(), 61] {
            let refusal = self.attempt(bytes, piece)?;
            let found = refusal.as_ref().map(|e| e.errno());
            assert_eq!(found, Some(Some(errno)), "{what}: {refusal:?}");
            assert_eq!(scene.state()?, State::ERROR, "{what}");
            let diff = scene.registers()?.diff(&before);
            assert!(diff.is_empty(), "{what} changed {diff:x?}");
            scene.device.reset()?;
            assert_eq!(scene.state()?, State::RUNNING);
        }
        Ok(())
    }

    /// Changes the stream, seals it so that all the rest is right, and has it refused.
    fn spoilt(&self, what: &str, errno: i32, change: impl FnOnce(&mut Stream)) -> Outcome {
        let mut stream = self.stream.clone();
        change(&mut stream);
        stream.seal();
        self.refused(&stream.bytes(), errno, what)
    }

    /// At the end of a test: the device works as ever.
    fn usable(&self) -> Outcome {
        self.accepted(&self.stream, "after everything")?;
        self.scene.device.config()?.enable()?;
        let mut queue = self.scene.queue(2)?;
        run_jobs(&mut queue, &[mdma::job::nop()])
    }

    fn with_identity(&self, change: impl FnOnce(&mut Identity)) -> Outcome<Stream> {
        let mut stream = self.stream.clone();
        let mut identity = stream.identity().map_err(crate::outcome::Ended::failed)?;
        change(&mut identity);
        stream.records[0].payload = identity.encode().to_vec();
        stream.seal();
        Ok(stream)
    }
}

fn p49_another_identity_is_refused_by_field(lab: &Lab) -> Outcome {
    type Change = fn(&mut Identity);
    let fields: [(&str, Change); 8] = [
        ("device_type", |i| i.device_type = device_type("another")),
        ("device_type", |i| i.device_type[15] ^= 1),
        ("device_version", |i| i.device_version += 1),
        ("features", |i| i.features ^= 1 << 31),
        ("memory_size", |i| i.memory_size *= 2),
        ("memory_size", |i| i.memory_size = 0),
        ("page_size", |i| i.page_size *= 2),
        ("state_size_max", |i| i.state_size_max += 1),
    ];
    let bench = Bench::new(lab)?;
    for (field, change) in fields {
        let bytes = bench.with_identity(change)?.bytes();
        // At the write that completes the record, before anything else is looked at.
        let m = &bench.scene.migration;
        bench.scene.go(&[State::RESUMING])?;
        let uuid = bench.scene.uuid();
        let first = &bytes[..bench.stream.records[0].size()];
        assert_refused!(lab, uuid, m.load_buffer(first), EINVAL, field);
        bench.scene.device.reset()?;
        bench.refused(&bytes, libc::EINVAL, field)?;
    }
    for version in [0, 2, u32::MAX] {
        let mut stream = bench.stream.clone();
        stream.records[0].payload[8..12].copy_from_slice(&version.to_le_bytes());
        // Whatever else another version has changed, it is refused as another version.
        stream.records[0].payload.extend([0; 16]);
        stream.seal();
        bench.scene.go(&[State::RESUMING])?;
        let uuid = bench.scene.uuid();
        let load = || bench.scene.migration.load_buffer(&stream.bytes());
        assert_refused!(lab, uuid, load(), EPROTONOSUPPORT, "version");
        bench.scene.device.reset()?;
        let what = format!("version {version}");
        bench.refused(&stream.bytes(), libc::EPROTONOSUPPORT, &what)?;
    }
    bench.usable()
}

fn p49_foreign_bytes_are_refused(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let mut rng = fastrand::Rng::with_seed(50);
    let intact = bench.stream.bytes();
    for (what, bytes) in [
        ("zeroes", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("noise", random_bytes(&mut rng, 10_000)),
        ("text", b"QEVM ".repeat(100)),
        ("without its beginning", intact[1..].to_vec()),
        (
            "without its identity",
            intact[bench.stream.records[0].size()..].to_vec(),
        ),
    ] {
        bench.refused(&bytes, libc::EINVAL, what)?;
    }
    bench.spoilt("another magic", libc::EINVAL, |s| {
        s.records[0].payload[0] ^= 0x20
    })?;
    let uuid = bench.scene.uuid();
    bench.scene.go(&[State::RESUMING])?;
    let load = || bench.scene.migration.load_buffer(&[0; 4096]);
    assert_refused!(lab, uuid, load(), EINVAL, "not a device state");
    bench.scene.device.reset()?;
    bench.usable()
}

fn p49_a_refused_stream_leaves_the_device(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let scene = &bench.scene;
    let bytes = bench.with_identity(|i| i.device_version += 1)?.bytes();
    scene.mdma.set(Reg::Scratch, 7)?;
    scene.mdma.set(Reg::IntMask, 3)?;
    let before = scene.registers()?;
    scene.go(&[State::RESUMING])?;
    assert_errno!(scene.migration.load_buffer(&bytes), EINVAL);
    assert_eq!(scene.registers()?, before);
    // None of the memory that follows in the same buffer has been taken.
    let len = 16 * PAGE as usize;
    assert!(scene.read_memory(0, len)?.iter().all(|b| *b == 0));
    assert_errno!(scene.migration.write_state(State::RUNNING), EINVAL);
    assert_eq!(scene.registers()?, before);
    scene.device.reset()?;
    bench.usable()
}

fn p49_another_type_of_the_same_device(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let larger = Scene::of(lab.open(crate::lab::MEDIUM)?)?;
    larger.go(&[State::RESUMING])?;
    let uuid = larger.uuid();
    let load = || larger.migration.load_buffer(&bench.stream.bytes());
    assert_refused!(lab, uuid, load(), EINVAL, "memory_size");
    larger.device.reset()?;
    let bytes = larger.save()?;
    bench.refused(&bytes, libc::EINVAL, "of a device with more memory")
}

fn p50_truncated(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let intact = bench.stream.bytes();
    // All cuts in the small records, every so many bytes in the large ones.
    let mut at = 0;
    for record in &bench.stream.records {
        let step = if record.size() > 1000 { 499 } else { 1 };
        for cut in (at..at + record.size()).step_by(step) {
            let refusal = bench.attempt(&intact[..cut], 1 << 20)?;
            let found = refusal.as_ref().and_then(Errno::errno);
            assert_eq!(found, Some(libc::ENODATA), "cut at {cut}: {refusal:?}");
            bench.scene.device.reset()?;
        }
        at += record.size();
    }
    bench.usable()
}

fn p50_reordered_repeated_or_missing_records(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let records = &bench.stream.records;
    let refused = |what: String, errno: i32, order: &[usize]| {
        let records = order.iter().map(|n| records[*n].clone()).collect();
        // As an attacker without the numbers would: the bytes as they are.
        bench.refused(&Stream { records }.bytes(), errno, &what)
    };
    let all: Vec<usize> = (0..records.len()).collect();
    assert!(all.len() >= 5, "identity, two runs of memory, state, end");
    for n in 1..all.len() {
        let mut without = all.clone();
        without.remove(n);
        // Without the last one it is not wrong, but incomplete.
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
    refused(
        "all of it twice".into(),
        libc::EPROTO,
        &[&all[..], &all].concat(),
    )?;
    // Even with the numbers made to fit, what is said twice is not legal.
    bench.spoilt("a second identity", libc::EPROTO, |s| {
        let again = s.records[0].clone();
        s.records.insert(2, again);
    })?;
    bench.spoilt("state before its beginning", libc::EPROTO, |s| {
        let at = s.position(Kind::Device);
        let again = s.records[at].clone();
        s.records.insert(at, again);
    })?;
    // Only a record that is marked may go back, and only to the beginning of the last buffer.
    let mut back = bench.stream.clone();
    let mut again = back.records[1].clone();
    again.header.flags |= FLAG_START | FLAG_AGAIN;
    back.records.insert(3, again);
    bench.refused(&back.bytes(), libc::EPROTO, "a buffer again that was none")?;
    bench.usable()
}

/// The errnos that a change of one bit may give: by which check it is seen first depends on the place.
const CORRUPT: [i32; 2] = [libc::EBADMSG, libc::EINVAL];

/// Flips a bit and has the stream refused, at once or at the end.
fn flip(bench: &Bench, intact: &[u8], at: usize, bit: usize) -> Outcome {
    let mut bytes = intact.to_vec();
    bytes[at] ^= 1 << bit;
    let Some(refusal) = bench.attempt(&bytes, 1 << 20)? else {
        crate::fail!("bit {bit} of byte {at} was flipped, and the stream accepted");
    };
    let errno = refusal.errno().unwrap_or(0);
    assert!(
        CORRUPT.contains(&errno),
        "bit {bit} of byte {at}: {refusal}"
    );
    assert_eq!(bench.scene.state()?, State::ERROR);
    Ok(bench.scene.device.reset()?)
}

fn p50_every_bit_of_every_control_record(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let intact = bench.stream.bytes();
    let mut at = 0;
    let mut flipped = 0;
    for record in &bench.stream.records {
        // Of memory the header; of the others all.
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
    crate::note!("{flipped} bits of {} bytes", intact.len());
    bench.usable()
}

fn p50_bits_of_memory(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
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

fn p50_positions_outside_memory(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let size = bench.scene.mdma.memory_size();
    let page = PAGE as usize;
    let add = |kind: Kind, position: u64, payload: Vec<u8>| {
        move |s: &mut Stream| {
            s.records
                .insert(2, Record::new(kind as u16, position, payload))
        }
    };
    for (position, len) in [
        (size, page),
        (size - PAGE, 2 * page),
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
    // The device's own state beyond what it may be.
    let max = mdma::state::SIZE;
    bench.spoilt("state that is too long", libc::ERANGE, |s| {
        let at = s.position(Kind::Device);
        s.records[at].payload.resize(max + 1, 0);
    })?;
    bench.spoilt("more state after the state", libc::ERANGE, |s| {
        let at = s.position(Kind::Device) + 1;
        let more = Record::new(Kind::Device as u16, max as u64, vec![0; 8]);
        s.records.insert(at, more);
    })?;
    bench.usable()
}

fn p50_shapes_that_are_not_legal(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let add = |record: Record| move |s: &mut Stream| s.records.insert(2, record);
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

fn p50_counts_of_the_closing_record(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let end = bench.stream.position(Kind::End);
    for field in 0..5 {
        for change in [1u64, u64::MAX, 1 << 31] {
            let mut stream = bench.stream.clone();
            let record = &mut stream.records[end];
            let at = field * 8;
            let old = crate::records::u64_at(&record.payload, at);
            let new = old.wrapping_add(change);
            record.payload[at..at + 8].copy_from_slice(&new.to_le_bytes());
            record.header.payload_crc = crate::records::crc(&record.payload);
            let what = format!("field {field} of the end is {new:#x}");
            bench.refused(&stream.bytes(), libc::EBADMSG, &what)?;
        }
    }
    // A whole record missing, with the numbers closed up behind it: the counts tell.
    let mut stream = bench.stream.clone();
    stream.records.remove(1);
    for (record, number) in stream.records.iter_mut().zip(0..) {
        record.header.sequence = number;
    }
    bench.refused(&stream.bytes(), libc::EBADMSG, "a record cut out")?;
    // No state at all, everything agreeing with that.
    bench.spoilt("no state", libc::ENODATA, |s| {
        s.records.remove(s.position(Kind::Device));
    })?;
    bench.usable()
}

fn p50_data_after_the_end(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    for more in [1, 31, 32, 4096] {
        let mut bytes = bench.stream.bytes();
        bytes.extend(vec![0; more]);
        bench.refused(&bytes, libc::EPROTO, &format!("{more} bytes after the end"))?;
    }
    bench.spoilt("a record after the end", libc::EPROTO, |s| {
        s.records.push(Record::new(0x70, 0, vec![1; 8]).optional());
    })?;
    bench.usable()
}

fn p50_a_state_no_device_can_have(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    // Every check sum is right; it is the contents that the device refuses, field by field.
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
    bench.spoilt("state that is too short", libc::EINVAL, |s| {
        let device = s.position(Kind::Device);
        s.records[device].payload.pop();
    })?;
    bench.usable()
}

fn p51_unknown_optional_records_are_skipped(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    let section = bench.scene.section();
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
    // What is skipped is checked all the same.
    let mut stream = bench.stream.clone();
    stream
        .records
        .insert(1, Record::new(99, 0, vec![1; 100]).optional());
    stream.seal();
    stream.records[1].payload[50] = 2;
    bench.refused(
        &stream.bytes(),
        libc::EBADMSG,
        "a corrupt record to be skipped",
    )?;
    bench.usable()
}

fn p51_unknown_mandatory_records_are_refused(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    for kind in [0, 6, 99, 0xffff] {
        for len in [0, 1, 4096] {
            let record = Record::new(kind, 0, vec![0; len]);
            let what = format!("mandatory kind {kind} of {len} bytes");
            bench.spoilt(&what, libc::EPROTONOSUPPORT, |s| {
                s.records.insert(2, record)
            })?;
        }
    }
    let mut stream = bench.stream.clone();
    stream.records.insert(2, Record::new(99, 0, vec![]));
    stream.seal();
    let uuid = bench.scene.uuid();
    bench.scene.go(&[State::RESUMING])?;
    let load = || bench.scene.migration.load_buffer(&stream.bytes());
    assert_refused!(lab, uuid, load(), EPROTONOSUPPORT, "kind 99");
    bench.scene.device.reset()?;
    bench.usable()
}

fn p51_unknown_flags_are_refused(lab: &Lab) -> Outcome {
    let bench = Bench::new(lab)?;
    for bit in 3..16 {
        let what = format!("flag {bit}");
        bench.spoilt(&what, libc::EPROTO, |s| {
            s.records[1].header.flags |= 1 << bit
        })?;
    }
    // Again, but of what did not start a buffer.
    bench.spoilt("again without start", libc::EPROTO, |s| {
        s.records[1].header.flags |= FLAG_AGAIN;
    })?;
    bench.usable()
}
