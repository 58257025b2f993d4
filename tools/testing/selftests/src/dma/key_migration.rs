// SPDX-License-Identifier: GPL-2.0

//! Registered memory moves with the device: the destination pins it before it runs.

use mdma::desc::Error;
use mdma::regs::Reg;
use mdma::{job, Queue};
use vfio_client::v1::State;
use vfio_client::DmaBuffer;

use crate::dma::keys::{batches, by_key, expect_error, BASE};
use crate::dma::oracle::register;
use crate::env::pins::Pins;
use crate::env::{Env, Guest};
use crate::fixture::v2::MdmaV2;
use crate::fixture::{run_jobs, wait_register, MdmaFixture, VfioQueue, PAGE, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{assert_refused, tests};

tests! { "key_migration" needs [Mdma]:
    p26_keys_move_in_the_middle_of_a_job ["P26"],
    a_destination_that_cannot_pin_does_not_run [],
    a_destination_of_v2_that_cannot_pin_stays_stopped [],
    ten_thousand_keys_move [],
    a_kept_device_pins_again [],
    a_hostile_key_is_refused [],
}

const SIZE: usize = 3 << 20;

/// Maps a copy of a buffer in the container of another device.
fn copy(to: &MdmaFixture, from: &DmaBuffer) -> Result<DmaBuffer> {
    let there = to.buffer(from.iova(), from.memory().len())?;
    from.copy_to(0, &there, 0, from.memory().len());
    Ok(there)
}

fn moved(queue: VfioQueue, to: &MdmaFixture) -> Result<VfioQueue> {
    let ring = copy(to, queue.memory())?;
    Ok(queue.moved(to.mdma.clone(), ring))
}

/// The destination continues the job by key, and has the same keys, with the same rights.
fn p26_keys_move_in_the_middle_of_a_job(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    let buffer = source.buffer(BASE, SIZE)?;
    let gone = source.buffer(BASE * 2, PAGE as usize)?;
    let mut queue = source.queue(4)?;
    let size = SIZE as u64;
    let first = register(&mut queue, BASE, PAGE, true)?;
    let key = register(&mut queue, BASE, size, true)?;
    let read = register(&mut queue, BASE + 7, size - 7, false)?;
    let dead = register(&mut queue, BASE * 2, PAGE, true)?;
    run_jobs(&mut queue, &[job::deregister(first)])?;
    gone.unmap()?;
    source.mdma.set_throttle(20_000)?;
    queue.submit(&job::fill(by_key(key, 0), 0x66, size))?;
    let before = source.mdma.get(Reg::BytesDone)?;
    wait_register(&source.mdma, Reg::BytesDone, "a job in flight", |n| {
        n > before
    })?;
    let stream = source.save()?;
    let destination = MdmaFixture::new(env)?;
    let there = copy(&destination, &buffer)?;
    let mut queue = moved(queue, &destination)?;
    let pins = Pins::now()?;
    destination.load(&stream)?;
    assert!(Pins::now()?.held() >= pins.held() + size / PAGE);
    destination.mdma.set_throttle(0)?;
    assert_eq!(queue.wait(PATIENCE)?.error, 0);
    assert!(there.to_vec(0, SIZE) == [0x66, 0, 0, 0, 0, 0, 0, 0].repeat(SIZE / 8));
    run_jobs(&mut queue, &[job::crc32c(by_key(read, 0), size - 7)])?;
    for (place, len, error) in [
        (by_key(read, 0), 8, Error::KeyAccess),
        (by_key(first, 0), 8, Error::BadKey),
        (by_key(dead, 0), 8, Error::KeyUnmapped),
        (by_key(key, 1), size, Error::KeyRange),
    ] {
        expect_error(&mut queue, &job::fill(place, 0, len), error)?;
    }
    // The next key is not one of those that were used.
    let next = register(&mut queue, BASE, PAGE, true)?;
    assert_eq!(next, dead + 1);
    Ok(())
}

/// Without the memory, the change to running fails with a line in the log, and nothing stays pinned. With it, it succeeds.
fn a_destination_that_cannot_pin_does_not_run(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    let buffer = source.buffer(BASE, SIZE)?;
    let mut queue = source.queue(4)?;
    let keys = [
        register(&mut queue, BASE, SIZE as u64 - PAGE, true)?,
        register(&mut queue, BASE + SIZE as u64 - PAGE, PAGE, true)?,
    ];
    let stream = source.save()?;
    let destination = MdmaFixture::new(env)?;
    let mut queue = moved(queue, &destination)?;
    // All but the last page.
    let part = destination.buffer(BASE, SIZE - PAGE as usize)?;
    let before = Pins::now()?;
    destination.go(&[State::RESUMING])?;
    destination.feed(&stream, destination.section())?;
    destination.go(&[State::STOP])?;
    let uuid = destination.uuid();
    assert_refused!(
        env,
        uuid,
        destination.migration.set_state(State::RUNNING),
        EINVAL,
        "cannot be pinned"
    );
    assert_eq!(destination.state()?, State::STOP);
    assert_eq!(Pins::now()?.held(), before.held(), "pages stay pinned");
    drop(part);
    let _there = copy(&destination, &buffer)?;
    destination.go(&[State::RUNNING])?;
    assert!(Pins::now()?.held() >= before.held() + SIZE as u64 / PAGE);
    run_jobs(
        &mut queue,
        &[job::copy(by_key(keys[1], 0), by_key(keys[0], 0), PAGE)],
    )?;

    // In one step from resuming, the device is in the error state, and a reset leaves it.
    let other = MdmaFixture::new(env)?;
    let before = Pins::now()?;
    other.go(&[State::RESUMING])?;
    other.feed(&stream, other.section())?;
    let uuid = other.uuid();
    assert_refused!(
        env,
        uuid,
        other.migration.set_state(State::RUNNING),
        EINVAL,
        "cannot be pinned"
    );
    assert_eq!(Pins::now()?.held(), before.held());
    other.device.reset()?;
    let mut queue = other.queue(4)?;
    expect_error(
        &mut queue,
        &job::crc32c(by_key(keys[0], 0), 1),
        Error::BadKey,
    )
}

fn a_destination_of_v2_that_cannot_pin_stays_stopped(env: &Env) -> Result {
    use vfio_client::v2::State;
    let source = MdmaV2::new(env)?;
    let buffer = source.buffer(BASE, SIZE)?;
    let mut queue = source.queue(4)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let stream = source.save_v2()?;
    let destination = MdmaV2::new(env)?;
    let mut queue = moved(queue, &destination)?;
    destination.begin(State::RESUMING)?.write_all(&stream)?;
    destination.to(State::STOP)?;
    let uuid = destination.uuid();
    assert_refused!(
        env,
        uuid,
        destination.feature.set_state(State::RUNNING),
        EINVAL,
        "cannot be pinned"
    );
    let _there = copy(&destination, &buffer)?;
    destination.to(State::RUNNING)?;
    run_jobs(&mut queue, &[job::fill(by_key(key, 0), 1, SIZE as u64)])
}

fn ten_thousand_keys_move(env: &Env) -> Result {
    const KEYS: u64 = 10_000;
    let source = MdmaFixture::new(env)?;
    let buffer = source.buffer(BASE, SIZE)?;
    let mut queue = source.queue(10)?;
    let jobs = (0..KEYS).map(|n| job::register(BASE + n * 256, 512, n % 2 == 0));
    let keys = batches(&mut queue, jobs)?;
    let stream = source.save()?;
    let destination = MdmaFixture::new(env)?;
    let _there = copy(&destination, &buffer)?;
    let mut queue = moved(queue, &destination)?;
    destination.load(&stream)?;
    let crcs = keys.iter().map(|&key| job::crc32c(by_key(key, 0), 512));
    batches(&mut queue, crcs)?;
    assert_eq!(destination.save()?.len(), stream.len());
    Ok(())
}

/// A device that is kept over a close has its keys, and pins their memory before it runs a job. What is not mapped any more
/// cannot be used.
fn a_kept_device_pins_again(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let before = Pins::now()?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let other = fixture.buffer(BASE * 2, PAGE as usize)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let lost = register(&mut queue, BASE * 2, PAGE, true)?;
    fixture.instance.keep_state(true)?;
    drop(queue);
    // The memory is mapped until the device is closed.
    let instance = fixture.close();
    assert_eq!(Pins::now()?.held(), before.held());
    drop((buffer, other));
    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let memory = fixture.buffer(QUEUE, VfioQueue::size(4))?;
    let mut queue = Queue::new(fixture.mdma.clone(), memory, 4)?;
    run_jobs(&mut queue, &[job::fill(by_key(key, 0), 5, SIZE as u64)])?;
    assert_eq!(buffer.to_vec(0, 8), 5u64.to_le_bytes());
    expect_error(
        &mut queue,
        &job::crc32c(by_key(lost, 0), 1),
        Error::KeyUnmapped,
    )?;
    fixture.instance.keep_state(false)?;
    Ok(())
}

/// A stream with an impossible key is refused, and so is one that ends in its keys.
fn a_hostile_key_is_refused(env: &Env) -> Result {
    let source = MdmaFixture::new(env)?;
    let _buffer = source.buffer(BASE, SIZE)?;
    let mut queue = source.queue(4)?;
    register(&mut queue, BASE, PAGE, true)?;
    register(&mut queue, BASE, PAGE, true)?;
    let stream = source.save_stream()?;
    let base = mdma::state::SIZE;
    for (name, at, value) in [
        ("key", base, 0u8),
        ("key", base + 24, 1),
        ("key.flags", base + 4, 0x80),
        ("key.len", base + 23, 0xff),
        ("keys.count", 175, 0xff),
    ] {
        let mut spoilt = stream.clone();
        let record = spoilt
            .records
            .iter_mut()
            .find(|record| record.payload.len() >= base + 48)
            .expect("the record of the device's state");
        record.payload[at] = value;
        spoilt.seal();
        let destination = MdmaFixture::new(env)?;
        destination.go(&[State::RESUMING])?;
        let mark = env.kmsg.mark();
        let bytes = spoilt.bytes();
        let fed = destination.feed(&bytes, destination.section());
        let result = fed.and_then(|()| destination.go(&[State::STOP]));
        assert!(result.is_err(), "{name}: loaded");
        let lines = env.kmsg.since(mark);
        assert!(
            lines
                .iter()
                .any(|line| line.text.contains(&format!("saved state: {name} "))),
            "{name}: {lines:?}"
        );
    }
    Ok(())
}
