// SPDX-License-Identifier: GPL-2.0

//! Dirty pages of guest memory through the regions of v7 and 2018, compared with the jobs and with type1.

use std::collections::BTreeSet;

use mdma::{job, Descriptor, Place};
use vfio_client::v2018::offset;
use vfio_client::v7::{DIRTY_PFNS_ALL, DIRTY_PFNS_NONE};
use vfio_client::DmaBuffer;

use crate::dirty::pages::{set, BASE, SIZE};
use crate::dma::oracle::register;
use crate::env::Env;
use crate::fixture::memory::pages_of;
use crate::fixture::{device, guest, run_jobs, MdmaFixture, VfioQueue, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::history::{Old, V2018, V7};
use crate::{assert_errno, assert_refused, note, tests};

tests! { "history_dirty" needs [Mdma]:
    p36_random_jobs_by_v7 ["P36"],
    p37_random_jobs_by_2018 ["P37"],
    p36_pinned_pages_when_they_are_written_by_v7 ["P36"],
    p37_pinned_pages_when_they_are_written_by_2018 ["P37"],
    p36_registered_pages_when_they_are_written_by_v7 ["P36"],
    p37_registered_pages_when_they_are_written_by_2018 ["P37"],
    p36_a_long_range_in_parts_by_v7 ["P36"],
    p37_a_long_range_in_parts_by_2018 ["P37"],
    p36_each_save_begins_with_none_by_v7 ["P36"],
    p37_each_save_begins_with_none_by_2018 ["P37"],
    p36_none_all_and_the_answer_stays ["P36"],
    p36_larger_pages_aggregate ["P36"],
    p36_questions_that_are_refused ["P36"],
    p37_start_addr_counts_bytes ["P37"],
}

/// Returns a device that is being saved while it runs, with guest memory and a queue.
fn saving<M: Old>(env: &Env) -> Result<(MdmaFixture<M>, DmaBuffer, VfioQueue)> {
    let fixture = MdmaFixture::<M>::old(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    // Written before the save, so part of the first pass over memory.
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, 3 * PAGE)])?;
    fixture.container.dirty_start()?;
    fixture.migration.begin_save()?;
    Ok((fixture, buffer, queue))
}

/// Returns the pages in the next report of a range.
fn report<M: Old>(fixture: &MdmaFixture<M>, iova: u64, size: u64) -> Result<BTreeSet<u64>> {
    Ok(fixture.migration.dirty(iova, size)?.dirty().collect())
}

/// Returns a random job, and the guest memory that it writes.
fn random_job(rng: &mut fastrand::Rng) -> (Descriptor, Option<(u64, u64)>) {
    let at = rng.u64(0..SIZE as u64);
    let len = rng.u64(1..=(SIZE as u64 - at).min(9 * PAGE));
    let there = rng.u64(0..SIZE as u64 - len);
    match rng.u8(0..5) {
        0 => (job::fill(guest(BASE + at), 1, len), Some((at, len))),
        1 => (
            job::copy(device(there), guest(BASE + at), len),
            Some((at, len)),
        ),
        2 => (
            job::copy(guest(BASE + there), guest(BASE + at), len),
            Some((at, len)),
        ),
        3 => (job::crc32c(guest(BASE + at), len), None),
        _ => (job::copy(guest(BASE + at), device(there), len), None),
    }
}

/// Random jobs: each report of a random range has exactly the pages that were written since the last one, and
/// type1 says the same.
fn random_jobs<M: Old>(env: &Env) -> Result {
    let (mut fixture, _buffer, mut queue) = saving::<M>(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    // type1 has the pages from before the save too.
    crate::dirty::pages::get(&fixture.container, BASE, SIZE as u64)?;
    // The pages written since the last report of each, and since the last GET of type1, which is of all.
    let (mut written, mut since) = (BTreeSet::new(), BTreeSet::new());
    let (mut jobs, mut reported) = (0, 0);
    for round in 0..150 {
        for access in fixture.accesses() {
            fixture.fixture.migration.access(access)?;
            for _ in 0..rng.u64(1..8) {
                let (job, writes) = random_job(&mut rng);
                run_jobs(&mut queue, &[job])?;
                if let Some((at, len)) = writes {
                    written.extend(pages_of(BASE + at, len));
                    since.extend(pages_of(BASE + at, len));
                }
                jobs += 1;
            }
            let first = rng.u64(0..SIZE as u64 / PAGE);
            let count = rng.u64(1..=SIZE as u64 / PAGE - first);
            let (iova, size) = (BASE + first * PAGE, count * PAGE);
            let expected: BTreeSet<u64> = written.range(iova..iova + size).copied().collect();
            written.retain(|page| !expected.contains(page));
            let found = report(&fixture, iova, size)?;
            let when = format!("round {round}, {access:?}, {count} pages from {first}");
            assert_eq!(found, expected, "{when}: missed or extra pages");
            let tracked = crate::dirty::pages::get(&fixture.container, BASE, SIZE as u64)?;
            assert_eq!(tracked, since, "{when}: type1");
            since.clear();
            reported += found.len();
        }
        if round == 75 {
            fixture.migration.stop_save()?;
            assert_eq!(report(&fixture, BASE, SIZE as u64)?, written, "stopped");
            fixture.migration.end_save()?;
            fixture.migration.run()?;
            fixture.migration.begin_save()?;
            written.clear();
        }
    }
    note!("{jobs} jobs, {reported} pages reported, 0 missed, 0 extra");
    Ok(())
}

fn p36_random_jobs_by_v7(env: &Env) -> Result {
    random_jobs::<vfio_client::v7::Migration>(env)
}

fn p37_random_jobs_by_2018(env: &Env) -> Result {
    random_jobs::<vfio_client::v2018::Migration>(env)
}

fn pinned_pages<M: Old>(env: &Env) -> Result {
    let (fixture, _buffer, mut queue) = saving::<M>(env)?;
    let size = (queue.memory().memory().len() as u64).next_multiple_of(PAGE);
    let ring = queue.ring();
    let records = set(pages_of(ring.completions(), ring.completions_len() as u64));
    for _ in 0..3 {
        run_jobs(&mut queue, &[job::nop()])?;
        assert_eq!(report(&fixture, QUEUE, size)?, records);
        assert_eq!(report(&fixture, QUEUE, size)?, set([]));
    }
    // Written after the last report, and unpinned with the stop.
    run_jobs(&mut queue, &[job::nop()])?;
    fixture.migration.stop_save()?;
    assert_eq!(report(&fixture, QUEUE, size)?, records);
    assert_eq!(report(&fixture, QUEUE, size)?, set([]));
    Ok(())
}

fn p36_pinned_pages_when_they_are_written_by_v7(env: &Env) -> Result {
    pinned_pages::<vfio_client::v7::Migration>(env)
}

fn p37_pinned_pages_when_they_are_written_by_2018(env: &Env) -> Result {
    pinned_pages::<vfio_client::v2018::Migration>(env)
}

/// The report has the registered pages that were written, and type1's has all of them each time.
fn registered_pages<M: Old>(env: &Env) -> Result {
    let (mut fixture, _buffer, mut queue) = saving::<M>(env)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let all = set(pages_of(BASE, SIZE as u64));
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let mut written = BTreeSet::new();
    crate::dirty::pages::get(&fixture.container, BASE, SIZE as u64)?;
    for round in 0..50 {
        for access in fixture.accesses() {
            fixture.fixture.migration.access(access)?;
            for _ in 0..rng.u64(1..8) {
                let at = rng.u64(0..SIZE as u64);
                let len = rng.u64(1..=(SIZE as u64 - at).min(9 * PAGE));
                let place = Place::Key { key, offset: at };
                let job = match rng.u8(0..4) {
                    0 => job::fill(place, round, len),
                    1 => job::copy(device(at), place, len),
                    2 => job::copy(place, device(at), len),
                    _ => job::crc32c(place, len),
                };
                run_jobs(&mut queue, &[job])?;
                if job.destination() == Some(place.into()) {
                    written.extend(pages_of(BASE + at, len));
                }
            }
            let found = report(&fixture, BASE, SIZE as u64)?;
            assert_eq!(found, written, "round {round}, {access:?}");
            written.clear();
            let tracked = crate::dirty::pages::get(&fixture.container, BASE, SIZE as u64)?;
            assert_eq!(tracked, all, "round {round}: type1");
        }
    }
    Ok(())
}

fn p36_registered_pages_when_they_are_written_by_v7(env: &Env) -> Result {
    registered_pages::<vfio_client::v7::Migration>(env)
}

fn p37_registered_pages_when_they_are_written_by_2018(env: &Env) -> Result {
    registered_pages::<vfio_client::v2018::Migration>(env)
}

/// The IOVA of guest memory far from the rest.
const FAR: u64 = 0x10_0000_0000;

/// Writes the pages 64 and 65 from [`FAR`] on.
fn queue_far<M: Old>(fixture: &MdmaFixture<M>, queue: &mut VfioQueue) -> Result {
    let _far = fixture.buffer(FAR, 128 * PAGE as usize)?;
    run_jobs(queue, &[job::fill(guest(FAR + 64 * PAGE), 1, 2 * PAGE)])
}

/// A range whose bitmap is many times as long as its place in a small section.
fn long_range<M: Old>(env: &Env) -> Result {
    env.module.with("data_section_kib=64", || {
        let (mut fixture, _buffer, mut queue) = saving::<M>(env)?;
        let pages = [0, 5, 63, 64, 255].map(|n| BASE + n * PAGE);
        for access in fixture.accesses() {
            fixture.fixture.migration.access(access)?;
            let jobs = pages.map(|page| job::fill(guest(page), 1, 8));
            run_jobs(&mut queue, &jobs)?;
            // 4 GiB are 17 parts of 65472 pages. The memory is in the first of them, and across two of them.
            assert_eq!(report(&fixture, 0, 4 << 30)?, set(pages), "{access:?}");
            run_jobs(&mut queue, &jobs)?;
            queue_far(&fixture, &mut queue)?;
            let size = 2 * 65472 * PAGE;
            let far = set([64, 65].map(|n| FAR + n * PAGE));
            let start = FAR + 65 * PAGE - 65472 * PAGE;
            assert_eq!(
                report(&fixture, start, size)?,
                far,
                "{access:?}, across two parts"
            );
            assert_eq!(report(&fixture, BASE, SIZE as u64)?, set(pages));
            assert_eq!(report(&fixture, 0, 4 << 30)?, set([]));
        }
        Ok(())
    })
}

fn p36_a_long_range_in_parts_by_v7(env: &Env) -> Result {
    long_range::<vfio_client::v7::Migration>(env)
}

fn p37_a_long_range_in_parts_by_2018(env: &Env) -> Result {
    long_range::<vfio_client::v2018::Migration>(env)
}

/// A session that ends in any way takes its log with it.
fn each_save<M: Old>(env: &Env) -> Result {
    let (fixture, _buffer, mut queue) = saving::<M>(env)?;
    for end in 0..3 {
        assert_eq!(report(&fixture, BASE, SIZE as u64)?, set([]), "end {end}");
        run_jobs(&mut queue, &[job::fill(guest(BASE), 1, 8)])?;
        match end {
            0 => {
                fixture.migration.run()?;
            }
            1 => {
                fixture.migration.stop_save()?;
                fixture.migration.end_save()?;
                fixture.migration.run()?;
            }
            _ => {
                fixture.device.reset()?;
                break;
            }
        }
        assert_errno!(
            fixture.migration.dirty(BASE, PAGE),
            EINVAL,
            "outside of a save"
        );
        fixture.migration.begin_save()?;
    }
    fixture.migration.begin_save()?;
    assert_eq!(
        report(&fixture, BASE, SIZE as u64)?,
        set([]),
        "after a reset"
    );
    Ok(())
}

fn p36_each_save_begins_with_none_by_v7(env: &Env) -> Result {
    each_save::<vfio_client::v7::Migration>(env)
}

fn p37_each_save_begins_with_none_by_2018(env: &Env) -> Result {
    each_save::<vfio_client::v2018::Migration>(env)
}

fn p36_none_all_and_the_answer_stays(env: &Env) -> Result {
    let (v7, _buffer, mut queue): (V7, _, _) = saving(env)?;
    let m = &v7.migration;
    let (first, count) = (BASE / PAGE, SIZE as u64 / PAGE);
    m.ask_dirty(first, PAGE, count)?;
    assert_eq!(m.copied_pfns()?, DIRTY_PFNS_NONE);
    m.ask_dirty(first, PAGE, 0)?;
    assert_eq!(m.copied_pfns()?, DIRTY_PFNS_NONE, "no pages");
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, SIZE as u64)])?;
    m.ask_dirty(first, PAGE, count)?;
    for _ in 0..3 {
        assert_eq!(
            m.copied_pfns()?,
            DIRTY_PFNS_ALL,
            "the answer stays until the next question"
        );
    }
    m.ask_dirty(first, PAGE, count)?;
    assert_eq!(m.copied_pfns()?, DIRTY_PFNS_NONE);
    run_jobs(&mut queue, &[job::fill(guest(BASE + 9 * PAGE), 1, 1)])?;
    // Only what changes has to be written again.
    m.region()
        .write_u64(vfio_client::v7::offset::START_PFN, first)?;
    assert_eq!(m.copied_pfns()?, count);
    let at = m.data_offset()?;
    for _ in 0..2 {
        let mut bytes = [0; 32];
        m.read_data(at, &mut bytes)?;
        let mut expected = [0; 32];
        expected[1] = 2;
        assert_eq!(bytes, expected);
        assert_eq!((m.copied_pfns()?, m.data_offset()?), (count, at));
    }
    // Reading pending_bytes goes back to the device's data.
    assert!(m.pending_bytes()? > 0);
    assert_ne!(m.data_offset()?, at);
    assert!(m.data_size()? > 0);
    Ok(())
}

fn p36_larger_pages_aggregate(env: &Env) -> Result {
    let (v7, _buffer, mut queue): (V7, _, _) = saving(env)?;
    let m = &v7.migration;
    for shift in [12, 13, 16, 20] {
        let size = 1 << shift;
        run_jobs(
            &mut queue,
            &[
                job::fill(guest(BASE + 17 * PAGE + 5), 1, 1),
                job::fill(guest(BASE + 200 * PAGE - 1), 1, 2),
            ],
        )?;
        let found: BTreeSet<u64> = m.dirty_bitmap(BASE, SIZE as u64, size)?.dirty().collect();
        let pages = [17, 199, 200].map(|n| (BASE + n * PAGE) / size * size);
        assert_eq!(found, set(pages), "pages of {size} bytes");
        assert!(m.dirty_bitmap(BASE, SIZE as u64, size)?.is_clean());
    }
    Ok(())
}

fn p36_questions_that_are_refused(env: &Env) -> Result {
    let (v7, ..): (V7, _, _) = saving(env)?;
    let m = &v7.migration;
    assert_refused!(env, v7.uuid(), m.copied_pfns(), EINVAL, "page_size 0x0");
    for size in [0, 1, 2048, 4097, 3 * PAGE, u64::MAX] {
        assert_refused!(env, v7.uuid(), m.ask_dirty(0, size, 1), EINVAL, "page_size");
    }
    for (start, size, total) in [
        (u64::MAX, PAGE, 1),
        ((u64::MAX / PAGE) + 1, PAGE, 1),
        (u64::MAX / PAGE, PAGE, 2),
        (1, 1 << 63, 2),
        (0, PAGE, u64::MAX),
    ] {
        m.ask_dirty(start, size, total)?;
        assert_refused!(env, v7.uuid(), m.copied_pfns(), EINVAL, "2^64");
    }
    // The last page, and all memory.
    m.ask_dirty(u64::MAX / PAGE, PAGE, 1)?;
    assert_eq!(m.copied_pfns()?, DIRTY_PFNS_NONE);
    m.ask_dirty(0, 1 << 63, 2)?;
    assert!([0, 2].contains(&m.copied_pfns()?));
    Ok(())
}

fn p37_start_addr_counts_bytes(env: &Env) -> Result {
    let (v2018, _buffer, mut queue): (V2018, _, _) = saving(env)?;
    let m = &v2018.migration;
    run_jobs(&mut queue, &[job::fill(guest(BASE + 2 * PAGE), 1, 1)])?;
    assert_eq!(report(&v2018, BASE, 4 * PAGE)?, set([BASE + 2 * PAGE]));
    m.set_group(offset::DIRTY_PFNS, &[BASE, 4, 999])?;
    assert_eq!(m.group(offset::DIRTY_PFNS)?, [BASE, 4, 4]);
    assert_eq!(
        m.group(offset::DIRTY_PFNS)?,
        [BASE, 4, 0],
        "after the last part"
    );
    m.set_group(offset::DIRTY_PFNS, &[BASE, 0, 0])?;
    assert_eq!(m.group(offset::DIRTY_PFNS)?, [BASE, 0, 0]);
    for (start, total) in [
        (BASE + 1, 1),
        (BASE / PAGE + 1, 1),
        (0u64.wrapping_sub(PAGE), 2),
        (0, u64::MAX),
    ] {
        m.set_group(offset::DIRTY_PFNS, &[start, total, 0])?;
        let read = || m.group::<3>(offset::DIRTY_PFNS);
        assert_refused!(env, v2018.uuid(), read(), EINVAL, "dirty pages");
    }
    m.set_group(offset::DIRTY_PFNS, &[0u64.wrapping_sub(PAGE), 1, 0])?;
    assert_eq!(m.group::<3>(offset::DIRTY_PFNS)?[2], 1);
    Ok(())
}
