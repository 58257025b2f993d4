// SPDX-License-Identifier: GPL-2.0

//! A user of an instance leaves nothing to the next one unless root sets `keep_state`.
//!
//! An instance stays in its group when it is closed, and the next user of the group gets the same device. This user
//! could read leftover registers and memory, and a leftover queue would write to this user's memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use mdma::regs::{self, Reg};
use mdma::{job, Snapshot};
use vfio_client::v1::State;
use vfio_client::{pci, DmaBuffer, EventFd};

use crate::env::debugfs;
use crate::env::{Env, Guest, Instance, SMALL};
use crate::fixture::bytes::all_are;
use crate::fixture::{self, Fixture, MdmaFixture, VfioQueue, MARK, QUEUE};
use crate::harness::check::{expect_signal, expect_silence, wait_for, SILENCE};
use crate::harness::result::Result;
use crate::irq::msi::{INTX, MSIX};
use crate::{assert_errno, tests};

tests! { "next_user":
    everything_is_as_at_power_on [] needs [Mdma],
    a_close_in_any_state_leaves_nothing [],
    a_kept_state_is_the_next_users [],
    a_queue_does_no_dma [] needs [Mdma],
    keep_state_is_for_root_to_set [],
    kept_registers_and_memory_stay [] needs [Mdma],
    a_kept_state_is_dropped_when_root_says_so [] needs [Mdma],
    a_kept_half_load_is_reset [] needs [Mdma],
    a_kept_queue_waits_to_be_asked [] needs [Mdma],
}

/// Everything that a user can read from a device.
struct Look {
    registers: Snapshot,
    config: Vec<u8>,
    msix: Vec<u8>,
}

impl Look {
    fn at(fixture: &MdmaFixture) -> Result<Self> {
        let mut config = vec![0; 256];
        fixture.device.config()?.region().read(0, &mut config)?;
        let mut msix = Vec::new();
        let bar = fixture.region(regs::BAR_MSIX)?;
        for at in (0..bar.info().size).step_by(8) {
            msix.extend(bar.read_u64(at)?.to_le_bytes());
        }
        Ok(Look {
            registers: fixture.registers()?,
            config,
            msix,
        })
    }

    /// Checks that a device that was opened again looks like this one.
    fn expect(&self, fixture: &MdmaFixture) -> Result {
        // Check this first, because reading memory must not allocate pages.
        assert_eq!(debugfs::migration(fixture.uuid(), "populated_pages")?, 0);
        let look = Look::at(fixture)?;
        assert_eq!(look.registers.diff(&self.registers), []);
        assert_eq!(look.config, self.config, "configuration space");
        assert_eq!(look.msix, self.msix, "the MSI-X table and pending bits");
        let size = fixture.mdma.memory_size() as usize;
        let memory = fixture.read_memory(0, size)?;
        assert!(all_are(&memory, 0), "device memory");
        Ok(())
    }
}

/// Fills all state of the device: registers, memory, MSI-X table, a pending bit, INTx, and configuration space.
fn fill_state(fixture: &MdmaFixture) -> Result {
    let table = fixture.region(regs::BAR_MSIX)?;
    for at in (0..0x40).step_by(8) {
        table.write_u64(at, 0xfeed_face_cafe_f00d)?;
    }
    fixture.mdma.set(Reg::Scratch, 42)?;
    fixture.mdma.set_interrupts(regs::INT_ALL)?;
    fixture.mdma.set_throttle(3)?;
    // The device refuses and counts this write.
    fixture.mdma.set(Reg::Id, 1)?;
    let mut queue = fixture.queue(3)?;
    let fill = job::fill(fixture::device(100), 0x6464_6464_6464_6464, 50_000);
    fixture::run_jobs(&mut queue, &[fill.interrupt()])?;
    wait_for("the pending bit", || Ok(table.read_u64(0x800)? == 1))?;
    fixture.mdma.map_memory()?.write(5 << 20, b"mapped");
    // A setting of the guest's driver, in addition to those that VFIO makes.
    fixture.device.config()?.region().write_u8(0x3c, 0x5a)?;
    Ok(())
}

/// Earlier, the next user could read the state of this one.
fn everything_is_as_at_power_on(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let power_on = Look::at(&fixture)?;
    fill_state(&fixture)?;
    assert_ne!(Look::at(&fixture)?.msix, power_on.msix);
    // Only some states have a session whose end could clean up the device.
    let mut instance = fixture.close();
    for left_in in crate::fixture::every_state::STATES {
        let fixture = MdmaFixture::of(Guest::open(instance)?)?;
        power_on.expect(&fixture)?;
        for index in [INTX, MSIX] {
            let event = EventFd::new()?;
            let irq = fixture.device.irq(index)?;
            irq.set_eventfds(0, &[Some(&event)])?;
            expect_silence(&event, "the cause belongs to the last user");
            irq.disable()?;
        }
        fill_state(&fixture)?;
        match left_in {
            State::STOP_AND_COPY => fixture.go(&[State::PRE_COPY, left_in])?,
            State::ERROR => {
                fixture.go(&[State::RESUMING])?;
                assert!(fixture.migration.write_state(State::RUNNING).is_err());
            }
            _ => fixture.go(&[left_in])?,
        }
        instance = fixture.close();
        assert_eq!(
            debugfs::migration(instance.uuid.as_str(), "populated_pages")?,
            0,
            "closed in {left_in}"
        );
    }
    power_on.expect(&MdmaFixture::of(Guest::open(instance)?)?)
}

/// Leaves a running device in a state.
fn leave_in(fixture: &Fixture, state: State) -> Result {
    match state {
        State::STOP_AND_COPY => fixture.go(&[State::PRE_COPY, state]),
        State::ERROR => {
            fixture.go(&[State::RESUMING])?;
            assert!(fixture.migration.write_state(State::RUNNING).is_err());
            Ok(())
        }
        _ => fixture.go(&[state]),
    }
}

/// Whatever the device is, and whatever state it is closed in, the next user gets a device as at power-on.
fn a_close_in_any_state_leaves_nothing(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let power_on = fixture.snapshot()?;
    let config = fixture.device.config()?.snapshot()?;
    fixture.fill_state(&[0, 3])?;
    let mut instance = fixture.close();
    for left_in in crate::fixture::every_state::STATES {
        let fixture = Fixture::of(Guest::open(instance)?)?;
        let when = format!("before a close in {left_in}");
        fixture.expect_no_mark(&when);
        fixture.snapshot()?.expect(&power_on, &when);
        assert_eq!(fixture.device.config()?.snapshot()?, config, "{when}");
        fixture.fill_state(&[0, 3])?;
        fixture.device.config()?.region().write_u8(0x3c, 0x5a)?;
        leave_in(&fixture, left_in)?;
        instance = fixture.close();
    }
    let fixture = Fixture::of(Guest::open(instance)?)?;
    fixture
        .snapshot()?
        .expect(&power_on, "after the last close");
    Ok(())
}

/// A kept state stays over closes, until root says that it shall not.
fn a_kept_state_is_the_next_users(env: &Env) -> Result {
    let mut fixture = Fixture::new(env)?;
    let power_on = fixture.snapshot()?;
    fixture.instance.keep_state(true)?;
    fixture.fill_state(&[0, 3])?;
    let kept = fixture.snapshot()?;
    for close in 1..3 {
        fixture = Fixture::of(Guest::open(fixture.close())?)?;
        let when = format!("after close {close}");
        fixture.expect_mark(MARK, &when);
        fixture.snapshot()?.expect(&kept, &when);
    }
    let instance = fixture.close();
    instance.keep_state(false)?;
    let fixture = Fixture::of(Guest::open(instance)?)?;
    fixture.snapshot()?.expect(&power_on, "dropped by root");
    Ok(())
}

/// The IOVA at which both users have memory.
const IOVA: u64 = 0x10_0000;
const BYTES: usize = 4 << 20;

/// Closes an instance in the middle of a job that writes to [`IOVA`].
fn leave_in_a_job(instance: Instance) -> Result<Instance> {
    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
    let buffer = fixture.buffer(IOVA, BYTES)?;
    let mut queue = fixture.queue(4)?;
    // The job takes seconds and so does not finish before the close.
    fixture.mdma.set_throttle(100_000)?;
    queue.submit(&job::fill(fixture::guest(IOVA), !0, BYTES as u64))?;
    fixture::wait_register(&fixture.mdma, Reg::BytesDone, "the job to begin", |v| v > 0)?;
    drop((queue, buffer));
    Ok(fixture.close())
}

/// The next user, who maps the same addresses and sets bus master.
struct Next {
    // Dropped in this order.
    buffer: DmaBuffer,
    ring: DmaBuffer,
    fixture: MdmaFixture,
}

impl Next {
    fn open(instance: Instance) -> Result<Self> {
        let guest = Guest::open(instance)?;
        let (buffer, ring) = (
            guest.buffer(IOVA, BYTES)?,
            guest.buffer(QUEUE, VfioQueue::size(4))?,
        );
        assert_eq!(guest.device.config()?.command()? & pci::COMMAND_MASTER, 0);
        // Sets bus master.
        let fixture = MdmaFixture::of(guest)?;
        let next = Next {
            buffer,
            ring,
            fixture,
        };
        thread::sleep(SILENCE);
        assert!(next.is_untouched(), "DMA by a job of the last user");
        Ok(next)
    }

    fn is_untouched(&self) -> bool {
        let zero = |b: &DmaBuffer| b.to_vec(0, b.len()).iter().all(|b| *b == 0);
        zero(&self.buffer) && zero(&self.ring)
    }
}

/// Earlier, the job continued when the next user set bus master, and wrote 4,128,768 bytes of this user's memory.
fn a_queue_does_no_dma(env: &Env) -> Result {
    let instance = leave_in_a_job(env.instance(SMALL)?)?;
    let next = Next::open(instance)?;
    // A doorbell or a start does not wake the queue either.
    next.fixture.mdma.set(Reg::Tail, 1)?;
    next.fixture.go(&[State::STOP, State::RUNNING])?;
    thread::sleep(SILENCE);
    assert!(next.is_untouched(), "DMA by a job of the last user");
    assert_eq!(next.fixture.mdma.get(Reg::Status)?, 0);
    let Next {
        buffer,
        ring,
        fixture,
    } = next;
    drop(ring);
    let mut queue = fixture.queue(4)?;
    fixture::run_jobs(&mut queue, &[job::fill(fixture::guest(IOVA), 1, 8)])?;
    assert_eq!(buffer.to_vec(0, 8), 1u64.to_le_bytes());
    Ok(())
}

fn keep_state_is_for_root_to_set(env: &Env) -> Result {
    const NOBODY: u32 = 65534;
    let instance = env.instance(env.subject())?;
    let path = instance.path().join("keep_state");
    let meta = fs::metadata(&path)?;
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o644, 0));
    assert_eq!(fs::read_to_string(&path)?, "0\n");
    for (text, value) in [("1", "1\n"), ("0\n", "0\n"), ("y", "1\n")] {
        fs::write(&path, text)?;
        assert_eq!(fs::read_to_string(&path)?, value);
    }
    for text in ["", "2", "maybe"] {
        // An empty write does not reach the driver.
        if !text.is_empty() {
            assert_errno!(fs::write(&path, text), EINVAL, "{text:?}");
        }
        assert_eq!(fs::read_to_string(&path)?, "1\n");
    }
    let set_by = |uid: u32| {
        let write = format!("echo 0 > {}", path.display());
        Command::new("sh").args(["-c", &write]).uid(uid).status()
    };
    assert!(!set_by(NOBODY)?.success());
    assert_eq!(fs::read_to_string(&path)?, "1\n");
    assert!(set_by(0)?.success());
    assert_eq!(fs::read_to_string(&path)?, "0\n");
    // The removal deletes the file, and an open file does not delay the removal.
    let held = fs::File::open(&path)?;
    instance.remove()?;
    assert_errno!(fs::metadata(&path), ENOENT);
    drop(held);
    Ok(())
}

fn kept_registers_and_memory_stay(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    fixture.instance.keep_state(true)?;
    fill_state(&fixture)?;
    let before = Look::at(&fixture)?;
    // The state stays over more than one close.
    let mut fixture = fixture;
    for _ in 0..2 {
        fixture = MdmaFixture::of(Guest::open(fixture.close())?)?;
        let look = Look::at(&fixture)?;
        assert_eq!(look.registers.diff(&before.registers), []);
        assert_eq!(look.msix, before.msix);
        assert_ne!(look.config, before.config, "configuration space was kept");
        assert_eq!(fixture.read_memory(100, 50_000)?, [0x64; 50_000]);
        assert_eq!(fixture.read_memory(5 << 20, 6)?, b"mapped");
    }
    // The interrupt is still asserted for the next user.
    let event = EventFd::new()?;
    let intx = fixture.device.irq(INTX)?;
    intx.set_eventfds(0, &[Some(&event)])?;
    expect_signal(&event, "INTx of a kept cause");
    Ok(())
}

fn a_kept_state_is_dropped_when_root_says_so(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let power_on = Look::at(&fixture)?;
    // If the device is closed, the write drops the state at once.
    fixture.instance.keep_state(true)?;
    fill_state(&fixture)?;
    let instance = fixture.close();
    let populated = || debugfs::migration(instance.uuid.as_str(), "populated_pages");
    assert!(populated()? > 0);
    instance.keep_state(false)?;
    assert_eq!(populated()?, 0);
    let fixture = MdmaFixture::of(Guest::open(instance)?)?;
    power_on.expect(&fixture)?;
    // If the device is open, the close drops the state.
    fixture.instance.keep_state(true)?;
    fill_state(&fixture)?;
    fixture.instance.keep_state(false)?;
    assert_eq!(
        fixture.mdma.get(Reg::Scratch)?,
        42,
        "the state was dropped while in use"
    );
    power_on.expect(&MdmaFixture::of(Guest::open(fixture.close())?)?)
}

fn a_kept_half_load_is_reset(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let power_on = Look::at(&fixture)?;
    fixture.instance.keep_state(true)?;
    fixture.write_memory(0, &[1; 1 << 20])?;
    let stream = fixture.save()?;
    fixture.go(&[State::RESUMING])?;
    fixture.feed(&stream[..stream.len() / 2], fixture.section())?;
    power_on.expect(&MdmaFixture::of(Guest::open(fixture.close())?)?)
}

/// A kept queue stays idle until the new driver rings the doorbell or starts the device.
fn a_kept_queue_waits_to_be_asked(env: &Env) -> Result {
    type Ask = fn(&MdmaFixture) -> Result;
    let asks: [(&str, Ask); 2] = [
        ("a doorbell", |fixture| {
            Ok(fixture.mdma.set(Reg::Tail, 1)?)
        }),
        ("a start", |fixture| {
            fixture.go(&[State::STOP, State::RUNNING])
        }),
    ];
    for (what, ask) in asks {
        let instance = env.instance(SMALL)?;
        instance.keep_state(true)?;
        let next = Next::open(leave_in_a_job(instance)?)?;
        ask(&next.fixture)?;
        wait_for(&format!("the kept job to continue after {what}"), || {
            Ok(!next.is_untouched())
        })?;
    }
    Ok(())
}
