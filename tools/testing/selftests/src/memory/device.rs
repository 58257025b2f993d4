// SPDX-License-Identifier: GPL-2.0

//! Device memory, BAR 2: access by system calls, through mappings, and by the device itself.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vfio_client::{Area, Mapping, Protection, Region};

use crate::env::meminfo::Meminfo;
use crate::env::{Env, LARGE};
use crate::fixture::bytes::all_are;
use crate::fixture::every_state::{in_every_state, STATES};
use crate::fixture::{self, Fixture, MdmaFixture, PAGE};
use crate::harness::check::{expect_refusal, wait_for};
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "memory" needs [DeviceMemory]:
    reads_zero_at_first [],
    system_calls_of_any_size_and_place [] needs [Mdma],
    mapping_and_system_calls_are_one [],
    parts_are_mapped_where_they_are [] needs [Mdma],
    mappings_come_and_go [],
    read_only_mapping_sees_all [] needs [Mdma],
    illegal_mappings_are_refused [] needs [Mdma],
    own_mapping_as_buffer [] needs [Mdma],
    unwritable_buffer_is_refused [] needs [Mdma],
    debuggers_are_refused [] needs [Mdma],
    device_and_mapping_are_one [] needs [Mdma],
    writers_do_not_disturb_each_other [] needs [Mdma],
    costs_nothing_until_touched [] needs [Mdma],
    reset_under_a_mapping_that_is_used [],
    p52_mapped_in_every_state ["P52"],
}

/// The memory size of the smallest type.
const SIZE: usize = 16 << 20;

/// The part of the memory that a test uses, at most as much as the smallest type of `mdma` has.
fn size(fixture: &Fixture) -> usize {
    SIZE.min(fixture.memory_size() as usize)
}

fn bar(fixture: &Fixture) -> Result<Region> {
    fixture.memory_region()
}

fn reads_zero_at_first(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let size = size(&fixture);
    let mut bytes = vec![0xff; size];
    bar(&fixture)?.read(0, &mut bytes)?;
    assert!(all_are(&bytes, 0), "read by system calls");
    let mapping = fixture.map_memory()?;
    assert!(all_are(&mapping.to_vec(0, size), 0), "mapped");
    Ok(())
}

fn system_calls_of_any_size_and_place(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let mut model = vec![0; SIZE];
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let window = 1 << 20;
    for round in 0..2000 {
        let len = match rng.usize(0..4) {
            0 => rng.usize(1..17),
            1 => rng.usize(1..2 * PAGE as usize),
            2 => PAGE as usize * rng.usize(1..5),
            _ => rng.usize(1..200_000),
        };
        // Access the start and the end of memory.
        let at = rng.usize(0..window);
        let at = if rng.bool() { at } else { SIZE - window + at }.min(SIZE - len);
        if rng.bool() {
            let mut data = vec![0; len];
            rng.fill(&mut data);
            assert_eq!(bar.pwrite(at as u64, &data)?, len);
            model[at..at + len].copy_from_slice(&data);
        } else {
            let mut found = vec![0; len];
            assert_eq!(bar.pread(at as u64, &mut found)?, len);
            assert!(
                found == model[at..at + len],
                "round {round}: {len} bytes at {at:#x}"
            );
        }
    }
    let mut found = vec![0; SIZE];
    bar.read(0, &mut found)?;
    assert!(found == model, "all memory at the end");
    Ok(())
}

fn mapping_and_system_calls_are_one(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let size = size(&fixture);
    let bar = bar(&fixture)?;
    let mapping = fixture.map_memory()?;
    assert!(mapping.len() >= size);
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    for _ in 0..1000 {
        let len = rng.usize(1..10_000);
        let at = rng.usize(0..size - len);
        let mut data = vec![0; len];
        rng.fill(&mut data);
        if rng.bool() {
            mapping.write(at, &data);
            let mut found = vec![0; len];
            bar.read(at as u64, &mut found)?;
            assert!(
                found == data,
                "written through the mapping: {len} bytes at {at:#x}"
            );
        } else {
            bar.write(at as u64, &data)?;
            assert!(
                mapping.to_vec(at, len) == data,
                "written by system call: {len} bytes at {at:#x}"
            );
        }
    }
    Ok(())
}

fn parts_are_mapped_where_they_are(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let size = SIZE as u64;
    for page in (0..size / PAGE).step_by(64) {
        bar.write_u64(page * PAGE, page + 1)?;
    }
    for (offset, len) in [
        (0, PAGE),
        (64 * PAGE, PAGE),
        (64 * PAGE, size - 64 * PAGE),
        (size - 64 * PAGE, 64 * PAGE),
        (128 * PAGE, 3 * 64 * PAGE),
    ] {
        let part = bar.map(Area { offset, size: len })?;
        for page in (offset / PAGE..(offset + len) / PAGE).step_by(64) {
            let at = (page * PAGE - offset) as usize;
            let found = part.load_u64(at, Ordering::Relaxed);
            assert_eq!(
                found,
                page + 1,
                "page {page} in {len:#x} bytes mapped at {offset:#x}"
            );
        }
        // A write through the part changes the memory at its offset.
        part.store_u64(8, offset ^ len, Ordering::Relaxed);
        assert_eq!(bar.read_u64(offset + 8)?, offset ^ len);
    }
    Ok(())
}

fn mappings_come_and_go(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let size = size(&fixture);
    let first = fixture.map_memory()?;
    for n in 0..200u64 {
        let at = (n as usize * 37 * PAGE as usize) % size;
        let second = fixture.map_memory()?;
        second.store_u64(at, n, Ordering::Relaxed);
        assert_eq!(first.load_u64(at, Ordering::Relaxed), n);
    }
    Ok(())
}

fn read_only_mapping_sees_all(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let area = Area {
        offset: 0,
        size: SIZE as u64,
    };
    let read_only = bar.mmap(area, Protection::READ)?;
    // Read untouched memory, then memory written by system call, mapping and DMA.
    assert_eq!(read_only.to_vec(0, 64), [0; 64]);
    bar.write(0, b"by a system call")?;
    assert_eq!(read_only.to_vec(0, 16), b"by a system call");
    fixture.mdma.map_memory()?.write(SIZE - 6, b"mapped");
    assert_eq!(read_only.to_vec(SIZE - 6, 6), b"mapped");
    let mut queue = fixture.queue(2)?;
    let fill = mdma::job::fill(fixture::device(PAGE), 0x6161_6161_6161_6161, 8);
    fixture::run_jobs(&mut queue, &[fill])?;
    assert_eq!(read_only.to_vec(PAGE as usize, 8), b"aaaaaaaa");
    Ok(())
}

fn illegal_mappings_are_refused(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let size = SIZE as u64;
    let area = |offset, size| Area { offset, size };
    let private = |p: Protection| Protection { shared: false, ..p };
    let executable = |p: Protection| Protection { exec: true, ..p };
    let (read, write) = (Protection::READ, Protection::READ_WRITE);
    for (what, area, protection, reason) in [
        ("private", area(0, PAGE), private(read), "shared"),
        (
            "private and writable",
            area(0, PAGE),
            private(write),
            "shared",
        ),
        (
            "all memory private",
            area(0, size),
            private(write),
            "shared",
        ),
        ("a page after the end", area(size, PAGE), write, "outside"),
        (
            "across the end",
            area(size - PAGE, 2 * PAGE),
            write,
            "outside",
        ),
        (
            "more than all memory",
            area(0, size + PAGE),
            read,
            "outside",
        ),
        ("far after the end", area(1 << 39, PAGE), read, "outside"),
    ] {
        expect_refusal(env, fixture.uuid(), libc::EINVAL, reason, what, || {
            bar.mmap(area, protection)
        });
    }
    for protection in [executable(read), executable(write)] {
        match bar.mmap(area(0, PAGE), protection) {
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EPERM | libc::EACCES | libc::EINVAL)
                ) => {}
            other => panic!("an executable mapping: {other:?}"),
        }
    }
    // A mapping across the boundary to the next region. Its offset alone is valid.
    let over = fixture
        .device
        .mmap((3 << 40) - PAGE, 2 * PAGE as usize, read);
    assert_errno!(over, EINVAL, "a mapping across two regions");
    // A legal mapping still works.
    bar.map(area(size - PAGE, PAGE))?
        .store_u64(0, 1, Ordering::Relaxed);
    assert_eq!(bar.read_u64(size - PAGE)?, 1);
    Ok(())
}

/// A page fault within a system call on the same memory. The fault must not need a lock that the call holds.
fn own_mapping_as_buffer(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let offset = bar.info().offset;
    let len = 64 * PAGE as usize;
    let data: Vec<u8> = (0..len).map(|i| (i * 7 + i / 4096) as u8).collect();
    bar.write(0, &data)?;
    // Each call uses a new mapping, so that all its pages fault within the call.
    for (name, from, to) in [("upwards", 0, 8 << 20), ("downwards", 8 << 20, 1 << 20)] {
        let mapping = fixture.mdma.map_memory()?;
        assert_eq!(
            fixture
                .device
                .pread_mapping(offset + from, &mapping, to, len)?,
            len,
            "{name}"
        );
        assert!(
            mapping.to_vec(to, len) == data,
            "read into its own mapping, {name}"
        );
        drop(mapping);
        let mapping = fixture.mdma.map_memory()?;
        let back = to as u64 + (4 << 20);
        assert_eq!(
            fixture
                .device
                .pwrite_mapping(offset + back, &mapping, to, len)?,
            len,
            "{name}"
        );
        assert!(
            mapping.to_vec(back as usize, len) == data,
            "written from its own mapping, {name}"
        );
    }
    // Each page is source and destination of the same call.
    let mapping = fixture.mdma.map_memory()?;
    assert_eq!(fixture.device.pread_mapping(offset, &mapping, 0, len)?, len);
    assert_eq!(
        fixture.device.pwrite_mapping(offset, &mapping, 0, len)?,
        len
    );
    assert!(mapping.to_vec(0, len) == data, "copied to the same place");
    // Copy between untouched pages.
    assert_eq!(
        fixture
            .device
            .pread_mapping(offset + (15 << 20), &mapping, 14 << 20, len)?,
        len
    );
    assert!(all_are(&mapping.to_vec(14 << 20, len), 0));
    Ok(())
}

fn unwritable_buffer_is_refused(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    bar.write(0, b"unchanged")?;
    let area = Area {
        offset: 0,
        size: SIZE as u64,
    };
    let read_only = bar.mmap(area, Protection::READ)?;
    let offset = bar.info().offset;
    for (index, len) in [(0, 4), (2, 4096), (4, 4), (7, 4)] {
        let offset = fixture.region(index)?.info().offset;
        let what = format!("region {index} read into read-only memory");
        expect_refusal(env, fixture.uuid(), libc::EFAULT, "", &what, || {
            fixture.device.pread_mapping(offset, &read_only, 0, len)
        });
    }
    assert_eq!(read_only.to_vec(0, 9), b"unchanged");
    // The read-only mapping works as a source.
    assert_eq!(
        fixture
            .device
            .pwrite_mapping(offset + PAGE, &read_only, 0, 9)?,
        9
    );
    assert_eq!(read_only.to_vec(PAGE as usize, 9), b"unchanged");
    Ok(())
}

/// `/proc/PID/mem` cannot access a mapping of device memory, which has page frames without `struct page`.
fn debuggers_are_refused(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mapping = fixture.mdma.map_memory()?;
    mapping.write(0, b"of the device");
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut bytes = [0x5a; 16];
    for at in [0, PAGE, SIZE as u64 - 16] {
        let address = mapping.address() + at;
        assert_errno!(memory.read_at(&mut bytes, address), EIO, "read at {at:#x}");
        assert_errno!(memory.write_at(&bytes, address), EIO, "write at {at:#x}");
    }
    assert_eq!(mapping.to_vec(0, 13), b"of the device");
    // Ordinary memory is readable this way.
    let buffer = fixture.buffer(0x10_0000, 4096)?;
    buffer.write(0, b"of the process..");
    assert_eq!(memory.read_at(&mut bytes, buffer.address())?, 16);
    assert_eq!(&bytes, b"of the process..");
    Ok(())
}

fn device_and_mapping_are_one(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mapping = fixture.mdma.map_memory()?;
    let buffer = fixture.buffer(0x10_0000, 1 << 20)?;
    let mut queue = fixture.queue(4)?;
    let data: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i * 13 + (i >> 12)) as u8)
        .collect();
    buffer.write(0, &data);
    // Copy to an unaligned place in device memory.
    let copy = mdma::job::copy(fixture::guest(0x10_0000), fixture::device(5001), 1 << 20);
    fixture::run_jobs(&mut queue, &[copy])?;
    assert!(
        mapping.to_vec(5001, 1 << 20) == data,
        "copied to the device"
    );
    assert_eq!(mapping.to_vec(5000, 1), [0]);
    assert_eq!(mapping.to_vec(5001 + (1 << 20), 1), [0]);
    // Copy back bytes written through the mapping.
    mapping.write(5001, &[0xee; 100]);
    buffer.fill(0, 1 << 20, 0);
    let copy = mdma::job::copy(fixture::device(5001), fixture::guest(0x10_0000), 1 << 20);
    fixture::run_jobs(&mut queue, &[copy])?;
    assert_eq!(buffer.to_vec(0, 100), [0xee; 100]);
    assert!(buffer.to_vec(100, data.len() - 100) == data[100..]);
    Ok(())
}

fn writers_do_not_disturb_each_other(env: &Env) -> Result {
    const AREA: usize = 2 << 20;
    let fixture = MdmaFixture::new(env)?;
    let bar = bar(&fixture)?;
    let mapping = fixture.mdma.map_memory()?;
    let mut queue = fixture.queue(4)?;
    let rounds = 30;
    let write_mapped = |n: usize| {
        for round in 1..=rounds {
            mapping.fill(n * AREA, AREA, round as u8);
        }
    };
    let write_called = |n: usize| -> vfio_client::Result<()> {
        for round in 1..=rounds {
            bar.write((n * AREA) as u64, &vec![round as u8; AREA])?;
        }
        Ok(())
    };
    thread::scope(|scope| -> Result {
        let mapped = scope.spawn(|| write_mapped(0));
        let called = scope.spawn(|| write_called(1));
        for round in 1..=rounds {
            let value = u64::from_ne_bytes([round as u8; 8]);
            let fill = mdma::job::fill(fixture::device(2 * AREA as u64), value, AREA as u64);
            fixture::run_jobs(&mut queue, &[fill])?;
        }
        mapped.join().expect("no panic");
        Ok(called.join().expect("no panic")?)
    })?;
    for n in 0..3 {
        let area = mapping.to_vec(n * AREA, AREA);
        assert!(area.iter().all(|b| *b == rounds as u8), "area {n}");
    }
    assert!(
        all_are(&mapping.to_vec(3 * AREA, AREA), 0),
        "memory after the areas"
    );
    Ok(())
}

fn costs_nothing_until_touched(env: &Env) -> Result {
    let before = Meminfo::settled()?;
    let fixture = MdmaFixture::of(env.open(LARGE)?)?;
    let mapping = fixture.mdma.map_memory()?;
    assert_eq!(mapping.len(), 1 << 30);
    let opened = before.free_kib() - Meminfo::settled()?.free_kib();
    assert!(
        opened < 32 << 10,
        "{opened} KiB for 1 GiB of untouched memory"
    );
    // Touch pages at intervals, including the last one.
    for at in (0..1 << 30).step_by(4 << 20) {
        mapping.store_u64(at, at as u64, Ordering::Relaxed);
        mapping.store_u64(at + (4 << 20) - 8, !(at as u64), Ordering::Relaxed);
    }
    for at in (0..1 << 30).step_by(4 << 20) {
        let last = at + (4 << 20) - 8;
        assert_eq!(mapping.load_u64(at, Ordering::Relaxed), at as u64);
        assert_eq!(mapping.load_u64(last, Ordering::Relaxed), !(at as u64));
    }
    let touched = before.free_kib() - Meminfo::settled()?.free_kib();
    assert!(touched < 48 << 10, "{touched} KiB for 512 touched pages");
    fixture.device.reset()?;
    assert_eq!(mapping.load_u64((1 << 30) - 8, Ordering::Relaxed), 0);
    Ok(())
}

fn reset_under_a_mapping_that_is_used(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let size = size(&fixture);
    let mapping = fixture.map_memory()?;
    let stop = AtomicBool::new(false);
    let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
    let touch = |mapping: &Mapping, first: usize, rounds: &AtomicU64| {
        while !stop.load(Ordering::Relaxed) {
            for at in (first..size).step_by(97 * PAGE as usize) {
                mapping.store_u64(at & !7, !0, Ordering::Relaxed);
                // The thread's value, or zero after a reset.
                let found = mapping.load_u64(at & !7, Ordering::Relaxed);
                assert!(found == 0 || found == !0, "{found:#x} at {at:#x}");
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| -> Result {
        let threads: Vec<_> = [0, size / 2]
            .into_iter()
            .zip(&rounds)
            .map(|(first, rounds)| {
                let (touch, mapping) = (&touch, &mapping);
                scope.spawn(move || touch(mapping, first, rounds))
            })
            .collect();
        let resets = || -> Result {
            for n in 0..200 {
                // Both threads touch pages that the last reset took away.
                for (thread, rounds) in rounds.iter().enumerate().filter(|_| n % 20 == 0) {
                    let seen = rounds.load(Ordering::Relaxed);
                    let what = format!("thread {thread} to touch its pages after {n} resets");
                    wait_for(&what, || Ok(rounds.load(Ordering::Relaxed) > seen))?;
                }
                fixture.device.reset()?;
            }
            Ok(())
        };
        let result = resets();
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no panic");
        }
        result
    })?;
    fixture.device.reset()?;
    assert!(all_are(&mapping.to_vec(0, size), 0));
    Ok(())
}

fn p52_mapped_in_every_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let bar = bar(&fixture)?;
    // One mapping from the running state, used in all states, and a new mapping in each state.
    let early = fixture.map_memory()?;
    let mut seen = 0;
    in_every_state(&fixture, |state| {
        let late = fixture.map_memory()?;
        let at = 65536 * (1 + state.0 as usize);
        for (n, mapping) in [&early, &late].into_iter().enumerate() {
            let at = at + n * PAGE as usize;
            let value = 0xabcd_0000 + u64::from(state.0);
            mapping.store_u64(at, value, Ordering::Relaxed);
            assert_eq!(bar.read_u64(at as u64)?, value, "in state {state}");
        }
        bar.write_u64(at as u64 + 64, !0)?;
        assert_eq!(
            early.load_u64(at + 64, Ordering::Relaxed),
            !0,
            "in state {state}"
        );
        assert_eq!(
            late.load_u64(at + 64, Ordering::Relaxed),
            !0,
            "in state {state}"
        );
        seen += 1;
        Ok(())
    })?;
    assert_eq!(seen, STATES.len());
    Ok(())
}
