// SPDX-License-Identifier: GPL-2.0

//! Fault injection while a device migrates by v7 or 2018: a call that fails changes and loses nothing.

use std::cell::RefCell;

use mdma::job;
use vfio_client::v2018::offset;
use vfio_client::{v2018, v7};

use crate::dirty::pages::{BASE, SIZE};
use crate::env::Env;
use crate::fail_nth::sweep::{Sweep, SHORT};
use crate::fixture::{guest, run_jobs, MdmaFixture, PAGE};
use crate::harness::result::Result;
use crate::history::{Old, V2018, V7};
use crate::tests;

tests! { "history_faults" needs [FaultInjection, Mdma]:
    states_and_loading_by_v7 ["P36"],
    states_and_loading_by_2018 ["P37"],
    saving_by_v7 ["P36"],
    saving_by_2018 ["P37"],
    a_report_loses_no_page_by_v7 ["P36"],
    a_report_loses_no_page_by_2018 ["P37"],
}

/// Checks that a device works: it saves, loads and keeps its state.
fn usable<M: Old>(fixture: &MdmaFixture<M>) -> Result {
    fixture.device.reset()?;
    fixture.fill_state(&[1, 2, 700])?;
    let before = fixture.registers()?;
    let bytes = fixture.save_old()?;
    fixture.migration.run()?;
    fixture.load_old(&bytes)?;
    assert!(fixture.registers()?.diff(&before).is_empty());
    Ok(())
}

fn states_and_loading<M: Old>(env: &Env) -> Result {
    let (fixture, other) = (MdmaFixture::<M>::old(env)?, MdmaFixture::<M>::old(env)?);
    let m = &fixture.migration;
    let mut sweep = Sweep::new()?;
    let renew = || {
        fixture.device.reset()?;
        fixture.fill_state(&[1, 2, 700])
    };
    let after = || usable(&fixture);
    sweep.over("begin a save", SHORT, renew, || m.begin_save(), after)?;
    let saving = || {
        renew()?;
        Ok(m.begin_save()?)
    };
    sweep.over(
        "stop to save the rest",
        SHORT,
        saving,
        || m.stop_save(),
        after,
    )?;
    let stopped = || {
        saving()?;
        Ok(m.stop_save()?)
    };
    sweep.over("end a save", SHORT, stopped, || m.end_save(), after)?;
    sweep.over("begin a load", SHORT, renew, || m.begin_load(), after)?;
    sweep.over("run from a save", SHORT, saving, || m.run(), after)?;

    // A section that failed is loaded again from its beginning.
    renew()?;
    let stream = fixture.save_old()?;
    let resuming = || {
        other.device.reset()?;
        Ok(other.migration.begin_load()?)
    };
    let loaded = || {
        other.migration.end_load()?;
        other.migration.run()?;
        fixture.expect_same(&other, "loaded with a fault")
    };
    let load = || other.migration.load(&stream);
    sweep.over("load", SHORT, resuming, load, loaded)?;
    usable(&fixture)?;
    sweep.finish()
}

fn saving_by_v7(env: &Env) -> Result {
    let (fixture, other) = (V7::old(env)?, V7::old(env)?);
    let m = &fixture.migration;
    let mut sweep = Sweep::new()?;
    // What is saved from the call with the fault on is the whole stream.
    let begin = |calls: usize| {
        fixture.device.reset()?;
        fixture.fill_state(&[1, 2, 700])?;
        m.stop_save()?;
        for call in 0..calls {
            match call {
                0 => m.pending_bytes()?,
                _ => m.data_offset()?,
            };
        }
        Ok(())
    };
    let after = || {
        let mut bytes = Vec::new();
        m.save_buffer(&mut bytes)?;
        m.save(&mut bytes)?;
        m.end_save()?;
        other.device.reset()?;
        other.load_old(&bytes)?;
        fixture.expect_same(&other, "saved with a fault")
    };
    sweep.over(
        "pending_bytes",
        SHORT,
        || begin(0),
        || m.pending_bytes(),
        after,
    )?;
    sweep.over("data_offset", SHORT, || begin(1), || m.data_offset(), after)?;
    sweep.over("data_size", SHORT, || begin(2), || m.data_size(), after)?;
    usable(&fixture)?;
    sweep.finish()
}

fn saving_by_2018(env: &Env) -> Result {
    let (fixture, other) = (V2018::old(env)?, V2018::old(env)?);
    let m = &fixture.migration;
    let mut sweep = Sweep::new()?;
    // What was saved before and after the fault is the whole stream.
    let bytes = RefCell::new(Vec::new());
    let begin = || {
        bytes.borrow_mut().clear();
        fixture.device.reset()?;
        fixture.fill_state(&[1, 2, 700])?;
        m.begin_save()?;
        Ok(m.stop_save()?)
    };
    let after = || {
        m.end_save()?;
        other.device.reset()?;
        other.load_old(&bytes.borrow())?;
        fixture.expect_same(&other, "saved with a fault")
    };
    let save = || m.save(&mut bytes.borrow_mut());
    sweep.over("save", SHORT, begin, save, after)?;
    usable(&fixture)?;
    sweep.finish()
}

fn states_and_loading_by_v7(env: &Env) -> Result {
    states_and_loading::<v7::Migration>(env)
}

fn states_and_loading_by_2018(env: &Env) -> Result {
    states_and_loading::<v2018::Migration>(env)
}

fn a_report_loses_no_page_by_v7(env: &Env) -> Result {
    let fixture = V7::old(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let queue = RefCell::new(fixture.queue(4)?);
    let m = &fixture.migration;
    let mut sweep = Sweep::new()?;
    m.begin_save()?;
    let pages = SIZE as u64 / PAGE;
    let ask = || {
        let job = job::fill(guest(BASE + 77 * PAGE), 1, 8);
        run_jobs(&mut queue.borrow_mut(), &[job])?;
        Ok(m.ask_dirty(BASE / PAGE, PAGE, pages)?)
    };
    let reported = || {
        // The answer stays, so this is the one that was taken with a fault.
        assert_eq!(m.copied_pfns()?, pages, "a page was lost");
        let mut bytes = [0; 32];
        m.read_data(m.data_offset()?, &mut bytes)?;
        let mut expected = [0; 32];
        expected[77 / 8] = 1 << (77 % 8);
        assert_eq!(bytes, expected);
        Ok(())
    };
    sweep.over("copied_pfns", SHORT, ask, || m.copied_pfns(), reported)?;
    drop(queue);
    usable(&fixture)?;
    sweep.finish()
}

fn a_report_loses_no_page_by_2018(env: &Env) -> Result {
    let fixture = V2018::old(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let queue = RefCell::new(fixture.queue(4)?);
    let m = &fixture.migration;
    let mut sweep = Sweep::new()?;
    m.begin_save()?;
    let pages = SIZE as u64 / PAGE;
    let ask = || {
        let job = job::fill(guest(BASE + 77 * PAGE), 1, 8);
        run_jobs(&mut queue.borrow_mut(), &[job])?;
        Ok(m.set_group(offset::DIRTY_PFNS, &[BASE, pages, 0])?)
    };
    let reported = || {
        assert_eq!(
            m.group(offset::DIRTY_PFNS)?,
            [BASE, pages, 0],
            "all is done"
        );
        let mut bytes = [0; 32];
        m.region().read(offset::TRAPPED, &mut bytes)?;
        let mut expected = [0; 32];
        expected[77 / 8] = 1 << (77 % 8);
        assert_eq!(bytes, expected, "a page was lost");
        Ok(())
    };
    let read = || {
        let [_, _, copied] = m.group(offset::DIRTY_PFNS)?;
        assert_eq!(copied, pages);
        Ok::<_, vfio_client::Error>(())
    };
    sweep.over("dirty_pfns", SHORT, ask, read, reported)?;
    drop(queue);
    usable(&fixture)?;
    sweep.finish()
}
