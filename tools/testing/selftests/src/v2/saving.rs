// SPDX-License-Identifier: GPL-2.0

//! Saving through v2: what reads of the data file return, and when they begin to fail.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use migration::stream::{Kind, HEADER_SIZE};
use rustix::event::PollFlags;
use vfio_client::v2::{DataFd, State};

use crate::env::{facts, Env};
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::snapshot::Snapshot;
use crate::fixture::v2::{expect_over, read_pieces, V2};
use crate::fixture::{device, parse, PAGE};
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "v2_saving":
    p43_moves_among_the_saving_states_keep_the_session ["P43"],
    p43_a_session_that_is_over_gives_errors ["P43", "P21"],
    p43_an_old_descriptor_never_gets_the_next_session ["P43"],
    p46_the_end_in_stop_copy ["P46"],
    p47_data_size_is_what_a_stop_would_send ["P47"],
    reads_of_any_size [],
    changes_during_pre_copy_arrive [] needs [DeviceMemory],
    the_descriptor_is_a_stream [],
    closed_early [],
    two_readers [],
    reads_into_the_memory_of_the_same_device [] needs [DeviceMemory],
}

/// The maximal error of an estimate in bytes: state that is smaller than its maximum, and additional headers where a
/// buffer ends within a record.
pub(crate) fn slack() -> Result<u64> {
    Ok(facts::known()?.state_size_max + 16 * HEADER_SIZE as u64)
}

/// Reads all data that is available now.
pub(crate) fn drain(fd: &DataFd) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    Ok(bytes)
}

fn p43_moves_among_the_saving_states_keep_the_session(env: &Env) -> Result {
    let v2 = V2::new(env)?;
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
        // Each state returns a part of the stream. The last read spans two states.
        let mut piece = vec![0; 30_001];
        match fd.read(&mut piece) {
            Ok(got) => bytes.extend_from_slice(&piece[..got]),
            Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {}
            Err(e) => return Err(e.into()),
        }
        v2.write_pages([50 + n], 2)?;
        v2.to(state)?;
    }
    bytes.extend(drain(&fd)?);
    v2.to(State::STOP)?;
    let stream = parse(&bytes)?;
    v2.snapshot()?
        .expect(&Snapshot::of(&stream)?, "in one stream");
    let last = stream.records.last().and_then(|r| r.kind());
    assert_eq!(last, Some(Kind::End));
    Ok(())
}

fn p43_a_session_that_is_over_gives_errors(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..300, 1)?;
    for begin in [State::PRE_COPY, State::PRE_COPY_P2P, State::STOP_COPY] {
        for end in [State::RUNNING, State::RUNNING_P2P, State::STOP] {
            // Read nothing, a part of the first buffer, or everything.
            for read in [0, 10, usize::MAX] {
                let fd = v2.begin(begin)?;
                let mut bytes = vec![0; read.min(10)];
                match read {
                    usize::MAX => drop(drain(&fd)?),
                    _ => assert_eq!(fd.read(&mut bytes)?, bytes.len()),
                }
                v2.to(end)?;
                expect_over(&fd, &format!("{begin} to {end}, {read} bytes read"));
                v2.feature.set_state(State::RUNNING)?;
                expect_over(&fd, "after the device ran again");
            }
        }
    }
    // A reset, the last close, and the removal of the instance end a session.
    let fd = v2.begin(State::PRE_COPY)?;
    v2.reset()?;
    expect_over(&fd, "after a reset");
    let fd = v2.begin(State::PRE_COPY)?;
    let V2 { feature, fixture } = v2;
    drop(feature);
    let instance = fixture.close();
    expect_over(&fd, "after the close");
    instance.remove()?;
    expect_over(&fd, "after the instance was removed");
    Ok(())
}

fn p43_an_old_descriptor_never_gets_the_next_session(env: &Env) -> Result {
    let v2 = V2::new(env)?;
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
                    second.write_all(&expected[..50])?;
                    expect_over(&first, "while the next session loads");
                    second.write_all(&expected[50..])?;
                }
                State::STOP_COPY => assert!(drain(&second)? == expected, "{old}, then {new}"),
                _ => assert!(!drain(&second)?.is_empty()),
            }
            v2.to(State::RUNNING)?;
        }
    }
    Ok(())
}

fn p46_the_end_in_stop_copy(env: &Env) -> Result {
    let v2 = V2::new(env)?;
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

fn p47_data_size_is_what_a_stop_would_send(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let slack = slack()?;
    for count in [0, 1, 300, 4000] {
        v2.write_pages((0..count).step_by(2), 1)?;
        let pages = count.div_ceil(2);
        let size = v2.feature.data_size()?;
        let sent = v2.save_v2()?.len() as u64;
        let slack = slack + pages * HEADER_SIZE as u64;
        assert!(
            size.abs_diff(sent) <= slack,
            "estimated {size}, sent {sent}"
        );
        v2.to(State::RUNNING)?;
    }
    // The feature works in every state.
    for state in State::ALL {
        let fd = v2.reach(state)?;
        v2.feature.data_size()?;
        drop(fd);
        v2.reset()?;
    }
    // The estimate excludes data that the user has read, and includes data that the device has only staged.
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
            (left + total).abs_diff(whole) <= slack,
            "{left} of {whole} left after {total}"
        );
        if got == 0 {
            assert_eq!(left, 0);
            return Ok(());
        }
    }
}

fn reads_of_any_size(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    v2.fill_state(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 100])?;
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
    // A read of no bytes.
    let fd = v2.begin(State::STOP_COPY)?;
    assert_eq!(fd.read(&mut [])?, 0);
    assert!(drain(&fd)? == expected, "after a read of no bytes");
    Ok(())
}

fn changes_during_pre_copy_arrive(env: &Env) -> Result {
    let source = V2::new(env)?;
    let destination = V2::new(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let memory = source.map_memory()?;
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

fn the_descriptor_is_a_stream(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    for state in [State::STOP_COPY, State::RESUMING] {
        let fd = v2.begin(state)?;
        assert_errno!(rustix::io::pread(&fd, &mut [0; 8], 0), ESPIPE, "{state}");
        assert_errno!(rustix::io::pwrite(&fd, &[0; 8], 0), ESPIPE, "{state}");
        let seek = rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0));
        assert_errno!(seek, ESPIPE, "{state}");
        // The data file supports one direction only.
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

fn closed_early(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..300, 1)?;
    // The user closes the data file early. The changes of state still work.
    for path in [
        &[State::PRE_COPY, State::PRE_COPY_P2P, State::STOP_COPY][..],
        &[State::PRE_COPY, State::RUNNING],
        &[State::STOP_COPY, State::STOP],
    ] {
        let fd = v2.begin(path[0])?;
        fd.read(&mut [0; 10])?;
        drop(fd);
        for state in &path[1..] {
            v2.to(*state)?;
        }
        assert!(v2.feature.data_size()? > 0);
        v2.feature.set_state(State::RUNNING)?;
    }
    let expected = v2.save_v2()?;
    let pages = (0..300).filter(|page| v2.has_page(*page)).count();
    assert_eq!(parse(&expected)?.pages(PAGE).len(), pages);
    Ok(())
}

fn two_readers(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let pages: Vec<u64> = (0..768).collect();
    v2.fill_state(&pages)?;
    // All reads here are too short for records, so they end where the device's buffer does.
    let expected = {
        let fd = v2.begin(State::STOP_COPY)?;
        let mut bytes = Vec::new();
        let mut piece = [0; 1000];
        loop {
            match fd.read(&mut piece)? {
                0 => break bytes,
                n => bytes.extend_from_slice(&piece[..n]),
            }
        }
    };
    v2.to(State::STOP)?;
    // Two descriptors share one stream: each read returns the next bytes of it.
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
        read(&one, 60_001)?;
        other.join().expect("it does not panic")
    })?;
    assert!(
        bytes.into_inner().unwrap() == expected,
        "the stream read by two readers"
    );
    // The file stays open after the first close.
    drop(one);
    assert_eq!(two.read(&mut [0; 8])?, 0);
    v2.to(State::STOP)?;
    expect_over(&two, "the clone");
    // The readers run concurrently: each byte is returned once.
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
        let mut sum = count(&one, 50_000)?;
        for reader in readers {
            sum += reader.join().expect("it does not panic")?;
        }
        Ok(sum)
    })?;
    let all = expected.iter().map(|b| u64::from(*b) + 1).sum::<u64>();
    assert_eq!(sum, all, "bytes were lost or returned twice");
    Ok(())
}

fn reads_into_the_memory_of_the_same_device(env: &Env) -> Result {
    const FAR: usize = 8 << 20;
    let v2 = V2::new(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    v2.write_memory(0, &random_bytes(&mut rng, 64 << 10))?;
    let expected = v2.save_v2()?;
    let memory = v2.map_memory()?;
    // The destination of the copy is a mapping of the same device, so a copy faults in it and changes what is saved: each
    // read makes more to send.
    let fd = v2.begin(State::STOP_COPY)?;
    for size in [10_000, 1 << 20, 10_000, 4 << 20] {
        let n = fd.read_mapping(&memory, FAR, size)?;
        assert!(n != 0, "nothing is left to read");
    }
    v2.to(State::STOP)?;
    v2.write_memory(FAR as u64, &expected)?;
    // A load from the same memory fails: the load clears device memory, so the source is no longer a stream.
    v2.to(State::STOP)?;
    let fd = v2.begin(State::RESUMING)?;
    assert_errno!(fd.write_mapping(&memory, FAR, expected.len()), EINVAL);
    v2.reset()?;
    let ready = fd.poll(PollFlags::OUT, Duration::ZERO)?;
    assert!(ready.contains(PollFlags::ERR));
    Ok(())
}
