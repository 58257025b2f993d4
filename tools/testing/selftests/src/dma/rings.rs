// SPDX-License-Identifier: GPL-2.0

//! Rings that cannot be pinned. The device copies them, and they otherwise behave like pinned ones.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use ::hostile::{admitted, own_node, Kind, Stalled, User};
use mdma::desc::Error;
use mdma::regs::Reg;
use mdma::{job, Completion};
use rustix::process::Resource;
use vfio_client::{Access, BitmapRequest, DmaBuffer};

use crate::dirty::pages::{of, set};
use crate::env::pins::Pins;
use crate::env::{Env, Guest, SMALL};
use crate::fixture::{device, guest, run_jobs, wait_register, MdmaFixture, PAGE, QUEUE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::worker::faults::enable_at;
use crate::{fail, tests};

tests! { "rings" needs [Mdma]:
    a_ring_of_a_user_without_locked_memory ["P30", "P31"],
    a_ring_in_device_memory ["P30"],
    a_remapped_ring_is_pinned_again ["P35"],
    registers_go_with_a_record_that_is_copied_late [],
    p35_the_stalled_unmap_of_another_user_costs_no_service ["P35"],
}

const BASE: u64 = 0x100_0000;
const SIZE: usize = 64 * PAGE as usize;

/// The child process: a user that may not lock memory.
pub(crate) fn child(args: &[String]) -> Result {
    admitted()?;
    let [uuid] = args else {
        fail!("ring takes a uuid");
    };
    let fixture = MdmaFixture::of(Guest::of_uuid(uuid)?)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let half = SIZE as u64 / 2;
    let mut queue = fixture.queue(7)?;
    fixture.container.dirty_start()?;
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(BASE), 0x0102_0304_0506_0708, half),
            job::copy(guest(BASE), device(0), half),
            job::copy(device(0), guest(BASE + half), half),
            job::nop(),
        ],
    )?;
    let contents = buffer.to_vec(0, SIZE);
    assert!(contents
        .chunks(8)
        .all(|word| word == [8, 7, 6, 5, 4, 3, 2, 1]));
    let all = (0..SIZE as u64 / PAGE).map(|n| BASE + n * PAGE);
    assert_eq!(of(&buffer)(&fixture.container)?, set(all));
    // The device wrote only the page of the records, and type1 reports it once.
    let records = queue.ring().completions() & !(PAGE - 1);
    assert_eq!(of(queue.memory())(&fixture.container)?, set([records]));
    assert_eq!(of(queue.memory())(&fixture.container)?, set([]));
    // More jobs than the ring has entries.
    for value in 1..300u64 {
        run_jobs(&mut queue, &[job::fill(guest(BASE), value, 8)])?;
        assert_eq!(buffer.to_vec(0, 8), value.to_le_bytes());
    }
    assert_eq!(of(queue.memory())(&fixture.container)?, set([records]));
    // Enabling the queue again does not log another line.
    for _ in 0..20 {
        queue.restart(7)?;
        run_jobs(&mut queue, &[job::nop()])?;
    }
    // An unmapped ring still causes a fault.
    drop(queue);
    enable_at(&fixture, 0x666_0000_0000, BASE)?;
    wait_register(&fixture.mdma, Reg::Error, "a fault", |error| {
        error == Error::RingFault as u64
    })?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    writeln!(std::io::stdout(), "done")?;
    loop {
        thread::park();
    }
}

/// Earlier, the first job of the guest failed with RING_FAULT, and the driver logged nothing.
fn a_ring_of_a_user_without_locked_memory(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    own_node(instance.iommu_group()?)?;
    let before = Pins::now()?;
    let mark = env.kmsg.mark();
    let uuid = instance.uuid.as_str().to_string();
    let args = ["--child", "ring", &uuid];
    let mut user = User::start(&args, None, &[(Resource::Memlock, 0)])?;
    let Some(line) = user.hear_within(PATIENCE)? else {
        fail!("the user has not finished its jobs:\n{}", user.stacks());
    };
    assert_eq!(line, "done");
    assert_eq!(Pins::now()?.held(), before.held(), "the ring is pinned");
    let lines = env.kmsg.since(mark);
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    let ours: Vec<_> = texts
        .iter()
        .filter(|text| text.contains(&uuid) && text.contains("pinned"))
        .collect();
    assert_eq!(ours.len(), 1, "{texts:?}");
    assert!(ours[0].contains("ENOMEM") && ours[0].contains("RLIMIT_MEMLOCK"));
    // type1 itself logs a line for each attempt.
    let attempts = texts
        .iter()
        .filter(|text| text.contains("RLIMIT_MEMLOCK ("));
    let attempts = attempts.count();
    assert!(attempts <= 4, "{attempts} lines from type1: {texts:?}");
    Ok(())
}

/// The device can copy a ring in device memory, but not pin it.
fn a_ring_in_device_memory(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let own = Arc::new(fixture.mdma.map_memory()?);
    own.write(0, &job::nop().encode());
    let mapped = DmaBuffer::of(&fixture.container, BASE, own.clone(), Access::ReadWrite)?;
    enable_at(&fixture, BASE, BASE + PAGE)?;
    wait_register(&fixture.mdma, Reg::JobsDone, "the job", |n| n == 1)?;
    let mut record = [0; 32];
    own.read(PAGE as usize, &mut record);
    let record = Completion::decode(&record);
    assert_eq!((record.error, record.sequence), (0, 1));
    fixture.mdma.disable()?;
    drop((mapped, own));
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

fn a_remapped_ring_is_pinned_again(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let before = Pins::now()?;
    let old = fixture.buffer(QUEUE, 2 * PAGE as usize)?;
    let program = |buffer: &DmaBuffer| {
        for n in 0..16 {
            buffer.write(n * 64, &job::nop().encode());
        }
    };
    program(&old);
    enable_at(&fixture, QUEUE, QUEUE + PAGE)?;
    wait_register(&fixture.mdma, Reg::JobsDone, "the first job", |n| n == 1)?;
    assert_eq!(Pins::now()?.held(), before.held() + 2);
    let memory = old.unmap()?;
    assert_eq!(Pins::now()?.held(), before.held());
    let contents = memory.to_vec(0, memory.len());
    let new = fixture.buffer(QUEUE, 2 * PAGE as usize)?;
    program(&new);
    fixture.mdma.set(Reg::Tail, 2)?;
    wait_register(&fixture.mdma, Reg::JobsDone, "the second job", |n| n == 2)?;
    fixture.mdma.check_halted()?;
    assert_eq!(Pins::now()?.held(), before.held() + 2);
    assert!(
        memory.to_vec(0, memory.len()) == contents,
        "the device wrote memory after the unmap"
    );
    Ok(())
}

/// A user who sees a record also sees the matching registers, even if the device copies the record slowly.
fn registers_go_with_a_record_that_is_copied_late(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    // The ring is in device memory, so the device copies it. Descriptors and records are two pages of one mapping.
    let own = Arc::new(fixture.mdma.map_memory()?);
    for n in 0..16 {
        own.write(n * 64, &job::nop().encode());
    }
    let mapped = DmaBuffer::of(&fixture.container, BASE, own.clone(), Access::ReadWrite)?;
    enable_at(&fixture, BASE, BASE + PAGE)?;
    for sequence in 1..=env.limits.iterations {
        let at = PAGE as usize + ((sequence as usize - 1) % 16) * 32 + 24;
        if sequence > 1 {
            fixture.mdma.set(Reg::Tail, sequence % 16)?;
        }
        wait_for("a record", || {
            Ok(own.load_u64(at, std::sync::atomic::Ordering::Acquire) == sequence)
        })?;
        assert_eq!(fixture.mdma.get(Reg::JobsDone)?, sequence);
        assert_eq!(fixture.mdma.get(Reg::Head)?, sequence % 16);
    }
    fixture.mdma.disable()?;
    drop(mapped);
    Ok(())
}

/// A user stalls an unmap. Until it ends, the device does not pin memory of other users at the same IOVA, but it still
/// runs their jobs.
fn p35_the_stalled_unmap_of_another_user_costs_no_service(env: &Env) -> Result {
    for _ in 0..20 {
        if stalled_unmap(env)? {
            return Ok(());
        }
    }
    fail!("no unmap was stalled")
}

/// Returns whether the unmap was stalled.
fn stalled_unmap(env: &Env) -> Result<bool> {
    let page = || Stalled::new(Kind::Userfault, vec![0; PAGE as usize]);
    let stalled = [page()?, page()?];
    let theirs = MdmaFixture::new(env)?;
    let other = theirs.buffer(BASE, PAGE as usize)?;
    let mut queue = theirs.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    theirs.container.dirty_start()?;
    let ring = queue.memory().memory().len() as u64;
    let container = &theirs.container;
    let mine = MdmaFixture::new(env)?;
    let ok = thread::scope(|threads| -> Result<bool> {
        let hold = |page: usize| {
            let request = BitmapRequest::get(other.iova(), PAGE, PAGE);
            let memory = stalled[page].memory();
            move || container.dirty_bitmap_into(&request, memory, 0)
        };
        // The first thread holds type1's lock. The unmap waits for it, and then the second thread does.
        let first = threads.spawn(hold(0));
        stalled[0].wait(1, PATIENCE)?;
        let unmapper = threads.spawn(|| container.unmap(QUEUE, ring));
        thread::sleep(crate::harness::check::SILENCE);
        let second = threads.spawn(hold(1));
        thread::sleep(crate::harness::check::SILENCE);
        stalled[0].release();
        stalled[1].wait(1, PATIENCE)?;
        first.join().expect("a bitmap")?;
        let open = !unmapper.is_finished();
        let result = (|| -> Result<bool> {
            if !open {
                return Ok(false);
            }
            let before = Pins::now()?;
            let mut queue = mine.queue(4)?;
            let target = mine.buffer(BASE, PAGE as usize)?;
            run_jobs(&mut queue, &[job::fill(guest(BASE), 7, 8)])?;
            assert_eq!(target.to_vec(0, 8), 7u64.to_le_bytes());
            if unmapper.is_finished() {
                return Ok(false);
            }
            assert_eq!(
                Pins::now()?.held(),
                before.held(),
                "the ring was pinned during the unmap"
            );
            stalled[1].release();
            wait_for("the unmap", || Ok(unmapper.is_finished()))?;
            // The next job pins the ring.
            let before = Pins::now()?;
            run_jobs(&mut queue, &[job::nop()])?;
            assert!(
                Pins::now()?.held() > before.held(),
                "the ring is not pinned"
            );
            Ok(true)
        })();
        stalled[1].release();
        second.join().expect("a bitmap")?;
        assert_eq!(unmapper.join().expect("the unmapper")?, ring);
        result
    })?;
    drop(queue);
    Ok(ok)
}
