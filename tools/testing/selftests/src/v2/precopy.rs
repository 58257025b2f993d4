// SPDX-License-Identifier: GPL-2.0

//! Pre-copy through v2: the precopy info of a running device, and poll() for more data.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mdma::job;
use migration::stream::HEADER_SIZE;
use vfio_client::raw::nr;
use vfio_client::v2::{DataFd, State};
use vfio_client::{Area, Protection};

use crate::env::Env;
use crate::fixture::thread::Thread;
use crate::fixture::v2::{expect_over, MdmaV2, V2};
use crate::fixture::{device, guest, parse, run_jobs, PAGE};
use crate::harness::check::{wait_for, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::v2::saving::{drain, slack};
use crate::{assert_errno, assert_refused, fail, tests};

tests! { "v2_precopy":
    p45_initial_falls_to_0_and_dirty_grows ["P45"] needs [DeviceMemory],
    p45_read_bytes_count ["P45"],
    p45_pages_written_in_the_first_pass ["P45"] needs [DeviceMemory],
    p45_arguments ["P45"],
    p45_outside_of_pre_copy_it_is_refused ["P45"],
    p46_nothing_left_in_pre_copy ["P46"] needs [DeviceMemory],
    p46_the_temporary_end ["P46"],
    p46_poll_wakes_on_new_dirty_data ["P46"] needs [Mdma],
    p46_poll_wakes_when_the_state_changes ["P46"],
}

fn p45_initial_falls_to_0_and_dirty_grows(env: &Env) -> Result {
    const PAGES: u64 = 600;
    let v2 = V2::new(env)?;
    let slack = slack()?;
    v2.write_pages(0..PAGES, 1)?;
    let whole = v2.feature.data_size()?;
    let fd = v2.begin(State::PRE_COPY)?;
    let first = fd.precopy_info()?;
    assert_eq!((first.flags, first.dirty_bytes), (0, 0));
    // Before a save, the device does not know which pages are adjacent. It counts a header for each page.
    let headers = PAGES * HEADER_SIZE as u64;
    assert!(
        first.initial_bytes <= whole && whole - first.initial_bytes <= slack + headers,
        "{} of {whole} bytes are initial",
        first.initial_bytes
    );
    // initial_bytes falls by the size of each read, and never rises.
    let mut left = first.initial_bytes;
    let mut total = 0;
    let mut piece = vec![0; 77_777];
    loop {
        let got = match fd.read(&mut piece) {
            Ok(got) => got as u64,
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => break,
            Err(e) => return Err(e.into()),
        };
        total += got;
        let info = fd.precopy_info()?;
        assert_eq!(
            (info.flags, info.dirty_bytes),
            (0, 0),
            "after {total} bytes"
        );
        assert!(info.initial_bytes < left, "{left}, then {info:?}");
        assert!(
            (info.initial_bytes + total).abs_diff(first.initial_bytes) <= slack,
            "{info:?} after {total} of {} bytes",
            first.initial_bytes
        );
        left = info.initial_bytes;
    }
    assert_eq!(left, 0);
    // From here on, the device reports only pages that were written again.
    for count in [1, 10, 600] {
        v2.write_pages(0..count, 2)?;
        let info = fd.precopy_info()?;
        assert_eq!((info.flags, info.initial_bytes), (0, 0));
        let bytes = count * PAGE;
        assert!(
            (bytes..bytes + slack).contains(&info.dirty_bytes),
            "{count} pages written: {info:?}"
        );
    }
    while fd.read(&mut piece).is_ok() {
        let info = fd.precopy_info()?;
        assert_eq!(info.initial_bytes, 0, "initial_bytes rose again");
    }
    let info = fd.precopy_info()?;
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 0));
    Ok(())
}

fn p45_read_bytes_count(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..2, 1)?;
    let fd = v2.begin(State::PRE_COPY)?;
    // With reads of one byte, the device reports 0 when no data is left, and not before.
    let mut count = 0;
    loop {
        let info = fd.precopy_info()?;
        let result = fd.read(&mut [0]);
        let empty = (info.initial_bytes, info.dirty_bytes) == (0, 0);
        match result {
            Ok(1) => assert!(
                !empty,
                "read another byte although nothing was left after {count} bytes"
            ),
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {
                assert!(empty, "nothing to read, but {info:?}");
                break;
            }
            other => fail!("{other:?} after {count} bytes"),
        }
        count += 1;
    }
    let sent = v2.read_pages(0..2)?.len() as u64;
    assert!(count > sent);
    Ok(())
}

/// During the first pass, pages that were sent and are written become dirty, and pages that were not stay initial.
fn p45_pages_written_in_the_first_pass(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..1000, 3)?;
    let fd = v2.begin(State::PRE_COPY)?;
    let mut piece = vec![0; 1 << 20];
    let got = fd.read(&mut piece)?;
    assert!(got as u64 > 200 * PAGE);
    let before = fd.precopy_info()?;
    v2.write_pages(0..5, 4)?;
    let after = fd.precopy_info()?;
    assert_eq!(after.initial_bytes, before.initial_bytes);
    let grown = after.dirty_bytes - before.dirty_bytes;
    assert!(
        (5 * PAGE..6 * PAGE).contains(&grown),
        "{before:?}, {after:?}"
    );
    v2.write_pages(990..1000, 4)?;
    assert_eq!(
        fd.precopy_info()?,
        after,
        "after writes to pages that were not sent yet"
    );
    Ok(())
}

/// `VFIO_MIG_GET_PRECOPY_INFO`.
const GET_PRECOPY_INFO: u32 = nr(21);

fn p45_arguments(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let fd = v2.begin(State::PRE_COPY)?;
    let expected = fd.precopy_info()?;
    for argsz in [0u32, 1, 8, 16, 23] {
        let mut arg = [0xa5; 64];
        arg[..4].copy_from_slice(&argsz.to_ne_bytes());
        let before = arg;
        assert_errno!(
            fd.raw_ioctl(GET_PRECOPY_INFO, &mut arg),
            EINVAL,
            "argsz {argsz}"
        );
        assert_eq!(arg, before, "a refused ioctl wrote to its argument");
    }
    for argsz in [24u32, 25, 64, u32::MAX] {
        let mut arg = [0xa5; 64];
        arg[..4].copy_from_slice(&argsz.to_ne_bytes());
        fd.raw_ioctl(GET_PRECOPY_INFO, &mut arg)?;
        assert_eq!(arg[..4], argsz.to_ne_bytes());
        assert_eq!(arg[4..8], expected.flags.to_ne_bytes());
        assert_eq!(arg[8..16], expected.initial_bytes.to_ne_bytes());
        assert_eq!(arg[16..24], expected.dirty_bytes.to_ne_bytes());
        assert_eq!(arg[24..], [0xa5; 40], "argsz {argsz}");
    }
    // The argument ends too early, or its address is invalid.
    let mut short = [0; 20];
    short[..4].copy_from_slice(&24u32.to_ne_bytes());
    assert_errno!(fd.raw_ioctl(GET_PRECOPY_INFO, &mut short), EFAULT);
    assert_errno!(
        vfio_client::raw::ioctl_bad_address(&fd, GET_PRECOPY_INFO),
        EFAULT
    );
    // The data file supports no other ioctl.
    for n in [7, 8, 11, 20, 22, 150] {
        assert_errno!(
            vfio_client::raw::ioctl_bad_address(&fd, nr(n)),
            ENOTTY,
            "ioctl {n}"
        );
    }
    // A user who opts in to flags sees none, because initial data never reappears.
    const PRECOPY_INFO_V2: u32 = 12;
    if v2.device.feature_probe(PRECOPY_INFO_V2, false, true)? {
        v2.device.feature_set(PRECOPY_INFO_V2, &mut [])?;
        assert_eq!(fd.precopy_info()?, expected);
        drain(&fd)?;
        v2.write_pages(0..3, 2)?;
        assert_eq!(fd.precopy_info()?.flags, 0);
    }
    Ok(())
}

fn p45_outside_of_pre_copy_it_is_refused(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for begin in [State::STOP_COPY, State::RESUMING] {
        let fd = v2.begin(begin)?;
        assert_errno!(fd.precopy_info(), EINVAL, "in {begin}");
        v2.reset()?;
    }
    let fd = v2.begin(State::PRE_COPY)?;
    fd.precopy_info()?;
    v2.to(State::PRE_COPY_P2P)?;
    fd.precopy_info()?;
    v2.to(State::STOP_COPY)?;
    assert_refused!(env, v2.uuid(), fd.precopy_info(), EINVAL, "pre-copy");
    v2.to(State::STOP)?;
    assert_errno!(fd.precopy_info(), EINVAL, "after the session ended");
    Ok(())
}

fn p46_nothing_left_in_pre_copy(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for state in [State::PRE_COPY, State::PRE_COPY_P2P] {
        v2.write_pages(0..3, 1)?;
        let fd = v2.begin(state)?;
        assert!(fd.wait_readable(Duration::ZERO)?);
        let first = drain(&fd)?;
        for _ in 0..3 {
            assert_errno!(fd.read(&mut [0; 100]), ENOMSG, "in {state}");
            assert!(!fd.wait_readable(Duration::ZERO)?, "poll in {state}");
        }
        // New dirty data is readable, and ends again.
        v2.write_pages([1], 2)?;
        assert!(fd.wait_readable(Duration::ZERO)?);
        let more = parse(&[&first[..], &drain(&fd)?].concat())?;
        assert_eq!(more.pages(PAGE), [0, 1, 2, 1]);
        assert_errno!(fd.read(&mut [0; 100]), ENOMSG);
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

/// A device without memory has nothing left as well.
fn p46_the_temporary_end(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for state in [State::PRE_COPY, State::PRE_COPY_P2P] {
        let fd = v2.begin(state)?;
        assert!(!drain(&fd)?.is_empty());
        for _ in 0..3 {
            assert_errno!(fd.read(&mut [0; 100]), ENOMSG, "in {state}");
            assert!(!fd.wait_readable(Duration::ZERO)?, "poll in {state}");
        }
        let info = fd.precopy_info()?;
        assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 0));
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

/// Checks that `poll()` waits until `event` wakes it.
fn wakes(fd: &DataFd, what: &str, event: impl FnOnce() -> Result) -> Result {
    thread::scope(|threads| {
        let (tell, told) = mpsc::channel();
        let poller = threads.spawn(move || {
            let _ = tell.send(Thread::current());
            fd.wait_readable(PATIENCE)
        });
        let thread = told.recv()??;
        let asleep = wait_for("the poller to sleep", || {
            Ok(poller.is_finished() || thread.is_asleep()?)
        });
        let early = poller.is_finished();
        let result = event();
        let woken = poller.join().expect("it does not panic")?;
        asleep?;
        result?;
        assert!(!early, "{what}: poll did not wait");
        assert!(woken, "{what}: poll was not woken");
        Ok(())
    })
}

fn p46_poll_wakes_on_new_dirty_data(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    let _buffer = v2.buffer(0x10_0000, 4096)?;
    let memory = v2.mdma.map_memory()?;
    let mut queue = v2.queue(4)?;
    memory.fill(0, 64 * PAGE as usize, 1);
    let fd = v2.begin(State::PRE_COPY)?;
    for round in 0..5u8 {
        let at = u64::from(round) * PAGE;
        drain(&fd)?;
        wakes(&fd, "write()", || v2.write_memory(at + 5, b"w"))?;
        drain(&fd)?;
        wakes(&fd, "a write through the mapping", || {
            memory.write(at as usize, &[round]);
            Ok(())
        })?;
        drain(&fd)?;
        wakes(&fd, "the first write to a page", || {
            memory.write(100 * PAGE as usize + at as usize, &[round]);
            Ok(())
        })?;
        drain(&fd)?;
        wakes(&fd, "DMA", || {
            run_jobs(
                &mut queue,
                &[job::copy(guest(0x10_0000), device(at + 9), 100)],
            )
        })?;
    }
    // A read does not wake poll(), unless it goes through a writable mapping.
    let area = Area {
        offset: 0,
        size: v2.mdma.memory_size(),
    };
    let only_read = v2.mdma.memory()?.mmap(area, Protection::READ)?;
    drain(&fd)?;
    v2.read_memory(0, 4096)?;
    only_read.touch(200 * PAGE as usize);
    assert!(!fd.wait_readable(SILENCE)?);
    wakes(&fd, "a read through a writable mapping", || {
        memory.touch(200 * PAGE as usize);
        Ok(())
    })?;
    Ok(())
}

fn p46_poll_wakes_when_the_state_changes(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for to in [State::STOP_COPY, State::RUNNING, State::STOP] {
        let fd = v2.begin(State::PRE_COPY)?;
        drain(&fd)?;
        wakes(&fd, &format!("{to}"), || v2.to(to))?;
        v2.to(State::RUNNING)?;
    }
    let fd = v2.begin(State::PRE_COPY)?;
    drain(&fd)?;
    wakes(&fd, "a reset", || v2.reset())?;
    // The last close of the device wakes poll() too, because the data file outlives it.
    let fd = v2.begin(State::PRE_COPY)?;
    drain(&fd)?;
    let mut v2 = Some(v2);
    wakes(&fd, "the close", || {
        v2 = v2.take().map(V2::reopen).transpose()?;
        Ok(())
    })?;
    expect_over(&fd, "after the close");
    Ok(())
}
