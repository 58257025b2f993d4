// SPDX-License-Identifier: GPL-2.0

//! Saving by v2: what the data descriptor gives, when, and how long.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use mdma::job;
use migration::stream::{Kind, HEADER_SIZE};
use rustix::event::PollFlags;
use vfio_client::raw::nr;
use vfio_client::v2::{DataFd, State};

use crate::check::{PATIENCE, SILENCE};
use crate::lab::Lab;
use crate::memory::{random_bytes, same};
use crate::outcome::Outcome;
use crate::scene::{device, guest, parse, run_jobs, PAGE};
use crate::v2_scene::{expect_over, read_pieces, V2};
use crate::{assert_errno, assert_refused, fail, tests};

tests! { "v2_saving":
    p43_moves_among_the_saving_states_keep_the_session ["P43"],
    p43_a_session_that_is_over_gives_errors ["P43", "P21"],
    p43_an_old_descriptor_never_gets_the_next_session ["P43"],
    p45_initial_falls_to_0_and_dirty_grows ["P45"],
    p45_what_is_read_counts ["P45"],
    p45_arguments ["P45"],
    p45_outside_of_pre_copy_it_is_refused ["P45"],
    p46_nothing_left_in_pre_copy ["P46"],
    p46_the_end_in_stop_copy ["P46"],
    p46_poll_wakes_on_new_dirty_data ["P46"],
    p46_poll_wakes_when_the_state_changes ["P46"],
    p47_data_size_is_what_a_stop_would_send ["P47"],
    reads_of_any_size [],
    what_changes_during_pre_copy_arrives [],
    the_descriptor_is_a_stream [],
    closed_early [],
    two_readers [],
    reads_into_the_memory_of_the_same_device [],
}

/// Bytes an estimate may be off by: state smaller than it may be, and headers of records cut by the ends of buffers.
const SLACK: u64 = (mdma::state::SIZE + 16 * HEADER_SIZE) as u64;

/// Reads all there is now.
fn drain(fd: &DataFd) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    Ok(bytes)
}

fn p43_moves_among_the_saving_states_keep_the_session(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..40, 1)?;
    let fd = v2.begin(State::PRE_COPY)?;
    let mut bytes = Vec::new();
    let moves = [
        State::PRE_COPY_P2P,
        State::PRE_COPY,
        State::PRE_COPY_P2P,
        State::STOP_COPY,
    ];
    for (n, state) in (0..).zip(moves) {
        // Part of it in each of the states; the last read spans two of them.
        let mut piece = vec![0; 30_001];
        let got = fd.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..got]);
        v2.write_pages([50 + n], 2)?;
        v2.to(state)?;
    }
    bytes.extend(drain(&fd)?);
    v2.to(State::STOP)?;
    let stream = parse(&bytes)?;
    let memory = stream.memory(v2.mdma.memory_size() as usize);
    same(
        &memory,
        &v2.read_memory(0, memory.len())?,
        device(0),
        "in one stream",
    );
    let last = stream.records.last().and_then(|r| r.kind());
    assert_eq!(last, Some(Kind::End));
    Ok(())
}

fn p43_a_session_that_is_over_gives_errors(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..300, 1)?;
    for begin in [State::PRE_COPY, State::PRE_COPY_P2P, State::STOP_COPY] {
        for end in [State::RUNNING, State::RUNNING_P2P, State::STOP] {
            // Nothing read, something of the first buffer, all of it.
            for read in [0, 1000, usize::MAX] {
                let fd = v2.begin(begin)?;
                let mut bytes = vec![0; read.min(1000)];
                match read {
                    usize::MAX => drop(drain(&fd)?),
                    _ => assert_eq!(fd.read(&mut bytes)?, bytes.len()),
                }
                v2.to(end)?;
                expect_over(&fd, &format!("{begin} to {end}, {read} bytes read"));
                v2.feature.set_state(State::RUNNING)?;
                expect_over(&fd, "later");
            }
        }
    }
    // A reset, the last close, and the end of the instance.
    let fd = v2.begin(State::PRE_COPY)?;
    v2.reset()?;
    expect_over(&fd, "after a reset");
    let fd = v2.begin(State::PRE_COPY)?;
    let V2 { feature, scene } = v2;
    drop(feature);
    let instance = scene.close();
    expect_over(&fd, "after the close");
    instance.remove()?;
    expect_over(&fd, "after the instance was removed");
    Ok(())
}

fn p43_an_old_descriptor_never_gets_the_next_session(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..3, 1)?;
    let expected = v2.save_v2()?;
    let states = [State::PRE_COPY, State::STOP_COPY, State::RESUMING];
    for old in states {
        for new in states {
            let first = v2.begin(old)?;
            if old == State::RESUMING {
                first.write_all(&expected)?;
            }
            v2.feature.set_state(State::STOP)?;
            let second = v2.begin(new)?;
            expect_over(&first, &format!("{old}, then {new}"));
            match new {
                State::RESUMING => {
                    second.write_all(&expected[..100])?;
                    expect_over(&first, "while the next one loads");
                    second.write_all(&expected[100..])?;
                }
                State::STOP_COPY => assert!(drain(&second)? == expected, "{old}, then {new}"),
                _ => assert!(!drain(&second)?.is_empty()),
            }
            v2.to(State::RUNNING)?;
        }
    }
    Ok(())
}

fn p45_initial_falls_to_0_and_dirty_grows(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..600, 1)?;
    let whole = v2.feature.data_size()?;
    let fd = v2.begin(State::PRE_COPY)?;
    let first = fd.precopy_info()?;
    assert_eq!((first.flags, first.dirty_bytes), (0, 0));
    assert!(
        first.initial_bytes.abs_diff(whole) <= SLACK,
        "{} of {whole} bytes are initial",
        first.initial_bytes
    );
    // It falls as it is read, by what is read, and never rises.
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
            (info.initial_bytes + total).abs_diff(first.initial_bytes) <= SLACK,
            "{info:?} after {total} of {} bytes",
            first.initial_bytes
        );
        left = info.initial_bytes;
    }
    assert_eq!(left, 0);
    // From here on there is only what was written again.
    for count in [1, 10, 600] {
        v2.write_pages(0..count, 2)?;
        let info = fd.precopy_info()?;
        assert_eq!((info.flags, info.initial_bytes), (0, 0));
        let bytes = count * PAGE;
        assert!(
            (bytes..bytes + SLACK).contains(&info.dirty_bytes),
            "{count} pages written: {info:?}"
        );
    }
    while fd.read(&mut piece).is_ok() {
        let info = fd.precopy_info()?;
        assert_eq!(info.initial_bytes, 0, "what was initial comes back");
    }
    let info = fd.precopy_info()?;
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 0));
    Ok(())
}

fn p45_what_is_read_counts(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..2, 1)?;
    let fd = v2.begin(State::PRE_COPY)?;
    // By single bytes: 0 is told when nothing is left, and not before.
    let mut count = 0;
    loop {
        let info = fd.precopy_info()?;
        let result = fd.read(&mut [0]);
        let empty = (info.initial_bytes, info.dirty_bytes) == (0, 0);
        match result {
            Ok(1) => assert!(!empty, "nothing left after {count} bytes, and another one"),
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {
                assert!(empty, "{info:?}, and nothing to read");
                break;
            }
            other => fail!("{other:?} after {count} bytes"),
        }
        count += 1;
    }
    assert!(count > 2 * PAGE);
    // What was written during the first pass, before and behind what was sent: each is its own sort.
    v2.to(State::RUNNING)?;
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
    assert_eq!(fd.precopy_info()?, after, "pages that were not sent yet");
    Ok(())
}

/// `VFIO_MIG_GET_PRECOPY_INFO`.
const GET_PRECOPY_INFO: u32 = nr(21);

fn p45_arguments(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
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
        assert_eq!(arg, before, "refused, and written to");
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
    // An argument that ends too early, or is nowhere.
    let mut short = [0; 20];
    short[..4].copy_from_slice(&24u32.to_ne_bytes());
    assert_errno!(fd.raw_ioctl(GET_PRECOPY_INFO, &mut short), EFAULT);
    assert_errno!(
        vfio_client::raw::ioctl_bad_address(&fd, GET_PRECOPY_INFO),
        EFAULT
    );
    // No other ioctl is one of this file's.
    for n in [7, 8, 11, 20, 22, 150] {
        assert_errno!(
            vfio_client::raw::ioctl_bad_address(&fd, nr(n)),
            ENOTTY,
            "ioctl {n}"
        );
    }
    // Whoever opts in to flags sees none: what is initial is so only once.
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

fn p45_outside_of_pre_copy_it_is_refused(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
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
    assert_refused!(lab, v2.uuid(), fd.precopy_info(), EINVAL, "pre-copy");
    v2.to(State::STOP)?;
    assert_errno!(fd.precopy_info(), EINVAL, "when the session is over");
    Ok(())
}

fn p46_nothing_left_in_pre_copy(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    for state in [State::PRE_COPY, State::PRE_COPY_P2P] {
        v2.write_pages(0..3, 1)?;
        let fd = v2.begin(state)?;
        assert!(fd.wait_readable(Duration::ZERO)?);
        let first = drain(&fd)?;
        for _ in 0..3 {
            assert_errno!(fd.read(&mut [0; 100]), ENOMSG, "in {state}");
            assert!(!fd.wait_readable(Duration::ZERO)?, "poll in {state}");
        }
        // More comes, and ends again.
        v2.write_pages([1], 2)?;
        assert!(fd.wait_readable(Duration::ZERO)?);
        let more = parse(&[&first[..], &drain(&fd)?].concat())?;
        assert_eq!(more.pages(PAGE), [0, 1, 2, 1]);
        assert_errno!(fd.read(&mut [0; 100]), ENOMSG);
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

fn p46_the_end_in_stop_copy(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..3, 1)?;
    for via in [None, Some(State::PRE_COPY)] {
        let fd = match via {
            None => v2.begin(State::STOP_COPY)?,
            Some(first) => {
                let fd = v2.begin(first)?;
                drain(&fd)?;
                v2.to(State::STOP_COPY)?;
                fd
            }
        };
        assert!(fd.wait_readable(Duration::ZERO)?);
        let mut bytes = Vec::new();
        read_pieces(&fd, &[500], &mut bytes)?;
        assert!(!bytes.is_empty());
        for _ in 0..3 {
            assert_eq!(fd.read(&mut [0; 100])?, 0);
            assert!(fd.wait_readable(Duration::ZERO)?, "poll at the end");
        }
        v2.to(State::STOP)?;
        expect_over(&fd, "after the end");
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

/// Checks that a poller waits, and that it is woken by `event`.
fn wakes(fd: &DataFd, what: &str, event: impl FnOnce() -> Outcome) -> Outcome {
    thread::scope(|threads| {
        let poller = threads.spawn(|| fd.wait_readable(PATIENCE));
        thread::sleep(SILENCE);
        let early = poller.is_finished();
        let result = event();
        let woken = poller.join().expect("it does not panic")?;
        result?;
        assert!(!early, "{what}: did not wait");
        assert!(woken, "{what}: not woken");
        Ok(())
    })
}

fn p46_poll_wakes_on_new_dirty_data(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
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
        wakes(&fd, "a write by the mapping", || {
            memory.write(at as usize, &[round]);
            Ok(())
        })?;
        drain(&fd)?;
        wakes(&fd, "a page never touched before", || {
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
    // A page that is written while it is dirty wakes nobody new, and one that is read neither.
    drain(&fd)?;
    v2.read_memory(0, 4096)?;
    memory.touch(200 * PAGE as usize);
    assert!(!fd.wait_readable(SILENCE)?);
    Ok(())
}

fn p46_poll_wakes_when_the_state_changes(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    for to in [State::STOP_COPY, State::RUNNING, State::STOP] {
        let fd = v2.begin(State::PRE_COPY)?;
        drain(&fd)?;
        wakes(&fd, &format!("{to}"), || v2.to(to))?;
        v2.to(State::RUNNING)?;
    }
    let fd = v2.begin(State::PRE_COPY)?;
    drain(&fd)?;
    wakes(&fd, "a reset", || v2.reset())?;
    // And by the last close, when the descriptor outlives the device.
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

fn p47_data_size_is_what_a_stop_would_send(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    for count in [0, 1, 300, 4000] {
        v2.write_pages((0..count).step_by(2), 1)?;
        let pages = count.div_ceil(2);
        let size = v2.feature.data_size()?;
        let sent = v2.save_v2()?.len() as u64;
        let slack = SLACK + pages * HEADER_SIZE as u64;
        assert!(size.abs_diff(sent) <= slack, "{size} told, {sent} sent");
        v2.to(State::RUNNING)?;
    }
    // In every state.
    for state in State::ALL {
        let fd = v2.reach(state)?;
        v2.feature.data_size()?;
        drop(fd);
        v2.reset()?;
    }
    // What was read is not counted, what was taken from the device and not read is.
    v2.write_pages(0..1000, 2)?;
    let fd = v2.begin(State::STOP_COPY)?;
    let whole = v2.feature.data_size()?;
    let mut total = 0;
    let mut piece = vec![0; 123_456];
    loop {
        let got = fd.read(&mut piece)?;
        total += got as u64;
        let left = v2.feature.data_size()?;
        assert!(
            (left + total).abs_diff(whole) <= SLACK,
            "{left} of {whole} left after {total}"
        );
        if got == 0 {
            assert_eq!(left, 0);
            return Ok(());
        }
    }
}

fn reads_of_any_size(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    let mut rng = fastrand::Rng::with_seed(lab.effort.seed);
    v2.write_memory(0, &random_bytes(&mut rng, 9 * PAGE as usize))?;
    v2.write_memory(100 * PAGE, &random_bytes(&mut rng, 77))?;
    let expected = v2.save_v2()?;
    let random: Vec<usize> = (0..50).map(|_| rng.usize(1..10_000)).collect();
    let sizes: [&[usize]; 9] = [
        &[1],
        &[2, 3],
        &[7],
        &[31],
        &[33, 4095],
        &[4097],
        &[65_537],
        &[3 << 20],
        &random,
    ];
    for sizes in sizes {
        let fd = v2.begin(State::STOP_COPY)?;
        let mut bytes = Vec::new();
        read_pieces(&fd, sizes, &mut bytes)?;
        assert!(bytes == expected, "reads of {sizes:?} bytes");
        v2.to(State::STOP)?;
    }
    // And reads of none.
    let fd = v2.begin(State::STOP_COPY)?;
    assert_eq!(fd.read(&mut [])?, 0);
    assert!(drain(&fd)? == expected, "after a read of nothing");
    Ok(())
}

fn what_changes_during_pre_copy_arrives(lab: &Lab) -> Outcome {
    let source = V2::new(lab)?;
    let destination = V2::new(lab)?;
    let mut rng = fastrand::Rng::with_seed(lab.effort.seed);
    let memory = source.mdma.map_memory()?;
    let size = memory.len();
    memory.write(0, &random_bytes(&mut rng, 2 << 20));
    let fd = source.begin(State::PRE_COPY)?;
    let mut bytes = Vec::new();
    for _ in 0..200 {
        let at = rng.usize(0..size - 3000);
        memory.write(at, &random_bytes(&mut rng, 3000));
        let mut piece = vec![0; rng.usize(1..200_000)];
        match fd.read(&mut piece) {
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {}
            Err(e) => return Err(e.into()),
        }
    }
    source.to(State::STOP_COPY)?;
    bytes.extend(drain(&fd)?);
    destination.load_v2(&bytes)?;
    same(
        &destination.read_memory(0, size)?,
        &memory.to_vec(0, size),
        device(0),
        "after a live save",
    );
    Ok(())
}

fn the_descriptor_is_a_stream(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..3, 1)?;
    for state in [State::STOP_COPY, State::RESUMING] {
        let fd = v2.begin(state)?;
        assert_errno!(rustix::io::pread(&fd, &mut [0; 8], 0), ESPIPE, "{state}");
        assert_errno!(rustix::io::pwrite(&fd, &[0; 8], 0), ESPIPE, "{state}");
        let seek = rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0));
        assert_errno!(seek, ESPIPE, "{state}");
        // It goes one way.
        match state {
            State::RESUMING => assert_errno!(fd.read(&mut [0; 8]), EBADF),
            _ => assert_errno!(fd.write(&[0; 8]), EBADF),
        }
        let flags = rustix::io::fcntl_getfd(&fd)?;
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        v2.reset()?;
    }
    Ok(())
}

fn closed_early(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    v2.write_pages(0..300, 1)?;
    // Nobody is left to read: the states go on as they do otherwise.
    for path in [
        &[State::PRE_COPY, State::PRE_COPY_P2P, State::STOP_COPY][..],
        &[State::PRE_COPY, State::RUNNING],
        &[State::STOP_COPY, State::STOP],
    ] {
        let fd = v2.begin(path[0])?;
        fd.read(&mut [0; 1000])?;
        drop(fd);
        for state in &path[1..] {
            v2.to(*state)?;
        }
        assert!(v2.feature.data_size()? > 0);
        v2.feature.set_state(State::RUNNING)?;
    }
    let expected = v2.save_v2()?;
    assert_eq!(parse(&expected)?.pages(PAGE).len(), 300);
    Ok(())
}

fn two_readers(lab: &Lab) -> Outcome {
    let v2 = V2::new(lab)?;
    let mut rng = fastrand::Rng::with_seed(lab.effort.seed);
    v2.write_memory(0, &random_bytes(&mut rng, 3 << 20))?;
    let expected = v2.save_v2()?;
    // Two descriptors of one stream: who reads next gets what is next.
    let one = v2.begin(State::STOP_COPY)?;
    let two = one.try_clone()?;
    let bytes = Mutex::new(Vec::new());
    let read = |fd: &DataFd, size: usize| -> std::io::Result<()> {
        let mut piece = vec![0; size];
        loop {
            let mut bytes = bytes.lock().unwrap();
            let n = fd.read(&mut piece)?;
            if n == 0 {
                return Ok(());
            }
            bytes.extend_from_slice(&piece[..n]);
        }
    };
    thread::scope(|threads| {
        let other = threads.spawn(|| read(&two, 999));
        read(&one, 70_001)?;
        other.join().expect("it does not panic")
    })?;
    assert!(bytes.into_inner().unwrap() == expected, "by two readers");
    // The first close is not the last.
    drop(one);
    assert_eq!(two.read(&mut [0; 8])?, 0);
    v2.to(State::STOP)?;
    expect_over(&two, "the clone");
    // At the very same time: every byte is given once.
    let one = v2.begin(State::STOP_COPY)?;
    let count = |fd: &DataFd, size: usize| -> std::io::Result<u64> {
        let mut piece = vec![0; size];
        let mut sum = 0;
        loop {
            let n = fd.read(&mut piece)?;
            sum += piece[..n].iter().map(|b| u64::from(*b) + 1).sum::<u64>();
            if n == 0 {
                return Ok(sum);
            }
        }
    };
    let sum = thread::scope(|threads| -> std::io::Result<u64> {
        let readers = [500, 4096, 33_333].map(|size| {
            threads.spawn({
                let fd = one.try_clone();
                move || count(&fd?, size)
            })
        });
        let mut sum = count(&one, 100_000)?;
        for reader in readers {
            sum += reader.join().expect("it does not panic")?;
        }
        Ok(sum)
    })?;
    let all = expected.iter().map(|b| u64::from(*b) + 1).sum::<u64>();
    assert_eq!(sum, all, "bytes were lost or given twice");
    Ok(())
}

fn reads_into_the_memory_of_the_same_device(lab: &Lab) -> Outcome {
    const FAR: usize = 8 << 20;
    let v2 = V2::new(lab)?;
    let mut rng = fastrand::Rng::with_seed(lab.effort.seed);
    v2.write_memory(0, &random_bytes(&mut rng, 64 << 10))?;
    let expected = v2.save_v2()?;
    let memory = v2.mdma.map_memory()?;
    // The copy to the user faults in the very device that is read.
    let fd = v2.begin(State::STOP_COPY)?;
    let mut at = FAR;
    loop {
        let n = fd.read_mapping(&memory, at, 10_000)?;
        if n == 0 {
            break;
        }
        at += n;
    }
    let found = memory.to_vec(FAR, at - FAR);
    // All of it was taken before the first byte was handed over: what the reads themselves wrote is not in it.
    assert!(found == expected, "read into the device's own memory");
    // And a load from there: it discards what it reads from, which is no stream then, and refused.
    v2.to(State::STOP)?;
    let fd = v2.begin(State::RESUMING)?;
    assert_errno!(fd.write_mapping(&memory, FAR, found.len()), EINVAL);
    v2.reset()?;
    let ready = fd.poll(PollFlags::OUT, Duration::ZERO)?;
    assert!(ready.contains(PollFlags::ERR));
    Ok(())
}
