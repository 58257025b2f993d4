// SPDX-License-Identifier: GPL-2.0

//! Loading through v1: the sequence, buffers split at any byte, refusals, and the resulting device state.

use mdma::job;
use mdma::regs::Reg;
use migration::stream::Kind;
use vfio_client::v1::{Access, State};
use vfio_client::{uapi, Action, DmaBuffer, EventFd};

use crate::env::Env;
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::{
    device, guest, parse, run_jobs, wait_register, Fixture, MdmaFixture, MARK, PAGE, QUEUE,
};
use crate::harness::check::{expect_signal, expect_silence, PATIENCE};
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "v1_loading":
    p24_offset_data_size_mapped_and_trapped ["P24", "P28"],
    p24_nothing_is_applied_before_data_size_is_written ["P24"] needs [DeviceMemory],
    p25_a_small_stream_cut_at_every_byte ["P25"],
    p25_a_large_stream_cut_anywhere ["P25"] needs [DeviceMemory],
    p25_sizes_that_are_refused ["P25"],
    p25_a_smaller_section_takes_larger_buffers ["P25"] needs [Mdma],
    p26_registers_change_when_the_load_is_complete ["P26"],
    p26_an_incomplete_load_is_refused ["P26"],
    p26_refused_at_the_write_that_shows_it ["P26"],
    p26_after_a_refusal_the_device_does_not_run ["P26", "P11"] needs [Mdma],
    p26_a_load_replaces_what_was_there ["P26"] needs [DeviceMemory],
    p50_loaded_twice_is_loaded_once ["P50"],
    p50_saved_again_is_the_same_stream ["P50"],
    p50_a_queue_saved_again_is_the_same_stream ["P50"] needs [Mdma],
    a_job_in_flight_goes_on_at_the_destination [] needs [Mdma],
    a_halted_queue_stays_halted [] needs [Mdma],
    a_load_from_stop_to_stop [],
    intx_is_delivered_once_when_a_loaded_device_runs [],
}

/// Returns the access methods for the data section that the device supports.
fn accesses(fixture: &Fixture) -> Vec<Access> {
    let mut accesses = vec![Access::Trapped, Access::TrappedWords];
    if fixture.migration.mapping().is_some() {
        accesses.push(Access::Mapped);
    }
    accesses
}

fn p24_offset_data_size_mapped_and_trapped(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[0, 7, 8, 300])?;
    let mut destination = Fixture::new(env)?;
    for access in accesses(&destination) {
        destination.migration.set_access(access)?;
        destination.go(&[State::RESUMING])?;
        let m = &destination.migration;
        for piece in bytes.chunks(m.region().info().size as usize / 3) {
            let at = m.data_offset()?;
            m.write_data(at, piece)?;
            m.write_data_size(piece.len() as u64)?;
        }
        destination.go(&[State::RUNNING])?;
        source.expect_equal(&destination, &format!("{access:?}"))?;
        destination.device.reset()?;
        destination.expect_no_mark("after a reset");
    }
    Ok(())
}

fn p24_nothing_is_applied_before_data_size_is_written(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[3])?;
    let destination = Fixture::new(env)?;
    destination.go(&[State::RESUMING])?;
    let m = &destination.migration;
    // The user overwrites data before it writes data_size. The device never reads the old data.
    let at = m.data_offset()?;
    m.write_data(at, &vec![0xff; bytes.len()])?;
    assert_eq!(m.data_offset()?, at);
    m.write_data(at, &bytes)?;
    assert_eq!(destination.read_memory(3 * PAGE, 64)?, [0; 64]);
    m.write_data_size(bytes.len() as u64)?;
    assert_ne!(destination.read_memory(3 * PAGE, 64)?, [0; 64]);
    destination.go(&[State::RUNNING])?;
    source.expect_equal(&destination, "loaded")
}

fn p25_a_small_stream_cut_at_every_byte(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[])?;
    assert!(bytes.len() < 4096, "{} bytes", bytes.len());
    let mut destination = Fixture::new(env)?;
    let expected = source.snapshot()?;
    for access in accesses(&destination) {
        destination.migration.set_access(access)?;
        let m = &destination.migration;
        for cut in 1..bytes.len() {
            destination.go(&[State::RESUMING])?;
            m.load_buffer(&bytes[..cut])?;
            m.load_buffer(&bytes[cut..])?;
            destination.go(&[State::RUNNING])?;
            destination.expect_mark(MARK, &format!("cut at {cut}, {access:?}"));
        }
        for piece in [1, 2, 3, 7, 31, 32, 33] {
            destination.go(&[State::RESUMING])?;
            destination.feed(&bytes, piece)?;
            destination.go(&[State::RUNNING])?;
            let found = destination.snapshot()?;
            found.expect(&expected, &format!("pieces of {piece}, {access:?}"));
            destination.device.reset()?;
        }
    }
    Ok(())
}

fn p25_a_large_stream_cut_anywhere(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[0, 1, 2, 9, 4095])?;
    let destination = Fixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(26);
    for cut in (1..bytes.len()).step_by(211) {
        destination.go(&[State::RESUMING])?;
        destination.migration.load_buffer(&bytes[..cut])?;
        destination.migration.load_buffer(&bytes[cut..])?;
        destination.go(&[State::RUNNING])?;
        for page in [0, 1, 2, 9, 4095] {
            let expected = source.read_memory(page * PAGE, PAGE as usize)?;
            let found = destination.read_memory(page * PAGE, PAGE as usize)?;
            same(
                &found,
                &expected,
                device(page * PAGE),
                &format!("cut at {cut}"),
            );
        }
    }
    for round in 0..4 {
        destination.go(&[State::RESUMING])?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rng.usize(1..=rest.len().min(9000)));
            destination.migration.load_buffer(piece)?;
            rest = more;
        }
        destination.go(&[State::RUNNING])?;
        source.expect_equal(&destination, &format!("random pieces, round {round}"))?;
    }
    Ok(())
}

fn p25_sizes_that_are_refused(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[2])?;
    let destination = Fixture::new(env)?;
    let m = &destination.migration;
    destination.go(&[State::RESUMING])?;
    let section = destination.section() as u64;
    // At the start of the stream and in the middle of a record. The refused write does not affect the load.
    for piece in [&bytes[..100], &bytes[100..]] {
        m.data_offset()?;
        m.write_data(destination.data_offset(), piece)?;
        for size in [0, section + 1, section + PAGE, 1 << 32, 1 << 63, u64::MAX] {
            assert_errno!(m.write_data_size(size), EINVAL, "data_size {size:#x}");
            assert_eq!(destination.state()?, State::RESUMING);
        }
        m.write_data_size(piece.len() as u64)?;
    }
    destination.go(&[State::RUNNING])?;
    source.expect_equal(&destination, "after refused sizes")?;
    // A buffer that fills the whole section is not too large.
    destination.go(&[State::RESUMING])?;
    m.write_data(destination.data_offset(), &vec![0; section as usize])?;
    assert_errno!(m.write_data_size(section), EINVAL, "not a stream");
    let fresh = Fixture::new(env)?;
    fresh.go(&[State::RESUMING])?;
    let uuid = fresh.uuid();
    let write = || fresh.migration.write_data_size(0);
    assert_refused!(env, uuid, write(), EINVAL, "data_size");
    Ok(())
}

fn p25_a_smaller_section_takes_larger_buffers(env: &Env) -> Result {
    let pages: Vec<u64> = (0..200).collect();
    let bytes = {
        let (_, bytes) = MdmaFixture::saved(env, &pages)?;
        bytes
    };
    env.module.with("data_section_kib=64", || {
        let destination = MdmaFixture::new(env)?;
        assert_eq!(destination.section(), 64 << 10);
        destination.load(&bytes)?;
        let size = destination.mdma.memory_size() as usize;
        let found = destination.read_memory(0, size)?;
        same(
            &found,
            &parse(&bytes)?.memory(size),
            device(0),
            "loaded from larger buffers",
        );
        // In the other direction, the device sends smaller buffers.
        let again = destination.save()?;
        assert_eq!(parse(&again)?.memory(size), found);
        Ok(())
    })
}

fn p26_registers_change_when_the_load_is_complete(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[4])?;
    let destination = Fixture::new(env)?;
    destination.set_mark(1)?;
    destination.go(&[State::RESUMING])?;
    let unchanged = |when: &str| destination.expect_mark(1, when);
    unchanged("resuming");
    for piece in bytes.chunks(64) {
        destination.migration.load_buffer(piece)?;
        unchanged("in the middle of a load");
    }
    unchanged("after the end record");
    destination.go(&[State::RUNNING])?;
    source.expect_equal(&destination, "running")
}

fn p26_an_incomplete_load_is_refused(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[4])?;
    let destination = Fixture::new(env)?;
    let stream = parse(&bytes)?;
    let mut cuts = vec![0, 1, 31, 32, 33, bytes.len() - 1];
    let sizes = stream.records.iter().map(|r| r.size());
    cuts.extend(sizes.scan(0, |at, size| {
        *at += size;
        Some(*at)
    }));
    cuts.retain(|cut| *cut < bytes.len());
    for to in [State::RUNNING, State::STOP] {
        for cut in &cuts {
            destination.set_mark(2)?;
            destination.go(&[State::RESUMING])?;
            destination.feed(&bytes[..*cut], 4096)?;
            let result = destination.migration.write_state(to);
            assert_errno!(result, ENODATA, "{cut} of {} bytes", bytes.len());
            assert_eq!(destination.state()?, State::ERROR);
            destination.expect_mark(2, &format!("{cut} bytes loaded"));
            destination.device.reset()?;
        }
    }
    // The complete stream loads.
    destination.load(&bytes)?;
    source.expect_equal(&destination, "complete")?;
    // A new device, because the kernel limits the log lines per device.
    let destination = Fixture::new(env)?;
    destination.go(&[State::RESUMING])?;
    destination.feed(&bytes[..bytes.len() - 1], 4096)?;
    let uuid = destination.uuid();
    let write = || destination.migration.write_state(State::RUNNING);
    assert_refused!(env, uuid, write(), ENODATA, "incomplete");
    Ok(())
}

fn p26_refused_at_the_write_that_shows_it(env: &Env) -> Result {
    let (_source, bytes) = Fixture::saved(env, &[4, 5])?;
    let destination = Fixture::new(env)?;
    let stream = parse(&bytes)?;
    let m = &destination.migration;
    let mut start = 0;
    for (n, record) in stream.records.iter().enumerate() {
        // Corrupt each record twice: the device detects one at the end of the header, the other at the end of
        // the payload.
        for (at, shown) in [(8, 32), (32, record.size())] {
            if record.kind() == Some(Kind::Identity) && at == 8 {
                continue;
            }
            let mut bad = bytes.clone();
            bad[start + at] ^= 0x10;
            destination.go(&[State::RESUMING])?;
            m.load_buffer(&bad[..start + shown - 1])?;
            let next = &bad[start + shown - 1..][..1];
            assert_errno!(m.load_buffer(next), EBADMSG, "record {n}, byte {at}");
            // The load has failed: the device accepts no more data, not even valid data.
            assert_errno!(
                m.load_buffer(&bytes),
                EBADMSG,
                "record {n}, after the refusal"
            );
            assert_eq!(destination.state()?, State::RESUMING);
            assert_errno!(m.write_state(State::RUNNING), EBADMSG);
            assert_eq!(destination.state()?, State::ERROR);
            destination.device.reset()?;
        }
        start += record.size();
    }
    assert_eq!(start, bytes.len());
    destination.load(&bytes)
}

fn p26_after_a_refusal_the_device_does_not_run(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(0x10_0000, 4096)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::fill(guest(0x10_0000), 1, 8)])?;
    fixture.go(&[State::RESUMING])?;
    assert_errno!(fixture.migration.load_buffer(&[0x55; 100]), EINVAL);
    assert_errno!(fixture.migration.write_state(State::RUNNING), EINVAL);
    queue.submit(&job::fill(guest(0x10_0000), 2, 8))?;
    std::thread::sleep(crate::harness::check::SILENCE);
    assert_eq!(queue.poll(), None);
    assert_eq!(buffer.to_vec(0, 8), 1u64.to_le_bytes());
    // The next open resets the device too, so the next user has a working device.
    drop((queue, buffer));
    let fixture = MdmaFixture::of(crate::env::Guest::open(fixture.close())?)?;
    assert_eq!(fixture.state()?, State::RUNNING);
    assert_eq!(
        fixture.mdma.get(Reg::JobsDone)?,
        0,
        "the device kept state of the refused load"
    );
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

fn p26_a_load_replaces_what_was_there(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[10, 11])?;
    let destination = Fixture::new(env)?;
    let mapping = destination.map_memory()?;
    // Enough to have pages that the stream has, and others.
    let size = destination.memory_size().min(16 << 20) as usize;
    mapping.fill(0, size, 0x77);
    destination.set_mark(3)?;
    destination.load(&bytes)?;
    source.expect_equal(&destination, "loaded over other contents")?;
    // A mapping made before the load shows the new contents, and zeros in pages that were not sent.
    let expected = source.read_memory(0, size)?;
    same(
        &mapping.to_vec(0, size),
        &expected,
        device(0),
        "through the mapping made before the load",
    );
    mapping.write(0, b"alive");
    assert_eq!(destination.read_memory(0, 5)?, b"alive");
    Ok(())
}

fn p50_loaded_twice_is_loaded_once(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[1, 2, 100])?;
    let destination = Fixture::new(env)?;
    for round in 0..3 {
        destination.load(&bytes)?;
        source.expect_equal(&destination, &format!("load {round}"))?;
        assert!(
            destination.save()? == bytes,
            "load {round}: the device saves a different stream"
        );
        destination.go(&[State::RUNNING])?;
    }
    Ok(())
}

fn p50_saved_again_is_the_same_stream(env: &Env) -> Result {
    let (fixture, first) = Fixture::saved(env, &[1, 5, 6])?;
    assert!(fixture.save()? == first, "saved twice");
    let other = Fixture::new(env)?;
    other.load(&first)?;
    other.expect_mark(MARK, "loaded");
    assert!(other.save()? == first, "saved at the destination");
    Ok(())
}

fn p50_a_queue_saved_again_is_the_same_stream(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(0x10_0000, 1 << 20)?;
    let mut queue = fixture.queue(5)?;
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(0x10_0000), 0x55, 1 << 20).interrupt(),
            job::copy(guest(0x10_0000), device(123), 77_777),
        ],
    )?;
    fixture.wait_idle()?;
    let first = fixture.save()?;
    assert!(fixture.save()? == first, "saved twice");
    let other = MdmaFixture::new(env)?;
    other.load(&first)?;
    // The registers are complete: the queue is at the same position.
    assert_eq!(other.mdma.get(Reg::RingBase)?, QUEUE);
    assert_eq!(other.mdma.get(Reg::Head)?, 2);
    assert_eq!(other.mdma.get(Reg::JobsDone)?, 2);
    assert_eq!(other.mdma.get(Reg::IntCause)?, 1);
    assert!(other.save()? == first, "saved at the destination");
    drop(queue);
    Ok(())
}

fn a_job_in_flight_goes_on_at_the_destination(env: &Env) -> Result {
    const BASE: u64 = 0x100_0000;
    const SIZE: usize = 4 << 20;
    let source = MdmaFixture::new(env)?;
    let memory = source.buffer(BASE, SIZE)?;
    memory.write(0, &random_bytes(&mut fastrand::Rng::with_seed(27), SIZE));
    let crc = crc32c::crc32c(&memory.to_vec(0, SIZE));
    let mut queue = source.queue(4)?;
    source.mdma.set_throttle(20_000)?;
    queue.fill(&job::nop().cookie(1))?;
    queue.fill(&job::crc32c(guest(BASE), SIZE as u64).cookie(2))?;
    queue.fill(&job::fill(guest(BASE), 0x66, SIZE as u64).cookie(3))?;
    queue.ring_doorbell()?;
    wait_register(&source.mdma, Reg::BytesDone, "a job in flight", |n| {
        n > 1 << 20
    })?;
    let bytes = source.save()?;
    let done = source.mdma.get(Reg::BytesDone)?;
    assert!(done < SIZE as u64, "the job finished before the stop");
    assert_eq!(queue.wait(PATIENCE)?.cookie, 1);
    assert_eq!(queue.poll(), None);

    // The destination maps the guest's memory at the same IOVAs but at another address.
    let destination = MdmaFixture::new(env)?;
    let there = destination.buffer(BASE, SIZE)?;
    memory.copy_to(0, &there, 0, SIZE);
    let ring = DmaBuffer::new(&destination.container, QUEUE, queue.memory().memory().len())?;
    queue.memory().copy_to(0, &ring, 0, ring.memory().len());
    destination.load(&bytes)?;
    let mut queue = queue.moved(destination.mdma.clone(), ring);
    destination.mdma.set_throttle(0)?;
    let completion = queue.wait(PATIENCE)?;
    assert_eq!(
        (completion.cookie, completion.error, completion.result),
        (2, 0, crc)
    );
    assert_eq!(queue.wait(PATIENCE)?.cookie, 3);
    assert_eq!(
        there.to_vec(0, SIZE),
        [0x66, 0, 0, 0, 0, 0, 0, 0].repeat(SIZE / 8)
    );
    assert_eq!(destination.mdma.get(Reg::BytesDone)?, 2 * SIZE as u64);
    // The source has not continued.
    assert_eq!(source.mdma.get(Reg::BytesDone)?, done);
    Ok(())
}

fn a_halted_queue_stays_halted(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    let mut queue = source.queue(4)?;
    queue.submit(&job::fill(guest(0x4000), 0, 8))?;
    assert_ne!(queue.wait(PATIENCE)?.error, 0);
    let before = source.registers()?;
    let bytes = source.save()?;
    let destination = MdmaFixture::new(env)?;
    destination.load(&bytes)?;
    let diff = destination.registers()?.diff(&before);
    assert!(diff.is_empty(), "{diff:x?}");
    assert!(destination.mdma.check_halted().is_err());
    drop(queue);
    let mut queue = destination.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

fn a_load_from_stop_to_stop(env: &Env) -> Result {
    let (source, bytes) = Fixture::saved(env, &[6])?;
    let destination = Fixture::new(env)?;
    // A VMM does this when it loads a paused guest.
    destination.go(&[State::STOP, State::RESUMING])?;
    destination.feed(&bytes, 1000)?;
    destination.go(&[State::STOP])?;
    source.expect_equal(&destination, "stopped")?;
    destination.go(&[State::RUNNING])?;
    destination.usable()
}

/// The device signals INTx once after a load, asserted or not: the migrated interrupt controller may have INTx asserted
/// and must then lower it.
fn intx_is_delivered_once_when_a_loaded_device_runs(env: &Env) -> Result {
    let (_source, bytes) = Fixture::saved(env, &[1])?;
    for (index, signals) in [
        (uapi::VFIO_PCI_INTX_IRQ_INDEX, 1),
        (uapi::VFIO_PCI_MSI_IRQ_INDEX, 0),
        (uapi::VFIO_PCI_MSIX_IRQ_INDEX, 0),
    ] {
        let destination = Fixture::new(env)?;
        let irq = destination.device.irq(index)?;
        if irq.info().count == 0 {
            continue;
        }
        let event = EventFd::new()?;
        irq.set_eventfds(0, &[Some(&event)])?;
        destination.go(&[State::STOP, State::RESUMING])?;
        destination.feed(&bytes, 1000)?;
        destination.go(&[State::STOP])?;
        expect_silence(&event, "the device does not run");
        destination.go(&[State::RUNNING])?;
        if signals > 0 {
            assert_eq!(expect_signal(&event, "INTx of a loaded device"), signals);
            irq.set_none(Action::Unmask, 0, 1)?;
        }
        expect_silence(&event, "INTx is not asserted");
        destination.go(&[State::STOP, State::RUNNING])?;
        expect_silence(&event, "no load since the last signal");
        irq.disable()?;
    }
    Ok(())
}
