// SPDX-License-Identifier: GPL-2.0

//! Asynchronous events.

use crate::machine::{status, Driver, Entry};
use mnvme_model::status::Status;

const REQUEST: u8 = 0x0c;

/// Reads the error log, or retains the event.
fn read_errors(driver: &mut Driver, retain: bool) {
    let mut entry = Entry::admin(0x02, 1 | (u32::from(retain) << 15) | (15 << 16), 0);
    entry.nsid = 0xffff_ffff;
    assert_eq!(driver.admin(entry).status, 0);
}

#[test]
fn a_bad_doorbell_completes_the_oldest_request() {
    let mut driver = Driver::new();
    let first = driver.submit(0, Entry::admin(REQUEST, 0, 0));
    let second = driver.submit(0, Entry::admin(REQUEST, 0, 0));
    driver.work();
    assert_eq!(driver.take(0), None);
    driver.effects();
    driver.ring(100, 1);
    assert!(driver.effects().schedule);
    driver.work();
    let done = driver.take(0).unwrap();
    assert_eq!((done.cid, done.status, done.result), (first, 0, 0x1_0000));
    assert_eq!(driver.effects().signal, 1);

    // Events of this type are reported again once the log was read.
    driver.ring(1, 7);
    driver.work();
    assert_eq!(driver.take(0), None);
    read_errors(&mut driver, true);
    driver.work();
    assert_eq!(driver.take(0), None);
    let mut entry = Entry::admin(0x02, 1 | (15 << 16), 0);
    entry.nsid = 0xffff_ffff;
    let log = driver.submit(0, entry);
    driver.work();
    let mut done = [driver.take(0).unwrap(), driver.take(0).unwrap()];
    done.sort_by_key(|done| done.cid);
    assert_eq!((done[0].cid, done[0].result), (second, 0x1_0100));
    assert_eq!(done[1].cid, log);
}

#[test]
fn a_bad_tail_is_an_event() {
    let mut driver = Driver::with_queues(1);
    let cid = driver.submit(0, Entry::admin(REQUEST, 0, 0));
    driver.work();
    driver.ring(2, 8);
    driver.work();
    let done = driver.take(0).unwrap();
    assert_eq!((done.cid, done.status, done.result), (cid, 0, 0x1_0100));
    // The log says which queue it was, and that no command has caused it.
    read_errors(&mut driver, false);
    let entry = driver.memory(crate::machine::DATA, 64);
    assert_eq!(entry[..12], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff]);
}

#[test]
fn an_event_waits_for_a_request() {
    let mut driver = Driver::new();
    driver.ring(100, 1);
    driver.work();
    assert_eq!(driver.take(0), None);
    let done = driver.admin(Entry::admin(REQUEST, 0, 0));
    assert_eq!(done.result, 0x1_0000);
}

#[test]
fn requests_are_limited() {
    let mut driver = Driver::new();
    for _ in 0..4 {
        driver.submit(0, Entry::admin(REQUEST, 0, 0));
    }
    let done = driver.admin(Entry::admin(REQUEST, 0, 0));
    assert_eq!(done.status, status(Status::EventLimitExceeded));
}

#[test]
fn a_temperature_threshold_is_an_event_if_enabled() {
    let mut driver = Driver::new();
    let cid = driver.submit(0, Entry::admin(REQUEST, 0, 0));
    driver.work();
    assert_eq!(driver.admin(Entry::admin(0x09, 0x04, 300)).status, 0);
    assert_eq!(driver.take(0), None, "not enabled");
    driver.submit(0, Entry::admin(0x09, 0x0b, 2));
    driver.work();
    let mut done = [driver.take(0).unwrap(), driver.take(0).unwrap()];
    done.sort_by_key(|done| done.cid);
    assert_eq!((done[0].cid, done[0].result), (cid, 0x2_0101));
}

#[test]
fn a_reset_forgets_requests_and_events() {
    let mut driver = Driver::new();
    driver.submit(0, Entry::admin(REQUEST, 0, 0));
    driver.work();
    driver.ring(100, 1);
    driver.write(mnvme_model::regs::Reg::Cc, 0);
    driver.enable();
    driver.work();
    assert_eq!(driver.peek(0), None);
}
