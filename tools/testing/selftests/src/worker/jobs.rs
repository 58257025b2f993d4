// SPDX-License-Identifier: GPL-2.0

//! Jobs that succeed: each operation with each combination of guest and device memory, compared with the oracle.

use mdma::engine::UNIT;
use mdma::regs::Reg;
use mdma::{job, Descriptor, Place};

use crate::env::Env;
use crate::fixture::memory::Memory;
use crate::fixture::{device, guest, run_jobs, MdmaFixture};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;

tests! { "jobs" needs [Mdma]:
    every_operation_between_every_memory [],
    unaligned_starts_and_lengths [],
    overlapping_copies_read_first [],
    transfers_cross_mappings [],
    lengths_around_a_unit [],
    the_whole_device_memory [],
    rings_of_every_order_wrap [],
    a_full_ring_takes_no_more [],
    registers_of_the_ring_while_enabled [],
    counters_count [],
    jobs_come_in_order [],
    a_ring_that_is_kept_full [],
    a_re_enabled_queue_has_new_pages [],
}

/// The IOVA of the guest memory of these tests.
const BASE: u64 = 0x100_0000;

/// The combinations of guest and device memory for source and destination.
const PLACES: [(Place, Place); 4] = [
    (guest(BASE), guest(BASE + 0x10_0000)),
    (guest(BASE), device(0x10_0000)),
    (device(0), guest(BASE + 0x10_0000)),
    (device(0), device(0x10_0000)),
];

/// The number of bytes of guest memory and of device memory that the tests use.
const SIZE: usize = 2 << 20;

fn plus(place: Place, offset: u64) -> Place {
    match place {
        Place::Guest(at) => guest(at + offset),
        Place::Device(at) => device(at + offset),
        Place::Key { .. } => unreachable!("these jobs use no keys"),
    }
}

/// Returns a fixture with random contents in guest and device memory.
fn filled(env: &Env, seed: u64) -> Result<(MdmaFixture, Memory, fastrand::Rng)> {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut memory = Memory::new(&fixture, SIZE);
    memory.map(&fixture, &mut rng, BASE, SIZE)?;
    memory.fill_device(&fixture, &mut rng)?;
    Ok((fixture, memory, rng))
}

fn every_operation_between_every_memory(env: &Env) -> Result {
    let (fixture, mut memory, _) = filled(env, 1)?;
    let mut queue = fixture.queue(4)?;
    let len = 3 * UNIT as u64 / 2;
    memory.run(&mut queue, &job::nop().cookie(1))?;
    for (n, (src, dst)) in (2..).zip(PLACES) {
        memory.run(&mut queue, &job::copy(src, dst, len).cookie(n))?;
        memory.run(
            &mut queue,
            &job::fill(dst, 0x0102_0304_0506_0708 * n, 4096).cookie(n),
        )?;
        memory.run(&mut queue, &job::crc32c(dst, len).cookie(n).interrupt())?;
        memory.run(&mut queue, &job::crc32c(src, len).cookie(!n))?;
        memory.check(&fixture, &format!("from {src:?} to {dst:?}"))?;
    }
    Ok(())
}

fn unaligned_starts_and_lengths(env: &Env) -> Result {
    let (fixture, mut memory, _) = filled(env, 2)?;
    let mut queue = fixture.queue(4)?;
    for (src, dst) in PLACES {
        for from in [0, 1, 7, 4095] {
            for to in [0, 3, 4093] {
                for len in [1, 2, 7, 8, 9, 4095, 4096, 4097, 12289] {
                    let (src, dst) = (plus(src, from), plus(dst, to));
                    memory.run(&mut queue, &job::copy(src, dst, len))?;
                    memory.run(&mut queue, &job::crc32c(dst, len))?;
                    memory.run(&mut queue, &job::fill(plus(dst, len), !len, len))?;
                }
            }
        }
        memory.check(&fixture, &format!("from {src:?} to {dst:?}"))?;
    }
    Ok(())
}

fn overlapping_copies_read_first(env: &Env) -> Result {
    let (fixture, mut memory, _) = filled(env, 3)?;
    let mut queue = fixture.queue(4)?;
    let unit = UNIT as u64;
    for base in [guest(BASE), device(0)] {
        for len in [9, 5000, 2 * unit, 3 * unit + 77] {
            // Later copies do not hide an error of an earlier one.
            for distance in [1, 8, 4096, unit - 1, unit, unit + 1] {
                let low = plus(base, 0x1003);
                let high = plus(low, distance);
                memory.run(&mut queue, &job::copy(low, high, len))?;
                memory.run(&mut queue, &job::copy(plus(high, 5), plus(low, 5), len))?;
            }
            memory.check(&fixture, &format!("{len} bytes up and down at {base:?}"))?;
        }
        memory.run(&mut queue, &job::copy(base, base, unit + 1))?;
        memory.check(&fixture, "a copy to the same place")?;
    }
    Ok(())
}

fn transfers_cross_mappings(env: &Env) -> Result {
    let (fixture, mut memory, mut rng) = filled(env, 4)?;
    // The mappings are adjacent in IOVA space, but each is a separate allocation.
    let far = 0x20_0000_0000;
    for (n, pages) in [1usize, 3, 1, 17, 2].into_iter().scan(0, |at, pages| {
        let first = *at;
        *at += pages;
        Some((first, pages))
    }) {
        memory.map(&fixture, &mut rng, far + n as u64 * 4096, pages * 4096)?;
    }
    let mut queue = fixture.queue(4)?;
    let all = 24 * 4096;
    for (src, dst, len) in [
        (guest(far), guest(BASE + 5), all),
        (guest(BASE + 9), guest(far + 1), all - 1),
        (guest(far + 4095), device(3), 4098),
        (device(11), guest(far + 2), all - 2),
        (guest(far), guest(far + 4096 * 3 + 1), 4096 * 20),
    ] {
        memory.run(&mut queue, &job::copy(src, dst, len))?;
        memory.check(&fixture, &format!("{len} bytes from {src:?} to {dst:?}"))?;
    }
    memory.run(&mut queue, &job::crc32c(guest(far), all))?;
    memory.run(
        &mut queue,
        &job::fill(guest(far + 4090), 0xfeed_f00d_dead_beef, 4096 * 4),
    )?;
    memory.check(&fixture, "a fill across mappings")
}

fn lengths_around_a_unit(env: &Env) -> Result {
    let (fixture, mut memory, _) = filled(env, 5)?;
    let mut queue = fixture.queue(4)?;
    let unit = UNIT as u64;
    for (src, dst) in PLACES {
        for units in 1..4 {
            for len in [units * unit - 1, units * unit, units * unit + 1] {
                memory.run(&mut queue, &job::copy(src, plus(dst, 1), len))?;
                memory.run(&mut queue, &job::crc32c(plus(src, 3), len))?;
                memory.run(
                    &mut queue,
                    &job::fill(plus(dst, 5), (len << 32) | units, len),
                )?;
            }
        }
        memory.check(&fixture, &format!("from {src:?} to {dst:?}"))?;
    }
    Ok(())
}

fn the_whole_device_memory(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let size = fixture.mdma.memory_size();
    let mut memory = Memory::new(&fixture, size as usize);
    let mut queue = fixture.queue(4)?;
    memory.run(
        &mut queue,
        &job::fill(device(0), 0x1122_3344_5566_7788, size),
    )?;
    memory.run(&mut queue, &job::fill(device(size - 1), 0xff, 1))?;
    memory.run(&mut queue, &job::crc32c(device(0), size))?;
    memory.check(&fixture, "all device memory")
}

fn rings_of_every_order_wrap(env: &Env) -> Result {
    let (fixture, mut memory, _) = filled(env, 6)?;
    for order in 1..=12 {
        let mut queue = fixture.queue(order)?;
        let entries = 1u64 << order;
        // Wrap around the end of the ring, in batches that do not divide its size.
        let batch = (entries - 1).min(5);
        let mut cookie = 0;
        while cookie < entries + 7 {
            let jobs: Vec<Descriptor> = (0..batch)
                .map(|n| {
                    let at = (cookie + n) * 16;
                    job::fill(guest(BASE + at), cookie + n + 1, 16).cookie(cookie + n)
                })
                .collect();
            for job in &jobs {
                queue.fill(job)?;
            }
            queue.ring_doorbell()?;
            for job in &jobs {
                let completion = queue.wait(PATIENCE)?;
                if let Err(why) = memory.world.apply(job).check(&completion) {
                    crate::fail!("order {order}: {why}");
                }
            }
            cookie += batch;
        }
        memory.check(&fixture, &format!("ring of order {order}"))?;
        queue.close()?;
    }
    Ok(())
}

fn a_full_ring_takes_no_more(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let order = 3;
    let mut queue = fixture.queue(order)?;
    // The first job keeps the device busy, with a pause after each unit.
    fixture.mdma.set_throttle(100_000)?;
    queue.fill(&job::fill(device(0), 1, 16 * UNIT as u64))?;
    for cookie in 1..7 {
        queue.fill(&job::nop().cookie(cookie))?;
    }
    assert_eq!(queue.room(), 0);
    queue.ring_doorbell()?;
    assert_eq!(fixture.mdma.get(Reg::Tail)?, 7);
    fixture.mdma.set_throttle(0)?;
    let done = queue.drain(PATIENCE)?;
    let cookies: Vec<u64> = done.iter().map(|c| c.cookie).collect();
    assert_eq!(cookies, [0, 1, 2, 3, 4, 5, 6]);
    Ok(())
}

fn registers_of_the_ring_while_enabled(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(3)?;
    run_jobs(&mut queue, &[job::nop(), job::nop(), job::nop()])?;
    assert_eq!(fixture.mdma.get(Reg::Head)?, 3);
    // Writing the same value again has no effect.
    fixture.mdma.set(Reg::Tail, 3)?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 3);
    assert_eq!(
        fixture.mdma.get(Reg::Status)?,
        u64::from(mdma::regs::STATUS_ENABLED)
    );
    for (reg, value) in [
        (Reg::RingBase, 0x1000),
        (Reg::RingOrder, 4),
        (Reg::CompletionBase, 0x1000),
    ] {
        let before = fixture.mdma.get(reg)?;
        fixture.mdma.set(reg, value)?;
        assert_eq!(fixture.mdma.get(reg)?, before);
    }
    run_jobs(&mut queue, &[job::nop()])
}

fn counters_count(env: &Env) -> Result {
    let (fixture, _memory, _) = filled(env, 7)?;
    let mut queue = fixture.queue(4)?;
    let jobs = [
        job::nop(),
        job::fill(guest(BASE), 0, 100_000),
        job::copy(guest(BASE), device(0), 17),
        job::crc32c(device(0), 70_000).interrupt(),
    ];
    run_jobs(&mut queue, &jobs)?;
    fixture.wait_idle()?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 4);
    assert_eq!(fixture.mdma.get(Reg::BytesDone)?, 170_017);
    assert_eq!(fixture.mdma.get(Reg::Head)?, 4);
    assert_eq!(fixture.mdma.acknowledge()?, mdma::regs::INT_COMPLETION);
    assert_eq!(fixture.mdma.get(Reg::IntCause)?, 0);
    // The counters continue with a new queue, and a reset clears them.
    drop(queue);
    let mut queue = fixture.queue(2)?;
    run_jobs(&mut queue, &[job::nop()])?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 5);
    fixture.device.reset()?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 0);
    assert_eq!(fixture.mdma.get(Reg::BytesDone)?, 0);
    Ok(())
}

fn jobs_come_in_order(env: &Env) -> Result {
    let (fixture, mut memory, mut rng) = filled(env, 8)?;
    let mut queue = fixture.queue(8)?;
    // Each job reads what the previous one wrote.
    let mut jobs = Vec::new();
    for n in 0..200 {
        let hop = |n: u64| plus(PLACES[(n % 4) as usize].1, n * 512);
        let len = rng.u64(1..=512);
        jobs.push(job::copy(hop(n), hop(n + 1), len).cookie(n));
    }
    for job in &jobs {
        queue.fill(job)?;
    }
    queue.ring_doorbell()?;
    for (job, completion) in jobs.iter().zip(queue.drain(PATIENCE)?) {
        if let Err(why) = memory.world.apply(job).check(&completion) {
            crate::fail!("{job:?}: {why}");
        }
    }
    memory.check(&fixture, "a chain of 200 copies")
}

fn a_ring_that_is_kept_full(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(2)?;
    let mut reaped = 0;
    for cookie in 0..2000 {
        // Reuse the entry of a job as soon as its completion record arrives.
        while queue.room() == 0 {
            if let Some(completion) = queue.poll() {
                assert_eq!((completion.cookie, completion.error), (reaped, 0));
                reaped += 1;
            }
        }
        queue.submit(&job::nop().cookie(cookie))?;
    }
    for completion in queue.drain(PATIENCE)? {
        assert_eq!((completion.cookie, completion.error), (reaped, 0));
        reaped += 1;
    }
    assert_eq!(reaped, 2000);
    Ok(())
}

fn a_re_enabled_queue_has_new_pages(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    for round in 0..20 {
        // Each queue uses new memory at the same IOVA, right after the unmap of the previous one.
        let mut queue = fixture.queue(4)?;
        run_jobs(&mut queue, &[job::fill(device(0), round, 8)])?;
        assert_eq!(fixture.mdma.get(Reg::JobsDone)?, round + 1);
    }
    Ok(())
}
