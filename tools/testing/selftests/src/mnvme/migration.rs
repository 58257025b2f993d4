// SPDX-License-Identifier: GPL-2.0

//! Migration of a controller that works.

use std::collections::BTreeSet;

use migration::stream::Kind;
use mnvme::command::{Command, IDENTIFY, WRITE, WRITE_ZEROES};
use mnvme::{DATA, DATA_SIZE, ENTRIES};
use mnvme_model::regs::{Reg, CC_ENTRY_SIZES_LEGAL};
use records::Stream;
use vfio_client::v2::State;
use vfio_client::{v1, EventFd};

use super::{Loaded, Nvme, BLOCK, PAGE};
use crate::env::{Env, Guest};
use crate::harness::check::{expect_signal, expect_silence, wait_for};
use crate::harness::result::Result;
use crate::irq::msi::MSIX;
use crate::{assert_errno, note, tests};

tests! { "mnvme_migration" needs [Mdma]:
    commands_wait_for_the_destination [],
    commands_in_flight_complete_exactly_once [],
    commands_in_flight_go_there_and_back [],
    there_and_back_by_v1_and_v2 [],
    a_new_user_of_the_source_finds_nothing [],
    completions_that_were_not_taken_interrupt_again [],
    pre_copy_sends_what_changed [],
    resets_and_shutdown_in_pre_copy [],
    an_inconsistent_state_is_refused [],
}

/// I/O queue pairs.
const QUEUES: usize = 8;
/// Commands in each queue.
const DEPTH: usize = 60;

/// Fills all queues. The commands of a queue write its pages, one after the other. Returns what each page has then.
fn submit_all(nvme: &mut Nvme) -> Result<Vec<(u64, u8)>> {
    let mut expected = Vec::new();
    for queue in 1..=QUEUES {
        for i in 0..DEPTH {
            let page = (queue * 256 + i) as u64;
            nvme.poke(i * PAGE as usize, &[i as u8; PAGE as usize]);
            let iova = DATA + (i as u64) * PAGE;
            let command = match i % 8 {
                7 => Command::blocks(WRITE_ZEROES, page * 8, 8, 0, 0),
                // Takes several units.
                6 => Command::blocks(WRITE_ZEROES, 0x10000, 0x8000, 0, 0),
                _ => Command::blocks(WRITE, page * 8, 8, iova, 0),
            };
            nvme.driver.put(queue, &command);
            if i % 8 != 6 {
                expected.push((page, if i % 8 == 7 { 0 } else { i as u8 }));
            }
        }
        nvme.driver.ring_tail(queue)?;
    }
    Ok(expected)
}

/// Takes all completions, each once. Returns how many were there at once.
fn take_all(nvme: &mut Nvme, run: impl FnOnce(&Nvme) -> Result) -> Result<usize> {
    let mut seen = vec![BTreeSet::new(); QUEUES + 1];
    let mut before = 0;
    for (queue, seen) in seen.iter_mut().enumerate().skip(1) {
        while let Some(done) = nvme.driver.take(queue)? {
            assert_eq!(done.status, 0);
            assert!(seen.insert(done.cid), "queue {queue}: {done:?} twice");
            before += 1;
        }
    }
    run(nvme)?;
    for (queue, seen) in seen.iter_mut().enumerate().skip(1) {
        for cid in nvme.take(queue, DEPTH - seen.len())? {
            assert!(seen.insert(cid), "queue {queue}: command {cid} twice");
        }
    }
    // Nothing comes after the last one.
    for queue in 1..=QUEUES {
        nvme.driver
            .succeed("flush", queue, &Command::blocks(0, 0, 1, 0, 0))?;
        assert_eq!(nvme.driver.take(queue)?, None, "queue {queue}");
    }
    Ok(before)
}

fn check_pages(nvme: &mut Nvme, expected: &[(u64, u8)]) -> Result {
    for (page, value) in expected {
        assert_eq!(nvme.read(page * 8, BLOCK)?, [*value; BLOCK], "page {page}");
    }
    Ok(())
}

fn run(nvme: &Nvme) -> Result {
    nvme.guest.v2()?.set_state(State::RUNNING)?;
    Ok(())
}

fn commands_wait_for_the_destination(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, QUEUES)?;
    source.guest.v2()?.set_state(State::STOP)?;
    let expected = submit_all(&mut source)?;
    let stream = source.save()?;
    let mut target = Nvme::new(env)?;
    target.load(&stream)?;
    target.driver.take_over(&source.driver);
    let before = take_all(&mut target, run)?;
    assert_eq!(before, 0, "a stopped device completed commands");
    check_pages(&mut target, &expected)
}

fn commands_in_flight_complete_exactly_once(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let (mut rounds, mut partly) = (0, 0);
    // When a save comes in the middle depends on the speed of the machine.
    while rounds < 10 || (partly == 0 && rounds < 500) {
        let mut source = Nvme::enabled(env, QUEUES)?;
        // So that zeroing takes some time.
        source.fill((0x10000 / 8..0x18000 / 8).step_by(5), 0xee)?;
        let expected = submit_all(&mut source)?;
        for _ in 0..rounds % 50 {
            source.driver.read(Reg::Csts)?;
        }
        let stream = source.save()?;
        let mut target = Nvme::new(env)?;
        target.load(&stream)?;
        target.driver.take_over(&source.driver);
        let before = take_all(&mut target, run)?;
        partly += usize::from(before > 0 && before < QUEUES * DEPTH);
        check_pages(&mut target, &expected)?;
        rounds += 1;
    }
    note!("{partly} of {rounds} saves were in the middle");
    assert!(
        partly > 0,
        "each save came before the first or after the last command"
    );
    Ok(())
}

fn commands_in_flight_go_there_and_back(env: &Env) -> Result {
    const NEW: usize = 10;
    let _module = Loaded::new(env)?;
    let pages = |queue: usize, number: usize| (queue * 256 + number) as u64;
    let mut here = Nvme::enabled(env, QUEUES)?;
    let mut there = Nvme::new(env)?;
    for page in 0..DATA_SIZE / PAGE as usize {
        here.poke(page * PAGE as usize, &[page as u8; PAGE as usize]);
    }
    let mut sent = [0; QUEUES + 1];
    let mut seen = vec![BTreeSet::new(); QUEUES + 1];
    for _ in 0..10 {
        // Some arrive before the stop, some after it.
        for stopped in [false, true] {
            if stopped {
                here.guest.v2()?.set_state(State::STOP)?;
            }
            for queue in 1..=QUEUES {
                if usize::from(ENTRIES) - (sent[queue] - seen[queue].len()) <= NEW {
                    continue;
                }
                for _ in 0..NEW {
                    let number = sent[queue];
                    let iova = DATA + number as u64 * PAGE;
                    let slba = pages(queue, number) * 8;
                    here.driver
                        .put(queue, &Command::blocks(WRITE, slba, 8, iova, 0));
                    sent[queue] += 1;
                }
                here.driver.ring_tail(queue)?;
            }
        }
        let stream = here.save()?;
        there.load(&stream)?;
        there.driver.take_over(&here.driver);
        run(&there)?;
        std::mem::swap(&mut here, &mut there);
        // The driver takes few of them, so that some are in the queues at each stop.
        for _ in 0..QUEUES * 12 {
            let queue = fastrand::usize(1..=QUEUES);
            if let Some(done) = here.driver.take(queue)? {
                assert_eq!(done.status, 0);
                assert!(
                    seen[queue].insert(done.cid),
                    "queue {queue}: {done:?} twice"
                );
            }
        }
    }
    for queue in 1..=QUEUES {
        for cid in here.take(queue, sent[queue] - seen[queue].len())? {
            assert!(seen[queue].insert(cid), "queue {queue}: {cid} twice");
        }
        here.driver
            .succeed("flush", queue, &Command::blocks(0, 0, 1, 0, 0))?;
        assert_eq!(here.driver.take(queue)?, None, "queue {queue}");
    }
    note!("{} commands, 10 migrations", sent.iter().sum::<usize>());
    for (queue, sent) in sent.into_iter().enumerate() {
        for number in 0..sent {
            let found = here.read(pages(queue, number) * 8, BLOCK)?;
            assert_eq!(found, [number as u8; BLOCK], "queue {queue}, {number}");
        }
    }
    Ok(())
}

fn there_and_back_by_v1_and_v2(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, 2)?;
    source.fill(0..50, 3)?;
    let identify = Command::admin(IDENTIFY, 1, 0, DATA);
    source.driver.succeed("identify", 0, &identify)?;
    let serial = source.peek(4, 20);
    for protocol in ["v1", "v2", "v1", "v2"] {
        source.write(8 * 10, protocol.repeat(BLOCK / 2).as_bytes())?;
        let stream = source.save()?;
        let mut target = Nvme::new(env)?;
        if protocol == "v1" {
            let migration = target.guest.v1()?;
            migration.set_state(v1::State::RESUMING)?;
            migration.load_buffer(&stream)?;
            migration.set_state(v1::State::RUNNING)?;
        } else {
            target.load(&stream)?;
            run(&target)?;
        }
        target.driver.take_over(&source.driver);
        let read = target.read(8 * 10, BLOCK)?;
        assert_eq!(read, protocol.repeat(BLOCK / 2).as_bytes());
        assert_eq!(target.read(8 * 49, PAGE as usize)?, [3; PAGE as usize]);
        target.driver.succeed("identify", 0, &identify)?;
        assert_eq!(target.peek(4, 20), serial, "the identity migrates");
        // Back to the instance that it came from.
        let stream = target.save()?;
        source.load(&stream)?;
        run(&source)?;
        source.driver.take_over(&target.driver);
        assert_eq!(source.read(8 * 49, PAGE as usize)?, [3; PAGE as usize]);
    }
    Ok(())
}

fn a_new_user_of_the_source_finds_nothing(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, QUEUES)?;
    submit_all(&mut source)?;
    let stream = source.save()?;
    let mut target = Nvme::new(env)?;
    target.load(&stream)?;
    target.driver.take_over(&source.driver);
    // At once, while the destination has not run yet.
    let mut next = Nvme::of(Guest::open(source.close())?)?;
    assert_eq!(next.driver.read(Reg::Csts)?, 0);
    assert_eq!(next.debug("populated_pages")?, 0);
    next.driver.enable(QUEUES)?;
    let expected = submit_all(&mut next)?;
    take_all(&mut target, run)?;
    take_all(&mut next, |_| Ok(()))?;
    check_pages(&mut target, &expected)?;
    check_pages(&mut next, &expected)
}

fn completions_that_were_not_taken_interrupt_again(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, 3)?;
    for queue in [1, 3] {
        source
            .driver
            .submit(queue, &Command::blocks(0, 0, 1, 0, 0))?;
    }
    // The interrupt of queue 3 reached nobody. That of queue 1 was handled.
    source.take(1, 1)?;
    wait_for("queue 3", || Ok(source.driver.has_completion(3)))?;
    let stream = source.save()?;
    let mut target = Nvme::new(env)?;
    let events = [
        EventFd::new()?,
        EventFd::new()?,
        EventFd::new()?,
        EventFd::new()?,
    ];
    let fds: Vec<Option<&EventFd>> = events.iter().map(Some).collect();
    target.guest.device.irq(MSIX)?.set_eventfds(0, &fds)?;
    target.load(&stream)?;
    target.driver.take_over(&source.driver);
    expect_silence(&events[3], "the device is stopped");
    run(&target)?;
    assert_eq!(expect_signal(&events[3], "a completion from the source"), 1);
    for event in &events[..3] {
        expect_silence(event, "nothing is left to take");
    }
    target.take(3, 1)?;
    Ok(())
}

fn pre_copy_sends_what_changed(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, 1)?;
    source.fill(0..1000, 1)?;
    let file = source.guest.begin(State::PRE_COPY)?;
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    assert!(stream.len() as u64 > 1000 * PAGE);
    for pages in [0, 1, 30, 300] {
        source.fill(0..pages, 2)?;
        for page in 0..100 {
            source.read(page * 8, PAGE as usize)?;
        }
        let before = stream.len();
        file.read_available(&mut stream)?;
        let sent = (stream.len() - before) as u64;
        let most = pages * PAGE + PAGE;
        assert!(
            (pages * PAGE..most).contains(&sent),
            "{pages} pages changed, {sent} bytes sent"
        );
    }
    source.guest.v2()?.set_state(State::STOP_COPY)?;
    file.read_available(&mut stream)?;
    let mut target = Nvme::new(env)?;
    target.load(&stream)?;
    run(&target)?;
    target.driver.take_over(&source.driver);
    for page in 0..1000 {
        let value = if page < 300 { 2 } else { 1 };
        assert_eq!(target.read(page * 8, BLOCK)?, [value; BLOCK], "page {page}");
    }
    Ok(())
}

fn resets_and_shutdown_in_pre_copy(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, 2)?;
    source.fill(0..20, 1)?;
    let file = source.guest.begin(State::PRE_COPY)?;
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    // A reset with commands in the queue.
    for i in 0..30 {
        source.driver.put(
            2,
            &Command::blocks(WRITE_ZEROES, 8 * (1000 + i), 0x8000, 0, 0),
        );
    }
    source.driver.ring_tail(2)?;
    source.driver.enable(2)?;
    source.fill(5..6, 2)?;
    // Shutdown.
    source
        .driver
        .write(Reg::Cc, 1 | u64::from(CC_ENTRY_SIZES_LEGAL) | (1 << 14))?;
    wait_for("the shutdown", || {
        Ok(source.driver.read(Reg::Csts)? == 1 | (2 << 2))
    })?;
    source.guest.v2()?.set_state(State::STOP_COPY)?;
    file.read_available(&mut stream)?;
    let mut target = Nvme::new(env)?;
    target.load(&stream)?;
    run(&target)?;
    assert_eq!(target.driver.read(Reg::Csts)?, 1 | (2 << 2));
    target.driver.enable(1)?;
    for page in 0..20 {
        let value = if page == 5 { 2 } else { 1 };
        assert_eq!(target.read(page * 8, BLOCK)?, [value; BLOCK], "page {page}");
    }
    Ok(())
}

fn an_inconsistent_state_is_refused(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, QUEUES)?;
    source.fill(0..3, 1)?;
    source.guest.v2()?.set_state(State::STOP)?;
    submit_all(&mut source)?;
    let stream = Stream::parse(&source.save()?).map_err(std::io::Error::other)?;
    let device = stream.position(Kind::Device);
    let size = stream.records[device].payload.len();
    assert_eq!(size, mnvme_model::state::SIZE);
    let mut target = Nvme::enabled(env, 1)?;
    let (mut accepted, mut refused) = (0, 0);
    for at in 0..size {
        target.fill(0..1, 0x77)?;
        let mut changed = stream.clone();
        changed.records[device].payload[at] ^= 1 << fastrand::u8(..8);
        changed.seal();
        let migration = target.guest.v2()?;
        let file = target.guest.begin(State::RESUMING)?;
        let written = file.write_all(&changed.bytes());
        match written.and_then(|()| migration.set_state(State::STOP)) {
            Ok(_) => {
                accepted += 1;
                target.driver.take_over(&source.driver);
                run(&target)?;
            }
            Err(error) => {
                assert_eq!(error.errno(), Some(libc::EINVAL), "byte {at}");
                refused += 1;
                assert_errno!(target.guest.v2()?.set_state(State::RUNNING), EINVAL);
            }
        }
        target.guest.device.reset()?;
        target.driver.enable(1)?;
    }
    note!("{refused} of {size} changes were refused, {accepted} give a legal state");
    assert!(refused > size / 4, "only {refused} were refused");
    Ok(())
}
