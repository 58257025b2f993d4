// SPDX-License-Identifier: GPL-2.0

//! A KVM guest whose memory is device memory. A save or a reset by any process must not disturb it.
//!
//! KVM resolves a page fault of the guest and looks the page up in two steps. If it finds no page, `KVM_RUN` returns
//! `EFAULT`. If it finds a read-only page, KVM emulates the store. It cannot emulate stores of the FPU
//! (`KVM_EXIT_INTERNAL_ERROR`).

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vfio_client::kvm::{Exit, Guest};
use vfio_client::v2::State;
use vfio_client::{v1, Area, Mapping, Protection};

use crate::env::Env;
use crate::fixture::bytes::same;
use crate::fixture::passed_fd::{Passed, User};
use crate::fixture::v2::MdmaV2;
use crate::fixture::{device, parse, MdmaFixture, PAGE};
use crate::harness::result::Result;
use crate::v1::saving::{pages, set, write_pages};
use crate::{note, tests};

tests! { "kvm" needs [Mdma, Kvm]:
    stores_to_pages_read_in_pre_copy [],
    stores_to_pages_read_before_mprotect [],
    beside_a_thread_that_writes [],
    beside_a_thread_that_writes_emulated [],
    beside_mprotect [],
    p46_saved_by_another_process ["P46"],
    p11_reset_by_another_process ["P11"],
    saved_while_processes_fork [],
}

/// Stores the number 1.0 to `cx` consecutive pages with an instruction that KVM does not emulate. Wraps around after
/// [`WINDOW`] pages.
#[rustfmt::skip]
const STORE: &[u8] = &[
    0xd9, 0xe8,             // fld1
    0xdd, 0x1f,             // fstp qword [bx]
    0x81, 0xc3, 0x00, 0x10, // add bx, 4096
    0xe2, 0xf6,             // loop to the start
    0xf4,                   // hlt
];

/// The same with an instruction that KVM emulates.
#[rustfmt::skip]
const MOVE: &[u8] = &[
    0x89, 0x07,             // mov [bx], ax
    0x81, 0xc3, 0x00, 0x10, // add bx, 4096
    0xe2, 0xf8,             // loop to the start
    0xf4,                   // hlt
];

/// The number of pages that a guest reaches in one segment.
const WINDOW: u64 = 16;

/// The value that the guest stores.
const STORED: u64 = 1.0f64.to_bits();

/// Creates a new mapping of all device memory.
fn map(fixture: &MdmaFixture, protection: Protection) -> Result<Mapping> {
    let area = Area {
        offset: 0,
        size: fixture.mdma.memory_size(),
    };
    Ok(fixture.mdma.memory()?.mmap(area, protection)?)
}

/// Lets the guest store to a page and halt.
#[track_caller]
fn store(guest: &mut Guest<'_>, page: u64, when: &str) {
    let exit = guest.run(page * PAGE, 1).expect("KVM_RUN");
    assert_eq!(exit, Exit::Halted, "{when}");
}

/// Lets the guest repeatedly store to the first pages.
fn hammer(guest: &mut Guest<'_>, rounds: u64) -> Result {
    for round in 0..rounds {
        match guest.run(0, 8 * WINDOW as u16) {
            Ok(Exit::Halted) => {}
            other => crate::fail!("round {round}: the guest ended with {other:?}"),
        }
    }
    Ok(())
}

fn stores_to_pages_read_in_pre_copy(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    write_pages(&fixture, 0..8, 3)?;
    let mapping = map(&fixture, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&mapping, STORE)?;
    fixture.go(&[v1::State::PRE_COPY])?;
    fixture.save_pending()?;
    mapping.touch(2 * PAGE as usize);
    store(&mut guest, 2, "a page that was read in pre-copy");
    assert_eq!(pages(&parse(&fixture.save_pending()?.concat())?), set([2]));
    // The same after the page was sent, and after the end of pre-copy.
    store(&mut guest, 2, "a page that was sent");
    assert_eq!(pages(&parse(&fixture.save_pending()?.concat())?), set([2]));
    mapping.touch(4 * PAGE as usize);
    fixture.go(&[v1::State::RUNNING])?;
    store(
        &mut guest,
        4,
        "a page that was read before the end of pre-copy",
    );
    for page in [2, 4] {
        assert_eq!(fixture.read_memory(page * PAGE, 8)?, STORED.to_le_bytes());
    }
    Ok(())
}

fn stores_to_pages_read_before_mprotect(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    write_pages(&fixture, 0..8, 3)?;
    for state in [v1::State::RUNNING, v1::State::PRE_COPY] {
        fixture.go(&[state])?;
        fixture.save_pending()?;
        let mapping = map(&fixture, Protection::READ_WRITE)?;
        let len = 8 * PAGE as usize;
        mapping.protect(0, len, false)?;
        mapping.touch(5 * PAGE as usize);
        mapping.protect(0, len, true)?;
        let mut guest = Guest::new(&mapping, STORE)?;
        store(&mut guest, 5, "a page that was read before it was writable");
        if state == v1::State::PRE_COPY {
            assert_eq!(pages(&parse(&fixture.save_pending()?.concat())?), set([5]));
        }
    }
    Ok(())
}

/// Saves the device while `body` runs, stops it, loads the stream into another device and compares.
fn saved_meanwhile(env: &Env, fixture: &MdmaFixture, body: impl FnOnce() -> Result) -> Result {
    let over = AtomicBool::new(false);
    fixture.go(&[v1::State::PRE_COPY])?;
    let mut bytes = thread::scope(|threads| -> Result<Vec<u8>> {
        let saver = threads.spawn(|| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            while !over.load(Ordering::SeqCst) {
                bytes.extend(fixture.save_pending()?.concat());
            }
            Ok(bytes)
        });
        let result = body();
        over.store(true, Ordering::SeqCst);
        let bytes = saver.join().expect("the saver");
        result?;
        bytes
    })?;
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    bytes.extend(fixture.save_pending()?.concat());
    note!("{} pages sent", bytes.len() as u64 / PAGE);
    let destination = MdmaFixture::new(env)?;
    destination.load(&bytes)?;
    let len = (2 * WINDOW * PAGE) as usize;
    let expected = fixture.read_memory(0, len)?;
    let found = destination.read_memory(0, len)?;
    same(&found, &expected, device(0), "written during the save");
    Ok(())
}

fn beside_a_thread_that_writes(env: &Env) -> Result {
    beside_a_writer(env, STORE, env.limits.iterations / 2)
}

fn beside_a_thread_that_writes_emulated(env: &Env) -> Result {
    beside_a_writer(env, MOVE, env.limits.iterations * 2)
}

/// A thread reads and writes the guest's pages through the same mapping.
fn beside_a_writer(env: &Env, code: &[u8], rounds: u64) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mapping = map(&fixture, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&mapping, code)?;
    let over = AtomicBool::new(false);
    saved_meanwhile(env, &fixture, || {
        thread::scope(|threads| {
            threads.spawn(|| {
                let mut rng = fastrand::Rng::with_seed(env.limits.seed);
                while !over.load(Ordering::SeqCst) {
                    let at = (rng.u64(0..WINDOW) * PAGE) as usize;
                    mapping.touch(at);
                    mapping.store_u64(at + 8, rng.u64(..), Ordering::Relaxed);
                }
            });
            let result = hammer(&mut guest, rounds);
            over.store(true, Ordering::SeqCst);
            result
        })
    })
}

/// A thread repeatedly makes another mapping of the pages read-only, reads them, makes it writable and writes them.
fn beside_mprotect(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let guests = map(&fixture, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&guests, STORE)?;
    let mapping = map(&fixture, Protection::READ_WRITE)?;
    let over = AtomicBool::new(false);
    saved_meanwhile(env, &fixture, || {
        thread::scope(|threads| {
            let writer = threads.spawn(|| -> Result<u64> {
                let mut rng = fastrand::Rng::with_seed(env.limits.seed);
                let mut rounds = 0;
                while !over.load(Ordering::SeqCst) {
                    let at = (rng.u64(0..WINDOW) * PAGE) as usize;
                    let len = (rng.u64(1..4) * PAGE) as usize;
                    mapping.protect(at, len, false)?;
                    mapping.touch(at);
                    mapping.protect(at, len, true)?;
                    mapping.store_u64(at + 8, rng.u64(..), Ordering::Relaxed);
                    rounds += 1;
                }
                Ok(rounds)
            });
            let result = hammer(&mut guest, env.limits.iterations / 2);
            over.store(true, Ordering::SeqCst);
            let rounds = writer.join().expect("the writer")?;
            note!("{rounds} rounds of mprotect()");
            result
        })
    })
}

/// The rounds beside another process that removes page table entries. If that process does not lock the guest's address
/// space, the guest ends in the second or third round.
fn rounds_beside_a_process(env: &Env) -> u64 {
    env.limits.fewer(10)
}

/// A process other than the guest's saves the device.
fn p46_saved_by_another_process(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    v2.write_pages(0..WINDOW, 3)?;
    let mapping = map(&v2, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&mapping, STORE)?;
    let fd = v2.begin(State::PRE_COPY)?;
    let child = User::start(Passed::Data, fd.as_fd())?;
    hammer(&mut guest, rounds_beside_a_process(env))?;
    note!("the other process read {} bytes", child.end()?);
    Ok(())
}

fn p11_reset_by_another_process(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mapping = map(&fixture, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&mapping, STORE)?;
    let child = User::start(Passed::Device, fixture.device.as_fd())?;
    hammer(&mut guest, rounds_beside_a_process(env))?;
    note!("{} resets by the other process", child.end()?);
    // The guest and the device still access the same memory.
    store(&mut guest, 3, "after the last reset");
    assert_eq!(fixture.read_memory(3 * PAGE, 8)?, STORED.to_le_bytes());
    fixture.device.reset()?;
    assert_eq!(mapping.to_vec(3 * PAGE as usize, 8), [0; 8]);
    Ok(())
}

/// A fork copies the mapping, and the new process keeps it until it executes another program.
fn saved_while_processes_fork(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mapping = map(&fixture, Protection::READ_WRITE)?;
    let mut guest = Guest::new(&mapping, STORE)?;
    let over = AtomicBool::new(false);
    saved_meanwhile(env, &fixture, || {
        thread::scope(|threads| {
            let parent = threads.spawn(|| -> Result<u64> {
                let mut forks = 0;
                while !over.load(Ordering::SeqCst) {
                    // Setting a user ID makes the library fork. Otherwise, the child could share the memory.
                    let mut command = Command::new("/proc/self/exe");
                    command.args(["--list", "no such test"]).uid(0);
                    command.stderr(Stdio::null()).status()?;
                    forks += 1;
                }
                Ok(forks)
            });
            let result = hammer(&mut guest, env.limits.iterations / 2);
            over.store(true, Ordering::SeqCst);
            note!("{} forks", parent.join().expect("the parent")?);
            result
        })
    })
}
