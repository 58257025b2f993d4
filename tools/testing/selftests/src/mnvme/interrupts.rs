// SPDX-License-Identifier: GPL-2.0

//! A driver that looks at a queue only after an interrupt, and migrates in between.
//!
//! What the source has signalled and the driver has not yet handled is lost, as with a VMM.

use std::collections::BTreeSet;

use mnvme::command::{Command, WRITE};
use mnvme::DATA;
use vfio_client::v2::State;
use vfio_client::{v1, Action, EventFd};

use super::{Loaded, Nvme};
use crate::env::Env;
use crate::harness::check::{expect_signal, expect_silence};
use crate::harness::result::Result;
use crate::irq::msi::{INTX, MSIX};
use crate::{note, tests};

tests! { "mnvme_interrupts" needs [Mdma]:
    msix_migrates [],
    intx_migrates [],
}

/// I/O queue pairs.
const QUEUES: usize = 4;
/// Commands in each queue.
const DEPTH: usize = 60;
/// Migrations of each kind.
const ROUNDS: usize = 12;

/// How the driver gets interrupts.
struct Handler {
    kind: u32,
    /// MSI-X: an eventfd for each vector. INTx: one.
    events: Vec<EventFd>,
    /// The commands of each queue that are complete.
    seen: Vec<BTreeSet<u16>>,
}

impl Handler {
    fn new(nvme: &Nvme, kind: u32) -> Result<Self> {
        let mut handler = Handler {
            kind,
            events: Vec::new(),
            seen: vec![BTreeSet::new(); QUEUES + 1],
        };
        handler.connect(nvme)?;
        Ok(handler)
    }

    /// Connects to the device that runs the guest from now on.
    fn connect(&mut self, nvme: &Nvme) -> Result {
        let count = if self.kind == MSIX { QUEUES + 1 } else { 1 };
        self.events = (0..count)
            .map(|_| EventFd::new())
            .collect::<Result<_, _>>()?;
        let fds: Vec<Option<&EventFd>> = self.events.iter().map(Some).collect();
        Ok(nvme.guest.device.irq(self.kind)?.set_eventfds(0, &fds)?)
    }

    /// Waits for an interrupt of a queue, and handles it.
    fn interrupt(&mut self, nvme: &mut Nvme, queue: usize) -> Result {
        let what = format!(
            "{} of {DEPTH} commands of queue {queue}",
            self.seen[queue].len()
        );
        if self.kind == MSIX {
            expect_signal(&self.events[queue], &what);
            return self.handle(nvme, queue);
        }
        expect_signal(&self.events[0], &what);
        for queue in 0..=QUEUES {
            self.handle(nvme, queue)?;
        }
        nvme.guest
            .device
            .irq(INTX)?
            .set_none(Action::Unmask, 0, 1)?;
        Ok(())
    }

    fn handle(&mut self, nvme: &mut Nvme, queue: usize) -> Result {
        while let Some(done) = nvme.driver.take(queue)? {
            let once = self.seen[queue].insert(done.cid);
            assert!(done.status == 0 && once, "queue {queue}: {done:?}");
        }
        Ok(())
    }
}

/// Migrates a driver that has handled some interrupts. Returns whether commands were left.
fn migrate(env: &Env, kind: u32, round: usize) -> Result<bool> {
    let mut source = Nvme::enabled(env, QUEUES)?;
    let mut handler = Handler::new(&source, kind)?;
    for queue in 1..=QUEUES {
        for i in 0..DEPTH as u64 {
            let slba = (queue as u64 * 1000 + i) * 8;
            source
                .driver
                .put(queue, &Command::blocks(WRITE, slba, 8, DATA, 0));
        }
        source.driver.ring_tail(queue)?;
    }
    // Some queues have no interrupt handled, others several, and perhaps all of their commands.
    for number in 0..round {
        let queue = 1 + number % 3;
        if handler.seen[queue].len() < DEPTH {
            handler.interrupt(&mut source, queue)?;
        }
    }
    let mut target = Nvme::new(env)?;
    let stream = if round % 2 == 0 {
        let stream = source.save()?;
        target.load(&stream)?;
        stream
    } else {
        by_v1(&source, &target)?
    };
    assert!(!stream.is_empty());
    target.driver.take_over(&source.driver);
    handler.connect(&target)?;
    for event in &handler.events {
        expect_silence(event, "the device is stopped");
    }
    target.guest.v2()?.set_state(State::RUNNING)?;
    let left = handler.seen[1..].iter().any(|seen| seen.len() < DEPTH);
    for queue in 1..=QUEUES {
        while handler.seen[queue].len() < DEPTH {
            handler.interrupt(&mut target, queue)?;
        }
    }
    Ok(left)
}

/// Saves by v1 and loads by v1. Both devices are stopped then.
fn by_v1(source: &Nvme, target: &Nvme) -> Result<Vec<u8>> {
    let from = source.guest.v1()?;
    let mut stream = Vec::new();
    from.set_state(v1::State::STOP_AND_COPY)?;
    from.save_all(&mut |buffer| {
        stream.extend_from_slice(buffer);
        Ok(())
    })?;
    from.set_state(v1::State::STOP)?;
    let to = target.guest.v1()?;
    to.set_state(v1::State::RESUMING)?;
    to.load_buffer(&stream)?;
    to.set_state(v1::State::STOP)?;
    Ok(stream)
}

fn rounds(env: &Env, kind: u32) -> Result {
    let _module = Loaded::new(env)?;
    let mut left = 0;
    for round in 0..ROUNDS {
        left += usize::from(migrate(env, kind, round)?);
    }
    note!("commands were left in {left} of {ROUNDS} migrations");
    // Nothing was handled before the first one.
    assert!(left > 0);
    Ok(())
}

fn msix_migrates(env: &Env) -> Result {
    rounds(env, MSIX)
}

fn intx_migrates(env: &Env) -> Result {
    rounds(env, INTX)
}
