// SPDX-License-Identifier: GPL-2.0

//! Saved states: hostile ones are refused, accepted ones round trip.

mod common;

use common::{good_job, Machine, DATA, MEMORY};
use mdma::control::Control;
use mdma::desc::Descriptor;
use mdma::engine::UNIT;
use mdma::key::Keys;
use mdma::regs::{self, Reg};
use mdma::sim::{Guest, Sim};
use mdma::state::{self, decode, encode, LAYOUT, SIZE};
use mdma::{job, Bar, Place};
use proptest::prelude::*;

/// Returns a queue in the middle of a job.
fn in_flight() -> [u8; SIZE] {
    let mut machine = Machine::new(3);
    machine.queue.submit(&job::nop()).unwrap();
    machine
        .queue
        .submit(&job::crc32c(Place::Guest(DATA), 3 * UNIT as u64))
        .unwrap();
    machine.sim.step();
    machine.sim.step();
    saved(&machine.sim)
}

/// Returns the saved state of a device without keys.
fn saved(sim: &Sim) -> [u8; SIZE] {
    sim.save().try_into().unwrap()
}

/// Returns the bytes of a field.
fn field(name: &str) -> std::ops::Range<usize> {
    let field = LAYOUT.iter().find(|field| field.name == name).unwrap();
    field.offset..field.offset + field.size
}

#[test]
fn fields_are_where_the_layout_says() {
    let sim = Sim::new(Guest::new(), MEMORY, 0);
    for (reg, name, value) in [
        (Reg::IntMask, "mask", 3u64),
        (Reg::RingBase, "ring_base", 0x1122_3344_5566_7740),
        (Reg::RingOrder, "ring_order", 5),
        (
            Reg::CompletionBase,
            "completion_base",
            0x0102_0304_0506_0720,
        ),
        (Reg::Scratch, "scratch", 0x0a0b_0c0d_0e0f_1011),
        (Reg::Throttle, "throttle", 0x1234),
    ] {
        match reg.row().width {
            8 => sim.write64(reg.offset(), value).unwrap(),
            _ => sim.write32(reg.offset(), value as u32).unwrap(),
        }
        let range = field(name);
        assert_eq!(
            sim.save()[range.clone()],
            value.to_le_bytes()[..range.len()],
            "{name}"
        );
    }

    let saved = in_flight();
    let u64_of = |name| u64::from_le_bytes(saved[field(name)].try_into().unwrap());
    let u32_of = |name| u32::from_le_bytes(saved[field(name)].try_into().unwrap());
    assert_eq!(u32_of("flags"), 3);
    assert_eq!(u32_of("head"), 1);
    assert_eq!(u32_of("tail"), 2);
    assert_eq!(u64_of("jobs_done"), 1);
    assert_eq!(u64_of("bytes_done"), UNIT as u64);
    assert_eq!(u64_of("job.done"), UNIT as u64);
    let desc: [u8; 64] = saved[field("job.descriptor")].try_into().unwrap();
    assert_eq!(Descriptor::decode(&desc).unwrap().len, 3 * UNIT as u64);
}

#[test]
fn each_field_is_checked() {
    let good = in_flight();
    assert!(decode(&good, MEMORY).is_ok());

    let unit = UNIT as u64;
    let cases: &[(&str, u64, &str)] = &[
        ("flags", 7, "flags"),
        ("flags", 1, "job.done"),
        ("flags", 2, "head"),
        ("error", 23, "error"),
        ("error", 8, "flags"),
        ("cause", 4, "cause"),
        ("mask", 8, "mask"),
        ("ring_base", 0x20, "ring_base"),
        ("ring_base", u64::MAX - 63, "ring_base"),
        ("completion_base", 0x10, "completion_base"),
        ("completion_base", u64::MAX - 31, "completion_base"),
        ("ring_order", 0, "ring_order"),
        ("ring_order", 13, "ring_order"),
        ("ring_order", 1 << 31, "ring_order"),
        ("throttle", 1_000_001, "throttle"),
        ("head", 8, "head"),
        ("head", 2, "tail"),
        ("tail", 1, "tail"),
        ("tail", 8, "tail"),
        ("job.done", 0, "job.done"),
        ("job.done", 1, "job.done"),
        ("job.done", 3 * unit, "job.done"),
        ("job.done", 4 * unit, "job.done"),
        ("job.done", u64::MAX, "job.done"),
        ("refused", 1, "refused"),
        ("refused", 1 << 28, "refused"),
        ("refused", (6 << 28) | 1, "refused"),
        ("job.src_entry", 1, "job.src_entry"),
        ("job.src_at", 1, "job.src_entry"),
        ("job.dst_entry", 1, "job.dst_entry"),
        ("job.dst_at", 1, "job.dst_entry"),
        ("keys.next", 0, "keys.next"),
        ("keys.count", 16385, "keys.count"),
    ];
    for &(name, value, culprit) in cases {
        let mut bytes = good;
        let range = field(name);
        let len = range.len();
        bytes[range].copy_from_slice(&value.to_le_bytes()[..len]);
        let invalid = decode(&bytes, MEMORY).expect_err(name);
        assert_eq!(invalid.field, culprit, "{name} {value:#x}");
    }

    // A CRC for a job that computes none.
    let mut machine = Machine::new(3);
    machine
        .queue
        .submit(&job::fill(Place::Device(0), 0, 2 * unit))
        .unwrap();
    machine.sim.step();
    let mut bytes = saved(&machine.sim);
    bytes[field("job.crc")].fill(7);
    assert_eq!(decode(&bytes, MEMORY).unwrap_err().field, "job.crc");

    // Device memory too small for the job.
    assert!(decode(&saved(&machine.sim), 2 * unit).is_ok());
    let invalid = decode(&saved(&machine.sim), 2 * unit - 1).unwrap_err();
    assert_eq!(invalid.field, "job.descriptor");
}

proptest! {
    /// Any input is refused, or written back unchanged.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), SIZE)) {
        let bytes: [u8; SIZE] = bytes.try_into().unwrap();
        if let Ok((state, keys)) = decode(&bytes, MEMORY) {
            prop_assert_eq!(encode(&state, keys), bytes);
        }
    }

    /// The same with one damaged byte, after which the device runs without a panic.
    #[test]
    fn damaged_states(at in 0..SIZE, value: u8) {
        let mut bytes = in_flight();
        bytes[at] = value;
        let sim = Sim::new(Guest::new(), MEMORY, 0);
        let before = sim.save();
        match sim.load(&bytes) {
            Ok(()) => {
                prop_assert_eq!(sim.save(), bytes);
                prop_assert!(sim.run() <= 1, "nothing is mapped");
            }
            Err(_) => prop_assert_eq!(sim.save(), before),
        }
    }

    /// Every reachable state of a device can be saved and loaded.
    #[test]
    fn reachable_states(
        jobs in proptest::collection::vec(good_job(), 0..7),
        units in 0usize..20,
        writes in proptest::collection::vec((0..regs::COUNT, any::<u64>()), 0..20),
    ) {
        let mut machine = Machine::new(3);
        for job in jobs {
            machine.queue.submit(&job).unwrap();
        }
        for _ in 0..units {
            machine.sim.step();
        }
        for (reg, value) in writes {
            let row = &regs::REGISTERS[reg];
            // Small values are valid more often.
            for value in [value, value % 8] {
                let _ = machine.sim.write(row.offset, &value.to_le_bytes()[..row.width as usize]);
                machine.sim.step();
                let saved = saved(&machine.sim);
                let again = decode(&saved, MEMORY).map(|(state, keys)| encode(&state, keys));
                prop_assert_eq!(again, Ok(saved));
            }
        }
    }
}

#[test]
fn power_on_is_a_legal_state() {
    let control = Control::new(MEMORY, regs::MAX_THROTTLE_US);
    let keys = Keys { next: 1, count: 0 };
    let saved = encode(control.state(), keys);
    assert_eq!(decode(&saved, MEMORY).unwrap(), (*control.state(), keys));
    assert_eq!(state::VERSION, 4);
}
