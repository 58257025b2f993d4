// SPDX-License-Identifier: GPL-2.0

//! System calls whose buffer is a mapping of the same device, and DMA whose guest memory is the device's own memory or
//! data section. Each must complete with a defined result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

use mdma::job;
use mdma::regs::Reg;
use vfio_client::v1::State;
use vfio_client::{Access, Container, DmaBuffer, Mapping};

use crate::env::Env;
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::{device, guest, parse, run_jobs, wait_register, MdmaFixture, PAGE, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{skip, tests};

tests! { "self_mapping" needs [Mdma]:
    reading_the_section_into_the_window [],
    reading_the_section_into_device_memory [],
    reading_device_memory_into_itself [],
    writing_the_section_from_mappings [],
    dma_to_and_from_its_own_memory [],
    p30_dma_to_its_own_memory_is_saved ["P30", "P9"],
    dma_to_and_from_its_own_window [],
    devices_that_map_each_other [],
    stopping_while_dma_faults_in_its_own_memory ["P9"],
}

/// The IOVA of a device's own mappings.
const OWN: u64 = 0x200_0000_0000;

/// Returns the mapping of the data section. Skips the test if the data section cannot be mapped.
fn window(fixture: &MdmaFixture) -> Result<&Mapping> {
    match fixture.migration.mapping() {
        Some(mapping) => Ok(mapping),
        None => skip!("the module was loaded without mappable staging"),
    }
}

/// Returns the offset of the data section in the device's file.
fn section(fixture: &MdmaFixture) -> u64 {
    fixture.migration.region().info().offset + fixture.data_offset()
}

/// Returns a fixture in pre-copy with a staged buffer, and the buffer's bytes.
fn staged(env: &Env) -> Result<(MdmaFixture, Vec<u8>)> {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(40);
    fixture.write_memory(0, &random_bytes(&mut rng, 64 * PAGE as usize))?;
    fixture.go(&[State::PRE_COPY])?;
    let mut buffer = Vec::new();
    fixture.migration.save_buffer(&mut buffer)?;
    Ok((fixture, buffer))
}

fn reading_the_section_into_the_window(env: &Env) -> Result {
    let (fixture, buffer) = staged(env)?;
    let mapping = window(&fixture)?;
    let len = buffer.len();
    // A copy to the same place changes nothing.
    assert_eq!(
        fixture
            .device
            .pread_mapping(section(&fixture), mapping, 0, len)?,
        len
    );
    same(
        &mapping.to_vec(0, len),
        &buffer,
        device(0),
        "copied to the same place",
    );
    // A copy to the part after the buffer.
    let at = len.next_multiple_of(PAGE as usize) + 3;
    assert_eq!(
        fixture
            .device
            .pread_mapping(section(&fixture), mapping, at, len)?,
        len
    );
    same(
        &mapping.to_vec(at, len),
        &buffer,
        device(0),
        "copied after the buffer",
    );
    // The session continues.
    fixture.migration.pending_bytes()?;
    fixture.go(&[State::STOP_AND_COPY])?;
    let all = [buffer, fixture.save_pending()?.concat()].concat();
    parse(&all).map(drop)
}

fn reading_the_section_into_device_memory(env: &Env) -> Result {
    let (fixture, buffer) = staged(env)?;
    let memory = fixture.mdma.map_memory()?;
    let len = buffer.len();
    // The destination is populated, tracked pages, then untouched pages.
    for at in [PAGE as usize + 1, 4 << 20] {
        assert_eq!(
            fixture
                .device
                .pread_mapping(section(&fixture), &memory, at, len)?,
            len
        );
        same(
            &memory.to_vec(at, len),
            &buffer,
            device(at as u64),
            "in device memory",
        );
    }
    fixture.migration.pending_bytes()?;
    let stream = parse(&fixture.save_pending()?.concat())?;
    let pages = stream.pages(PAGE);
    let last = (4 << 20) / PAGE + len as u64 / PAGE;
    assert!(
        pages.contains(&1) && pages.contains(&last),
        "the save lacks the pages written by the read"
    );
    Ok(())
}

fn reading_device_memory_into_itself(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let region = fixture.mdma.memory()?;
    let memory = fixture.mdma.map_memory()?;
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(41), 100_000);
    memory.write(0, &bytes);
    let offset = region.info().offset;
    for state in [State::RUNNING, State::PRE_COPY, State::STOP_AND_COPY] {
        fixture.go(&[state])?;
        let at = 8 << 20;
        assert_eq!(
            fixture
                .device
                .pread_mapping(offset, &memory, at, bytes.len())?,
            bytes.len()
        );
        same(&memory.to_vec(at, bytes.len()), &bytes, device(0), "read");
        let to = offset + (12 << 20) + 5;
        assert_eq!(
            fixture.device.pwrite_mapping(to, &memory, 0, bytes.len())?,
            bytes.len()
        );
        same(
            &memory.to_vec((12 << 20) + 5, bytes.len()),
            &bytes,
            device(0),
            "written",
        );
        // Copy to the same place.
        assert_eq!(
            fixture
                .device
                .pread_mapping(offset, &memory, 0, bytes.len())?,
            bytes.len()
        );
        assert_eq!(
            fixture
                .device
                .pwrite_mapping(offset, &memory, 0, bytes.len())?,
            bytes.len()
        );
        same(
            &memory.to_vec(0, bytes.len()),
            &bytes,
            device(0),
            "copied to the same place",
        );
    }
    Ok(())
}

fn writing_the_section_from_mappings(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    source.write_memory(77, b"by way of device memory")?;
    let bytes = source.save()?;
    let fixture = MdmaFixture::new(env)?;
    let mapping = window(&fixture)?;
    let len = bytes.len();
    fixture.go(&[State::RESUMING])?;
    // The source of the write is the device memory that the load will change.
    let memory = fixture.mdma.map_memory()?;
    memory.write(8 << 20, &bytes);
    assert_eq!(
        fixture
            .device
            .pwrite_mapping(section(&fixture), &memory, 8 << 20, len)?,
        len
    );
    same(
        &mapping.to_vec(0, len),
        &bytes,
        device(0),
        "from device memory",
    );
    // The source is the data section itself.
    assert_eq!(
        fixture
            .device
            .pwrite_mapping(section(&fixture), mapping, 0, len)?,
        len
    );
    fixture.migration.write_data_size(len as u64)?;
    fixture.go(&[State::RUNNING])?;
    assert_eq!(fixture.read_memory(77, 23)?, b"by way of device memory");
    Ok(())
}

fn dma_to_and_from_its_own_memory(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let memory = Arc::new(fixture.mdma.map_memory()?);
    let own = DmaBuffer::of(&fixture.container, OWN, memory.clone(), Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    let len = 1 << 20;
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(42), len);
    fixture.write_memory(0, &bytes)?;
    for state in [State::RUNNING, State::PRE_COPY, State::RUNNING] {
        fixture.go(&[state])?;
        let (low, high) = (OWN, OWN + (8 << 20));
        run_jobs(
            &mut queue,
            &[
                // Copy by IOVA between two places in device memory. The destination's pages may not exist yet.
                job::copy(guest(low), guest(high + 1), len as u64),
                // Copy between an IOVA and an offset in the same memory.
                job::copy(guest(low), device(12 << 20), len as u64),
                job::copy(device(12 << 20), guest(low), len as u64),
                job::fill(guest(high + (2 << 20)), 0x44, 3 * PAGE),
            ],
        )?;
        same(
            &fixture.read_memory(0, len)?,
            &bytes,
            device(0),
            "copied back",
        );
        same(
            &fixture.read_memory((8 << 20) + 1, len)?,
            &bytes,
            device(8 << 20),
            "by IOVA",
        );
        same(
            &fixture.read_memory(12 << 20, len)?,
            &bytes,
            device(12 << 20),
            "by offset",
        );
        assert_eq!(memory.to_vec(10 << 20, 8), 0x44u64.to_le_bytes());
    }
    drop(queue);
    drop(own);
    drop(memory);
    Ok(())
}

fn p30_dma_to_its_own_memory_is_saved(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let memory = Arc::new(fixture.mdma.map_memory()?);
    memory.fill(0, 1 << 20, 1);
    let own = DmaBuffer::of(&fixture.container, OWN, memory, Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    fixture.container.dirty_start()?;
    fixture.go(&[State::PRE_COPY])?;
    fixture.save_pending()?;
    run_jobs(&mut queue, &[job::fill(guest(OWN + 5 * PAGE + 9), 2, PAGE)])?;
    // The memory is guest memory, tracked by type1, and device memory, tracked by the device.
    let dirty = fixture
        .container
        .dirty_bitmap(OWN, own.memory().len() as u64)?;
    assert_eq!(
        dirty.dirty().collect::<Vec<_>>(),
        [OWN + 5 * PAGE, OWN + 6 * PAGE]
    );
    let stream = parse(&fixture.save_pending()?.concat())?;
    assert_eq!(stream.pages(PAGE), [5, 6]);
    drop((queue, own));
    Ok(())
}

fn dma_to_and_from_its_own_window(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    window(&fixture)?;
    let region = fixture.migration.region();
    let mapping = Arc::new(region.map(region.info().areas()[0])?);
    let own = DmaBuffer::of(&fixture.container, OWN, mapping.clone(), Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    let len = mapping.len().min(512 << 10);
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(43), len);
    fixture.write_memory(0, &bytes)?;
    // Copy to the data section without a session, then from a buffer staged in it.
    run_jobs(&mut queue, &[job::copy(device(0), guest(OWN), len as u64)])?;
    same(
        &mapping.to_vec(0, len),
        &bytes,
        guest(OWN),
        "copied to the data section",
    );
    fixture.go(&[State::PRE_COPY])?;
    fixture.migration.pending_bytes()?;
    let mut staged = Vec::new();
    fixture.migration.save_buffer(&mut staged)?;
    let n = staged.len().min(len) as u64;
    run_jobs(&mut queue, &[job::copy(guest(OWN), device(8 << 20), n)])?;
    let found = fixture.read_memory(8 << 20, n as usize)?;
    same(
        &found,
        &staged[..n as usize],
        device(8 << 20),
        "copied from the data section",
    );
    // A guest that overwrites the staged buffer corrupts only its own stream.
    run_jobs(&mut queue, &[job::fill(guest(OWN), u64::MAX, 64)])?;
    fixture.go(&[State::STOP_AND_COPY])?;
    fixture.save_pending()?;
    fixture.go(&[State::STOP, State::RUNNING])?;
    run_jobs(&mut queue, &[job::nop()])?;
    drop((queue, own, mapping));
    Ok(())
}

fn devices_that_map_each_other(env: &Env) -> Result {
    let container = Container::open()?;
    let fixtures = [
        MdmaFixture::within(env, &container)?,
        MdmaFixture::within(env, &container)?,
    ];
    let len = 2u64 << 20;
    let mut buffers = Vec::new();
    let mut queues = Vec::new();
    for (n, fixture) in (0u64..).zip(&fixtures) {
        let memory = Arc::new(fixture.mdma.map_memory()?);
        memory.fill(0, len as usize, n as u8 + 1);
        let iova = OWN + n * (1 << 32);
        buffers.push(DmaBuffer::of(&container, iova, memory, Access::ReadWrite)?);
        queues.push(fixture.queue_at(QUEUE + n * (1 << 32), 4)?);
        fixture.mdma.set_throttle(100)?;
    }
    // Each device copies from and to the other's memory, both at the same time.
    for _ in 0..5 {
        for (n, queue) in (0u64..).zip(&mut queues) {
            let other = OWN + (1 - n) * (1 << 32);
            queue.fill(&job::copy(guest(other), device(4 << 20), len))?;
            queue.fill(&job::copy(device(0), guest(other + (8 << 20)), len))?;
            queue.ring_doorbell()?;
        }
        // One device stops in the middle. The other can still access its memory.
        fixtures[0].go(&[State::STOP])?;
        for completion in queues[1].drain(PATIENCE)? {
            assert_eq!(completion.error, 0);
        }
        fixtures[0].go(&[State::RUNNING])?;
        for completion in queues[0].drain(PATIENCE)? {
            assert_eq!(completion.error, 0);
        }
        for (n, fixture) in (0u8..).zip(&fixtures) {
            let other = vec![2 - n; len as usize];
            same(
                &fixture.read_memory(4 << 20, len as usize)?,
                &other,
                device(4 << 20),
                "read",
            );
            same(
                &fixture.read_memory(8 << 20, len as usize)?,
                &other,
                device(8 << 20),
                "written",
            );
        }
    }
    drop((queues, buffers));
    let [first, second] = fixtures;
    drop(first);
    drop(second);
    Ok(())
}

fn stopping_while_dma_faults_in_its_own_memory(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let memory = Arc::new(fixture.mdma.map_memory()?);
    let own = DmaBuffer::of(&fixture.container, OWN, memory.clone(), Access::ReadWrite)?;
    let mut queue = fixture.queue(6)?;
    let over = AtomicBool::new(false);
    thread::scope(|threads| -> Result {
        let submitter = threads.spawn(|| -> Result {
            while !over.load(Ordering::SeqCst) {
                while queue.poll().is_some() {}
                if queue.room() > 0 {
                    queue.submit(&job::copy(guest(OWN), guest(OWN + (8 << 20)), 1 << 20))?;
                } else {
                    thread::yield_now();
                }
            }
            queue.drain(PATIENCE)?;
            Ok(())
        });
        let change = || -> Result {
            wait_register(
                &fixture.mdma,
                Reg::BytesDone,
                "the first job to begin",
                |n| n > 0,
            )?;
            // Each call unmaps pages that the DMA uses, or waits for the DMA.
            for _ in 0..(env.limits.iterations / 40).max(1) {
                fixture.go(&[State::PRE_COPY])?;
                fixture.migration.pending_bytes()?;
                fixture.migration.data_offset()?;
                fixture.go(&[State::STOP_AND_COPY])?;
                let still = memory.to_vec(8 << 20, 1 << 20);
                assert!(
                    memory.to_vec(8 << 20, 1 << 20) == still,
                    "the device wrote memory while stopped"
                );
                fixture.go(&[State::RUNNING])?;
            }
            Ok(())
        };
        let result = change();
        over.store(true, Ordering::SeqCst);
        if result.is_err() {
            let _ = fixture.go(&[State::RUNNING]);
        }
        submitter.join().expect("the submitter")?;
        result
    })?;
    drop((queue, own, memory));
    Ok(())
}
