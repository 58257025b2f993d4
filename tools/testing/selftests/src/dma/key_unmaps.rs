// SPDX-License-Identifier: GPL-2.0

//! Memory that is unmapped while it is registered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use mdma::desc::Error;
use mdma::job;
use vfio_client::{Access, DmaBuffer, Mapping};

use crate::dma::keys::{batches, by_key, expect_error, BASE};
use crate::dma::oracle::register;
use crate::dma::unmap_race::unmap_looks_max;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::{guest, run_jobs, MdmaFixture, VfioQueue, PAGE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::{fail, note, tests};

tests! { "key_unmaps" needs [Mdma]:
    p35_an_unmap_ends_a_key ["P35"],
    p35_an_unmap_of_a_part_ends_a_key ["P35"],
    p35_an_unmap_while_a_job_runs ["P35"],
    p35_unmapping_under_running_dma ["P35"],
    p35_unmapping_from_two_threads ["P35"],
    p35_one_unmap_of_ten_thousand_keys ["P35"],
    p35_closing_unpins ["P35"],
}

const SIZE: usize = 1 << 20;

/// Later uses of the key fail, also after other memory is mapped there, and the memory is not written.
fn p35_an_unmap_ends_a_key(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    run_jobs(&mut queue, &[job::fill(by_key(key, 0), 1, 8)])?;
    let old = buffer.unmap()?;
    assert_eq!(Pins::now()?.held(), before.held(), "pages stay pinned");
    let fill = job::fill(by_key(key, 0), 2, SIZE as u64);
    expect_error(&mut queue, &fill, Error::KeyUnmapped)?;
    let new = fixture.buffer(BASE, SIZE)?;
    expect_error(&mut queue, &fill, Error::KeyUnmapped)?;
    assert_eq!(
        old.to_vec(0, 16),
        [&1u64.to_le_bytes()[..], &[0; 8]].concat()
    );
    assert_eq!(new.to_vec(0, 8), [0; 8]);
    run_jobs(&mut queue, &[job::deregister(key)])?;
    // The new memory gets a new key.
    let again = register(&mut queue, BASE, SIZE as u64, true)?;
    assert_ne!(again, key);
    run_jobs(&mut queue, &[job::fill(by_key(again, 0), 3, 8)])?;
    assert_eq!(new.to_vec(0, 8), 3u64.to_le_bytes());
    // The old memory at another place.
    let elsewhere = DmaBuffer::of(&fixture.container, BASE * 2, old, Access::ReadWrite)?;
    expect_error(&mut queue, &job::crc32c(by_key(key, 0), 1), Error::BadKey)?;
    drop(elsewhere);
    Ok(())
}

/// A key over two mappings, of which one goes.
fn p35_an_unmap_of_a_part_ends_a_key(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let first = fixture.buffer(BASE, SIZE)?;
    let second = fixture.buffer(BASE + SIZE as u64, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let key = register(&mut queue, BASE + PAGE, 2 * SIZE as u64 - 2 * PAGE, true)?;
    let other = register(&mut queue, BASE, PAGE, true)?;
    first_of(&mut queue, key)?;
    second.unmap()?;
    expect_error(
        &mut queue,
        &job::crc32c(by_key(key, 0), 1),
        Error::KeyUnmapped,
    )?;
    // A key of the first mapping only is of use.
    first_of(&mut queue, other)?;
    run_jobs(&mut queue, &[job::deregister(key), job::deregister(other)])?;
    assert_eq!(Pins::now()?.held(), before.held());
    drop(first);
    Ok(())
}

fn first_of(queue: &mut VfioQueue, key: u32) -> Result {
    run_jobs(queue, &[job::crc32c(by_key(key, 0), PAGE)])
}

/// The job fails in the middle with the error of the key, and the device works on.
fn p35_an_unmap_while_a_job_runs(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    fixture.mdma.set_throttle(20_000)?;
    queue.submit(&job::fill(by_key(key, 0), 7, SIZE as u64))?;
    crate::fixture::wait_register(
        &fixture.mdma,
        mdma::regs::Reg::BytesDone,
        "a job in flight",
        |done| done > 0,
    )?;
    let memory = buffer.unmap()?;
    let contents = memory.to_vec(0, SIZE);
    let completion = queue.wait(PATIENCE)?;
    assert_eq!(completion.error, Error::KeyUnmapped as u32);
    assert!(completion.bytes > 0 && completion.bytes < SIZE as u64);
    assert!(
        memory.to_vec(0, SIZE) == contents,
        "the device wrote memory after the unmap"
    );
    queue.restart(4)?;
    fixture.mdma.set_throttle(0)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    run_jobs(
        &mut queue,
        &[job::deregister(key), job::fill(guest(BASE), 1, 8)],
    )
}

/// Registers memory again and again and runs jobs on it, until `over`. Counts the jobs that succeed.
fn drive(queue: &mut VfioQueue, over: &AtomicBool, jobs: &AtomicU64) -> Result {
    let mut keys: Vec<u32> = Vec::new();
    while !over.load(Ordering::SeqCst) {
        for key in keys.drain(..) {
            queue.submit(&job::deregister(key))?;
            assert_eq!(queue.wait(PATIENCE)?.error, 0);
        }
        queue.submit(&job::register(BASE, SIZE as u64, true))?;
        let completion = queue.wait(PATIENCE)?;
        match Error::from_raw(completion.error) {
            Some(Error::None) => keys.push(completion.result),
            Some(Error::RegisterFault | Error::RegisterBusy) => {
                queue.restart(4)?;
                continue;
            }
            error => fail!("a registration ended with {error:?}"),
        }
        for n in 0..8 {
            queue.submit(&job::fill(by_key(keys[0], n * 8), n, SIZE as u64 / 2))?;
            match Error::from_raw(queue.wait(PATIENCE)?.error) {
                Some(Error::None) => jobs.fetch_add(1, Ordering::SeqCst),
                Some(Error::KeyUnmapped) => {
                    queue.restart(4)?;
                    break;
                }
                error => fail!("a job by key ended with {error:?}"),
            };
        }
    }
    for key in keys {
        queue.submit(&job::deregister(key))?;
        assert_eq!(queue.wait(PATIENCE)?.error, 0);
    }
    Ok(())
}

/// Unmaps and maps the registered memory in `unmappers` threads while jobs use it, `rounds` times.
fn race(env: &Env, unmappers: usize, rounds: u64) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    let memory = Arc::new(Mapping::anonymous(SIZE)?);
    let container = &fixture.container;
    container.map(BASE, &memory, Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    let over = AtomicBool::new(false);
    let jobs = AtomicU64::new(0);
    thread::scope(|threads| -> Result {
        let driver = threads.spawn(|| drive(&mut queue, &over, &jobs));
        let result = (|| -> Result {
            for _ in 0..rounds {
                // Each unmap meets registered memory that is in use.
                let seen = jobs.load(Ordering::SeqCst);
                wait_for("a job by key", || {
                    Ok(jobs.load(Ordering::SeqCst) > seen || driver.is_finished())
                })?;
                let others: Vec<_> = (1..unmappers)
                    .map(|_| threads.spawn(|| container.unmap(BASE, SIZE as u64)))
                    .collect();
                let mut unmapped = container.unmap(BASE, SIZE as u64)?;
                for other in others {
                    unmapped += other.join().expect("an unmapper")?;
                }
                assert_eq!(unmapped, SIZE as u64);
                let at_once = memory.to_vec(0, SIZE);
                thread::yield_now();
                assert!(
                    memory.to_vec(0, SIZE) == at_once,
                    "the device wrote memory after the unmap"
                );
                container.map(BASE, &memory, Access::ReadWrite)?;
            }
            Ok(())
        })();
        over.store(true, Ordering::SeqCst);
        driver.join().expect("the driver")?;
        result
    })?;
    let looks = unmap_looks_max(&fixture)?;
    note!("{} jobs, at most {looks} scans", jobs.into_inner());
    assert!(looks <= 9, "{looks} scans; type1 panics at the twelfth");
    drop(queue);
    container.unmap_all()?;
    drop(fixture);
    let after = Pins::now()?;
    assert_eq!((after.held(), after.locked), (before.held(), before.locked));
    Ok(())
}

fn p35_unmapping_under_running_dma(env: &Env) -> Result {
    race(env, 1, env.limits.fewer(10))
}

/// In every second round the callbacks wait for each other, and the device gives up after a second. A device that does
/// not give up hangs in the first of them.
fn p35_unmapping_from_two_threads(env: &Env) -> Result {
    race(env, 2, (env.limits.iterations / 50).max(4))
}

/// All keys of one mapping end with one unmap, which type1 scans few times.
fn p35_one_unmap_of_ten_thousand_keys(env: &Env) -> Result {
    const KEYS: u64 = 10_000;
    let fixture = MdmaFixture::new(env)?;
    // Two pages a key, and each page in two keys: a range of each key overlaps that of the next.
    let memory = Arc::new(Mapping::anonymous(((KEYS + 1) * PAGE) as usize)?);
    let size = memory.len() as u64;
    fixture.container.map(BASE, &memory, Access::ReadWrite)?;
    let mut queue = fixture.queue(10)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let jobs = (0..KEYS).map(|n| job::register(BASE + n * PAGE + 8, PAGE, true));
    let keys = batches(&mut queue, jobs)?;
    assert_eq!(Pins::now()?.held(), before.held() + KEYS + 1);
    // A key of other memory, which stays.
    let other = fixture.buffer(BASE + (1 << 32), PAGE as usize)?;
    let kept = register(&mut queue, other.iova(), PAGE, true)?;
    let start = Instant::now();
    assert_eq!(fixture.container.unmap(BASE, size)?, size);
    note!("{KEYS} keys: unmapped in {:?}", start.elapsed());
    assert_eq!(Pins::now()?.held(), before.held() + 1);
    let looks = unmap_looks_max(&fixture)?;
    assert!(looks <= 9, "{looks} scans; type1 panics at the twelfth");
    for n in [0, 1, KEYS / 2, KEYS - 1] {
        let crc = job::crc32c(by_key(keys[n as usize], 0), 1);
        expect_error(&mut queue, &crc, Error::KeyUnmapped)?;
    }
    run_jobs(&mut queue, &[job::crc32c(by_key(kept, 0), PAGE)])?;
    batches(&mut queue, keys.iter().map(|&key| job::deregister(key)))?;
    Ok(())
}

fn p35_closing_unpins(env: &Env) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, 4 * SIZE)?;
    let mut queue = fixture.queue(4)?;
    register(&mut queue, BASE, 4 * SIZE as u64, true)?;
    // And one in progress.
    fixture.mdma.set_throttle(1_000_000)?;
    queue.submit(&job::nop())?;
    queue.submit(&job::register(BASE, 4 * SIZE as u64, true))?;
    drop(queue);
    drop(buffer);
    drop(fixture);
    let after = Pins::now()?;
    assert_eq!((after.held(), after.locked), (before.held(), before.locked));
    Ok(())
}
