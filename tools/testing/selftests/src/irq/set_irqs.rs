// SPDX-License-Identifier: GPL-2.0

//! `VFIO_DEVICE_SET_IRQS` with wrong arguments: the device refuses each call and stays unchanged.

use std::fs::File;
use std::os::fd::AsRawFd;

use vfio_client::raw::{self, nr};
use vfio_client::{uapi, Action, EventFd};

use crate::env::{Env, Guest, SMALL};
use crate::harness::check::{expect_no_line, expect_refusal, expect_signal};
use crate::harness::result::Result;
use crate::irq::msi::{all, counts, events, ERR, INTX, MSI, MSIX, REQ};
use crate::{assert_errno, tests};

tests! { "set_irqs":
    wrong_arguments_change_nothing [] needs [Mdma],
    wrong_arguments_of_every_index [],
    every_vector_is_triggered [],
    bad_descriptors_of_every_index [],
    more_vectors_than_enabled [] needs [Mdma],
    another_index_in_use [] needs [Mdma],
    nothing_in_use [] needs [Mdma],
    disabling_an_unused_index_is_not_logged [] needs [Mdma],
    invalid_eventfds [] needs [Mdma],
    unsupported_actions [] needs [Mdma],
}

const NONE: u32 = uapi::VFIO_IRQ_SET_DATA_NONE;
const BOOL: u32 = uapi::VFIO_IRQ_SET_DATA_BOOL;
const EVENTFD: u32 = uapi::VFIO_IRQ_SET_DATA_EVENTFD;
const MASK: u32 = uapi::VFIO_IRQ_SET_ACTION_MASK;
const UNMASK: u32 = uapi::VFIO_IRQ_SET_ACTION_UNMASK;
const TRIGGER: u32 = uapi::VFIO_IRQ_SET_ACTION_TRIGGER;

/// Calls the ioctl with unchecked words: argsz, flags, index, start, count, data.
fn set(guest: &Guest, words: &[u32]) -> std::io::Result<i32> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    raw::ioctl(&guest.device, nr(10), &mut bytes)
}

/// Checks that a call is refused and that the log contains the reason.
#[track_caller]
fn refused(env: &Env, guest: &Guest, errno: i32, what: &str, words: &[u32]) {
    expect_refusal(env, guest.uuid(), errno, "SET_IRQS", what, || {
        set(guest, words)
    });
}

fn wrong_arguments_change_nothing(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let msix = guest.device.irq(MSIX)?;
    let events = events(4)?;
    msix.set_eventfds(0, &all(&events))?;
    let other = EventFd::new()?;
    let fd = std::os::fd::AsFd::as_fd(&other).as_raw_fd() as u32;
    for (what, words) in [
        ("no such index", &[20, NONE | TRIGGER, 5, 0, 1][..]),
        (
            "the largest index",
            &[20, NONE | TRIGGER, u32::MAX, 0, 1][..],
        ),
        (
            "start after the last vector",
            &[20, NONE | TRIGGER, MSIX, 4, 1][..],
        ),
        (
            "start far after the last vector",
            &[20, NONE | TRIGGER, MSIX, u32::MAX, 1][..],
        ),
        ("one vector too many", &[20, NONE | TRIGGER, MSIX, 0, 5][..]),
        (
            "one vector too many from the second",
            &[20, NONE | TRIGGER, MSIX, 1, 4][..],
        ),
        (
            "a sum that overflows",
            &[20, NONE | TRIGGER, MSIX, 1, u32::MAX][..],
        ),
        (
            "the largest count",
            &[20, NONE | TRIGGER, MSIX, 0, u32::MAX][..],
        ),
        ("no kind of data", &[20, TRIGGER, MSIX, 0, 1][..]),
        (
            "two kinds of data",
            &[24, NONE | EVENTFD | TRIGGER, MSIX, 0, 1, fd][..],
        ),
        (
            "all kinds of data",
            &[24, NONE | BOOL | EVENTFD | TRIGGER, MSIX, 0, 1, fd][..],
        ),
        (
            "an unknown flag",
            &[24, (1 << 6) | EVENTFD | TRIGGER, MSIX, 0, 1, fd][..],
        ),
        (
            "the highest flag",
            &[24, (1 << 31) | EVENTFD | TRIGGER, MSIX, 0, 1, fd][..],
        ),
        (
            "argsz without the data",
            &[20, EVENTFD | TRIGGER, MSIX, 0, 1, fd][..],
        ),
        (
            "argsz with half of the data",
            &[24, EVENTFD | TRIGGER, MSIX, 0, 2, fd, fd][..],
        ),
        (
            "argsz with truncated bools",
            &[23, BOOL | TRIGGER, MSIX, 0, 4, 0x0101_0101][..],
        ),
        ("no eventfds", &[20, EVENTFD | TRIGGER, MSIX, 0, 0][..]),
    ] {
        refused(env, &guest, libc::EINVAL, what, words);
        assert_eq!(counts(&events)?, [0; 4], "{what}: a vector fired");
    }
    // All four eventfds are still set.
    msix.set_none(Action::Trigger, 0, 4)?;
    assert_eq!(counts(&events)?, [1; 4]);
    assert_eq!(other.take()?, 0);
    Ok(())
}

/// The indexes of interrupts of the device's own, with the numbers of their vectors.
pub(crate) fn own(guest: &Guest) -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for index in [INTX, MSI, MSIX] {
        let count = guest.device.irq(index)?.info().count;
        if count > 0 {
            found.push((index, count));
        }
    }
    assert!(!found.is_empty(), "a device without interrupts");
    Ok(found)
}

/// Calls with wrong arguments, for each index that the device has: the eventfds that are set stay, and none fires.
fn wrong_arguments_of_every_index(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let other = EventFd::new()?;
    let fd = std::os::fd::AsFd::as_fd(&other).as_raw_fd() as u32;
    for (index, count) in own(&guest)? {
        let irq = guest.device.irq(index)?;
        let events = events(count as usize)?;
        irq.set_eventfds(0, &all(&events))?;
        for (what, words) in [
            ("no such index", &[20, NONE | TRIGGER, 5, 0, 1][..]),
            (
                "start after the last",
                &[20, NONE | TRIGGER, index, count, 1][..],
            ),
            (
                "start far after",
                &[20, NONE | TRIGGER, index, u32::MAX, 1][..],
            ),
            (
                "one too many",
                &[20, NONE | TRIGGER, index, 0, count + 1][..],
            ),
            (
                "a sum that overflows",
                &[20, NONE | TRIGGER, index, 1, u32::MAX][..],
            ),
            ("no kind of data", &[20, TRIGGER, index, 0, 1][..]),
            (
                "two kinds of data",
                &[24, NONE | EVENTFD | TRIGGER, index, 0, 1, fd][..],
            ),
            (
                "an unknown flag",
                &[24, (1 << 6) | EVENTFD | TRIGGER, index, 0, 1, fd][..],
            ),
            (
                "argsz without the data",
                &[20, EVENTFD | TRIGGER, index, 0, 1, fd][..],
            ),
            ("no eventfds", &[20, EVENTFD | TRIGGER, index, 0, 0][..]),
        ] {
            let what = format!("index {index}: {what}");
            assert_errno!(set(&guest, words), EINVAL, "{what}");
            let fired: u64 = counts(&events)?.iter().sum();
            assert_eq!(fired, 0, "{what}: a vector fired");
        }
        // All eventfds are still set. INTx masks itself.
        irq.set_none(Action::Trigger, 0, count)?;
        assert!(
            counts(&events)?.iter().all(|fired| *fired == 1),
            "index {index}"
        );
        irq.disable()?;
    }
    assert_eq!(other.take()?, 0);
    Ok(())
}

/// A trigger by the user arrives on the vector that it names, and on no other, until the index is disabled.
fn every_vector_is_triggered(env: &Env) -> Result {
    let guest = env.open_subject()?;
    for (index, count) in own(&guest)? {
        let irq = guest.device.irq(index)?;
        let events = events(count as usize)?;
        irq.set_eventfds(0, &all(&events))?;
        for vector in 0..count {
            irq.set_none(Action::Trigger, vector, 1)?;
            for (n, fired) in (0..).zip(counts(&events)?) {
                assert_eq!(
                    fired,
                    u64::from(n == vector),
                    "index {index}, vector {vector}"
                );
            }
        }
        irq.disable()?;
        assert_errno!(irq.set_none(Action::Trigger, 0, 1), EINVAL, "index {index}");
        assert!(counts(&events)?.iter().all(|fired| *fired == 0));
    }
    Ok(())
}

/// A closed descriptor and a file that is not an eventfd leave the eventfd that is set.
fn bad_descriptors_of_every_index(env: &Env) -> Result {
    let guest = env.open_subject()?;
    let null = File::open("/dev/null")?;
    for (index, _) in own(&guest)? {
        let irq = guest.device.irq(index)?;
        let event = EventFd::new()?;
        irq.set_eventfds(0, &[Some(&event)])?;
        for (fd, errno) in [
            (0x7fff_ffff, libc::EBADF),
            (-2i32 as u32, libc::EBADF),
            (null.as_raw_fd() as u32, libc::EINVAL),
        ] {
            let what = format!("index {index}, descriptor {fd:#x}");
            let words = [24, EVENTFD | TRIGGER, index, 0, 1, fd];
            crate::harness::check::expect_errno(set(&guest, &words), errno, &what);
            irq.set_none(Action::Trigger, 0, 1)?;
            assert_eq!(expect_signal(&event, "the eventfd set before"), 1, "{what}");
        }
        irq.disable()?;
    }
    Ok(())
}

fn more_vectors_than_enabled(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let guest = env.open(SMALL)?;
        let irq = guest.device.irq(index)?;
        let (two, four) = (events(2)?, events(4)?);
        irq.set_eventfds(0, &all(&two))?;
        for (start, count) in [(0, 3), (2, 1), (1, 2), (0, 4)] {
            let what = format!("index {index}: vectors {start} to {} of 2", start + count);
            expect_refusal(env, guest.uuid(), libc::EINVAL, "vectors", &what, || {
                irq.set_eventfds(start as u32, &all(&four)[..count])
            });
        }
        irq.set_none(Action::Trigger, 0, 2)?;
        assert_eq!(counts(&two)?, [1, 1], "index {index}");
        assert_eq!(counts(&four)?, [0; 4], "index {index}");
    }
    Ok(())
}

fn another_index_in_use(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let (in_use, other) = (EventFd::new()?, EventFd::new()?);
    for used in [INTX, MSI, MSIX] {
        let irq = guest.device.irq(used)?;
        irq.set_eventfds(0, &[Some(&in_use)])?;
        for index in [INTX, MSI, MSIX].into_iter().filter(|i| *i != used) {
            let what = format!("index {index} while {used} is in use");
            let wanted = guest.device.irq(index)?;
            expect_refusal(env, guest.uuid(), libc::EINVAL, "in use", &what, || {
                wanted.set_eventfds(0, &[Some(&other)])
            });
            // A disable of another index does not disable the one in use.
            expect_refusal(env, guest.uuid(), libc::EINVAL, "in use", &what, || {
                wanted.disable()
            });
        }
        irq.set_none(Action::Trigger, 0, 1)?;
        assert_eq!(expect_signal(&in_use, "the index in use"), 1);
        irq.disable()?;
    }
    assert_eq!(other.take()?, 0);
    Ok(())
}

fn nothing_in_use(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    for (what, flags, index) in [
        ("mask", NONE | MASK, INTX),
        ("unmask", NONE | UNMASK, INTX),
        ("trigger", NONE | TRIGGER, INTX),
        ("trigger", NONE | TRIGGER, MSI),
        ("trigger", NONE | TRIGGER, MSIX),
        ("trigger", NONE | TRIGGER, ERR),
        ("trigger", NONE | TRIGGER, REQ),
    ] {
        let what = format!("{what} of index {index}");
        refused(env, &guest, libc::EINVAL, &what, &[20, flags, index, 0, 1]);
    }
    let what = "an unmask eventfd without INTx";
    let event = EventFd::new()?;
    let fd = std::os::fd::AsFd::as_fd(&event).as_raw_fd() as u32;
    refused(
        env,
        &guest,
        libc::EINVAL,
        what,
        &[24, EVENTFD | UNMASK, INTX, 0, 1, fd],
    );
    Ok(())
}

/// QEMU 7.2 disables MSI-X before it enables it. The device must refuse this like vfio-pci, but not log it. Earlier,
/// each start of a VMM logged a line.
fn disabling_an_unused_index_is_not_logged(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let mark = env.kmsg.mark();
    for index in [INTX, MSI, MSIX] {
        assert_errno!(guest.device.irq(index)?.disable(), EINVAL, "index {index}");
    }
    expect_no_line(env, guest.uuid(), mark, "disabling an unused index");
    Ok(())
}

fn invalid_eventfds(env: &Env) -> Result {
    let null = File::open("/dev/null")?;
    // This number is unused: the kernel assigns the lowest free number, and this process has few open files.
    let closed = 1000;
    for index in [INTX, MSI, MSIX, ERR, REQ] {
        let guest = env.open(SMALL)?;
        let irq = guest.device.irq(index)?;
        let event = EventFd::new()?;
        let good = std::os::fd::AsFd::as_fd(&event).as_raw_fd() as u32;
        irq.set_eventfds(0, &[Some(&event)])?;
        let other = null.as_raw_fd() as u32;
        for (what, fd, errno) in [
            ("a closed descriptor", closed, libc::EBADF),
            ("a descriptor out of range", 0x7fff_ffff, libc::EBADF),
            ("a negative descriptor", -2i32 as u32, libc::EBADF),
            ("not an eventfd", other, libc::EINVAL),
        ] {
            let what = format!("index {index}: {what}");
            refused(
                env,
                &guest,
                errno,
                &what,
                &[24, EVENTFD | TRIGGER, index, 0, 1, fd],
            );
            irq.set_none(Action::Trigger, 0, 1)?;
            assert_eq!(expect_signal(&event, "the eventfd set before"), 1, "{what}");
            if index == INTX {
                let what = format!("unmask by {what}");
                refused(
                    env,
                    &guest,
                    errno,
                    &what,
                    &[24, EVENTFD | UNMASK, INTX, 0, 1, fd],
                );
            }
        }
        // If one of several eventfds is invalid, the device accepts none.
        if matches!(index, MSI | MSIX) {
            irq.disable()?;
            let old = events(4)?;
            irq.set_eventfds(0, &all(&old))?;
            let words = [36, EVENTFD | TRIGGER, index, 0, 4, good, good, good, other];
            refused(env, &guest, libc::EINVAL, "the last of four", &words);
            irq.set_none(Action::Trigger, 0, 4)?;
            assert_eq!(counts(&old)?, [1; 4], "index {index}");
            assert_eq!(event.take()?, 0, "index {index}");
        }
    }
    Ok(())
}

fn unsupported_actions(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let event = EventFd::new()?;
    let fd = std::os::fd::AsFd::as_fd(&event).as_raw_fd() as u32;
    for index in [MSI, MSIX, ERR, REQ] {
        for action in [MASK, UNMASK, 0, MASK | UNMASK, MASK | UNMASK | TRIGGER] {
            let what = format!("index {index}: action {action:#x}");
            refused(
                env,
                &guest,
                libc::ENOTTY,
                &what,
                &[20, NONE | action, index, 0, 1],
            );
        }
    }
    guest.device.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
    for (what, words) in [
        (
            "INTx masked by an eventfd",
            &[24, EVENTFD | MASK, INTX, 0, 1, fd][..],
        ),
        ("two actions", &[20, NONE | MASK | UNMASK, INTX, 0, 1][..]),
        ("no action", &[20, NONE, INTX, 0, 1][..]),
    ] {
        refused(env, &guest, libc::ENOTTY, what, words);
    }
    for (what, flags) in [("mask", MASK), ("unmask", UNMASK)] {
        refused(
            env,
            &guest,
            libc::EINVAL,
            what,
            &[20, NONE | flags, INTX, 0, 0],
        );
    }
    // INTx is still enabled and unmasked.
    guest.device.irq(INTX)?.set_none(Action::Trigger, 0, 1)?;
    assert_eq!(expect_signal(&event, "INTx"), 1);
    Ok(())
}
