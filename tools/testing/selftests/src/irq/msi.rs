// SPDX-License-Identifier: GPL-2.0

//! MSI and MSI-X, behaviour common to all interrupts, and the request interrupt.

use std::process::Command;
use std::thread;

use mdma::regs::{self, Reg};
use mdma::Mdma;
use rustix::process::{Pid, Signal};
use vfio_client::{pci, uapi, Action, EventFd, Irq, Region};

use crate::env::{Env, Guest, SMALL};
use crate::fixture::every_state::in_every_state;
use crate::fixture::{self, MdmaFixture, VfioQueue};
use crate::harness::check::{expect_signal, expect_silence, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "irq" needs [Mdma]:
    msi_has_a_vector_for_each_cause [],
    msi_vectors_are_shared_when_few [],
    msix_has_a_vector_for_each_cause [],
    messages_are_not_masked_by_pending_causes [],
    message_loopback [],
    vectors_are_replaced_one_by_one [],
    messages_for_a_vector_without_eventfd_are_kept [],
    disabling_ends_delivery [],
    error_and_request_notifications [],
    close_takes_eventfds_away [],
    removal_asks_the_user_to_let_go [],
    enabling_and_disabling_under_fire [],
    p52_doorbell_and_cause_wait_for_the_next_run ["P52"],
    p52_interrupts_are_set_up_in_every_state ["P52"],
}

pub(crate) const INTX: u32 = uapi::VFIO_PCI_INTX_IRQ_INDEX;
pub(crate) const MSI: u32 = uapi::VFIO_PCI_MSI_IRQ_INDEX;
pub(crate) const MSIX: u32 = uapi::VFIO_PCI_MSIX_IRQ_INDEX;
pub(crate) const ERR: u32 = uapi::VFIO_PCI_ERR_IRQ_INDEX;
pub(crate) const REQ: u32 = uapi::VFIO_PCI_REQ_IRQ_INDEX;

/// A device with a queue, whose jobs cause interrupts.
pub(crate) struct Source {
    queue: VfioQueue,
    pub(crate) mdma: Mdma<Region>,
    pub(crate) fixture: MdmaFixture,
}

impl Source {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let fixture = MdmaFixture::new(env)?;
        let queue = fixture.queue(4)?;
        fixture.mdma.set_interrupts(regs::INT_ALL)?;
        Ok(Source {
            queue,
            mdma: fixture.mdma.clone(),
            fixture,
        })
    }

    pub(crate) fn irq(&self, index: u32) -> Result<Irq> {
        Ok(self.fixture.device.irq(index)?)
    }

    /// Drops the queue without disabling it.
    pub(crate) fn into_fixture(self) -> MdmaFixture {
        let Source {
            queue,
            mdma,
            fixture,
        } = self;
        drop((queue, mdma));
        fixture
    }

    /// Runs a job that requests an interrupt, and returns after the device has sent the interrupt.
    pub(crate) fn complete(&mut self) -> Result {
        fixture::run_jobs(&mut self.queue, &[mdma::job::nop().interrupt()])?;
        // The device writes the completion before it sends the interrupt, and holds the register lock until then.
        self.mdma.get(Reg::IntCause)?;
        Ok(())
    }

    /// Halts the queue and enables it again.
    pub(crate) fn halt(&mut self) -> Result {
        self.queue.fill_raw(&[0xff; mdma::desc::DESCRIPTOR_SIZE])?;
        self.queue.ring_doorbell()?;
        fixture::wait_register(&self.mdma, Reg::Status, "the queue to halt", |v| {
            v & u64::from(regs::STATUS_HALTED) != 0
        })?;
        self.mdma.disable()?;
        // A `Queue` cannot be enabled again: make a new one in other memory.
        self.queue = self
            .fixture
            .queue_at(fixture::QUEUE + 0x10_0000 * self.halts()?, 4)?;
        Ok(())
    }

    /// Returns a number that differs for every halt.
    fn halts(&self) -> Result<u64> {
        Ok(self.mdma.get(Reg::JobsDone)? + 1)
    }
}

/// Returns `count` new eventfds.
pub(crate) fn events(count: usize) -> Result<Vec<EventFd>> {
    let events = (0..count).map(|_| EventFd::new());
    Ok(events.collect::<std::io::Result<_>>()?)
}

/// Returns the eventfds as the argument of `set_eventfds`.
pub(crate) fn all(events: &[EventFd]) -> Vec<Option<&EventFd>> {
    events.iter().map(Some).collect()
}

/// Waits for interrupts in flight, then takes the counts of all eventfds.
pub(crate) fn counts(events: &[EventFd]) -> Result<Vec<u64>> {
    thread::sleep(SILENCE);
    let counts = events.iter().map(EventFd::take);
    Ok(counts.collect::<std::io::Result<_>>()?)
}

/// Checks that the device's two causes signal vectors 0 and 1, and no other vector.
fn a_vector_for_each_cause(env: &Env, index: u32) -> Result {
    let mut source = Source::new(env)?;
    let events = events(4)?;
    source.irq(index)?.set_eventfds(0, &all(&events))?;
    assert_eq!(counts(&events)?, [0, 0, 0, 0]);
    source.complete()?;
    expect_signal(&events[0], "the message of a completion");
    assert_eq!(counts(&events)?, [0, 0, 0, 0]);
    source.halt()?;
    expect_signal(&events[1], "the message of a halt");
    assert_eq!(counts(&events)?, [0, 0, 0, 0]);
    Ok(())
}

fn msi_has_a_vector_for_each_cause(env: &Env) -> Result {
    a_vector_for_each_cause(env, MSI)
}

fn msix_has_a_vector_for_each_cause(env: &Env) -> Result {
    a_vector_for_each_cause(env, MSIX)
}

fn msi_vectors_are_shared_when_few(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let msi = source.irq(MSI)?;
    let one = EventFd::new()?;
    msi.set_eventfds(0, &[Some(&one)])?;
    source.complete()?;
    assert_eq!(expect_signal(&one, "the message of a completion"), 1);
    source.halt()?;
    assert_eq!(
        expect_signal(&one, "the message of a halt, on the only vector"),
        1
    );
    Ok(())
}

fn messages_are_not_masked_by_pending_causes(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let events = events(2)?;
        source.irq(index)?.set_eventfds(0, &all(&events))?;
        for n in 0..5 {
            source.complete()?;
            assert_eq!(
                expect_signal(&events[0], "a message"),
                1,
                "index {index} message {n}"
            );
        }
        // With the cause masked in the device, no message is sent. Unmasking it sends the pending message.
        source.mdma.acknowledge()?;
        source.mdma.set_interrupts(0)?;
        source.complete()?;
        expect_silence(&events[0], "the cause is masked in the device");
        source.mdma.set_interrupts(regs::INT_ALL)?;
        assert_eq!(
            expect_signal(&events[0], "the message of a cause that was pending"),
            1
        );
    }
    Ok(())
}

fn message_loopback(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let guest = env.open(SMALL)?;
        let irq = guest.device.irq(index)?;
        let events = events(4)?;
        irq.set_eventfds(0, &all(&events))?;
        for vector in 0..4 {
            irq.set_none(Action::Trigger, vector, 1)?;
            let mut expected = [0; 4];
            expected[vector as usize] = 1;
            assert_eq!(counts(&events)?, expected, "index {index}");
        }
        irq.set_none(Action::Trigger, 1, 3)?;
        assert_eq!(counts(&events)?, [0, 1, 1, 1]);
        irq.set_bool(Action::Trigger, 0, &[true, false, false, true])?;
        assert_eq!(counts(&events)?, [1, 0, 0, 1]);
        irq.set_bool(Action::Trigger, 2, &[false, true])?;
        assert_eq!(counts(&events)?, [0, 0, 0, 1]);
    }
    Ok(())
}

fn vectors_are_replaced_one_by_one(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let (old, new) = (events(4)?, events(2)?);
        irq.set_eventfds(0, &all(&old))?;
        irq.set_eventfds(0, &[Some(&new[0])])?;
        irq.set_eventfds(3, &[Some(&new[1])])?;
        source.complete()?;
        expect_signal(&new[0], "a message to the new eventfd");
        irq.set_none(Action::Trigger, 0, 4)?;
        assert_eq!(counts(&old)?, [0, 1, 1, 0], "index {index}");
        assert_eq!(counts(&new)?, [1, 1], "index {index}");
        // Remove the eventfd of one vector in the middle.
        irq.set_eventfds(1, &[None, Some(&new[0])])?;
        irq.set_none(Action::Trigger, 0, 4)?;
        assert_eq!(counts(&old)?, [0, 0, 0, 0], "index {index}");
        assert_eq!(counts(&new)?, [2, 1], "index {index}");
    }
    Ok(())
}

fn messages_for_a_vector_without_eventfd_are_kept(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let events = events(2)?;
        irq.set_eventfds(0, &all(&events))?;
        irq.set_eventfds(0, &[None])?;
        source.complete()?;
        source.complete()?;
        assert_eq!(
            counts(&events)?,
            [0, 0],
            "index {index}: the vector has no eventfd"
        );
        irq.set_eventfds(0, &[Some(&events[0])])?;
        assert_eq!(
            counts(&events)?,
            [1, 0],
            "index {index}: one pending bit, one message"
        );
        irq.set_eventfds(0, &[Some(&events[0])])?;
        assert_eq!(counts(&events)?, [0, 0], "index {index}: already delivered");
    }
    Ok(())
}

fn disabling_ends_delivery(env: &Env) -> Result {
    for index in [INTX, MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let event = EventFd::new()?;
        irq.set_eventfds(0, &[Some(&event)])?;
        irq.disable()?;
        source.complete()?;
        expect_silence(&event, "the index is disabled");
        // The user may then enable any index with any number of vectors.
        for (next, count) in [(MSIX, 4), (MSI, 2), (INTX, 1), (MSIX, 1), (MSI, 4)] {
            let events = events(count)?;
            let irq = source.irq(next)?;
            irq.set_eventfds(0, &all(&events))?;
            if next != INTX {
                source.complete()?;
            }
            expect_signal(&events[0], "the interrupt of the index in use");
            irq.disable()?;
        }
        expect_silence(&event, "other indexes were enabled");
    }
    Ok(())
}

fn error_and_request_notifications(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    for index in [ERR, REQ] {
        let irq = guest.device.irq(index)?;
        assert_errno!(
            irq.set_none(Action::Trigger, 0, 1),
            EINVAL,
            "index {index}: no eventfd is set"
        );
        let (first, second) = (EventFd::new()?, EventFd::new()?);
        irq.set_eventfds(0, &[Some(&first)])?;
        irq.set_none(Action::Trigger, 0, 1)?;
        assert_eq!(expect_signal(&first, "the notification"), 1);
        irq.set_bool(Action::Trigger, 0, &[true])?;
        assert_eq!(expect_signal(&first, "the notification"), 1);
        irq.set_bool(Action::Trigger, 0, &[false])?;
        expect_silence(&first, "false does not trigger");
        irq.set_eventfds(0, &[Some(&second)])?;
        irq.set_none(Action::Trigger, 0, 1)?;
        assert_eq!(expect_signal(&second, "the notification"), 1);
        expect_silence(&first, "the eventfd was replaced");
        // Remove the eventfd with -1, then with an empty trigger.
        irq.set_eventfds(0, &[None])?;
        assert_errno!(
            irq.set_none(Action::Trigger, 0, 1),
            EINVAL,
            "index {index}: eventfd removed"
        );
        irq.set_eventfds(0, &[Some(&second)])?;
        irq.disable()?;
        assert_errno!(
            irq.set_none(Action::Trigger, 0, 1),
            EINVAL,
            "index {index}: disabled"
        );
        expect_silence(&second, "the eventfd was removed");
    }
    // Notifications are independent of the enabled interrupt index.
    let err = EventFd::new()?;
    guest.device.irq(ERR)?.set_eventfds(0, &[Some(&err)])?;
    let events = events(4)?;
    let msix = guest.device.irq(MSIX)?;
    msix.set_eventfds(0, &all(&events))?;
    msix.disable()?;
    guest.device.irq(ERR)?.set_none(Action::Trigger, 0, 1)?;
    assert_eq!(expect_signal(&err, "the error notification"), 1);
    Ok(())
}

fn close_takes_eventfds_away(env: &Env) -> Result {
    let mut instance = env.instance(SMALL)?;
    let event = EventFd::new()?;
    for index in [INTX, MSI, MSIX, REQ] {
        let guest = Guest::open(instance)?;
        guest.device.irq(index)?.set_eventfds(0, &[Some(&event)])?;
        if index == INTX {
            guest
                .device
                .irq(index)?
                .set_unmask_eventfd(0, Some(&EventFd::new()?))?;
        }
        let guest = Guest::open(guest.close())?;
        let irq = guest.device.irq(index)?;
        assert_errno!(
            irq.set_none(Action::Trigger, 0, 1),
            EINVAL,
            "index {index} after a close"
        );
        instance = guest.close();
    }
    expect_silence(&event, "the device was closed");
    Ok(())
}

fn removal_asks_the_user_to_let_go(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let request = EventFd::new()?;
    fixture
        .device
        .irq(REQ)?
        .set_eventfds(0, &[Some(&request)])?;
    let mut remover = Command::new("sh")
        .args(["-c", "echo 1 >$0"])
        .arg(fixture.instance.path().join("remove"))
        .spawn()?;
    expect_signal(&request, "the request to let the device go");
    // The removal waits, and repeats the request every ten seconds and when its task gets a signal. The device still
    // works.
    thread::sleep(SILENCE);
    assert!(
        remover.try_wait()?.is_none(),
        "the device was removed while open"
    );
    let task = Pid::from_child(&remover);
    rustix::process::kill_process(task, Signal::STOP)?;
    expect_signal(&request, "another request");
    rustix::process::kill_process(task, Signal::CONT)?;
    let mut queue = fixture.queue(2)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
    assert_errno!(
        fixture.device.group().device(fixture.uuid()),
        ENODEV,
        "open during the removal"
    );
    drop(queue);
    let closed = fixture.close();
    assert!(remover.wait()?.success(), "the removal failed");
    closed.forget();
    assert!(env.own_instances()?.is_empty());
    Ok(())
}

fn enabling_and_disabling_under_fire(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let device = source.fixture.device.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let running = || !stop.load(std::sync::atomic::Ordering::Relaxed);
    let failed = thread::scope(|scope| -> Result<Vec<String>> {
        // The device may refuse any of these calls, because the threads compete for the interrupt index.
        let setters = [INTX, MSI, MSIX].map(|index| {
            let device = &device;
            scope.spawn(move || -> Result {
                let irq = device.irq(index)?;
                let events = events(irq.info().count as usize)?;
                let unmask = EventFd::new()?;
                while running() {
                    let _ = irq.set_eventfds(0, &all(&events));
                    let _ = irq.set_unmask_eventfd(0, Some(&unmask));
                    let _ = irq.set_none(Action::Trigger, 0, 1);
                    let _ = unmask.signal();
                    let _ = irq.set_none(Action::Unmask, 0, 1);
                    let _ = irq.set_eventfds(0, &[None]);
                    let _ = irq.disable();
                }
                Ok(())
            })
        });
        let commander = scope.spawn(|| -> Result {
            let config = device.config()?;
            while running() {
                for bit in [pci::COMMAND_INTX_DISABLE, 0] {
                    config.set_command(pci::COMMAND_MEMORY | pci::COMMAND_MASTER | bit)?;
                }
            }
            Ok(())
        });
        for _ in 0..300 {
            source.complete()?;
            source.mdma.acknowledge()?;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let results = setters.into_iter().map(|t| t.join());
        let results = results.chain([commander.join()]);
        let failed = results.filter_map(|r| r.expect("no panics").err());
        Ok(failed.map(|e| e.to_string()).collect())
    })?;
    assert_eq!(failed, Vec::<String>::new());
    drop(device);
    // Disable all indexes.
    for index in [INTX, MSI, MSIX] {
        let _ = source.irq(index)?.disable();
    }
    let event = EventFd::new()?;
    source.mdma.acknowledge()?;
    source.irq(MSI)?.set_eventfds(0, &[Some(&event)])?;
    source.complete()?;
    assert_eq!(expect_signal(&event, "a message after the race"), 1);
    Ok(())
}

fn p52_doorbell_and_cause_wait_for_the_next_run(env: &Env) -> Result {
    use vfio_client::v1::State;

    for stopped in [State::STOP, State::STOP_AND_COPY] {
        let mut source = Source::new(env)?;
        let event = EventFd::new()?;
        source.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
        source.fixture.go(&[stopped])?;
        source.queue.submit(&mdma::job::nop().interrupt())?;
        thread::sleep(SILENCE);
        assert!(
            source.queue.poll().is_none(),
            "the device ran a job in state {stopped}"
        );
        assert_eq!(source.mdma.get(Reg::Tail)?, 1, "the doorbell was lost");
        expect_silence(&event, "the device is stopped");
        source.fixture.go(&[State::RUNNING])?;
        assert_eq!(source.queue.wait(PATIENCE)?.error, 0);
        assert_eq!(expect_signal(&event, "INTx of the delayed job"), 1);

        // The user unmasks a cause in the device while it is stopped.
        source.mdma.acknowledge()?;
        source.irq(INTX)?.set_none(Action::Unmask, 0, 1)?;
        source.mdma.set_interrupts(0)?;
        source.complete()?;
        source.fixture.go(&[stopped])?;
        source.mdma.set_interrupts(regs::INT_ALL)?;
        source.fixture.go(&[State::RUNNING])?;
        assert_eq!(
            expect_signal(&event, "INTx of a cause unmasked while stopped"),
            1
        );
    }
    Ok(())
}

fn p52_interrupts_are_set_up_in_every_state(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    in_every_state(&fixture, |state| {
        for index in [INTX, MSI, MSIX] {
            let irq = fixture.device.irq(index)?;
            let events = events(irq.info().count as usize)?;
            irq.set_eventfds(0, &all(&events))?;
            irq.set_none(Action::Trigger, 0, 1)?;
            assert_eq!(
                expect_signal(&events[0], "a loopback"),
                1,
                "index {index} in {state}"
            );
            irq.disable()?;
        }
        Ok(())
    })
}
