// SPDX-License-Identifier: GPL-2.0

//! Device memory that no BAR exposes: what keeps it, what discards it, what frees it.

use mnvme::command::{Command, WRITE_ZEROES};
use vfio_client::v2::State;

use super::{Loaded, Nvme, BLOCK, PAGE};
use crate::env::{Env, Guest};
use crate::harness::result::Result;
use crate::tests;

tests! { "mnvme_storage" needs [Mdma]:
    a_reset_keeps_it [],
    a_close_discards_it [],
    keep_state_keeps_it [],
    a_reset_discards_what_is_half_loaded [],
    zeroes_free_pages [],
}

fn a_reset_keeps_it(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..10, 7)?;
    nvme.guest.device.reset()?;
    // The controller is at power-on.
    assert_eq!(nvme.driver.read(mnvme_model::regs::Reg::Asq)?, 0);
    nvme.driver.enable(1)?;
    assert_eq!(nvme.read(72, PAGE as usize)?, [7; PAGE as usize]);
    Ok(())
}

fn a_close_discards_it(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..10, 7)?;
    let mut nvme = Nvme::of(Guest::open(nvme.close())?)?;
    assert_eq!(nvme.debug("populated_pages")?, 0);
    nvme.driver.enable(1)?;
    assert_eq!(nvme.read(72, PAGE as usize)?, [0; PAGE as usize]);
    Ok(())
}

fn keep_state_keeps_it(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..10, 7)?;
    nvme.guest.instance.keep_state(true)?;
    let mut nvme = Nvme::of(Guest::open(nvme.close())?)?;
    // As a VMM does before it boots a guest.
    nvme.guest.device.reset()?;
    nvme.driver.enable(1)?;
    assert_eq!(nvme.read(72, PAGE as usize)?, [7; PAGE as usize]);
    let instance = nvme.close();
    instance.keep_state(false)?;
    let nvme = Nvme::of(Guest::open(instance)?)?;
    assert_eq!(nvme.debug("populated_pages")?, 0);
    Ok(())
}

fn a_reset_discards_what_is_half_loaded(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut source = Nvme::enabled(env, 1)?;
    source.fill(0..10, 7)?;
    let stream = source.save()?;
    let mut target = Nvme::enabled(env, 1)?;
    target.fill(0..1, 9)?;
    let file = target.guest.begin(State::RESUMING)?;
    file.write_all(&stream[..stream.len() - 100])?;
    drop(file);
    target.guest.device.reset()?;
    assert_eq!(target.debug("populated_pages")?, 0);
    target.driver.enable(1)?;
    assert_eq!(target.read(0, PAGE as usize)?, [0; PAGE as usize]);
    Ok(())
}

fn zeroes_free_pages(env: &Env) -> Result {
    let _module = Loaded::new(env)?;
    let mut nvme = Nvme::enabled(env, 1)?;
    nvme.fill(0..100, 7)?;
    assert_eq!(nvme.debug("populated_pages")?, 100);
    // Whole pages are freed. The others are zeroed.
    let zero = Command::blocks(WRITE_ZEROES, 4, 8 * 50, 0, 0);
    nvme.driver.succeed("write zeroes", 1, &zero)?;
    assert_eq!(nvme.debug("populated_pages")?, 51);
    for (slba, byte) in [(3, 7), (4, 0), (403, 0), (404, 7)] {
        assert_eq!(nvme.read(slba, BLOCK)?, [byte; BLOCK], "block {slba}");
    }
    // While a migration sends them, pages are zeroed and sent again.
    let file = nvme.guest.begin(State::PRE_COPY)?;
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    let zero = Command::blocks(WRITE_ZEROES, 8 * 60, 8 * 20, 0, 0);
    nvme.driver.succeed("write zeroes", 1, &zero)?;
    assert_eq!(nvme.debug("populated_pages")?, 51);
    nvme.guest.v2()?.set_state(State::STOP_COPY)?;
    file.read_available(&mut stream)?;
    let target = Nvme::new(env)?;
    target.load(&stream)?;
    target.guest.v2()?.set_state(State::RUNNING)?;
    let mut target = target;
    target.driver.take_over(&nvme.driver);
    for (page, byte) in [(59, 7), (60, 0), (79, 0), (80, 7)] {
        assert_eq!(target.read(page * 8, BLOCK)?, [byte; BLOCK], "page {page}");
    }
    Ok(())
}
