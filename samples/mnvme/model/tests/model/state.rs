// SPDX-License-Identifier: GPL-2.0

//! The saved state.

use crate::machine::{Driver, Entry, BLOCKS, DATA};
use mnvme_model::controller::{Controller, State};
use mnvme_model::host::Host;
use mnvme_model::regs::Reg;
use mnvme_model::state::{decode, encode, DecodeError, SIZE};

fn save(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(state, |field| {
        bytes.extend_from_slice(field);
        Ok::<(), ()>(())
    })
    .unwrap();
    bytes
}

fn load(bytes: &[u8]) -> Result<State, DecodeError<()>> {
    let mut rest = bytes;
    decode(BLOCKS, |field| {
        let (now, later) = rest.split_at_checked(field.len()).ok_or(())?;
        field.copy_from_slice(now);
        rest = later;
        Ok(())
    })
}

/// States that a device can have.
fn states() -> Vec<State> {
    let mut states = vec![State::default()];
    let mut note = |driver: &Driver| states.push(*driver.machine.controller.borrow().state());
    let mut driver = Driver::with_queues(8);
    note(&driver);
    driver.submit(0, Entry::admin(0x0c, 0, 0));
    driver.work();
    driver.ring(77, 1);
    note(&driver);
    driver.submit(1, Entry::blocks(8, 100, 8000));
    driver.submit(3, Entry::blocks(1, BLOCKS, 1));
    let mut dsm = Entry::blocks(9, 0, 1);
    dsm.dwords = [255, 4, 0, 0, 0, 0];
    driver.submit(2, dsm);
    for _ in 0..6 {
        driver.step();
        note(&driver);
    }
    driver.submit(0, Entry::admin(0x08, 1 | (0x1234 << 16), 0));
    driver.work();
    note(&driver);
    driver.write(Reg::Cc, u64::from(crate::machine::CC) | (1 << 14));
    note(&driver);
    driver.write(Reg::Intms, 0x1ff);
    note(&driver);
    driver.write(Reg::Cc, 0);
    note(&driver);
    driver.write(Reg::Aqa, 0);
    driver.write(Reg::Cc, 1);
    note(&driver);
    states
}

#[test]
fn encoding_and_decoding_agree() {
    for state in states() {
        let bytes = save(&state);
        assert_eq!(bytes.len(), SIZE);
        assert_eq!(load(&bytes), Ok(state));
        for len in 0..SIZE {
            assert_eq!(
                load(&bytes[..len]),
                Err(DecodeError::Input(())),
                "{len} bytes"
            );
        }
    }
}

#[test]
fn inconsistent_queues_are_refused() {
    let mut driver = Driver::with_queues(2);
    driver.submit(1, Entry::blocks(8, 100, 8000));
    driver.step();
    let good = *driver.machine.controller.borrow().state();
    assert_eq!(load(&save(&good)), Ok(good));
    let refused = |field: &str, change: &dyn Fn(&mut State)| {
        let mut state = good;
        change(&mut state);
        match load(&save(&state)) {
            Err(DecodeError::Invalid(invalid)) => assert_eq!(invalid.field, field, "{invalid}"),
            other => panic!("{field}: {other:?}"),
        }
    };
    refused("cc", &|s| s.cc |= 1 << 31);
    refused("cc", &|s| s.cc |= 1 << 7);
    refused("ready", &|s| s.cc &= !1);
    refused("ready", &|s| s.ready = false);
    refused("shutdown", &|s| s.cc |= 1 << 14);
    refused("mask", &|s| s.mask = 1 << 9);
    refused("aqa", &|s| s.aqa |= 1 << 12);
    refused("aqa", &|s| s.aqa = 0);
    refused("asq", &|s| s.asq |= 1);
    refused("sq.base", &|s| s.asq += 0x1000);
    refused("cq.base", &|s| s.acq += 0x1000);
    refused("sq.entries", &|s| s.sq[0].entries = 0);
    refused("sq.entries", &|s| s.sq[0].entries = 16);
    refused("cq.entries", &|s| s.cq[0].entries = 16);
    refused("cq.interrupts", &|s| s.cq[0].interrupts = false);
    refused("cq.vector", &|s| s.cq[0].vector = 1);
    refused("cq.vector", &|s| s.cq[1].vector = 9);
    refused("sq.base", &|s| s.sq[1].base += 8);
    refused("sq.base", &|s| s.sq[1].entries = 1);
    refused("sq.base", &|s| s.sq[1].entries = 1025);
    refused("sq.base", &|s| {
        s.sq[1].base = !0xfff;
        s.sq[1].entries = 1024;
    });
    refused("sq.head", &|s| s.sq[1].head = 8);
    refused("sq.tail", &|s| s.sq[1].tail = 8);
    refused("sq.cq", &|s| s.sq[1].cq = 3);
    refused("sq.cq", &|s| s.sq[1].cq = 9);
    refused("sq.cq", &|s| s.sq[1].cq = 0);
    refused("sq.cq", &|s| s.sq[0].cq = 1);
    refused("sq.cq", &|s| s.cq[1] = Default::default());
    refused("sq.entries", &|s| s.sq[5].head = 1);
    refused("cq.entries", &|s| s.cq[5].phase = true);
    refused("cq.base", &|s| s.cq[1].base += 8);
    refused("cq.head", &|s| s.cq[1].head = 8);
    refused("cq.tail", &|s| s.cq[1].tail = 8);
    refused("sq.has_job", &|s| s.sq[0].job = s.sq[1].job);
    refused("job.slba", &|s| s.sq[1].job.as_mut().unwrap().slba = BLOCKS);
    refused("job.slba", &|s| {
        s.sq[1].job.as_mut().unwrap().slba = u64::MAX
    });
    refused("job.left", &|s| s.sq[1].job.as_mut().unwrap().left = 0);
    refused("job.index", &|s| s.sq[1].job.as_mut().unwrap().index = 1);
    refused("job.prp1", &|s| s.sq[1].job.as_mut().unwrap().prp1 = DATA);
    refused("job.ranges", &|s| {
        s.sq[1].job.as_mut().unwrap().ranges = 257
    });
    refused("job.index", &|s| {
        let job = s.sq[1].job.as_mut().unwrap();
        (job.ranges, job.index) = (3, 4);
    });
    refused("features.value", &|s| s.features.values[3] = 2);
    refused("features.uncoalesced", &|s| s.features.uncoalesced = 1 << 9);
    refused("events.count", &|s| s.events.count = 5);
    refused("events.request", &|s| s.events.requests[2] = 1);
    refused("events.pending", &|s| s.events.pending = 8);
    refused("events.masked", &|s| s.events.masked = 4);
    refused("error.number", &|s| s.errors.entries[0].number = 1);
    refused("error.number", &|s| s.errors.count = 1);
    refused("error.number", &|s| s.errors.entries[3].lba = 1);
}

#[test]
fn fields_of_a_job_need_a_job() {
    let mut bytes = save(&State::default());
    // The first byte of job.cid of queue 0: after 31 bytes of registers and 17 of the queue.
    let at = 4 + 3 + 4 + 4 + 8 + 8 + 8 + 2 * 4 + 1;
    bytes[at] = 1;
    match load(&bytes) {
        Err(DecodeError::Invalid(invalid)) => assert_eq!(invalid.field, "job.cid"),
        other => panic!("{other:?}"),
    }
    bytes[at] = 0;
    bytes[4] = 2;
    match load(&bytes) {
        Err(DecodeError::Invalid(invalid)) => assert_eq!(invalid.field, "ready"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_accepted_runs_without_harm() {
    let mut accepted = 0;
    let originals: Vec<_> = states().iter().map(save).collect();
    let mut driver = Driver::new();
    for round in 0..20_000 {
        let mut bytes = originals[round % originals.len()].clone();
        for _ in 0..fastrand::usize(1..4) {
            let at = fastrand::usize(..bytes.len());
            bytes[at] = match fastrand::u8(..3) {
                0 => fastrand::u8(..),
                1 => bytes[at] ^ (1 << fastrand::u8(..8)),
                _ => originals[fastrand::usize(..originals.len())][at],
            };
        }
        let Ok(state) = load(&bytes) else { continue };
        accepted += 1;
        assert_eq!(save(&state), bytes, "what is accepted is saved again");
        driver.machine.lock(|c: &mut Controller| c.load(&state));
        driver.asserted();
        for queue in 0..9 {
            driver.tails[queue] = fastrand::u16(..8);
            driver.submit(queue, Entry::blocks(fastrand::u8(..12), 0, 1));
        }
        for _ in 0..50 {
            if !driver.step() {
                break;
            }
        }
        driver.asserted();
        // Whatever it did is a legal state again.
        let after = *driver.machine.controller.borrow().state();
        assert_eq!(load(&save(&after)), Ok(after));
    }
    assert!(accepted > 1000, "only {accepted} were accepted");
}
