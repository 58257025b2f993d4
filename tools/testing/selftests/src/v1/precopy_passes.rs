// SPDX-License-Identifier: GPL-2.0

//! Pre-copy passes: the first pass sends the contents of device memory, each later pass sends the changes since.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mdma::job;
use vfio_client::v1::State;
use vfio_client::{Area, Protection};

use crate::env::{Env, LARGE};
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::{device, parse, run_jobs, Fixture, MdmaFixture, PAGE};
use crate::harness::check::wait_for;
use crate::harness::result::Result;
use crate::v1::saving::{pages, set, write_pages};
use crate::{note, tests};

tests! { "precopy_passes":
    holes_are_not_sent [] needs [Mdma],
    a_second_pass_sends_what_changed [] needs [Mdma],
    mapped_pages_count_as_written [] needs [Mdma],
    a_stop_sends_what_changed [] needs [Mdma],
    one_percent_of_a_gibibyte_costs_one_percent [] needs [Mdma],
    p30_exactly_the_changed_pages ["P30"] needs [DeviceMemory],
    writes_during_pre_copy_arrive [] needs [DeviceMemory],
    p50_every_buffer_is_whole_records ["P50"] needs [DeviceMemory],
}

fn holes_are_not_sent(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    assert_eq!(pages(&fixture.save_stream()?), set([]));
    let last = fixture.mdma.memory_size() / PAGE - 1;
    let mapping = fixture.mdma.map_memory()?;
    // Write by system call, through a mapping, and with the engine.
    fixture.write_memory(5 * PAGE + 17, &[1])?;
    mapping.write(100 * PAGE as usize + 4095, &[1, 2]);
    fixture.go(&[State::RUNNING])?;
    let mut queue = fixture.queue(2)?;
    run_jobs(&mut queue, &[job::fill(device(last * PAGE), 1, PAGE)])?;
    let stream = fixture.save_stream()?;
    assert_eq!(pages(&stream), set([5, 100, 101, last]));
    // The stream contains these pages and no bytes for the others.
    let size = fixture.mdma.memory_size() as usize;
    let mut expected = vec![0; size];
    expected[5 * PAGE as usize + 17] = 1;
    expected[100 * PAGE as usize + 4095..][..2].copy_from_slice(&[1, 2]);
    for word in expected[last as usize * PAGE as usize..].chunks_exact_mut(8) {
        word[0] = 1;
    }
    same(&stream.memory(size), &expected, device(0), "in the stream");
    assert!(stream.bytes().len() < 6 * PAGE as usize);
    Ok(())
}

/// Changes some pages by mapping, system call and DMA, and returns their numbers.
fn change(fixture: &MdmaFixture, rng: &mut fastrand::Rng) -> Result<BTreeSet<u64>> {
    let mapping = fixture.mdma.map_memory()?;
    let mut changed = BTreeSet::new();
    let mut queue = fixture.queue(4)?;
    for n in 0..30u64 {
        let at = rng.u64(0..1999 * PAGE);
        let len = rng.u64(1..=PAGE);
        match n % 3 {
            0 => mapping.write(at as usize, &random_bytes(rng, len as usize)),
            1 => fixture.write_memory(at, &random_bytes(rng, len as usize))?,
            _ => run_jobs(&mut queue, &[job::fill(device(at), rng.u64(..), len)])?,
        }
        changed.extend(at / PAGE..=(at + len - 1) / PAGE);
    }
    queue.close()?;
    Ok(changed)
}

fn a_second_pass_sends_what_changed(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(22);
    write_pages(&fixture, 0..2000, 18)?;
    fixture.go(&[State::PRE_COPY])?;
    let mut bytes = fixture.save_pending()?.concat();
    assert_eq!(pages(&parse(&bytes)?), set(0..2000));
    for pass in 2..6 {
        // Without changes, the device sends nothing.
        assert_eq!(fixture.save_pending()?.concat(), []);
        let changed = change(&fixture, &mut rng)?;
        let more = fixture.save_pending()?.concat();
        assert_eq!(pages(&parse(&more)?), changed, "pass {pass}");
        let cost = changed.len() * PAGE as usize;
        assert!(
            more.len() < cost + cost / 8,
            "sent {} bytes for {cost} changed bytes",
            more.len()
        );
        bytes.extend(more);
    }
    fixture.go(&[State::STOP_AND_COPY])?;
    let last = fixture.save_pending()?.concat();
    assert_eq!(pages(&parse(&last)?), set([]));
    bytes.extend(last);
    let len = (2000 * PAGE) as usize;
    let expected = fixture.read_memory(0, len)?;
    same(
        &parse(&bytes)?.memory(len),
        &expected,
        device(0),
        "all passes combined",
    );
    Ok(())
}

/// The device counts a page as written when a user reads it through a writable mapping, because a later write causes no
/// further fault. If KVM maps the page for a guest's read, the guest's writes do not reach the device at all.
fn mapped_pages_count_as_written(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    write_pages(&fixture, 0..64, 3)?;
    let mapping = fixture.mdma.map_memory()?;
    fixture.go(&[State::PRE_COPY])?;
    fixture.save_pending()?;
    // The user reads page 20 through the mapping. In pwrite(), the kernel reads page 40 as the source buffer.
    assert_eq!(mapping.to_vec(20 * PAGE as usize, 16).len(), 16);
    let scratch = fixture.mdma.bar().info().offset + mdma::regs::Reg::Scratch.offset();
    let at = 40 * PAGE as usize;
    let copied = fixture.device.pwrite_mapping(scratch, &mapping, at, 8)?;
    assert_eq!(copied, 8);
    // A read-only mapping marks nothing dirty.
    let memory = fixture.mdma.memory()?;
    let area = Area {
        offset: 0,
        size: fixture.mdma.memory_size(),
    };
    let only_read = memory.mmap(area, Protection::READ)?;
    assert_eq!(only_read.to_vec(60 * PAGE as usize, 16).len(), 16);
    let sent = pages(&parse(&fixture.save_pending()?.concat())?);
    assert_eq!(sent, set([20, 40]));
    // After the device has sent a page, only another access marks it dirty.
    assert_eq!(fixture.save_pending()?.concat(), []);
    mapping.write(20 * PAGE as usize, &[9]);
    assert_eq!(pages(&parse(&fixture.save_pending()?.concat())?), set([20]));
    Ok(())
}

fn a_stop_sends_what_changed(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(23);
    write_pages(&fixture, 0..2000, 19)?;
    fixture.go(&[State::PRE_COPY])?;
    fixture.save_pending()?;
    let changed = change(&fixture, &mut rng)?;
    fixture.go(&[State::STOP_AND_COPY])?;
    let stream = parse(&fixture.save_pending()?.concat())?;
    assert_eq!(pages(&stream), changed);
    // A new session starts from the beginning.
    fixture.go(&[State::STOP, State::STOP_AND_COPY])?;
    assert_eq!(
        pages(&parse(&fixture.save_pending()?.concat())?),
        set(0..2000)
    );
    Ok(())
}

/// Changes some pages by mapping and by system call, and returns their numbers.
fn change_any(fixture: &Fixture, rng: &mut fastrand::Rng, pages: u64) -> Result<BTreeSet<u64>> {
    let mapping = fixture.map_memory()?;
    let mut changed = BTreeSet::new();
    for n in 0..20u64 {
        let at = rng.u64(0..(pages - 1) * PAGE);
        let bytes = random_bytes(rng, PAGE as usize);
        match n % 2 {
            0 => mapping.write(at as usize, &bytes),
            _ => fixture.write_memory(at, &bytes)?,
        }
        let last = at + (PAGE - 1);
        changed.extend(at / PAGE..=last / PAGE);
    }
    Ok(changed)
}

/// A pass, and the stop, send exactly the pages that were written since the last pass.
fn p30_exactly_the_changed_pages(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(30);
    let count = (fixture.memory_size() / PAGE).min(1000);
    write_pages(&fixture, 0..count, 18)?;
    fixture.go(&[State::PRE_COPY])?;
    let first = fixture.save_pending()?.concat();
    assert_eq!(pages(&parse(&first)?), set(0..count));
    for pass in 2..6 {
        let changed = change_any(&fixture, &mut rng, count)?;
        let stop = pass == 5;
        if stop {
            fixture.go(&[State::STOP_AND_COPY])?;
        }
        let more = fixture.save_pending()?.concat();
        assert_eq!(pages(&parse(&more)?), changed, "pass {pass}");
    }
    Ok(())
}

/// Saves all pending data, and returns the number of bytes.
fn drained(fixture: &MdmaFixture) -> Result<u64> {
    Ok(fixture.migration.save_all(&mut |_| Ok(()))?)
}

/// A pass that costs time or bytes in proportion to the memory fails here. A quarter of the memory, in parts over all of
/// it, has contents: one pass over all 262,144 pages is needed for that, and their contents are not.
fn one_percent_of_a_gibibyte_costs_one_percent(env: &Env) -> Result {
    let fixture = MdmaFixture::of(env.open(LARGE)?)?;
    let mapping = fixture.mdma.map_memory()?;
    let size = fixture.mdma.memory_size();
    let mut rng = fastrand::Rng::with_seed(26);
    // The engine is the fastest way to fill memory.
    const PART: u64 = 16 << 20;
    const EVERY: u64 = 4;
    let mut queue = fixture.queue(2)?;
    for at in (0..size).step_by((EVERY * PART) as usize) {
        run_jobs(&mut queue, &[job::fill(device(at), 0x5a5a, PART)])?;
    }
    queue.close()?;
    fixture.go(&[State::PRE_COPY])?;
    let first = drained(&fixture)?;
    let filled = size / EVERY;
    assert!(first > filled, "sent {first} bytes for {filled}");

    let mut rewrite = || {
        let pages = filled / PAGE;
        let changed: BTreeSet<_> = (0..pages / 100).map(|_| rng.u64(0..pages)).collect();
        for page in &changed {
            let (part, inside) = (page * PAGE / PART, page * PAGE % PART);
            let at = part * EVERY * PART + inside;
            mapping.write(at as usize + 8, &page.to_le_bytes());
        }
        changed.len() as u64 * PAGE
    };
    for phase in [State::PRE_COPY, State::STOP_AND_COPY] {
        let changed = rewrite();
        fixture.go(&[phase])?;
        let sent = drained(&fixture)?;
        note!("{phase:?}: {changed} bytes changed, {sent} sent, {first} in the first pass");
        assert!(sent >= changed, "sent {sent} bytes for {changed}");
        // The rest is one header per run of pages, and the device state.
        assert!(
            sent < changed + changed / 50,
            "sent {sent} bytes for {changed}"
        );
    }
    Ok(())
}

fn writes_during_pre_copy_arrive(env: &Env) -> Result {
    let source = Fixture::new(env)?;
    let destination = Fixture::new(env)?;
    let len = 4 << 20;
    write_pages(&source, 0..len as u64 / PAGE, 20)?;
    let mapping = source.map_memory()?;
    let over = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    let bytes = thread::scope(|threads| -> Result<Vec<u8>> {
        // Writes as fast as possible through a mapping made before dirty tracking began.
        let writer = threads.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(24);
            while !over.load(Ordering::SeqCst) {
                mapping.write(rng.usize(0..len - 8), &rng.u64(..).to_le_bytes());
                writes.fetch_add(1, Ordering::Relaxed);
            }
        });
        let save = || -> Result<Vec<u8>> {
            source.go(&[State::PRE_COPY])?;
            let seen = writes.load(Ordering::Relaxed);
            wait_for("a write during pre-copy", || {
                Ok(writes.load(Ordering::Relaxed) > seen)
            })?;
            let mut bytes = Vec::new();
            for _ in 0..20 {
                source.migration.pending_bytes()?;
                let mut buffer = Vec::new();
                source.migration.save_buffer(&mut buffer)?;
                bytes.extend(buffer);
            }
            source.migration.pending_bytes()?;
            Ok(bytes)
        };
        let saved = save();
        over.store(true, Ordering::SeqCst);
        writer.join().expect("the writer");
        let mut bytes = saved?;
        source.go(&[State::STOP_AND_COPY])?;
        bytes.extend(source.save_pending()?.concat());
        Ok(bytes)
    })?;
    destination.load(&bytes)?;
    let expected = source.read_memory(0, len)?;
    let found = destination.read_memory(0, len)?;
    same(&found, &expected, device(0), "written during the save");
    drop(mapping);
    Ok(())
}

fn p50_every_buffer_is_whole_records(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write_pages(&fixture, (0..4096).filter(|p| p % 5 != 0), 21)?;
    fixture.go(&[State::PRE_COPY])?;
    let mut next = 0;
    let mut check = |buffers: Vec<Vec<u8>>| -> Result {
        for buffer in buffers {
            for record in parse(&buffer)?.records {
                assert_eq!(record.header.sequence, next);
                next += 1;
            }
        }
        Ok(())
    };
    check(fixture.save_pending()?)?;
    fixture.go(&[State::STOP_AND_COPY])?;
    check(fixture.save_pending()?)
}
