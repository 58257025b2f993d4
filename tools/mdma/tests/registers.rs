// SPDX-License-Identifier: GPL-2.0

//! Registers: the effect of every access.

mod common;

use common::{Machine, DATA, MEMORY};
use mdma::desc::Error;
use mdma::refused::RegisterError;
use mdma::regs::{self, Access, Reg, Reset, REGISTERS};
use mdma::sim::{Guest, Sim};
use mdma::{job, Bar, Mdma, Place, Snapshot};

fn sim() -> Sim {
    Sim::new(Guest::new(), MEMORY, 7)
}

fn snapshot(sim: &Sim) -> Snapshot {
    Mdma::new(sim).unwrap().snapshot().unwrap()
}

/// Returns the names of the registers that differ.
fn changed(sim: &Sim, before: &Snapshot) -> Vec<&'static str> {
    let diff = snapshot(sim).diff(before);
    diff.into_iter().map(|(name, ..)| name).collect()
}

/// Returns offset and reason of the last refusal, from `REFUSED`.
fn last_refused(sim: &Sim) -> (u64, u32) {
    let refused = sim.read32(Reg::Refused.offset()).unwrap();
    let offset = (refused >> regs::REFUSED_OFFSET_SHIFT) & regs::REFUSED_OFFSET;
    (offset.into(), refused >> regs::REFUSED_REASON_SHIFT)
}

/// Returns the number of refused accesses.
fn count(sim: &Sim) -> u32 {
    sim.read32(Reg::Refused.offset()).unwrap() & regs::REFUSED_COUNT
}

#[test]
fn reset_values_are_those_of_the_table() {
    let sim = sim();
    let check = |sim: &Sim| {
        for row in &REGISTERS {
            let expected = match row.reset {
                Reset::Value(value) => value,
                Reset::MemorySize => MEMORY,
                Reset::ThrottleUs => 7,
            };
            assert_eq!(snapshot(sim).get(row.reg), expected, "{}", row.name);
        }
    };
    check(&sim);

    for (reg, value) in [
        (Reg::IntMask, 3),
        (Reg::RingBase, 0x1000),
        (Reg::RingOrder, 5),
        (Reg::CompletionBase, 0x2000),
        (Reg::Scratch, 99),
        (Reg::Throttle, 8),
        (Reg::Control, 1),
        (Reg::Tail, 3),
    ] {
        let mdma = Mdma::new(&sim).unwrap();
        mdma.set(reg, value).unwrap();
        assert_eq!(mdma.get(reg).unwrap(), value, "{}", reg.row().name);
    }
    sim.reset();
    check(&sim);
}

#[test]
fn only_whole_registers_and_halves_of_wide_ones_are_accessible() {
    for enabled in [false, true] {
        let sim = sim();
        if enabled {
            sim.write32(Reg::RingOrder.offset(), 4).unwrap();
            sim.write32(Reg::Control.offset(), 1).unwrap();
        }
        let before = snapshot(&sim);
        for offset in 0..regs::WINDOW {
            for len in 1..=8 {
                let legal = REGISTERS.iter().any(|row| {
                    (row.offset == offset && row.width == len)
                        || (row.width == 8
                            && len == 4
                            && (row.offset == offset || row.offset + 4 == offset))
                });
                let mut data = vec![0xa5; len as usize];
                assert_eq!(
                    sim.read(offset, &mut data).is_ok(),
                    legal,
                    "{offset:#x} {len}"
                );
                if !legal {
                    assert_eq!(data, vec![0xa5; len as usize]);
                    assert_eq!(sim.write(offset, &data), Err(RegisterError::NoRegister));
                    assert_eq!(changed(&sim, &before), ["REFUSED"]);
                    assert_eq!(last_refused(&sim), (offset, 1));
                }
            }
        }
        // The counter saturates.
        for _ in 0..=regs::REFUSED_COUNT {
            assert!(sim.read(u64::MAX - 3, &mut [0; 4]).is_err());
        }
        assert_eq!(count(&sim), regs::REFUSED_COUNT);
    }
}

#[test]
fn read_only_registers_refuse_writes() {
    let sim = sim();
    let before = snapshot(&sim);
    for row in REGISTERS.iter().filter(|row| row.access == Access::Ro) {
        let data = vec![1; row.width as usize];
        assert_eq!(sim.write(row.offset, &data), Err(RegisterError::ReadOnly));
        assert_eq!(last_refused(&sim), (row.offset, 2));
    }
    assert_eq!(changed(&sim, &before), ["REFUSED"]);
}

#[test]
fn ring_registers_are_locked_while_enabled() {
    let machine = Machine::new(3);
    let before = snapshot(&machine.sim);
    for row in REGISTERS
        .iter()
        .filter(|row| row.access == Access::RwDisabled)
    {
        let data = vec![0; row.width as usize];
        assert_eq!(
            machine.sim.write(row.offset, &data),
            Err(RegisterError::Enabled)
        );
        assert_eq!(last_refused(&machine.sim), (row.offset, 3));
    }
    assert_eq!(changed(&machine.sim, &before), ["REFUSED"]);
}

#[test]
fn illegal_values_change_nothing() {
    let machine = Machine::new(3);
    let illegal = [
        (Reg::Control, 2),
        (Reg::Control, 0x8000_0001),
        (Reg::IntCause, 4),
        (Reg::IntMask, 4),
        (Reg::IntMask, u32::MAX),
        (Reg::Throttle, 1_000_001),
    ];
    let before = snapshot(&machine.sim);
    for (n, (reg, value)) in illegal.into_iter().enumerate() {
        let refused = machine.sim.write(reg.offset(), &value.to_le_bytes());
        assert!(refused.is_err(), "{} {value:#x}", reg.row().name);
        assert_eq!(last_refused(&machine.sim), (reg.offset(), 5));
        assert_eq!(count(&machine.sim), n as u32 + 1);
    }
    assert_eq!(changed(&machine.sim, &before), ["REFUSED"]);

    let sim = sim();
    let order = sim.write(Reg::RingOrder.offset(), &13u32.to_le_bytes());
    assert!(order.is_err());
    assert_eq!(
        sim.write(Reg::Tail.offset(), &[0; 4]),
        Err(RegisterError::Disabled)
    );
    assert_eq!(last_refused(&sim), (Reg::Tail.offset(), 4));
}

#[test]
fn enabling_checks_the_ring() {
    let cases: [(u64, u32, u64, bool); 10] = [
        (0x1000, 4, 0x2000, true),
        (0x1040, 4, 0x2020, true),
        (0x1000, 0, 0x2000, false),
        (0x1020, 4, 0x2000, false),
        (0x1001, 4, 0x2000, false),
        (0x1000, 4, 0x2010, false),
        (0u64.wrapping_sub(0x400), 4, 0x2000, true),
        (0u64.wrapping_sub(0x3c0), 4, 0x2000, false),
        (0x1000, 4, 0u64.wrapping_sub(0x200), true),
        (0x1000, 4, 0u64.wrapping_sub(0x1e0), false),
    ];
    for (base, order, completions, legal) in cases {
        let sim = sim();
        let mdma = Mdma::new(&sim).unwrap();
        mdma.set(Reg::RingBase, base).unwrap();
        mdma.set(Reg::RingOrder, order.into()).unwrap();
        mdma.set(Reg::CompletionBase, completions).unwrap();
        let before = snapshot(&sim);
        mdma.set(Reg::Control, 1).unwrap();
        let enabled = mdma.get(Reg::Control).unwrap() == 1;
        assert_eq!(enabled, legal, "{base:#x} {order} {completions:#x}");
        if !legal {
            assert_eq!(changed(&sim, &before), ["REFUSED"]);
            assert_eq!(last_refused(&sim), (Reg::Control.offset(), 5));
        }
    }
}

#[test]
fn halves_of_wide_registers() {
    let sim = sim();
    sim.write64(Reg::Scratch.offset(), 0x1111_2222_3333_4444)
        .unwrap();
    sim.write32(Reg::Scratch.offset() + 4, 0xaaaa_bbbb).unwrap();
    assert_eq!(
        sim.read64(Reg::Scratch.offset()).unwrap(),
        0xaaaa_bbbb_3333_4444
    );
    sim.write32(Reg::Scratch.offset(), 0xcccc_dddd).unwrap();
    assert_eq!(sim.read32(Reg::Scratch.offset()).unwrap(), 0xcccc_dddd);
    assert_eq!(sim.read32(Reg::Scratch.offset() + 4).unwrap(), 0xaaaa_bbbb);
}

#[test]
fn doorbell_neither_takes_back_nor_overruns() {
    let mut machine = Machine::new(3);
    for _ in 0..5 {
        machine.queue.fill(&job::nop()).unwrap();
    }
    machine.queue.ring_doorbell().unwrap();
    machine.sim.step();
    machine.sim.step();
    let saved = machine.sim.save();
    // HEAD is 2 and TAIL 5: 6, 7, 0 and 1 are free, 2 would be an empty ring.
    for (values, legal) in [
        (&[5, 6, 7, 0, 1][..], true),
        (&[4], false),
        (&[2], false),
        (&[3], false),
        (&[7, 5], false),
        (&[1, 2], false),
        (&[8], false),
        (&[u32::MAX], false),
    ] {
        let sim = Sim::new(machine.guest.clone(), MEMORY, 0);
        sim.load(&saved).unwrap();
        let mdma = Mdma::new(&sim).unwrap();
        mdma.set_interrupts(regs::INT_ALL).unwrap();
        for (n, value) in values.iter().enumerate() {
            let last = n + 1 == values.len();
            let before = mdma.get(Reg::Tail).unwrap();
            mdma.set(Reg::Tail, (*value).into()).unwrap();
            if legal || !last {
                mdma.check_halted().unwrap();
                assert_eq!(mdma.get(Reg::Tail).unwrap(), u64::from(*value));
                continue;
            }
            // The queue halts, reports why and interrupts; nothing else changes.
            assert_eq!(mdma.get(Reg::Error).unwrap(), Error::BadTail as u64);
            assert_eq!(mdma.get(Reg::Tail).unwrap(), before, "{values:?}");
            assert_eq!(mdma.get(Reg::Head).unwrap(), 2);
            assert_eq!(mdma.get(Reg::IntCause).unwrap(), regs::INT_HALT.into());
            assert_eq!(sim.take_events(), [0, 1]);
            assert_eq!(sim.run(), 0, "a halted queue works");
            let halted = sim.save();
            Sim::new(Guest::new(), MEMORY, 0).load(&halted).unwrap();
        }
    }
}

#[test]
fn interrupts() {
    let mut machine = Machine::new(4);
    let sim = machine.sim.clone();
    let mdma = machine.queue.mdma().clone();

    // Masked: the cause stays pending, and interrupts once it is unmasked.
    machine.queue.submit(&job::nop().interrupt()).unwrap();
    machine.run();
    assert_eq!((sim.take_events(), sim.level()), ([0, 0], false));
    mdma.set_interrupts(regs::INT_ALL).unwrap();
    assert_eq!((sim.take_events(), sim.level()), ([1, 0], true));
    mdma.set_interrupts(regs::INT_ALL).unwrap();
    assert_eq!(sim.take_events(), [0, 0]);
    assert_eq!(mdma.acknowledge().unwrap(), regs::INT_COMPLETION);
    assert!(!sim.level());

    // One message per event, none for jobs without the flag.
    for job in [job::nop().interrupt(), job::nop(), job::nop().interrupt()] {
        machine.queue.submit(&job).unwrap();
    }
    machine.run();
    assert_eq!((sim.take_events(), sim.level()), ([2, 0], true));

    // A halt is a separate cause.
    machine
        .queue
        .submit(&job::crc32c(Place::Guest(DATA - 1), 2).interrupt())
        .unwrap();
    machine.run();
    assert_eq!(sim.take_events(), [0, 1]);
    assert_eq!(mdma.get(Reg::IntCause).unwrap(), 3);
    sim.write32(Reg::IntCause.offset(), regs::INT_COMPLETION)
        .unwrap();
    assert_eq!(mdma.get(Reg::IntCause).unwrap(), 2);
    assert!(sim.level());
    mdma.set_interrupts(regs::INT_COMPLETION).unwrap();
    assert!(!sim.level());
}
