// SPDX-License-Identifier: GPL-2.0

//! Commands, their interrupts, and the guest memory that they touch.

use std::collections::BTreeSet;

use mnvme::command::{Command, IDENTIFY, READ, WRITE};
use mnvme::{DATA, DATA_SIZE, MEMORY};
use mnvme_model::regs::Reg;
use vfio_client::EventFd;

use super::{Loaded, Nvme, BLOCK, BLOCKS, PAGE};
use crate::env::Env;
use crate::harness::check::{expect_signal, expect_silence, wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::irq::msi::{INTX, MSIX};
use crate::{note, tests};

tests! { "mnvme" needs [Mdma]:
    writes_and_reads [],
    each_queue_interrupts_by_its_vector [],
    a_driver_that_only_takes_interrupts [],
    intx_is_asserted_until_completions_are_taken [],
    a_write_dirties_no_payload_page [],
    a_read_dirties_the_pages_that_it_fills_once [],
    random_reads_dirty_the_pages_that_they_fill_once [],
    memory_that_is_not_mapped [],
    a_new_controller_has_the_identity_of_its_mdev [],
}

/// Vectors of the device.
const VECTORS: usize = 9;
/// Commands in flight in each queue.
const DEPTH: usize = 64;

fn writes_and_reads(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 8)?;
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let page = fastrand::u64(..BLOCKS / 8);
        let data: Vec<u8> = (0..PAGE).map(|_| fastrand::u8(..)).collect();
        nvme.write(page * 8, &data)?;
        assert_eq!(nvme.read(page * 8, data.len())?, data);
        seen.insert(page);
    }
    // The page with the identity is written when a guest asks for it.
    assert_eq!(nvme.debug("populated_pages")?, seen.len() as u64);
    assert_eq!(nvme.driver.read(Reg::Csts)?, 1);
    Ok(())
}

fn each_queue_interrupts_by_its_vector(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::new(env)?;
    let events: Vec<EventFd> = (0..VECTORS)
        .map(|_| EventFd::new())
        .collect::<Result<_, _>>()?;
    let fds: Vec<Option<&EventFd>> = events.iter().map(Some).collect();
    nvme.guest.device.irq(MSIX)?.set_eventfds(0, &fds)?;
    nvme.driver.enable(8)?;
    // Two commands for each queue, by the admin queue.
    assert!(expect_signal(&events[0], "admin commands") >= 1);
    for queue in 1..=8 {
        nvme.driver.submit(queue, &Command::blocks(0, 0, 1, 0, 0))?;
        assert_eq!(expect_signal(&events[queue], "a completion"), 1);
        nvme.take(queue, 1)?;
        for event in &events {
            expect_silence(event, "all completions were taken");
        }
    }
    Ok(())
}

fn a_driver_that_only_takes_interrupts(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::new(env)?;
    let event = EventFd::new()?;
    nvme.guest
        .device
        .irq(MSIX)?
        .set_eventfds(0, &[None, Some(&event)])?;
    nvme.driver.enable(1)?;
    for number in 0..500 {
        nvme.driver.submit(1, &Command::blocks(0, 0, 1, 0, 0))?;
        // A signal says that an entry can be read, and each entry has a signal.
        let signals = event.wait(PATIENCE)?;
        assert_eq!(signals, 1, "command {number}");
        assert!(nvme.driver.take(1)?.is_some(), "command {number}");
    }
    Ok(())
}

fn intx_is_asserted_until_completions_are_taken(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::new(env)?;
    let event = EventFd::new()?;
    let irq = nvme.guest.device.irq(INTX)?;
    nvme.driver.enable(1)?;
    irq.set_eventfds(0, &[Some(&event)])?;
    nvme.driver.submit(1, &Command::blocks(0, 0, 1, 0, 0))?;
    assert_eq!(expect_signal(&event, "a completion"), 1);
    // It is still asserted.
    irq.set_none(vfio_client::Action::Unmask, 0, 1)?;
    assert_eq!(expect_signal(&event, "a completion that was not taken"), 1);
    nvme.driver.write(Reg::Intms, 2)?;
    irq.set_none(vfio_client::Action::Unmask, 0, 1)?;
    expect_silence(&event, "the vector is masked");
    nvme.driver.write(Reg::Intmc, 2)?;
    assert_eq!(expect_signal(&event, "the mask is cleared"), 1);
    nvme.take(1, 1)?;
    irq.set_none(vfio_client::Action::Unmask, 0, 1)?;
    expect_silence(&event, "the completion was taken");
    Ok(())
}

/// Returns the pages of the driver's memory that were written since the last look: those of data, and others.
fn dirty(nvme: &Nvme) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let len = nvme.driver.memory().len() as u64;
    let bitmap = nvme.guest.container.dirty_bitmap(MEMORY, len)?;
    Ok(bitmap.dirty().partition(|iova| *iova >= DATA))
}

fn a_write_dirties_no_payload_page(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 4)?;
    nvme.guest.container.dirty_start()?;
    dirty(&nvme)?;
    for round in 0..10 {
        for queue in 1..=4 {
            for _ in 0..DEPTH {
                let page = fastrand::usize(..DATA_SIZE / PAGE as usize);
                nvme.poke(page * PAGE as usize, &[round; 8]);
                let slba = fastrand::u64(..BLOCKS - 8);
                let iova = DATA + page as u64 * PAGE;
                nvme.driver
                    .put(queue, &Command::blocks(WRITE, slba, 8, iova, 0));
            }
            nvme.driver.ring_tail(queue)?;
        }
        for queue in 1..=4 {
            nvme.take(queue, DEPTH)?;
        }
        let (data, queues) = dirty(&nvme)?;
        assert!(data.is_empty(), "round {round}: {data:x?}");
        // The completion queues, and nothing else.
        assert_eq!(queues.len(), 4, "{queues:x?}");
    }
    Ok(())
}

fn a_read_dirties_the_pages_that_it_fills_once(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..4, 0x5a)?;
    nvme.guest.container.dirty_start()?;
    dirty(&nvme)?;
    for (offset, blocks) in [(0, 8), (512, 1), (0x3e00, 2), (0x5200, 9), (0x7000, 16)] {
        let iova = DATA + offset;
        let len = u64::from(blocks) * BLOCK as u64;
        let second = (iova / PAGE + 1) * PAGE;
        let command = Command::blocks(READ, 0, blocks, iova, second);
        nvme.driver.succeed("read", 1, &command)?;
        let pages = iova / PAGE..=(iova + len - 1) / PAGE;
        let expected: BTreeSet<u64> = pages.map(|page| page * PAGE).collect();
        assert_eq!(dirty(&nvme)?.0, expected);
        let (data, queues) = dirty(&nvme)?;
        assert!(
            data.is_empty() && queues.is_empty(),
            "{data:x?} {queues:x?} at the second look"
        );
    }
    Ok(())
}

fn random_reads_dirty_the_pages_that_they_fill_once(env: &Env) -> Result {
    const QUEUES: usize = 4;
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, QUEUES)?;
    nvme.fill((0..BLOCKS / 8).step_by(100), 0x5a)?;
    nvme.guest.container.dirty_start()?;
    dirty(&nvme)?;
    let mut looks_in_flight = 0;
    for round in 0..10 {
        let mut filled = BTreeSet::new();
        for queue in 1..=QUEUES {
            for _ in 0..DEPTH {
                // One or two pages. Few enough that most pages are not filled.
                let first = DATA + fastrand::u64(..DATA_SIZE as u64 / PAGE - 1) * PAGE;
                let (iova, blocks) = match fastrand::u8(..8) {
                    0 => (first + 7 * BLOCK as u64, fastrand::u32(2..8)),
                    _ => (first, fastrand::u32(1..9)),
                };
                let slba = fastrand::u64(..BLOCKS - 8);
                let command = Command::blocks(READ, slba, blocks, iova, first + PAGE);
                nvme.driver.put(queue, &command);
                let last = iova + u64::from(blocks) * BLOCK as u64 - 1;
                filled.extend([first, last / PAGE * PAGE]);
            }
            nvme.driver.ring_tail(queue)?;
        }
        // One look while reads may be in flight, one after them. No page is left out.
        let mut seen = dirty(&nvme)?.0;
        looks_in_flight += usize::from(seen.len() < filled.len());
        for queue in 1..=QUEUES {
            nvme.take(queue, DEPTH)?;
        }
        seen.extend(dirty(&nvme)?.0);
        assert!(
            seen == filled,
            "round {round}: {:x?}",
            seen.symmetric_difference(&filled).collect::<Vec<_>>()
        );
        let (data, queues) = dirty(&nvme)?;
        assert!(
            data.is_empty() && queues.is_empty(),
            "{data:x?} {queues:x?} once more"
        );
    }
    note!("{looks_in_flight} of 10 looks came while reads were in flight");
    Ok(())
}

fn memory_that_is_not_mapped(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    // Data: the command fails.
    let done = nvme
        .driver
        .execute(1, &Command::blocks(WRITE, 0, 8, 1 << 40, 0))?;
    assert_eq!(done.status, 0x04);
    nvme.write(0, &[1; BLOCK])?;
    // Queues: the controller fails, until it is reset.
    let len = nvme.driver.memory().len() as u64;
    nvme.guest.container.unmap(MEMORY, len)?;
    nvme.driver.submit(1, &Command::blocks(0, 0, 1, 0, 0))?;
    wait_for("CSTS.CFS", || Ok(nvme.driver.read(Reg::Csts)? == 3))?;
    let memory = nvme.driver.memory().memory().clone();
    nvme.guest
        .container
        .map(MEMORY, &memory, vfio_client::Access::ReadWrite)?;
    nvme.driver.enable(1)?;
    assert_eq!(nvme.read(0, BLOCK)?, [1; BLOCK]);
    Ok(())
}

fn a_new_controller_has_the_identity_of_its_mdev(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 0)?;
    let identify = Command::admin(IDENTIFY, 1, 0, DATA);
    nvme.driver.succeed("identify", 0, &identify)?;
    let digits: String = nvme.guest.uuid().chars().filter(|c| *c != '-').collect();
    assert_eq!(nvme.peek(4, 20), &digits.as_bytes()[12..]);
    Ok(())
}
