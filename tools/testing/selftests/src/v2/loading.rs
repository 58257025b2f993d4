// SPDX-License-Identifier: GPL-2.0

//! Loading through v2, including streams saved by one protocol and loaded by the other.

use std::thread;

use mdma::job;
use mdma::regs::Reg;
use migration::stream::Kind;
use vfio_client::v1;
use vfio_client::v2::State;
use vfio_client::DmaBuffer;

use crate::env::Env;
use crate::fixture::bytes::same;
use crate::fixture::snapshot::Snapshot;
use crate::fixture::v2::{expect_over, MdmaV2, V2};
use crate::fixture::{guest, parse, run_jobs, wait_register, MdmaFixture, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "v2_loading":
    p25_writes_of_any_size ["P25"],
    p25_a_large_write_is_taken_in_parts ["P25"] needs [DeviceMemory],
    p26_refused_at_the_write_that_shows_it ["P26"],
    p26_an_incomplete_load_is_refused ["P26"],
    p26_registers_change_when_the_load_is_complete ["P26"],
    p49_the_bytes_are_those_of_v1 ["P49"],
    p49_a_stream_of_v1_is_loaded_by_v2 ["P49"],
    p49_a_stream_of_v2_is_loaded_by_v1 ["P49"],
    p49_a_foreign_stream_is_refused_before_anything_is_changed ["P49"] needs [Mdma],
    a_job_in_flight_goes_on_at_the_destination [] needs [Mdma],
    two_writers [],
}

fn p25_writes_of_any_size(env: &Env) -> Result {
    let (source, bytes) = V2::saved(env, &[0, 1, 2, 9, 4095])?;
    let destination = V2::new(env)?;
    for size in [1, 3, 31, 32, 33, 4095, 4128, 65_537, 4 << 20] {
        let fd = destination.begin(State::RESUMING)?;
        for piece in bytes.chunks(size) {
            assert_eq!(fd.write(piece)?, piece.len(), "a write of {size} bytes");
        }
        assert_eq!(fd.write(&[])?, 0);
        destination.to(State::RUNNING)?;
        expect_over(&fd, "after a complete load");
        source.expect_equal(&destination, &format!("writes of {size} bytes"))?;
        destination.reset()?;
    }
    Ok(())
}

fn p25_a_large_write_is_taken_in_parts(env: &Env) -> Result {
    let pages: Vec<u64> = (0..600).collect();
    let (source, bytes) = V2::saved(env, &pages)?;
    let destination = V2::new(env)?;
    if bytes.len() <= 2 << 20 {
        crate::skip!(
            "the device has too little memory: its stream has {} bytes",
            bytes.len()
        );
    }
    let fd = destination.begin(State::RESUMING)?;
    // A write takes a part, so that the state is not locked for long.
    let done = fd.write(&bytes)?;
    assert_eq!(done, 1 << 20);
    fd.write_all(&bytes[done..])?;
    destination.to(State::RUNNING)?;
    source.expect_equal(&destination, "one large write")
}

fn p26_refused_at_the_write_that_shows_it(env: &Env) -> Result {
    let (_source, bytes) = V2::saved(env, &[4, 5])?;
    let destination = V2::new(env)?;
    let stream = parse(&bytes)?;
    let mut start = 0;
    for (n, record) in stream.records.iter().enumerate() {
        for (at, shown) in [(8, 32), (32, record.size())] {
            if record.kind() == Some(Kind::Identity) && at == 8 {
                continue;
            }
            let mut bad = bytes.clone();
            bad[start + at] ^= 0x10;
            let fd = destination.begin(State::RESUMING)?;
            fd.write_all(&bad[..start + shown - 1])?;
            let next = &bad[start + shown - 1..][..1];
            assert_errno!(fd.write(next), EBADMSG, "record {n}, byte {at}");
            assert_errno!(fd.write(&bytes), EBADMSG, "after the refusal");
            assert_eq!(destination.now()?, State::RESUMING);
            assert_errno!(destination.feature.set_state(State::RUNNING), EBADMSG);
            assert_eq!(destination.now()?, State::ERROR);
            destination.reset()?;
        }
        start += record.size();
    }
    let fd = destination.begin(State::RESUMING)?;
    assert_refused!(
        env,
        destination.uuid(),
        fd.write(&[0x55; 100]),
        EINVAL,
        "load refused"
    );
    drop(fd);
    destination.reset()?;
    destination.load_v2(&bytes)
}

fn p26_an_incomplete_load_is_refused(env: &Env) -> Result {
    let (source, bytes) = V2::saved(env, &[4])?;
    let destination = V2::new(env)?;
    for cut in [0, 1, 31, 32, 33, bytes.len() / 2, bytes.len() - 1] {
        let fd = destination.begin(State::RESUMING)?;
        fd.write_all(&bytes[..cut])?;
        let result = destination.feature.set_state(State::STOP);
        assert_errno!(result, ENODATA, "{cut} of {} bytes", bytes.len());
        assert_eq!(destination.now()?, State::ERROR);
        destination.reset()?;
    }
    destination.load_v2(&bytes)?;
    source.expect_equal(&destination, "complete")
}

fn p26_registers_change_when_the_load_is_complete(env: &Env) -> Result {
    let (source, bytes) = V2::saved(env, &[4])?;
    let destination = V2::new(env)?;
    destination.set_mark(1)?;
    let fd = destination.begin(State::RESUMING)?;
    for piece in bytes.chunks(64) {
        fd.write_all(piece)?;
        destination.expect_mark(1, "in the middle of a load");
    }
    destination.to(State::STOP)?;
    source.expect_equal(&destination, "stopped")
}

fn p49_the_bytes_are_those_of_v1(env: &Env) -> Result {
    let pages: Vec<u64> = (0..700).chain([1000, 4095]).collect();
    let v2 = V2::new(env)?;
    v2.fill_state(&pages)?;
    let by_v2 = v2.save_v2()?;
    v2.to(State::RUNNING)?;
    let by_v1 = v2.fixture.save()?;
    v2.to(State::RUNNING)?;
    // A record ends at the end of each buffer, so equal streams need equal buffer sizes.
    if v2.section() == 1 << 20 {
        assert!(by_v1 == by_v2, "{} and {} bytes", by_v1.len(), by_v2.len());
    }
    let (by_v1, by_v2) = (parse(&by_v1)?, parse(&by_v2)?);
    assert_eq!(by_v1.identity(), by_v2.identity());
    Snapshot::of(&by_v1)?.expect(&Snapshot::of(&by_v2)?, "by v1");
    // A second save returns the same stream: saving does not change the device.
    assert!(parse(&v2.save_v2()?)? == by_v2);
    Ok(())
}

fn p49_a_stream_of_v1_is_loaded_by_v2(env: &Env) -> Result {
    let source = V2::new(env)?;
    source.fill_state(&[0, 7, 300])?;
    // A live save in which the device sends a buffer again (P23).
    source.fixture.go(&[v1::State::PRE_COPY])?;
    source.migration.pending_bytes()?;
    let mut bytes = Vec::new();
    source.migration.save_buffer(&mut bytes)?;
    source.write_pages([7], 9)?;
    source.fixture.go(&[v1::State::STOP_AND_COPY])?;
    bytes.extend(source.save_pending()?.concat());
    source.fixture.go(&[v1::State::STOP])?;
    let destination = V2::new(env)?;
    let fd = destination.begin(State::RESUMING)?;
    for piece in bytes.chunks(1001) {
        fd.write_all(piece)?;
    }
    destination.to(State::STOP)?;
    source.expect_equal(&destination, "from v1")
}

fn p49_a_stream_of_v2_is_loaded_by_v1(env: &Env) -> Result {
    let source = V2::new(env)?;
    source.fill_state(&[0, 7, 300])?;
    let fd = source.begin(State::PRE_COPY)?;
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    source.write_pages([7], 9)?;
    source.to(State::STOP_COPY)?;
    fd.read_available(&mut bytes)?;
    source.to(State::STOP)?;
    let destination = V2::new(env)?;
    destination.fixture.go(&[v1::State::RESUMING])?;
    destination.feed(&bytes, 1001)?;
    destination.fixture.go(&[v1::State::STOP])?;
    source.expect_equal(&destination, "from v2")
}

fn p49_a_foreign_stream_is_refused_before_anything_is_changed(env: &Env) -> Result {
    let large = env.open(crate::env::MEDIUM)?;
    let large = MdmaV2::of(MdmaFixture::of(large)?)?;
    large.write_pages([1], 1)?;
    let bytes = large.save_v2()?;
    let v2 = MdmaV2::new(env)?;
    v2.mdma.set(Reg::Scratch, 5)?;
    let fd = v2.begin(State::RESUMING)?;
    assert_refused!(env, v2.uuid(), fd.write(&bytes), EINVAL, "memory");
    assert_eq!(v2.mdma.get(Reg::Scratch)?, 5);
    assert_errno!(v2.feature.set_state(State::RUNNING), EINVAL);
    assert_eq!(v2.now()?, State::ERROR);
    v2.reset()
}

fn a_job_in_flight_goes_on_at_the_destination(env: &Env) -> Result {
    const BASE: u64 = 0x100_0000;
    const SIZE: usize = 4 << 20;
    let source = MdmaV2::new(env)?;
    let memory = source.buffer(BASE, SIZE)?;
    let mut queue = source.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    source.mdma.set_throttle(20_000)?;
    let before = source.mdma.get(Reg::BytesDone)?;
    queue.submit(&job::fill(guest(BASE), 0x66, SIZE as u64).cookie(3))?;
    let fd = source.begin(State::PRE_COPY)?;
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    wait_register(&source.mdma, Reg::BytesDone, "a job in flight", |n| {
        n - before > 256 << 10
    })?;
    source.to(State::STOP_COPY)?;
    fd.read_available(&mut bytes)?;
    source.to(State::STOP)?;
    let done = source.mdma.get(Reg::BytesDone)?;
    assert!(done < SIZE as u64, "the job finished before the stop");

    let destination = MdmaV2::new(env)?;
    let there = destination.buffer(BASE, SIZE)?;
    memory.copy_to(0, &there, 0, SIZE);
    let ring = DmaBuffer::new(&destination.container, QUEUE, queue.memory().memory().len())?;
    queue.memory().copy_to(0, &ring, 0, ring.memory().len());
    destination.load_v2(&bytes)?;
    let mut queue = queue.moved(destination.mdma.clone(), ring);
    destination.mdma.set_throttle(0)?;
    let completion = queue.wait(PATIENCE)?;
    assert_eq!((completion.cookie, completion.error), (3, 0));
    let all = 0x66u64.to_le_bytes().repeat(SIZE / 8);
    same(
        &there.to_vec(0, SIZE),
        &all,
        guest(BASE),
        "at the destination",
    );
    assert_eq!(source.mdma.get(Reg::BytesDone)?, done);
    Ok(())
}

fn two_writers(env: &Env) -> Result {
    let (source, bytes) = V2::saved(env, &[1, 2, 3])?;
    let destination = V2::new(env)?;
    // Writes do not interleave: one write loads the stream, and the other starts a new one after its end.
    let fd = destination.begin(State::RESUMING)?;
    let results = thread::scope(|threads| {
        let racers = [0, 1].map(|_| threads.spawn(|| fd.write(&bytes)));
        racers.map(|r| r.join().expect("it does not panic"))
    });
    let whole = results
        .iter()
        .filter(|r| matches!(r, Ok(n) if *n == bytes.len()));
    assert_eq!(whole.count(), 2, "{results:?}");
    destination.to(State::RUNNING)?;
    source.expect_equal(&destination, "written twice")
}
