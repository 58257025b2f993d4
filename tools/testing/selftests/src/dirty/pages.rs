// SPDX-License-Identifier: GPL-2.0

//! The pages that type1 reports as dirty after the device writes, reads or pins them.

use std::collections::BTreeSet;
use std::sync::Arc;

use mdma::job;
use mdma::regs::Reg;
use vfio_client::v1::State;
use vfio_client::{Access, Container, DirtyBitmap, DmaBuffer, Mapping};

use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::memory::pages_of;
use crate::fixture::{device, guest, run_jobs, wait_register, MdmaFixture, VfioQueue, PAGE, QUEUE};
use crate::harness::check::wait_for;
use crate::harness::result::Result;
use crate::tests;

tests! { "dirty" needs [Mdma]:
    p30_exactly_the_pages_written ["P30", "P32"],
    p30_partial_pages_and_page_ends ["P30"],
    p30_unmap_reports_the_last_of_it ["P30", "P35"],
    p30_pages_of_a_failed_job_are_reported ["P30"],
    p30_pages_written_while_off_are_not_reported ["P30"],
    p31_pinned_pages_are_reported_at_every_get ["P31"],
    p31_written_pages_are_reported_once ["P31"],
    p31_only_the_rings_are_pinned ["P31"],
    p31_a_stopped_device_pins_nothing ["P31"],
    p32_pages_only_read_are_never_reported ["P32"],
    p35_unmapping_unpins ["P35"],
    p35_unmapping_others_keeps_the_pins ["P35"],
    p35_closing_unpins ["P35"],
}

/// The IOVA of the guest memory of these tests.
pub(crate) const BASE: u64 = 0x100_0000;
/// Its size.
pub(crate) const SIZE: usize = 256 * PAGE as usize;

/// Returns the dirty pages of a bitmap.
fn dirty(bitmap: &DirtyBitmap) -> BTreeSet<u64> {
    bitmap.dirty().collect()
}

/// Returns the pages that the next GET reports in a range.
pub(crate) fn get(container: &Container, iova: u64, size: u64) -> Result<BTreeSet<u64>> {
    Ok(dirty(&container.dirty_bitmap(iova, size)?))
}

/// Returns a function that returns the pages that the next GET reports in a buffer.
pub(crate) fn of(buffer: &DmaBuffer) -> impl Fn(&Container) -> Result<BTreeSet<u64>> {
    let (iova, size) = (buffer.iova(), buffer.memory().len() as u64);
    move |container| get(container, iova, size)
}

/// Returns a set of these pages.
pub(crate) fn set(pages: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    pages.into_iter().collect()
}

/// Returns the pages of a queue's descriptors and completion records.
pub(crate) fn rings(queue: &VfioQueue) -> BTreeSet<u64> {
    let ring = queue.ring();
    let descriptors = pages_of(ring.base(), ring.descriptors_len() as u64);
    set(descriptors.chain(pages_of(ring.completions(), ring.completions_len() as u64)))
}

/// Returns a fixture with guest memory, a queue that has run a job, and tracking enabled.
pub(crate) fn tracking(env: &Env) -> Result<(MdmaFixture, DmaBuffer, VfioQueue)> {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    fixture.container.dirty_start()?;
    Ok((fixture, buffer, queue))
}

fn p30_exactly_the_pages_written(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let get = of(&buffer);
    assert_eq!(get(&fixture.container)?, set([]), "before any job");
    for (first, count) in [
        (0, 1),
        (255, 1),
        (63, 2),
        (64, 64),
        (100, 3),
        (0, 256),
        (7, 130),
    ] {
        let (at, len) = (BASE + first * PAGE, count * PAGE);
        run_jobs(&mut queue, &[job::fill(guest(at), 1, len)])?;
        assert_eq!(
            get(&fixture.container)?,
            set(pages_of(at, len)),
            "{count} from {first}"
        );
        // A copy from device memory, and one within guest memory.
        run_jobs(
            &mut queue,
            &[job::copy(device(first * PAGE), guest(at), len)],
        )?;
        assert_eq!(
            get(&fixture.container)?,
            set(pages_of(at, len)),
            "{count} from {first}"
        );
        if first >= 63 && count < 64 {
            run_jobs(&mut queue, &[job::copy(guest(BASE), guest(at), len)])?;
            assert_eq!(get(&fixture.container)?, set(pages_of(at, len)));
        }
        assert_eq!(get(&fixture.container)?, set([]), "a second GET");
    }
    Ok(())
}

fn p30_partial_pages_and_page_ends(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let get = of(&buffer);
    for (at, len) in [
        (0, 1),
        (PAGE - 1, 1),
        (PAGE, 1),
        (PAGE - 1, 2),
        (2 * PAGE - 1, PAGE),
        (2 * PAGE - 1, PAGE + 1),
        (2 * PAGE - 1, PAGE + 2),
        (SIZE as u64 - 1, 1),
        // More than a unit, not aligned to pages.
        (5 * PAGE + 77, 40 * PAGE + 5),
    ] {
        run_jobs(&mut queue, &[job::fill(guest(BASE + at), 1, len)])?;
        let expected = set(pages_of(BASE + at, len));
        assert_eq!(get(&fixture.container)?, expected, "{len} bytes at {at:#x}");
    }
    Ok(())
}

fn p30_unmap_reports_the_last_of_it(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let other = fixture.buffer(8 * BASE, 4 * PAGE as usize)?;
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(BASE + 3 * PAGE), 1, 2 * PAGE),
            job::fill(guest(BASE + 200 * PAGE - 1), 1, 2),
            job::fill(guest(8 * BASE + PAGE), 1, PAGE),
        ],
    )?;
    let (unmapped, bitmap) = fixture.container.unmap_dirty(BASE, SIZE as u64)?;
    assert_eq!(unmapped, SIZE as u64);
    let expected = [3, 4, 199, 200].map(|page| BASE + page * PAGE);
    assert_eq!(dirty(&bitmap), set(expected));
    // A GET still reports the pages of the other mapping.
    assert_eq!(of(&other)(&fixture.container)?, set([8 * BASE + PAGE]));

    // The rings are pinned until the unmap, which reports them as dirty.
    let expected = rings(&queue);
    let len = queue.memory().memory().len() as u64;
    let (unmapped, bitmap) = fixture.container.unmap_dirty(QUEUE, len)?;
    assert_eq!(unmapped, len);
    assert_eq!(dirty(&bitmap), expected);
    drop((buffer, other, queue));
    Ok(())
}

fn p30_pages_of_a_failed_job_are_reported(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    // The job fails at the end of the mapping. The pages written before are dirty.
    let at = BASE + SIZE as u64 - 20 * PAGE;
    buffer.fill(0, SIZE, 0);
    queue.submit(&job::fill(guest(at), u64::MAX, 40 * PAGE))?;
    assert_ne!(queue.wait(crate::harness::check::PATIENCE)?.error, 0);
    let mut changed = BTreeSet::new();
    for page in 0..SIZE as u64 / PAGE {
        if buffer
            .to_vec((page * PAGE) as usize, PAGE as usize)
            .iter()
            .any(|b| *b != 0)
        {
            changed.insert(BASE + page * PAGE);
        }
    }
    assert!(
        changed.len() >= 16,
        "{} pages written, less than a unit",
        changed.len()
    );
    assert_eq!(of(&buffer)(&fixture.container)?, changed);
    Ok(())
}

fn p30_pages_written_while_off_are_not_reported(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, PAGE)])?;
    fixture.container.dirty_stop()?;
    run_jobs(&mut queue, &[job::fill(guest(BASE + PAGE), 1, PAGE)])?;
    fixture.container.dirty_start()?;
    run_jobs(&mut queue, &[job::fill(guest(BASE + 2 * PAGE), 1, PAGE)])?;
    assert_eq!(of(&buffer)(&fixture.container)?, set([BASE + 2 * PAGE]));
    Ok(())
}

fn p31_pinned_pages_are_reported_at_every_get(env: &Env) -> Result {
    for order in [1, 4, 7, 10] {
        let fixture = MdmaFixture::new(env)?;
        fixture.container.dirty_start()?;
        let mut queue = fixture.queue(order)?;
        let get = of(queue.memory());
        assert_eq!(
            get(&fixture.container)?,
            set([]),
            "pages pinned before the first job"
        );
        run_jobs(&mut queue, &[job::nop()])?;
        for round in 0..5 {
            assert_eq!(
                get(&fixture.container)?,
                rings(&queue),
                "order {order}, round {round}"
            );
        }
        // Tracking reports pages that were pinned before it started.
        fixture.container.dirty_stop()?;
        fixture.container.dirty_start()?;
        assert_eq!(
            get(&fixture.container)?,
            rings(&queue),
            "after another start"
        );
        // Disabling the queue unpins the rings. The next GET reports them for the last time.
        let expected = rings(&queue);
        let pins = Pins::now()?;
        let (_, memory) = queue.close()?;
        wait_for("the rings to be unpinned", || {
            Ok(Pins::now()?.held() < pins.held())
        })?;
        assert_eq!(
            of(&memory)(&fixture.container)?,
            expected,
            "order {order}, disabled"
        );
        assert_eq!(
            of(&memory)(&fixture.container)?,
            set([]),
            "order {order}, a second GET"
        );
    }
    Ok(())
}

fn p31_written_pages_are_reported_once(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let get = of(&buffer);
    for n in 1..=20 {
        // A page that is written twice is reported once.
        let at = BASE + n * 5 * PAGE;
        run_jobs(
            &mut queue,
            &[
                job::fill(guest(at), n, 2 * PAGE),
                job::fill(guest(at + 8), n, 8),
            ],
        )?;
        assert_eq!(get(&fixture.container)?, set([at, at + PAGE]));
        assert_eq!(get(&fixture.container)?, set([]));
    }
    Ok(())
}

fn p31_only_the_rings_are_pinned(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let before = Pins::now()?;
    let mut queue = fixture.queue(4)?;
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(BASE), 1, SIZE as u64),
            job::copy(guest(BASE), device(0), SIZE as u64),
            job::crc32c(guest(BASE), SIZE as u64),
        ],
    )?;
    let held = Pins::now()?.held() - before.held();
    assert_eq!(
        held,
        rings(&queue).len() as u64,
        "pins other than the rings"
    );
    Ok(())
}

fn p31_a_stopped_device_pins_nothing(env: &Env) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(4)?;
    fixture.container.dirty_start()?;
    let get = of(queue.memory());
    for stop in [State::STOP, State::STOP_AND_COPY] {
        run_jobs(&mut queue, &[job::nop()])?;
        assert_eq!(get(&fixture.container)?, rings(&queue));
        assert!(Pins::now()?.held() > before.held());
        fixture.go(&[stop])?;
        // The stop unpins the rings, so the VMM sends them only once more and the downtime has no lower limit.
        assert_eq!(Pins::now()?.held(), before.held(), "{stop:?}");
        assert_eq!(get(&fixture.container)?, rings(&queue), "{stop:?}");
        assert_eq!(get(&fixture.container)?, set([]), "{stop:?}");
        fixture.go(&[State::RUNNING])?;
    }
    run_jobs(&mut queue, &[job::nop()])?;
    assert_eq!(get(&fixture.container)?, rings(&queue));
    Ok(())
}

fn p32_pages_only_read_are_never_reported(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let target = fixture.buffer(8 * BASE, SIZE)?;
    buffer.fill(0, SIZE, 0x3c);
    let size = SIZE as u64;
    run_jobs(
        &mut queue,
        &[
            job::crc32c(guest(BASE), size),
            job::copy(guest(BASE), device(0), size),
            job::copy(guest(BASE + 1), guest(8 * BASE + 7), size - 8),
        ],
    )?;
    for _ in 0..3 {
        assert_eq!(of(&buffer)(&fixture.container)?, set([]));
    }
    assert_eq!(of(&target)(&fixture.container)?.len(), SIZE / PAGE as usize);
    Ok(())
}

fn p35_unmapping_unpins(env: &Env) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    for round in 0..20 {
        let mut queue = fixture.queue(4)?;
        run_jobs(&mut queue, &[job::nop()])?;
        let held = Pins::now()?;
        assert_eq!(held.held() - before.held(), 2, "round {round}");
        assert_eq!(held.locked, before.locked + 2, "round {round}");
        // The queue stays enabled: the unmap alone unpins the pages.
        let len = queue.memory().memory().len() as u64;
        assert_eq!(fixture.container.unmap(QUEUE, len)?, len);
        let after = Pins::now()?;
        assert_eq!(after.held(), before.held(), "round {round}");
        assert_eq!(after.locked, before.locked, "round {round}");
    }
    Ok(())
}

fn p35_unmapping_others_keeps_the_pins(env: &Env) -> Result {
    let (fixture, buffer, mut queue) = tracking(env)?;
    let held = Pins::now()?.held();
    buffer.unmap()?;
    assert_eq!(Pins::now()?.held(), held);
    run_jobs(&mut queue, &[job::nop()])?;
    assert_eq!(of(queue.memory())(&fixture.container)?, rings(&queue));
    Ok(())
}

fn p35_closing_unpins(env: &Env) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    // The memory stays mapped as long as the container, so only the close of the device can unpin it.
    let memory = Arc::new(Mapping::anonymous(2 * PAGE as usize)?);
    memory.write(0, &job::nop().encode());
    memory.write(64, &job::fill(device(0), 1, 16 << 20).encode());
    fixture.container.map(QUEUE, &memory, Access::ReadWrite)?;
    fixture.mdma.set_throttle(1000)?;
    crate::worker::faults::enable_at(&fixture, QUEUE, QUEUE + PAGE)?;
    fixture.mdma.set(Reg::Tail, 2)?;
    wait_register(&fixture.mdma, Reg::BytesDone, "a job in flight", |n| n > 0)?;
    assert_eq!(Pins::now()?.held(), before.held() + 2);
    let container = fixture.container.clone();
    let instance = fixture.close();
    let after = Pins::now()?;
    assert_eq!((after.held(), after.locked), (before.held(), before.locked));
    // The close disables the queue too, so the device does not write the memory of the next user.
    let record = memory.to_vec(PAGE as usize, 32);
    let fixture = MdmaFixture::of(crate::env::Guest::open(instance)?)?;
    assert!(!fixture.mdma.busy()? || record == memory.to_vec(PAGE as usize, 32));
    drop(container);
    Ok(())
}
