// SPDX-License-Identifier: GPL-2.0

//! Copies between the data file and memory of the user that is not present, or that the user may not write.
//!
//! The device copies straight to and from that memory, and never waits for a page of it with the state locked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ::hostile::{Kind, Stalled};
use vfio_client::v2::{DataFd, State};
use vfio_client::Mapping;

use crate::env::Env;
use crate::fixture::v2::V2;
use crate::fixture::{parse, PAGE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::tests;
use crate::v2::saving::drain;

tests! { "v2_data_file":
    memory_that_was_never_touched [],
    memory_that_is_partly_read_only [],
    a_read_that_waits_for_a_page_blocks_no_change_of_state [],
    a_write_that_waits_for_a_page_blocks_no_query_of_the_state [],
    p26_writers_during_pre_copy_break_no_checksum ["P26", "P43"] needs [DeviceMemory],
}

/// The bytes of a read. Most streams here have more.
const SIZE: usize = 1 << 20;

/// Pages of device memory that are saved.
const PAGES: u64 = 700;

/// Reads a file to its end by way of a mapping.
fn drain_by(fd: &DataFd, memory: &Mapping, bytes: &mut Vec<u8>) -> Result {
    loop {
        match fd.read_mapping(memory, 0, SIZE)? {
            0 => return Ok(()),
            n => bytes.extend(memory.to_vec(0, n)),
        }
    }
}

fn memory_that_was_never_touched(env: &Env) -> Result {
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages(0..PAGES, 3)?;
    let fd = source.begin(State::STOP_COPY)?;
    let mut bytes = Vec::new();
    // Each read has memory of its own, of which no page is present.
    loop {
        let memory = Mapping::anonymous(SIZE)?;
        match fd.read_mapping(&memory, 0, SIZE)? {
            0 => break,
            n => bytes.extend(memory.to_vec(0, n)),
        }
    }
    source.to(State::STOP)?;
    destination.load_v2(&bytes)?;
    source.expect_equal(&destination, "through memory that was never touched")?;

    // It reads 0, which is no stream.
    let destination = V2::new(env)?;
    let fd = destination.begin(State::RESUMING)?;
    let memory = Mapping::anonymous(SIZE)?;
    crate::assert_errno!(fd.write_mapping(&memory, 0, SIZE), EINVAL);
    destination.reset()
}

fn memory_that_is_partly_read_only(env: &Env) -> Result {
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages(0..PAGES, 5)?;
    let fd = source.begin(State::STOP_COPY)?;
    let memory = Mapping::anonymous(SIZE)?;
    memory.fill(0, SIZE, 1);
    let page = PAGE as usize;
    let mut bytes = Vec::new();
    // The device writes what it can, and loses nothing.
    for writable in [3 * page, 20 * page, 100 * page] {
        memory.protect(writable, SIZE - writable, false)?;
        let n = fd.read_mapping(&memory, 0, SIZE)?;
        assert!(
            n != 0 && n <= writable,
            "{n} bytes were read, {writable} are writable"
        );
        bytes.extend(memory.to_vec(0, n));
        memory.protect(writable, SIZE - writable, true)?;
        if n < page {
            // The stream of a device without memory.
            break;
        }
    }
    memory.protect(0, SIZE, false)?;
    if source.has_page(PAGES) {
        crate::assert_errno!(fd.read_mapping(&memory, 0, SIZE), EFAULT);
    }
    memory.protect(0, SIZE, true)?;
    drain_by(&fd, &memory, &mut bytes)?;
    source.to(State::STOP)?;
    destination.load_v2(&bytes)?;
    source.expect_equal(&destination, "after reads that failed")
}

fn a_read_that_waits_for_a_page_blocks_no_change_of_state(env: &Env) -> Result {
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages(0..PAGES, 7)?;
    let fd = source.begin(State::PRE_COPY)?;
    let stalled = Stalled::new(Kind::Userfault, vec![0; SIZE])?;
    let mut bytes = thread::scope(|threads| -> Result<Vec<u8>> {
        let reader = threads.spawn(|| fd.read_mapping(stalled.memory(), 0, SIZE));
        let changed = || -> Result {
            stalled.wait(1, PATIENCE)?;
            source.to(State::PRE_COPY_P2P)?;
            source.to(State::STOP_COPY)
        };
        let changed = changed();
        stalled.release();
        let n = reader.join().expect("it does not panic")?;
        changed?;
        Ok(stalled.memory().to_vec(0, n))
    })?;
    bytes.extend(drain(&fd)?);
    source.to(State::STOP)?;
    destination.load_v2(&bytes)?;
    source.expect_equal(&destination, "after a read that waited")
}

fn a_write_that_waits_for_a_page_blocks_no_query_of_the_state(env: &Env) -> Result {
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages(0..PAGES, 9)?;
    let bytes = source.save_v2()?;
    let fd = destination.begin(State::RESUMING)?;
    let len = bytes.len().next_multiple_of(PAGE as usize);
    let mut contents = bytes.clone();
    contents.resize(len, 0);
    let stalled = Stalled::new(Kind::Userfault, contents)?;
    thread::scope(|threads| -> Result {
        let writer = threads.spawn(|| fd.write_mapping(stalled.memory(), 0, bytes.len()));
        let asked = || -> Result<State> {
            stalled.wait(1, PATIENCE)?;
            destination.now()
        };
        let state = asked();
        stalled.release();
        let mut done = writer.join().expect("it does not panic")?;
        assert_eq!(state?, State::RESUMING);
        while done < bytes.len() {
            done += fd.write(&bytes[done..])?;
        }
        Ok(())
    })?;
    destination.to(State::RUNNING)?;
    source.expect_equal(&destination, "after a write that waited")
}

/// The device reads a page twice, for the copy and for its checksum. What is written between must not show.
fn p26_writers_during_pre_copy_break_no_checksum(env: &Env) -> Result {
    const ROUNDS: usize = 40;
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages(0..PAGES, 1)?;
    let memory = source.map_memory()?;
    let fd = source.begin(State::PRE_COPY)?;
    let mut bytes = Vec::new();
    let is_over = AtomicBool::new(false);
    let pages = PAGES.min(source.memory_size() / PAGE);
    thread::scope(|threads| -> Result {
        let by_mapping = threads.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(env.limits.seed);
            while !is_over.load(Ordering::Relaxed) {
                let at = rng.u64(..pages) * PAGE + 8 * rng.u64(..PAGE / 8);
                memory.store_u64(at as usize, rng.u64(..), Ordering::Relaxed);
            }
        });
        let by_calls = threads.spawn(|| -> Result {
            let mut rng = fastrand::Rng::with_seed(!env.limits.seed);
            while !is_over.load(Ordering::Relaxed) {
                let at = rng.u64(..pages) * PAGE;
                source.write_memory(at, &[rng.u8(..); PAGE as usize])?;
            }
            Ok(())
        });
        let mut piece = vec![0; SIZE];
        let read = (0..ROUNDS).try_for_each(|_| -> Result {
            // `ENOMSG`: nothing has changed since the last read.
            match fd.read(&mut piece) {
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(e) if e.raw_os_error() == Some(libc::ENOMSG) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        by_mapping.join().expect("it does not panic");
        by_calls.join().expect("it does not panic")?;
        read
    })?;
    source.to(State::STOP_COPY)?;
    bytes.extend(drain(&fd)?);
    source.to(State::STOP)?;
    parse(&bytes)?;
    destination.load_v2(&bytes)?;
    source.expect_equal(&destination, "after writes during pre-copy")
}
