// SPDX-License-Identifier: GPL-2.0

//! Registers, enabling, reset and shutdown.

use crate::machine::{cq_base, sq_base, Driver, Entry, Machine, CC};
use mnvme_model::host::Host;
use mnvme_model::regs::{Reg, REGISTERS, WINDOW};

#[test]
fn power_on_values_are_those_of_the_table() {
    let machine = Machine::new();
    for row in &REGISTERS {
        let mut bytes = [0; 8];
        let data = &mut bytes[..row.width as usize];
        machine.lock(|c| c.read(row.offset, data)).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), row.reset, "{}", row.name);
    }
}

#[test]
fn the_capabilities_are_within_the_specification() {
    let driver = Driver::new();
    let cap = driver.read(Reg::Cap);
    assert_eq!(cap & 0xffff, 1023, "MQES");
    assert_eq!((cap >> 16) & 1, 1, "CQR");
    assert!((cap >> 24) & 0xff != 0, "TO");
    assert_eq!((cap >> 32) & 0xf, 0, "DSTRD");
    assert_eq!((cap >> 36) & 1, 0, "NSSRS");
    assert_eq!((cap >> 37) & 0xff, 1, "CSS: the NVM command set");
    assert_eq!((cap >> 48) & 0xff, 0, "MPSMIN and MPSMAX: 4 KiB");
    assert_eq!(driver.read(Reg::Vs), 0x1_0400);
    // A doorbell of 4 bytes for each queue of each pair.
    const { assert!(mnvme_model::IO_QUEUES >= 8 && WINDOW >= 0x1000 + 8 * 9) };
}

#[test]
fn fields_are_inside_their_registers() {
    for row in &REGISTERS {
        let mut used = 0_u128;
        for bits in row.bits {
            let mask = ((1_u128 << bits.width) - 1) << bits.shift;
            assert_eq!(used & mask, 0, "{}.{}", row.name, bits.name);
            assert!(bits.shift + bits.width <= 8 * row.width as u32);
            used |= mask;
        }
        if !row.bits.is_empty() && row.mask != 0 {
            assert_eq!(used, row.mask.into(), "{}", row.name);
        }
    }
}

#[test]
fn only_aligned_accesses_of_4_and_8_bytes_are_served() {
    let machine = Machine::new();
    for offset in 0..WINDOW {
        for len in 1..=8 {
            let served = machine.lock(|c| c.read(offset, &mut [0; 8][..len])).is_ok();
            let wide = offset < 8 || (0x28..0x38).contains(&offset) || offset >= 0x38;
            let legal = offset % len as u64 == 0
                && match len {
                    4 => true,
                    8 => wide && offset < 0x1000,
                    _ => false,
                };
            // Reserved dwords before AQA can be read as one.
            if len == 8 && matches!(offset, 0x18 | 0x20 | 0x08 | 0x10) {
                continue;
            }
            assert_eq!(served, legal, "{len} bytes at {offset:#x}");
        }
    }
}

#[test]
fn halves_of_wide_registers_are_written_by_themselves() {
    let machine = Machine::new();
    let write = |offset, value: u32| machine.lock(|c| c.write(offset, &value.to_le_bytes()));
    write(0x2c, 5).unwrap();
    write(0x28, 0x1234_5fff).unwrap();
    assert_eq!(
        machine.controller.borrow().state().asq,
        (5 << 32) | 0x1234_5000
    );
}

#[test]
fn queue_registers_do_not_change_while_enabled() {
    let driver = Driver::new();
    driver.write(Reg::Aqa, 0);
    driver.write(Reg::Asq, 0x5000);
    driver.write(Reg::Acq, 0x5000);
    assert_eq!(driver.read(Reg::Aqa), 0x7_0007);
    assert_eq!(driver.read(Reg::Asq), sq_base(0));
    assert_eq!(driver.read(Reg::Acq), cq_base(0));
}

#[test]
fn enabling_with_illegal_values_is_fatal_until_a_reset() {
    for (reg, value) in [
        (Reg::Aqa, 0x7_0000),
        (Reg::Aqa, 7),
        (Reg::Aqa, 0xfff_0fff),
        (Reg::Cc, u64::from(CC) | (1 << 7)),
        (Reg::Cc, u64::from(CC) | (1 << 4)),
        (Reg::Cc, u64::from(CC) | (1 << 11)),
    ] {
        let driver = Driver::new();
        driver.write(Reg::Cc, 0);
        driver.write(reg, value);
        driver.write(Reg::Cc, driver.read(Reg::Cc) | u64::from(CC));
        assert_eq!(driver.read(Reg::Csts), 2, "{reg:?} {value:#x}");
        driver.write(Reg::Cc, 0);
        assert_eq!(driver.read(Reg::Csts), 0);
    }
}

#[test]
fn reset_keeps_the_admin_queue_registers() {
    let mut driver = Driver::with_queues(2);
    driver.write(Reg::Intms, 5);
    driver.write(Reg::Cc, 0);
    assert_eq!(driver.read(Reg::Csts), 0);
    assert_eq!(driver.read(Reg::Intms), 0);
    assert_eq!(driver.read(Reg::Asq), sq_base(0));
    assert_eq!(driver.asserted(), 0);
    driver.enable();
    // The queues do not exist any more.
    driver.create(1);
}

#[test]
fn shutdown_completes_and_stops_commands() {
    let mut driver = Driver::with_queues(1);
    driver.write(Reg::Cc, u64::from(CC) | (1 << 14));
    assert_eq!(driver.read(Reg::Csts), 1 | (2 << 2));
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    assert_eq!(driver.peek(1), None);
    driver.write(Reg::Cc, 0);
    assert_eq!(driver.read(Reg::Csts), 0);
    driver.enable();
    driver.create(1);
    assert_eq!(driver.io(Entry::blocks(0, 0, 1)), 0);
}

#[test]
fn an_abrupt_shutdown_completes_when_the_unit_in_flight_has_ended() {
    let mut driver = Driver::with_queues(1);
    let seen = std::rc::Rc::new(std::cell::Cell::new(None));
    let note = seen.clone();
    let cid = driver.submit(1, Entry::blocks(1, 0, 1));
    driver.submit(1, Entry::blocks(1, 0, 1));
    *driver.machine.before.borrow_mut() = Some(Box::new(move |machine: &Machine, iova| {
        if iova == crate::machine::DATA {
            machine
                .lock(|c| c.write(0x14, &(CC | (2 << 14)).to_le_bytes()))
                .unwrap();
            let mut csts = [0; 4];
            machine.lock(|c| c.read(0x1c, &mut csts)).unwrap();
            note.set(Some(u32::from_le_bytes(csts)));
        }
    }));
    driver.work();
    assert_eq!(seen.get(), Some(1 | (1 << 2)), "processing");
    assert_eq!(driver.read(Reg::Csts), 1 | (2 << 2), "complete");
    // The unit in flight was a whole command. The next one is not fetched.
    assert_eq!(driver.take(1).unwrap().cid, cid);
    assert_eq!(driver.take(1), None);
}

#[test]
fn shutdown_of_a_disabled_controller_completes() {
    let driver = Driver::new();
    driver.write(Reg::Cc, 0);
    driver.write(Reg::Cc, 1 << 14);
    assert_eq!(driver.read(Reg::Csts), 2 << 2);
}

#[test]
fn ready_stays_until_the_unit_in_flight_has_ended() {
    let mut driver = Driver::with_queues(1);
    let seen = std::rc::Rc::new(std::cell::Cell::new(None));
    let note = seen.clone();
    let mut entry = Entry::blocks(1, 0, 1);
    entry.prp1 = crate::machine::DATA;
    driver.submit(1, entry);
    *driver.machine.before.borrow_mut() = Some(Box::new(move |machine: &Machine, iova| {
        if iova == crate::machine::DATA {
            machine
                .lock(|c| c.write(0x14, &0_u32.to_le_bytes()))
                .unwrap();
            let mut csts = [0; 4];
            machine.lock(|c| c.read(0x1c, &mut csts)).unwrap();
            note.set(Some(u32::from_le_bytes(csts)));
        }
    }));
    driver.work();
    assert_eq!(seen.get(), Some(1), "RDY while the unit runs");
    assert_eq!(driver.read(Reg::Csts), 0);
    assert_eq!(driver.peek(1), None, "no completion after the reset");
}
