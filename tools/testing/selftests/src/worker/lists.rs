// SPDX-License-Identifier: GPL-2.0

//! Jobs with scatter lists: errors, dirty pages, and unmap or migration during a job.

use mdma::desc::Error;
use mdma::engine::UNIT;
use mdma::list::{ENTRY_SIZE, MAX_ENTRIES};
use mdma::regs::Reg;
use mdma::{job, Entry, List, Place};
use vfio_client::v1::State;
use vfio_client::DmaBuffer;

use crate::dirty::pages::{get, of, set};
use crate::env::Env;
use crate::fixture::memory::{pages_of, Memory};
use crate::fixture::{device, guest, run_jobs, wait_register, MdmaFixture, VfioQueue, PAGE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;
use crate::worker::faults::{fails, recover};

tests! { "lists" needs [Mdma]:
    every_bad_list_halts [],
    a_list_may_end_in_a_mapping_that_is_read_only [],
    the_longest_list [],
    p30_exactly_the_entries_written ["P30", "P32"],
    p35_unmapped_under_its_job ["P35"],
    p35_entries_unmapped_under_their_job ["P35"],
    p50_a_job_in_the_middle_of_its_lists_goes_on_elsewhere ["P50"],
}

/// The IOVAs of the guest memory and of the lists.
const BASE: u64 = 0x100_0000;
const SIZE: usize = 1 << 20;
const LIST: u64 = 0x900_0000;

/// Writes a list to the start of a buffer.
fn write(buffer: &DmaBuffer, entries: &[Entry]) -> List {
    for (i, entry) in entries.iter().enumerate() {
        buffer.write(i * ENTRY_SIZE, &entry.encode());
    }
    List {
        base: buffer.iova(),
        entries: entries.len() as u32,
    }
}

fn entry(place: Place, len: u32) -> Entry {
    Entry { place, len }
}

fn every_bad_list_halts(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let lists = fixture.buffer(LIST, PAGE as usize)?;
    let size = fixture.mdma.memory_size();
    let good = entry(guest(BASE), 100);
    let behind = guest(BASE + SIZE as u64 - 1);
    let at = |base, entries| List { base, entries };
    let mut queue = fixture.queue(4)?;
    for (second, list, error, done) in [
        // Errors of the list itself.
        (good, at(LIST, 0), Error::BadList, 0),
        (good, at(LIST, MAX_ENTRIES + 1), Error::BadList, 0),
        (good, at(LIST, u32::MAX), Error::BadList, 0),
        (good, at(LIST + 8, 2), Error::BadList, 0),
        (good, at(u64::MAX - 15, 2), Error::BadList, 0),
        (good, at(u64::MAX - 15, 1), Error::ListFault, 0),
        (good, at(LIST + PAGE, 1), Error::ListFault, 0),
        (good, at(LIST + PAGE - 16, 2), Error::ListFault, 0),
        // Errors of its entries.
        (good, at(LIST, 1), Error::BadList, 100),
        (entry(good.place, 0), at(LIST, 2), Error::BadList, 100),
        (entry(behind, 2), at(LIST, 2), Error::SrcFault, 100),
        (entry(guest(0), 200), at(LIST, 2), Error::SrcFault, 100),
        (
            entry(guest(u64::MAX), 200),
            at(LIST, 2),
            Error::SrcFault,
            100,
        ),
        (
            entry(device(size - 1), 200),
            at(LIST, 2),
            Error::SrcRange,
            100,
        ),
        (
            entry(device(u64::MAX), 200),
            at(LIST, 2),
            Error::SrcRange,
            100,
        ),
    ] {
        write(&lists, &[good, second]);
        let crc = job::crc32c(list, 200).encode();
        fails(&fixture, &mut queue, &crc, error, done)?;
        queue = recover(&fixture, queue)?;

        // With the list as destination, the device writes the bytes before the error and no more.
        buffer.fill(0, SIZE, 0xee);
        let (fill, error) = (
            job::fill(list, 0, 200).encode(),
            match error {
                Error::SrcFault => Error::DstFault,
                Error::SrcRange => Error::DstRange,
                other => other,
            },
        );
        fails(&fixture, &mut queue, &fill, error, done)?;
        let written = buffer.to_vec(0, SIZE).iter().filter(|&&b| b == 0).count();
        // If an entry ends outside a mapping, the device may write the part inside.
        let part = usize::from(second.place == behind && done != 0);
        assert!(
            (done as usize..=done as usize + part).contains(&written),
            "{second:?} {list:?}: {written} bytes"
        );
        queue = recover(&fixture, queue)?;
    }
    // An entry with an unknown flag.
    write(&lists, &[good]);
    lists.write(12, &[2]);
    let job = job::crc32c(at(LIST, 1), 1).encode();
    fails(&fixture, &mut queue, &job, Error::BadList, 0)?;
    recover(&fixture, queue).map(drop)
}

fn a_list_may_end_in_a_mapping_that_is_read_only(env: &Env) -> Result {
    use std::sync::Arc;
    use vfio_client::{Access, Mapping};

    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let memory = Arc::new(Mapping::anonymous(PAGE as usize)?);
    let last = PAGE as usize - ENTRY_SIZE;
    memory.write(last, &entry(guest(BASE), 8).encode());
    let _list = DmaBuffer::of(&fixture.container, LIST, memory, Access::Read)?;
    let mut queue = fixture.queue(4)?;
    let list = List {
        base: LIST + last as u64,
        entries: 1,
    };
    run_jobs(&mut queue, &[job::crc32c(list, 8), job::fill(list, 1, 8)])
}

fn the_longest_list(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(5);
    let mut memory = Memory::new(&fixture, SIZE);
    memory.map(&fixture, &mut rng, BASE, SIZE)?;
    memory.fill_device(&fixture, &mut rng)?;
    let lists = fixture.buffer(LIST, MAX_ENTRIES as usize * ENTRY_SIZE)?;
    // The entries have different lengths, descending addresses, and cross pages.
    let mut end = SIZE as u64;
    let entries: Vec<Entry> = (0..MAX_ENTRIES)
        .map(|i| {
            let len = 1 + i % 251;
            end -= u64::from(len);
            entry(guest(BASE + end), len)
        })
        .collect();
    let len = entries.iter().map(|entry| u64::from(entry.len)).sum();
    let list = write(&lists, &entries);
    memory.world.write_list(LIST, &entries);
    let mut queue = fixture.queue(4)?;
    memory.run(&mut queue, &job::copy(list, device(3), len))?;
    memory.run(&mut queue, &job::crc32c(list, len))?;
    memory.run(&mut queue, &job::fill(list, 0x0102_0304_0506_0708, len))?;
    memory.run(&mut queue, &job::copy(device(3), list, len))?;
    memory.check(&fixture, "after the longest list")
}

fn p30_exactly_the_entries_written(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = crate::dirty::pages::tracking(env)?;
    let base = buffer.iova();
    let lists = fixture.buffer(LIST, PAGE as usize)?;
    let entries = [
        entry(guest(base + 5 * PAGE + 100), 8),
        entry(guest(base + 9 * PAGE - 1), 2),
        entry(device(77), 5000),
        entry(guest(base + 20 * PAGE), 3 * PAGE as u32),
        // Not reached by the job.
        entry(guest(base + 40 * PAGE), 64),
    ];
    let list = write(&lists, &entries);
    let len = 8 + 2 + 5000 + 2 * PAGE;
    run_jobs(&mut queue, &[job::fill(list, 1, len)])?;
    let written = [5, 8, 9, 20, 21].map(|page| base + page * PAGE);
    assert_eq!(of(&buffer)(&fixture.container)?, set(written));
    // Neither reading through a list nor reading the list itself dirties a page.
    run_jobs(
        &mut queue,
        &[job::crc32c(list, len), job::copy(list, device(0), 10)],
    )?;
    assert_eq!(of(&buffer)(&fixture.container)?, set([]));
    assert_eq!(get(&fixture.container, LIST, PAGE)?, set([]));
    assert_eq!(pages_of(LIST, PAGE).count(), 1);
    Ok(())
}

/// Starts a slow job with 64 entries, and returns while it processes the first entries.
fn slow(fixture: &MdmaFixture, lists: &DmaBuffer) -> Result<(VfioQueue, u64)> {
    let unit = UNIT as u32;
    let entries = [
        entry(guest(BASE), unit / 2),
        entry(guest(BASE + 0x8_0000), unit / 2),
    ]
    .repeat(32);
    let list = write(lists, &entries);
    let mut queue = fixture.queue(4)?;
    fixture.mdma.set_throttle(20_000)?;
    let len = 64 * u64::from(unit / 2);
    queue.submit(&job::fill(list, 0x5555_5555_5555_5555, len).cookie(7))?;
    wait_register(&fixture.mdma, Reg::BytesDone, "a job in flight", |n| n > 0)?;
    Ok((queue, len))
}

fn p35_unmapped_under_its_job(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let lists = fixture.buffer(LIST, PAGE as usize)?;
    let (mut queue, len) = slow(&fixture, &lists)?;
    lists.unmap()?;
    fixture.mdma.set_throttle(0)?;
    let completion = queue.wait(PATIENCE)?;
    assert_eq!(completion.error, Error::ListFault as u32);
    assert!(completion.bytes < len, "{completion:?}");
    recover(&fixture, queue).map(drop)
}

fn p35_entries_unmapped_under_their_job(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let lists = fixture.buffer(LIST, PAGE as usize)?;
    let (mut queue, len) = slow(&fixture, &lists)?;
    let memory = buffer.unmap()?;
    let at_once = memory.to_vec(0, SIZE);
    fixture.mdma.set_throttle(0)?;
    let completion = queue.wait(PATIENCE)?;
    assert_eq!(completion.error, Error::DstFault as u32);
    assert!(completion.bytes < len, "{completion:?}");
    assert!(
        memory.to_vec(0, SIZE) == at_once,
        "the device wrote memory after the unmap"
    );
    recover(&fixture, queue).map(drop)
}

fn p50_a_job_in_the_middle_of_its_lists_goes_on_elsewhere(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(9);
    let mut memory = Memory::new(&source, SIZE);
    memory.map(&source, &mut rng, BASE, SIZE)?;
    memory.fill_device(&source, &mut rng)?;
    let lists = source.buffer(LIST, 2 * PAGE as usize)?;

    // Two lists with different boundaries, with entries in guest and in device memory.
    let half = SIZE as u64 / 2;
    let side = |first: Place, second: Place, len: u32, count: u64| -> Vec<Entry> {
        (0..count)
            .map(|i| {
                let place = if i % 2 == 0 { first } else { second };
                entry(place.plus(i * u64::from(len)), len)
            })
            .collect()
    };
    let reads = side(guest(BASE), device(0), 4999, 100);
    let writes = side(device(half), guest(BASE + half), 6007, 80);
    let src = memory.world.write_list(LIST, &reads);
    let dst = memory.world.write_list(LIST + PAGE, &writes);
    for (at, entries) in [(0, &reads), (PAGE as usize, &writes)] {
        for (i, entry) in entries.iter().enumerate() {
            lists.write(at + i * ENTRY_SIZE, &entry.encode());
        }
    }

    let mut queue = source.queue(4)?;
    source.mdma.set_throttle(20_000)?;
    let job = job::copy(src, dst, 80 * 6007).cookie(1);
    queue.submit(&job)?;
    wait_register(&source.mdma, Reg::BytesDone, "a job in flight", |n| n > 0)?;
    let saved = source.save()?;
    let done = source.mdma.get(Reg::BytesDone)?;
    assert!(done < job.len, "the job finished before the stop");

    // The destination maps the same guest memory.
    let destination = MdmaFixture::new(env)?;
    let again = |buffer: &DmaBuffer| {
        let memory = buffer.memory().clone();
        let access = vfio_client::Access::ReadWrite;
        DmaBuffer::of(&destination.container, buffer.iova(), memory, access)
    };
    let _data = again(&memory.buffers[0])?;
    let _lists = again(&lists)?;
    let ring = again(queue.memory())?;
    destination.load(&saved)?;
    destination.mdma.set_throttle(0)?;
    let mut queue = queue.moved(destination.mdma.clone(), ring);
    let completion = queue.wait(PATIENCE)?;
    if let Err(why) = memory.world.apply(&job).check(&completion) {
        crate::fail!("{job:?}: {why}");
    }
    memory.check(&destination, "at the destination")?;
    source.go(&[State::RUNNING])
}
