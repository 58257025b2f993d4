// SPDX-License-Identifier: GPL-2.0

//! Jobs that fail: each error code, the position where the queue halts, and that the queue works after it is enabled
//! again.

use std::sync::Arc;

use mdma::desc::{Error, DESCRIPTOR_SIZE, DST_DEVICE, DST_LIST, INTERRUPT};
use mdma::desc::{MAX_LEN, SRC_DEVICE, SRC_LIST};
use mdma::engine::UNIT;
use mdma::regs::{self, Reg};
use mdma::{job, Completion, Descriptor, Queue};
use vfio_client::{Access, DmaBuffer, Mapping};

use crate::env::Env;
use crate::fixture::bytes::all_are;
use crate::fixture::{device, guest, run_jobs, wait_register, MdmaFixture, VfioQueue, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;

tests! { "faults" needs [Mdma]:
    every_bad_descriptor_halts [],
    unmapped_memory_halts [],
    memory_without_access_halts [],
    a_job_fails_where_its_memory_ends [],
    jobs_after_a_failed_one_do_not_run [],
    a_queue_at_an_unmapped_iova [],
    p35_unmapped_ring_is_a_fault ["P35"],
    p35_unmapped_completions_are_a_fault ["P35"],
    completions_without_write_access [],
}

/// The guest memory of these tests: some pages between unmapped IOVAs.
const BASE: u64 = 0x100_0000;
const SIZE: usize = 0x4_0000;

/// Returns the bytes of a descriptor with one field changed.
fn with(job: &Descriptor, at: usize, value: &[u8]) -> [u8; DESCRIPTOR_SIZE] {
    let mut bytes = job.cookie(0xc00c1e).encode();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// Submits a descriptor that must fail, and checks the completion and the registers. The queue must be empty.
pub(crate) fn fails(
    fixture: &MdmaFixture,
    queue: &mut VfioQueue,
    bytes: &[u8; 64],
    error: Error,
    done: u64,
) -> Result {
    let what = format!("{:?} for {:02x?}", error, &bytes[..48]);
    fixture.mdma.acknowledge()?;
    let index = fixture.mdma.get(Reg::Head)?;
    let jobs = fixture.mdma.get(Reg::JobsDone)?;

    queue.fill_raw(bytes)?;
    queue.ring_doorbell()?;
    let completion = queue.wait(PATIENCE)?;
    let expected = Completion {
        cookie: Descriptor::cookie_of(bytes),
        error: error as u32,
        result: 0,
        bytes: done,
        sequence: jobs + 1,
    };
    assert_eq!(completion, expected, "{what}");
    halted(fixture, error, index, &what)?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, jobs + 1, "{what}");
    Ok(())
}

/// Waits until the queue halts, and checks the registers.
fn halted(fixture: &MdmaFixture, error: Error, index: u64, what: &str) -> Result {
    let halted = u64::from(regs::STATUS_HALTED);
    wait_register(&fixture.mdma, Reg::Status, "the queue to halt", |s| {
        s & halted != 0
    })?;
    assert_eq!(fixture.mdma.get(Reg::Error)?, error as u64, "{what}");
    assert_eq!(fixture.mdma.get(Reg::ErrorIndex)?, index, "{what}");
    assert_eq!(fixture.mdma.get(Reg::Head)?, index, "HEAD stays: {what}");
    let cause = fixture.mdma.get(Reg::IntCause)?;
    assert_eq!(
        cause & u64::from(regs::INT_HALT),
        u64::from(regs::INT_HALT),
        "{what}"
    );
    Ok(())
}

/// Enables the halted queue again in the same memory, and checks that it works.
pub(crate) fn recover(fixture: &MdmaFixture, queue: VfioQueue) -> Result<VfioQueue> {
    let order = queue.ring().entries().ilog2();
    let (mdma, memory) = queue.close()?;
    for reg in [
        Reg::Error,
        Reg::ErrorIndex,
        Reg::Head,
        Reg::Tail,
        Reg::Status,
    ] {
        assert_eq!(mdma.get(reg)?, 0, "{reg:?} of a disabled queue");
    }
    let mut queue = Queue::new(mdma, memory, order)?;
    assert_eq!(fixture.mdma.get(Reg::Error)?, 0);
    run_jobs(&mut queue, &[job::nop().cookie(1)])?;
    Ok(queue)
}

fn every_bad_descriptor_halts(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let size = fixture.mdma.memory_size();
    let mut queue = fixture.queue(4)?;
    let (g, d) = (guest(BASE), device(0));
    let nop = job::nop();
    let copy = job::copy(g, guest(BASE + 0x1000), 64);
    let fill = job::fill(g, 1, 64);
    let crc = job::crc32c(g, 64);
    let u32s = |v: u32| v.to_le_bytes();
    let u64s = |v: u64| v.to_le_bytes();
    let mut bad = vec![
        (with(&nop, 0, &u32s(6)), Error::BadOp),
        (with(&copy, 0, &u32s(0x100)), Error::BadOp),
        (with(&fill, 0, &u32s(u32::MAX)), Error::BadOp),
        // Unknown flags, and flags for an address that the operation does not have.
        (with(&copy, 4, &u32s(1 << 7)), Error::BadFlags),
        (with(&copy, 4, &u32s(1 << 31)), Error::BadFlags),
        (with(&nop, 4, &u32s(SRC_DEVICE)), Error::BadFlags),
        (with(&fill, 4, &u32s(SRC_DEVICE)), Error::BadFlags),
        (
            with(&crc, 4, &u32s(DST_DEVICE | INTERRUPT)),
            Error::BadFlags,
        ),
        (with(&nop, 4, &u32s(SRC_LIST)), Error::BadFlags),
        (with(&fill, 4, &u32s(SRC_LIST)), Error::BadFlags),
        (with(&crc, 4, &u32s(DST_LIST)), Error::BadFlags),
        (with(&crc, 4, &u32s(SRC_DEVICE | SRC_LIST)), Error::BadFlags),
        (
            with(&fill, 4, &u32s(DST_DEVICE | DST_LIST)),
            Error::BadFlags,
        ),
        (with(&nop, 24, &u64s(1)), Error::BadLength),
        (with(&copy, 24, &u64s(0)), Error::BadLength),
        (with(&fill, 24, &u64s(MAX_LEN + 1)), Error::BadLength),
        (with(&crc, 24, &u64s(u64::MAX)), Error::BadLength),
        // Ranges of device memory.
        (job::copy(device(size), g, 1).encode(), Error::SrcRange),
        (job::copy(device(size - 1), g, 2).encode(), Error::SrcRange),
        (job::crc32c(device(u64::MAX), 1).encode(), Error::SrcRange),
        (job::crc32c(device(u64::MAX), 2).encode(), Error::SrcRange),
        (job::crc32c(d, size + 1).encode(), Error::SrcRange),
        (job::fill(device(size), 0, 1).encode(), Error::DstRange),
        (job::fill(device(size - 7), 0, 8).encode(), Error::DstRange),
        (
            job::copy(g, device(u64::MAX - 7), 16).encode(),
            Error::DstRange,
        ),
        // Addresses that pass 2^64.
        (job::copy(guest(u64::MAX), g, 2).encode(), Error::SrcFault),
        (
            job::crc32c(guest(u64::MAX - 4095), 4097).encode(),
            Error::SrcFault,
        ),
        (
            job::copy(g, guest(u64::MAX - 62), 64).encode(),
            Error::DstFault,
        ),
        (job::fill(guest(u64::MAX), 0, 2).encode(), Error::DstFault),
    ];
    for byte in 48..DESCRIPTOR_SIZE {
        bad.push((with(&copy, byte, &[0x80]), Error::BadReserved));
    }
    for (bytes, error) in bad {
        fails(&fixture, &mut queue, &bytes, error, 0)?;
        queue = recover(&fixture, queue)?;
    }
    // The last byte of the address space is valid but not mapped.
    let last = job::crc32c(guest(u64::MAX), 1).encode();
    fails(&fixture, &mut queue, &last, Error::SrcFault, 0)?;
    recover(&fixture, queue).map(drop)
}

fn unmapped_memory_halts(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let end = BASE + SIZE as u64;
    let mut queue = fixture.queue(4)?;
    for at in [
        0,
        BASE - 1,
        BASE - 64,
        end,
        end - 1,
        1 << 40,
        0x8000_0000_0000_0000,
    ] {
        for (job, error) in [
            (job::crc32c(guest(at), 64), Error::SrcFault),
            (job::copy(guest(at), device(0), 64), Error::SrcFault),
            (job::copy(guest(at), guest(BASE), 64), Error::SrcFault),
            (job::copy(device(0), guest(at), 64), Error::DstFault),
            (job::fill(guest(at), 0, 64), Error::DstFault),
            (job::copy(guest(BASE), guest(at), 64), Error::DstFault),
        ] {
            fails(&fixture, &mut queue, &job.encode(), error, 0)?;
            queue = recover(&fixture, queue)?;
        }
    }
    // Memory that is no longer mapped.
    buffer.unmap()?;
    let gone = job::fill(guest(BASE), 0, 1).encode();
    fails(&fixture, &mut queue, &gone, Error::DstFault, 0)?;
    let _back = fixture.buffer(BASE, SIZE)?;
    let mut queue = recover(&fixture, queue)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 0, SIZE as u64)])
}

fn memory_without_access_halts(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let map = |iova, access| -> Result<DmaBuffer> {
        let memory = Arc::new(Mapping::anonymous(SIZE)?);
        memory.fill(0, SIZE, 0x5a);
        Ok(DmaBuffer::of(&fixture.container, iova, memory, access)?)
    };
    let read_only = map(BASE, Access::Read)?;
    let write_only = map(2 * BASE, Access::Write)?;
    let (ro, wo) = (guest(BASE), guest(2 * BASE));
    let mut queue = fixture.queue(4)?;
    run_jobs(
        &mut queue,
        &[job::crc32c(ro, 100), job::copy(ro, device(0), 100)],
    )?;
    for (job, error) in [
        (job::fill(ro, 0, 64), Error::DstFault),
        (job::copy(device(0), ro, 64), Error::DstFault),
        (job::crc32c(wo, 64), Error::SrcFault),
        (job::copy(wo, device(0), 64), Error::SrcFault),
        // type1 does not allow write access without read access.
        (job::fill(wo, 0, 64), Error::DstFault),
    ] {
        fails(&fixture, &mut queue, &job.encode(), error, 0)?;
        queue = recover(&fixture, queue)?;
    }
    for memory in [read_only, write_only] {
        assert!(all_are(&memory.to_vec(0, SIZE), 0x5a));
    }
    Ok(())
}

fn a_job_fails_where_its_memory_ends(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let (unit, size) = (UNIT as u64, SIZE as u64);
    let mut queue = fixture.queue(4)?;
    for (job, error) in [
        (
            job::fill(guest(BASE), 0x7777_7777_7777_7777, size + 8),
            Error::DstFault,
        ),
        (job::crc32c(guest(BASE), size + unit), Error::SrcFault),
        (job::copy(device(0), guest(BASE), size + 1), Error::DstFault),
    ] {
        let bytes = fixture.mdma.get(Reg::BytesDone)?;
        fails(&fixture, &mut queue, &job.encode(), error, size)?;
        assert_eq!(fixture.mdma.get(Reg::BytesDone)?, bytes + size, "{job:?}");
        if job.value != 0 {
            assert!(all_are(&buffer.to_vec(0, SIZE), 0x77));
        }
        queue = recover(&fixture, queue)?;
    }
    Ok(())
}

fn jobs_after_a_failed_one_do_not_run(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    queue.fill(&job::fill(guest(BASE), u64::MAX, 8).cookie(1))?;
    queue.fill(&job::fill(guest(0), u64::MAX, 8).cookie(2))?;
    for cookie in 3..10 {
        queue.fill(&job::fill(guest(BASE + 4096), u64::MAX, 8).cookie(cookie))?;
    }
    queue.ring_doorbell()?;
    let done = queue.drain(PATIENCE)?;
    let ends: Vec<_> = done.iter().map(|c| (c.cookie, c.error)).collect();
    assert_eq!(ends, [(1, 0), (2, Error::DstFault as u32)]);
    halted(&fixture, Error::DstFault, 1, "the second job")?;
    // A doorbell does not wake a halted queue.
    queue.submit(&job::nop().cookie(10))?;
    std::thread::sleep(crate::harness::check::SILENCE);
    assert_eq!(queue.poll(), None);
    assert_eq!(buffer.to_vec(0, 8), [0xff; 8]);
    assert_eq!(buffer.to_vec(4096, 8), [0; 8]);
    halted(&fixture, Error::DstFault, 1, "after another doorbell")?;
    recover(&fixture, queue).map(drop)
}

/// Enables a queue with its rings at these IOVAs, and rings the doorbell.
pub(crate) fn enable_at(fixture: &MdmaFixture, ring: u64, completions: u64) -> Result {
    fixture.mdma.disable()?;
    fixture.mdma.set(Reg::RingBase, ring)?;
    fixture.mdma.set(Reg::RingOrder, 4)?;
    fixture.mdma.set(Reg::CompletionBase, completions)?;
    fixture
        .mdma
        .set(Reg::Control, regs::CONTROL_ENABLE.into())?;
    Ok(fixture.mdma.set(Reg::Tail, 1)?)
}

fn a_queue_at_an_unmapped_iova(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    buffer.write(0, &job::nop().encode());
    let nowhere = 0x666_0000_0000;
    // The last ring that fits in the address space.
    let last = 0u64.wrapping_sub(16 * 64);
    for (ring, completions, error) in [
        (nowhere, BASE + 4096, Error::RingFault),
        (BASE, nowhere, Error::CompletionFault),
        (nowhere, nowhere, Error::RingFault),
        (last, BASE + 4096, Error::RingFault),
        (BASE, 0u64.wrapping_sub(16 * 32), Error::CompletionFault),
    ] {
        enable_at(&fixture, ring, completions)?;
        halted(
            &fixture,
            error,
            0,
            &format!("ring at {ring:#x}, records at {completions:#x}"),
        )?;
        assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 0);
    }
    drop(buffer);
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

/// Maps ring and completion records separately, runs a job, then unmaps one of the mappings.
fn unmap_one(env: &Env, unmap_ring: bool, error: Error) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let ring = fixture.buffer(QUEUE, 4096)?;
    let completions = fixture.buffer(2 * QUEUE, 4096)?;
    ring.write(0, &job::nop().encode());
    ring.write(64, &job::nop().encode());
    enable_at(&fixture, QUEUE, 2 * QUEUE)?;
    wait_register(&fixture.mdma, Reg::JobsDone, "the first job", |n| n == 1)?;
    // The device has pinned the pages. Unmapping unpins them at once.
    let (gone, kept) = if unmap_ring {
        (ring, completions)
    } else {
        (completions, ring)
    };
    let memory = gone.unmap()?;
    let before = memory.to_vec(0, 4096);
    fixture.mdma.set(Reg::Tail, 2)?;
    halted(&fixture, error, 1, "after the unmap")?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 1);
    assert!(
        memory.to_vec(0, 4096) == before,
        "the device wrote memory after the unmap"
    );
    drop(kept);
    // The device works again with a mapped queue.
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

fn p35_unmapped_ring_is_a_fault(env: &Env) -> Result {
    unmap_one(env, true, Error::RingFault)
}

fn p35_unmapped_completions_are_a_fault(env: &Env) -> Result {
    unmap_one(env, false, Error::CompletionFault)
}

fn completions_without_write_access(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let ring = Arc::new(Mapping::anonymous(4096)?);
    ring.write(0, &job::nop().encode());
    // The device only reads the ring, so a read-only mapping is enough.
    let _ring = DmaBuffer::of(&fixture.container, BASE, ring, Access::Read)?;
    let records = Arc::new(Mapping::anonymous(4096)?);
    let _records = DmaBuffer::of(&fixture.container, 2 * BASE, records.clone(), Access::Read)?;
    enable_at(&fixture, BASE, 2 * BASE)?;
    halted(
        &fixture,
        Error::CompletionFault,
        0,
        "read-only completion records",
    )?;
    assert!(all_are(&records.to_vec(0, 4096), 0));
    let fine = fixture.buffer(3 * BASE, 4096)?;
    enable_at(&fixture, BASE, 3 * BASE)?;
    wait_register(
        &fixture.mdma,
        Reg::JobsDone,
        "a job of a read-only ring",
        |n| n == 1,
    )?;
    let mut record = [0; 32];
    fine.read(0, &mut record);
    assert_eq!(Completion::decode(&record).sequence, 1);
    Ok(())
}
