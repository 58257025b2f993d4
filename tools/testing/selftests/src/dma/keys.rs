// SPDX-License-Identifier: GPL-2.0

//! Registered memory: jobs by key, and what the device refuses.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use ::hostile::{admitted, own_node, User};
use mdma::desc::Error;
use mdma::key::MAX_KEYS;
use mdma::{job, Descriptor, Place};
use rustix::process::Resource;
use vfio_client::{Access, DmaBuffer, Mapping};

use crate::dirty::pages::{get, set};
use crate::dma::oracle::register;
use crate::env::pins::Pins;
use crate::env::{Env, Guest, SMALL};
use crate::fixture::memory::Memory;
use crate::fixture::{device, guest, run_jobs, MdmaFixture, VfioQueue, PAGE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{fail, tests};

tests! { "keys" needs [Mdma]:
    p30_each_kind_of_job_by_key ["P30"],
    registered_memory_is_pinned_once [],
    each_misuse_has_its_error [],
    nothing_is_pinned_behind_a_failed_registration [],
    keys_overlap_and_are_counted_apart [],
    a_key_of_another_device_is_unknown [],
    the_limit_of_keys [],
    a_user_who_may_lock_no_more_memory [],
    p31_type1_reports_registered_memory_at_each_look ["P31", "P32"],
    p30_the_log_has_only_what_was_written ["P30"] needs [DirtyLogging],
}

/// The IOVA of the memory, and its size: it crosses two borders of the ranges that are pinned at once.
pub(crate) const BASE: u64 = 0x1_0010_0000;
const SIZE: usize = 5 << 20;

/// Returns a place in registered memory.
pub(crate) fn by_key(key: u32, offset: u64) -> Place {
    Place::Key { key, offset }
}

/// Runs a job that must fail, and enables the queue again.
pub(crate) fn expect_error(queue: &mut VfioQueue, job: &Descriptor, error: Error) -> Result {
    queue.submit(job)?;
    let completion = queue.wait(PATIENCE)?;
    let found = Error::from_raw(completion.error);
    assert_eq!(found, Some(error), "{job:?}");
    assert_eq!(completion.result, 0, "{job:?}");
    let order = queue.ring().entries().trailing_zeros();
    Ok(queue.restart(order)?)
}

/// Each kind of job, at offsets where pages and pinned ranges meet, compared with the oracle.
fn p30_each_kind_of_job_by_key(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let mut memory = Memory::new(&fixture, SIZE);
    memory.map(&fixture, &mut rng, BASE, SIZE)?;
    memory.fill_device(&fixture, &mut rng)?;
    let mut queue = fixture.queue(4)?;
    let start = BASE + 123;
    let len = SIZE as u64 - 1000;
    let key = register(&mut queue, start, len, true)?;
    memory.world.keys.insert(key, start);
    // The offset of the first border.
    let border = (2 << 20) - start % (2 << 20);
    for at in [
        0,
        border - 70_000,
        border - 1,
        border,
        border + 4095,
        len - 200_000,
    ] {
        for size in [1, 8, 4096, 130_000] {
            let place = by_key(key, at);
            for job in [
                job::fill(place, rng.u64(..), size),
                job::copy(place, device(at), size),
                job::copy(device(SIZE as u64 - size), place, size),
                job::copy(place, guest(BASE), size.min(100)),
                job::copy(guest(BASE), place, size.min(100)),
                job::copy(place, by_key(key, at / 2), size.min(at / 2).max(1)),
                job::crc32c(place, size),
            ] {
                memory.run(&mut queue, &job)?;
            }
        }
    }
    // Overlapping copies, in both directions and over a border.
    for (src, dst) in [(border - 9, border + 9), (border + 9, border - 9)] {
        let copy = job::copy(by_key(key, src), by_key(key, dst), 150_000);
        memory.run(&mut queue, &copy)?;
    }
    memory.run(&mut queue, &job::crc32c(by_key(key, 0), len))?;
    memory.check(&fixture, "at the end")
}

fn registered_memory_is_pinned_once(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let pages = SIZE as u64 / PAGE;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let pinned = Pins::now()?;
    assert_eq!(pinned.held(), before.held() + pages);
    assert_eq!(pinned.locked, before.locked + pages, "not accounted");
    for n in 0..100 {
        run_jobs(&mut queue, &[job::fill(by_key(key, n * PAGE), n, PAGE)])?;
    }
    assert_eq!(Pins::now()?, pinned, "jobs pin or unpin");
    // The memory stays pinned while the device is stopped and while the queue is disabled.
    fixture.go(&[
        vfio_client::v1::State::STOP,
        vfio_client::v1::State::RUNNING,
    ])?;
    queue.restart(4)?;
    run_jobs(&mut queue, &[job::fill(by_key(key, 0), 1, PAGE)])?;
    assert_eq!(Pins::now()?.held(), pinned.held());
    run_jobs(&mut queue, &[job::deregister(key)])?;
    let after = Pins::now()?;
    assert_eq!((after.held(), after.locked), (before.held(), before.locked));
    expect_error(&mut queue, &job::fill(by_key(key, 0), 1, 8), Error::BadKey)?;
    // A reset unpins too.
    register(&mut queue, BASE, SIZE as u64, true)?;
    drop(queue);
    fixture.device.reset()?;
    assert!(Pins::now()?.held() <= before.held());
    Ok(())
}

fn each_misuse_has_its_error(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE + 8, 2 * PAGE, false)?;
    let end = 2 * PAGE;
    for (job, error) in [
        (job::crc32c(by_key(key, 0), end + 1), Error::KeyRange),
        (job::crc32c(by_key(key, end), 1), Error::KeyRange),
        (job::crc32c(by_key(key, u64::MAX), 1), Error::KeyRange),
        (job::crc32c(by_key(key, u64::MAX), 2), Error::KeyRange),
        (
            job::crc32c(by_key(key, u64::MAX - 4094), PAGE),
            Error::KeyRange,
        ),
        (
            job::crc32c(by_key(key, 0u64.wrapping_sub(BASE)), 1),
            Error::KeyRange,
        ),
        (job::fill(by_key(key, 0), 0, 1), Error::KeyAccess),
        (job::copy(device(0), by_key(key, 0), 1), Error::KeyAccess),
        (
            job::copy(by_key(key, 0), by_key(key, 9), 1),
            Error::KeyAccess,
        ),
        (job::crc32c(by_key(key + 1, 0), 1), Error::BadKey),
        (job::crc32c(by_key(0, 0), 1), Error::BadKey),
        (job::fill(by_key(u32::MAX, 0), 0, 1), Error::BadKey),
        (job::deregister(key + 1), Error::BadKey),
    ] {
        expect_error(&mut queue, &job, error)?;
    }
    // Everything inside is readable.
    run_jobs(&mut queue, &[job::crc32c(by_key(key, 0), end)])?;
    run_jobs(&mut queue, &[job::deregister(key)])?;
    expect_error(&mut queue, &job::deregister(key), Error::BadKey)
}

/// Holes, missing rights, memory that cannot be pinned, and lengths beyond everything: each has its error, one line in the
/// log, and nothing stays pinned.
fn nothing_is_pinned_behind_a_failed_registration(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let other = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let after = BASE + SIZE as u64;
    let memory = Arc::new(Mapping::anonymous(4 * PAGE as usize)?);
    let container = &fixture.container;
    let _read_only = DmaBuffer::of(container, after + PAGE, memory, Access::Read)?;
    // The memory of another device: it has no pages that can be pinned.
    let bar = Arc::new(other.mdma.map_memory()?);
    let bar = DmaBuffer::of(container, 0x2_0000_0000, bar, Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let size = SIZE as u64;
    for (job, error) in [
        (job::register(0x666_0000, PAGE, true), Error::RegisterFault),
        // A hole behind, before and in the middle.
        (job::register(BASE, size + 1, true), Error::RegisterFault),
        (job::register(BASE - 1, size, true), Error::RegisterFault),
        (
            job::register(BASE, size + 3 * PAGE, false),
            Error::RegisterFault,
        ),
        (
            job::register(after + PAGE, PAGE, true),
            Error::RegisterFault,
        ),
        (job::register(bar.iova(), PAGE, true), Error::RegisterFault),
        (job::register(u64::MAX, 1, true), Error::RegisterFault),
    ] {
        let mark = env.kmsg.mark();
        expect_error(&mut queue, &job, error)?;
        let lines = env.kmsg.since(mark);
        let ours = |text: &str| text.contains(fixture.uuid()) && text.contains("register: ");
        assert!(
            lines.iter().any(|line| ours(&line.text)),
            "{job:?}: no line: {lines:?}"
        );
        run_jobs(&mut queue, &[job::nop()])?;
        let now = Pins::now()?;
        assert_eq!(
            (now.held(), now.locked),
            (before.held(), before.locked),
            "{job:?}"
        );
    }
    for (job, error) in [
        (job::register(u64::MAX, 2, true), Error::RegisterFault),
        (job::register(BASE, 0, true), Error::BadLength),
        (job::register(BASE, (1 << 40) + 1, true), Error::BadLength),
        (
            Descriptor {
                value: 2,
                ..job::register(BASE, 1, true)
            },
            Error::BadFlags,
        ),
    ] {
        expect_error(&mut queue, &job, error)?;
    }
    // Memory that may only be read can be registered for that.
    let key = register(&mut queue, after + PAGE, 4 * PAGE, false)?;
    run_jobs(&mut queue, &[job::crc32c(by_key(key, 0), 4 * PAGE)])
}

fn keys_overlap_and_are_counted_apart(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let keys = [
        register(&mut queue, BASE, 4 * PAGE, true)?,
        register(&mut queue, BASE + PAGE + 8, 2 * PAGE, false)?,
        register(&mut queue, BASE, 4 * PAGE, true)?,
    ];
    assert_eq!(Pins::now()?.held(), before.held() + 4);
    run_jobs(
        &mut queue,
        &[job::fill(by_key(keys[0], PAGE + 8), 0x1234, 8)],
    )?;
    run_jobs(
        &mut queue,
        &[job::copy(by_key(keys[1], 0), by_key(keys[2], 0), 8)],
    )?;
    assert_eq!(buffer.to_vec(0, 8), 0x1234u64.to_le_bytes());
    run_jobs(
        &mut queue,
        &[job::deregister(keys[2]), job::deregister(keys[0])],
    )?;
    // Three pages are still registered.
    assert_eq!(Pins::now()?.held(), before.held() + 3);
    run_jobs(&mut queue, &[job::crc32c(by_key(keys[1], 0), 2 * PAGE)])?;
    run_jobs(&mut queue, &[job::deregister(keys[1])])?;
    assert_eq!(Pins::now()?.held(), before.held());
    Ok(())
}

fn a_key_of_another_device_is_unknown(env: &Env) -> Result {
    let container = vfio_client::Container::open()?;
    let first = MdmaFixture::within(env, &container)?;
    let second = MdmaFixture::within(env, &container)?;
    let _buffer = first.buffer(BASE, SIZE)?;
    let mut queues = [first.queue(4)?, second.queue_at(0x8_0000_0000, 4)?];
    let key = register(&mut queues[0], BASE, PAGE, true)?;
    expect_error(
        &mut queues[1],
        &job::crc32c(by_key(key, 0), 1),
        Error::BadKey,
    )?;
    expect_error(&mut queues[1], &job::deregister(key), Error::BadKey)?;
    run_jobs(&mut queues[0], &[job::crc32c(by_key(key, 0), PAGE)])
}

/// Runs jobs in batches as large as the ring, and returns the results.
pub(crate) fn batches(
    queue: &mut VfioQueue,
    jobs: impl Iterator<Item = Descriptor>,
) -> Result<Vec<u32>> {
    let mut results = Vec::new();
    let mut jobs = jobs.peekable();
    while jobs.peek().is_some() {
        while queue.room() > 0 {
            let Some(job) = jobs.next() else { break };
            queue.fill(&job)?;
        }
        queue.ring_doorbell()?;
        for completion in queue.drain(PATIENCE)? {
            assert_eq!(completion.error, 0, "job {}", results.len());
            results.push(completion.result);
        }
    }
    Ok(results)
}

/// The device gives out 2^14 keys and no more, and each leads to its memory.
fn the_limit_of_keys(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, 16 * PAGE as usize)?;
    let mut queue = fixture.queue(10)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    // Overlapping, all in one page, so that it does not need much memory.
    let jobs = (0..MAX_KEYS as u64).map(|n| job::register(BASE + n % 4000, 64, true));
    let keys = batches(&mut queue, jobs)?;
    expect_error(
        &mut queue,
        &job::register(BASE, 1, true),
        Error::RegisterLimit,
    )?;
    for n in [0, 1, 4711, MAX_KEYS - 1] {
        run_jobs(
            &mut queue,
            &[job::fill(by_key(keys[n], 0), n as u64 + 1, 8)],
        )?;
        assert_eq!(buffer.to_vec(n % 4000, 8), (n as u64 + 1).to_le_bytes());
    }
    batches(&mut queue, keys.iter().map(|&key| job::deregister(key)))?;
    assert_eq!(Pins::now()?.held(), before.held());
    let key = register(&mut queue, BASE, 1, true)?;
    assert!(!keys.contains(&key), "a key is used twice");
    Ok(())
}

/// The child process: a user that may lock only a few pages.
pub(crate) fn child(args: &[String]) -> Result {
    admitted()?;
    let [uuid] = args else {
        fail!("keys takes a uuid");
    };
    let fixture = MdmaFixture::of(Guest::of_uuid(uuid)?)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, 4 * PAGE, true)?;
    let large = job::register(BASE, SIZE as u64, true);
    expect_error(&mut queue, &large, Error::RegisterNoMemory)?;
    // For a while nothing is pinned, because type1 logs each attempt.
    let small = job::register(BASE, PAGE, true);
    expect_error(&mut queue, &small, Error::RegisterNoMemory)?;
    // What is registered still works, and so do jobs by IOVA.
    let half = SIZE as u64 / 2;
    run_jobs(
        &mut queue,
        &[
            job::fill(by_key(key, 0), 7, 8),
            job::copy(by_key(key, 0), guest(BASE + half), 8),
        ],
    )?;
    assert_eq!(buffer.to_vec(half as usize, 8), 7u64.to_le_bytes());
    writeln!(std::io::stdout(), "done")?;
    loop {
        thread::park();
    }
}

fn a_user_who_may_lock_no_more_memory(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    own_node(instance.iommu_group()?)?;
    let before = Pins::now()?;
    let mark = env.kmsg.mark();
    let uuid = instance.uuid.as_str().to_string();
    let args = ["--child", "keys", &uuid];
    let mut user = User::start(&args, None, &[(Resource::Memlock, 16 * PAGE)])?;
    let Some(line) = user.hear_within(PATIENCE)? else {
        fail!("the user has not finished its jobs:\n{}", user.stacks());
    };
    assert_eq!(line, "done");
    let held = Pins::now()?.held() - before.held();
    assert!((4..=16).contains(&held), "{held} pages are pinned");
    let lines = env.kmsg.since(mark);
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    let ours = |text: &&&str| text.contains(&uuid) && text.contains("register: ");
    let found = texts.iter().find(ours);
    assert!(
        found.is_some_and(|text| text.contains("ENOMEM")),
        "{texts:?}"
    );
    let attempts = texts
        .iter()
        .filter(|text| text.contains("RLIMIT_MEMLOCK ("));
    assert!(attempts.count() <= 2, "{texts:?}");
    Ok(())
}

/// type1 reports all registered memory as dirty at each look, also what is registered for reading only, and nothing else.
fn p31_type1_reports_registered_memory_at_each_look(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let page = |n: u64| BASE + n * PAGE;
    let written = register(&mut queue, page(10), 2 * PAGE, true)?;
    let read = register(&mut queue, page(600), PAGE, false)?;
    fixture.container.dirty_start()?;
    let pages = set([page(10), page(11), page(600)]);
    for _ in 0..3 {
        let found = get(&fixture.container, BASE, SIZE as u64)?;
        assert_eq!(found, pages);
    }
    run_jobs(
        &mut queue,
        &[job::copy(by_key(read, 0), by_key(written, 0), PAGE)],
    )?;
    assert_eq!(get(&fixture.container, BASE, SIZE as u64)?, pages);
    // Once more after it is unpinned, because it may have been written since the last look.
    run_jobs(
        &mut queue,
        &[job::deregister(written), job::deregister(read)],
    )?;
    assert_eq!(get(&fixture.container, BASE, SIZE as u64)?, pages);
    assert_eq!(get(&fixture.container, BASE, SIZE as u64)?, set([]));
    Ok(())
}

/// The device's log has exactly the pages that were written, also of registered memory and of the rings.
fn p30_the_log_has_only_what_was_written(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let size = SIZE as u64;
    fixture.device.dma_logging_start(PAGE, &[(BASE, size)])?;
    let report = || -> Result<_> {
        let report = fixture.device.dma_logging_report(BASE, size)?;
        Ok(report.dirty().collect::<std::collections::BTreeSet<u64>>())
    };
    assert_eq!(report()?, set([]));
    let page = |n: u64| BASE + n * PAGE;
    run_jobs(
        &mut queue,
        &[
            job::fill(by_key(key, 5 * PAGE + 100), 1, 8),
            job::fill(by_key(key, 512 * PAGE - 1), 1, 2),
            job::copy(device(0), by_key(key, 700 * PAGE), 3 * PAGE),
            job::crc32c(by_key(key, 0), size),
            job::copy(by_key(key, 0), device(0), size),
        ],
    )?;
    let expected = [5, 511, 512, 700, 701, 702].map(page);
    assert_eq!(report()?, set(expected));
    assert_eq!(report()?, set([]));
    run_jobs(
        &mut queue,
        &[job::fill(by_key(key, 0), 1, 1), job::deregister(key)],
    )?;
    assert_eq!(report()?, set([page(0)]));
    Ok(fixture.device.dma_logging_stop()?)
}
