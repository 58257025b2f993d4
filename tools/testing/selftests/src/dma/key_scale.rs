// SPDX-License-Identifier: GPL-2.0

//! Registered memory of many GiB. The same memory is mapped at many IOVAs, because type1 counts each page that it pins at
//! an IOVA, whatever memory it is.
//!
//! `--gib N` sets how much is registered.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use ::hostile::{admitted, own_node, User};
use mdma::desc::Error;
use mdma::{job, Place};
use rustix::process::Resource;
use vfio_client::{Access, Mapping};

use crate::dma::keys::{batches, by_key, expect_error};
use crate::dma::oracle::register;
use crate::dma::unmap_race::unmap_looks_max;
use crate::env::pins::Pins;
use crate::env::{Env, Guest, SMALL};
use crate::fixture::{device, guest, run_jobs, MdmaFixture, VfioQueue, PAGE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::{fail, note, tests};

tests! { "key_scale" needs [Mdma]:
    p35_many_gib_are_registered_and_unmapped ["P35"],
    a_device_registers_no_more_than_256_gib [],
    a_user_who_is_killed_while_registering [],
    p31_the_pages_of_each_pass ["P30", "P31"],
}

/// The IOVA of the memory.
const BASE: u64 = 1 << 40;
/// The memory of one mapping.
const PIECE: usize = 32 << 20;

fn p35_many_gib_are_registered_and_unmapped(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let len = env.limits.gib << 30;
    let pages = len / PAGE;
    let memory = Arc::new(Mapping::anonymous(PIECE)?);
    for at in (0..len).step_by(PIECE) {
        fixture
            .container
            .map(BASE + at, &memory, Access::ReadWrite)?;
    }
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let start = Instant::now();
    let key = register(&mut queue, BASE, len, true)?;
    let registered = start.elapsed();
    let pinned = Pins::now()?;
    assert_eq!(pinned.held(), before.held() + pages);
    assert_eq!(pinned.locked, before.locked + pages, "not accounted");

    // Each of these places leads to the same memory.
    for at in [0, len / 2, len - PIECE as u64] {
        run_jobs(
            &mut queue,
            &[
                job::fill(by_key(key, at + 9), at + 1, 8),
                job::copy(by_key(key, at + 9), guest(BASE + at + 99), 8),
                job::copy(by_key(key, at + 9), device(0), 8),
            ],
        )?;
        assert_eq!(memory.to_vec(9, 8), (at + 1).to_le_bytes());
        assert_eq!(memory.to_vec(99, 8), (at + 1).to_le_bytes());
    }
    run_jobs(&mut queue, &[job::fill(by_key(key, len - 8), 0x77, 8)])?;
    assert_eq!(memory.to_vec(PIECE - 8, 8), 0x77u64.to_le_bytes());
    expect_error(
        &mut queue,
        &job::fill(by_key(key, len - 8), 0, 9),
        Error::KeyRange,
    )?;
    // The rings were unpinned when the queue halted.
    run_jobs(&mut queue, &[job::nop()])?;

    let start = Instant::now();
    assert_eq!(fixture.container.unmap(BASE, len)?, len);
    let unmapped = start.elapsed();
    note!(
        "{} GiB: registered in {registered:?}, unmapped in {unmapped:?}",
        env.limits.gib
    );
    let after = Pins::now()?;
    assert_eq!((after.held(), after.locked), (before.held(), before.locked));
    let looks = unmap_looks_max(&fixture)?;
    assert!(looks <= 9, "{looks} scans; type1 panics at the twelfth");
    let crc = job::crc32c(by_key(key, 0), 1);
    expect_error(&mut queue, &crc, Error::KeyUnmapped)?;
    run_jobs(&mut queue, &[job::deregister(key)])
}

/// A registration that is larger than what a device can have fails at once.
fn a_device_registers_no_more_than_256_gib(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let memory = Arc::new(Mapping::anonymous(PIECE)?);
    fixture.container.map(BASE, &memory, Access::ReadWrite)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    // Only the first of it is mapped, and nobody looks at that if it is too much.
    for (iova, len, error) in [
        (BASE, (256 << 30) + 1, Error::RegisterLimit),
        (BASE + 1, 256 << 30, Error::RegisterLimit),
        (BASE, 1 << 40, Error::RegisterLimit),
        (BASE, 256 << 30, Error::RegisterFault),
    ] {
        expect_error(&mut queue, &job::register(iova, len, true), error)?;
        run_jobs(&mut queue, &[job::nop()])?;
        assert_eq!(Pins::now()?.held(), before.held(), "{len:#x} bytes");
    }
    Ok(())
}

/// The child process: registers memory again and again.
pub(crate) fn child(args: &[String]) -> Result {
    admitted()?;
    let [uuid] = args else {
        fail!("key_scale takes a uuid");
    };
    let fixture = MdmaFixture::of(Guest::of_uuid(uuid)?)?;
    let buffer = fixture.buffer(BASE, PIECE)?;
    let mut queue = fixture.queue(4)?;
    writeln!(std::io::stdout(), "working")?;
    loop {
        let key = register(&mut queue, buffer.iova(), PIECE as u64, true)?;
        let fill = job::fill(by_key(key, 0), 1, 8);
        run_jobs(&mut queue, &[fill, job::deregister(key)])?;
    }
}

/// Whatever the device was about to do, nothing stays pinned, and the device is of use to the next user.
fn a_user_who_is_killed_while_registering(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    own_node(instance.iommu_group()?)?;
    let before = Pins::now()?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let uuid = instance.uuid.as_str().to_string();
    for _ in 0..env.limits.kills {
        let args = ["--child", "key_scale", &uuid];
        let mut user = User::start(&args, None, &[(Resource::Memlock, 1 << 40)])?;
        let Some(line) = user.hear_within(PATIENCE)? else {
            fail!("the user does not work:\n{}", user.stacks());
        };
        assert_eq!(line, "working");
        let some = rng.u64(1..PIECE as u64 / PAGE);
        wait_for("some pages to be pinned", || {
            Ok(Pins::now()?.held() >= before.held() + some)
        })?;
        user.kill()?;
        if user.wait(PATIENCE)?.is_none() {
            fail!("the user cannot be killed:\n{}", user.stacks());
        }
        // The last thread of the process may close the device a moment later.
        wait_for("the pages to be unpinned", || {
            Ok(Pins::now()?.held() == before.held())
        })?;
    }
    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])
}

/// A VMM that sends what is dirty, in passes, while a device writes one page in a hundred of what it has registered. By type1
/// it sends all of it in each pass, and by the device's log what was written. After the memory is deregistered, it sends
/// all of it once more, and then what was written.
fn p31_the_pages_of_each_pass(env: &Env) -> Result {
    const LEN: u64 = 256 << 20;
    const PAGES: u64 = LEN / PAGE;
    let fixture = MdmaFixture::new(env)?;
    let container = &fixture.container;
    let memory = Arc::new(Mapping::anonymous(PIECE)?);
    for at in (0..LEN).step_by(PIECE) {
        container.map(BASE + at, &memory, Access::ReadWrite)?;
    }
    let mut queue = fixture.queue(10)?;
    let half = LEN / 2;
    // What is only read is registered for that, which type1 does not tell apart.
    let keys = [
        register(&mut queue, BASE, half, true)?,
        register(&mut queue, BASE + half, half, false)?,
    ];
    let logs = fixture.device.can_log_dma()?;
    container.dirty_start()?;
    if logs {
        fixture.device.dma_logging_start(PAGE, &[(BASE, LEN)])?;
    }
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let mut look = |queue: &mut VfioQueue, by_key: bool| -> Result<[u64; 3]> {
        let written: BTreeSet<u64> = (0..PAGES / 100)
            .map(|_| rng.u64(0..half / PAGE) * PAGE)
            .collect();
        let jobs = written.iter().map(|&at| {
            let place = match by_key {
                true => Place::Key {
                    key: keys[0],
                    offset: at,
                },
                false => guest(BASE + at),
            };
            job::fill(place, at, 8)
        });
        batches(queue, jobs)?;
        let bitmap = container.dirty_bitmap(BASE, LEN)?;
        let mut logged = 0;
        if logs {
            let report = fixture.device.dma_logging_report(BASE, LEN)?;
            let found: BTreeSet<u64> = report.dirty().map(|page| page - BASE).collect();
            assert!(
                found == written,
                "the log has other pages than were written"
            );
            logged = found.len() as u64;
        }
        Ok([written.len() as u64, bitmap.dirty().count() as u64, logged])
    };
    let mut sums = [0; 3];
    for _ in 0..5 {
        let counts = look(&mut queue, true)?;
        assert_eq!(counts[1], PAGES, "{counts:?}");
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    run_jobs(&mut queue, &keys.map(job::deregister))?;
    let [_, all, _] = look(&mut queue, false)?;
    assert_eq!(all, PAGES);
    let [written, found, _] = look(&mut queue, false)?;
    assert_eq!(found, written);
    note!(
        "256 MiB registered, 5 passes: {} pages written, {} reported by type1, {}",
        sums[0],
        sums[1],
        if logs {
            format!("{} by the log", sums[2])
        } else {
            "and this kernel has no log".to_string()
        }
    );
    drop(queue);
    Ok(())
}
