// SPDX-License-Identifier: GPL-2.0

//! The example device of `Documentation/driver.rst`, in a module of its own next to the module under test.

use std::path::PathBuf;

use kernel_utils::module;
use vfio_client::{v1, v2, EventFd, Region};

use crate::env::{Env, Guest};
use crate::harness::check::{expect_signal, expect_silence, wait_for, PATIENCE};
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::irq::msi::INTX;
use crate::{assert_errno, skip, tests};

tests! { "scratch" needs [Mdma]:
    registers [],
    a_doorbell_interrupts [],
    migrates_by_v1_and_v2 [],
    an_illegal_state_is_refused [],
}

const NAME: &str = "scratch";
const SCRATCH: u64 = 0x0;
const DOORBELL: u64 = 0x4;
const COUNT: u64 = 0x8;

/// The loaded module of the example; unloaded on drop.
struct Example;

impl Example {
    fn load(env: &Env) -> Result<Self> {
        let path: PathBuf = env.module.path()?.with_file_name("scratch.ko");
        if !path.exists() {
            skip!("there is no {}", path.display());
        }
        module::load(&path, "")?;
        Ok(Example)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if let Err(e) = module::unload(NAME) {
            problem(format!("cannot unload {NAME}: {e}"));
        }
    }
}

/// An open device that is bus master.
struct Scratch {
    bar: Region,
    guest: Guest,
}

impl Scratch {
    fn new(env: &Env) -> Result<Self> {
        let guest = env.open("scratch-1")?;
        guest.device.config()?.enable()?;
        let bar = guest.region(0)?;
        Ok(Scratch { bar, guest })
    }

    /// Rings the doorbell and waits for the answer.
    fn ring(&self) -> Result {
        let before = self.bar.read_u32(COUNT)?;
        self.bar.write_u32(DOORBELL, 1)?;
        wait_for("the device to answer", || {
            Ok(self.bar.read_u32(COUNT)? == before + 1)
        })
    }

    /// Saves the device by v2, and leaves it stopped.
    fn save(&self) -> Result<Vec<u8>> {
        let stream = self.guest.save()?;
        self.guest.v2()?.set_state(v2::State::STOP)?;
        Ok(stream)
    }
}

fn registers(env: &Env) -> Result {
    let _example = Example::load(env)?;
    let dev = Scratch::new(env)?;
    dev.bar.write_u32(SCRATCH, 0x1234_5678)?;
    assert_eq!(dev.bar.read_u32(SCRATCH)?, 0x1234_5678);
    assert_eq!(dev.bar.read_u16(SCRATCH + 2)?, 0x1234);
    // What the device does not serve: a narrow write, and bytes after its registers.
    dev.bar.write_u16(SCRATCH, 1)?;
    assert_eq!(dev.bar.read_u32(SCRATCH)?, 0x1234_5678);
    assert_eq!(dev.bar.read_u32(0xc)?, u32::MAX);
    assert_eq!(dev.bar.read_u64(SCRATCH)?, u64::MAX);
    dev.guest.device.reset()?;
    assert_eq!(dev.bar.read_u32(SCRATCH)?, 0);
    Ok(())
}

fn a_doorbell_interrupts(env: &Env) -> Result {
    let _example = Example::load(env)?;
    let dev = Scratch::new(env)?;
    let event = EventFd::new()?;
    dev.guest
        .device
        .irq(INTX)?
        .set_eventfds(0, &[Some(&event)])?;
    expect_silence(&event, "nothing has happened");
    dev.ring()?;
    assert_eq!(expect_signal(&event, "INTx of a doorbell"), 1);
    dev.bar.write_u32(COUNT, 0)?;
    assert_eq!(dev.bar.read_u32(COUNT)?, 0);
    // Without bus master the device does not work; the doorbell is remembered.
    let config = dev.guest.device.config()?;
    config.set_bus_master(false)?;
    dev.bar.write_u32(DOORBELL, 1)?;
    assert_eq!(dev.bar.read_u32(COUNT)?, 0);
    config.set_bus_master(true)?;
    wait_for("the device to answer", || Ok(dev.bar.read_u32(COUNT)? == 1))
}

fn migrates_by_v1_and_v2(env: &Env) -> Result {
    let _example = Example::load(env)?;
    let source = Scratch::new(env)?;
    source.bar.write_u32(SCRATCH, 77)?;
    source.ring()?;
    source.ring()?;
    let stream = source.save()?;

    let event = EventFd::new()?;
    for protocol in ["v1", "v2"] {
        let target = Scratch::new(env)?;
        target
            .guest
            .device
            .irq(INTX)?
            .set_eventfds(0, &[Some(&event)])?;
        if protocol == "v1" {
            let migration = target.guest.v1()?;
            migration.set_state(v1::State::RESUMING)?;
            migration.load_buffer(&stream)?;
            migration.set_state(v1::State::RUNNING)?;
        } else {
            let migration = target.guest.v2()?;
            let file = migration
                .set_state(v2::State::RESUMING)?
                .expect("a data file");
            file.write_all(&stream)?;
            migration.set_state(v2::State::RUNNING)?;
        }
        assert_eq!(target.bar.read_u32(SCRATCH)?, 77, "{protocol}");
        assert_eq!(target.bar.read_u32(COUNT)?, 2, "{protocol}");
        assert_eq!(
            expect_signal(&event, "INTx that was asserted at the source"),
            1
        );
        target.ring()?;
    }
    Ok(())
}

fn an_illegal_state_is_refused(env: &Env) -> Result {
    let _example = Example::load(env)?;
    let dev = Scratch::new(env)?;
    let stream = dev.save()?;
    // Without the end of the stream.
    let migration = dev.guest.v2()?;
    let file = migration
        .set_state(v2::State::RESUMING)?
        .expect("a data file");
    file.write_all(&stream[..stream.len() - 1])?;
    assert_errno!(migration.set_state(v2::State::RUNNING), ENODATA);
    dev.guest.device.reset()?;
    assert!(file.wait_readable(PATIENCE)?);
    dev.ring()
}
