// SPDX-License-Identifier: GPL-2.0

//! Jobs with scatter lists, valid and hostile: they give the oracle's results.

mod common;

use common::{scatter, Machine, DATA, DATA_SIZE, LISTS, LISTS_SIZE, MEMORY};
use mdma::desc::{Error, MAX_LEN};
use mdma::engine::UNIT;
use mdma::list::{self, Cursor, ENTRY_SIZE, MAX_ENTRIES, WINDOW};
use mdma::sim::Step;
use mdma::state::{decode, LAYOUT, SIZE};
use mdma::{job, Descriptor, Entry, Expected, List, Op, Operand, Place};
use proptest::prelude::*;

/// The memory of one job: half of all memory for its source, the other half for its destination.
const HALF: u64 = DATA_SIZE / 2;

/// An entry of a list, before its half is known.
#[derive(Clone, Debug)]
struct Segment {
    device: bool,
    at: u64,
    len: u32,
}

impl Segment {
    /// Returns the entry, in the half that begins at `base`.
    fn entry(&self, base: u64) -> Entry {
        Entry {
            place: match self.device {
                true => Place::Device(base + self.at),
                false => Place::Guest(DATA + base + self.at),
            },
            len: self.len,
        }
    }
}

/// Generates entries of all sizes, most of them small.
fn segment() -> impl Strategy<Value = Segment> {
    let len = prop_oneof![
        4 => 1u32..200,
        3 => 1u32..9000,
        2 => Just(4096u32),
        1 => 1u32..(200 << 10),
    ];
    (any::<bool>(), len).prop_flat_map(|(device, len)| {
        (0..=HALF - u64::from(len)).prop_map(move |at| Segment { device, at, len })
    })
}

/// A planned job. Each side may be a list.
#[derive(Clone, Debug)]
struct Plan {
    op: Op,
    src: Vec<Segment>,
    dst: Vec<Segment>,
    lists: [bool; 2],
    value: u64,
    less: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let segments = || proptest::collection::vec(segment(), 1..80);
    (
        prop_oneof![Just(Op::Copy), Just(Op::Fill), Just(Op::Crc32c)],
        segments(),
        segments(),
        any::<[bool; 2]>(),
        any::<u64>(),
        0u64..5000,
    )
        .prop_map(|(op, src, dst, lists, value, less)| Plan {
            op,
            src,
            dst,
            lists,
            value,
            less,
        })
}

impl Plan {
    /// Makes the job, with its lists from `lists` on.
    fn job(&self, machine: &Machine, lists: u64) -> Descriptor {
        let side = |segments: &[Segment], list: bool, base: u64, at: u64| -> (Operand, u64) {
            let entries: Vec<Entry> = segments.iter().map(|s| s.entry(base)).collect();
            if list {
                let len = entries.iter().map(|entry| u64::from(entry.len)).sum();
                (machine.write_list(at, &entries).into(), len)
            } else {
                (entries[0].place.into(), entries[0].len.into())
            }
        };
        let (src, src_len) = side(&self.src, self.lists[0], 0, lists);
        let (dst, dst_len) = side(&self.dst, self.lists[1], HALF, lists + 0x1000);
        let less = |len: u64| len - self.less.min(len - 1);
        match self.op {
            Op::Copy => job::copy(src, dst, less(src_len.min(dst_len))),
            Op::Fill => job::fill(dst, self.value, less(dst_len)),
            Op::Crc32c => job::crc32c(src, less(src_len)),
            Op::Nop | Op::Register | Op::Deregister => job::nop(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any mix gives the oracle's results, and moving to another device between any units of it
    /// makes no difference.
    #[test]
    fn lists_survive_moving_at_any_unit(
        plans in proptest::collection::vec(plan(), 1..8),
        stops in proptest::collection::vec(0usize..4, 0..24),
    ) {
        let mut machine = Machine::new(4);
        scatter(&machine);
        let jobs: Vec<Descriptor> = plans
            .iter()
            .zip((LISTS..).step_by(0x2000))
            .map(|(plan, lists)| plan.job(&machine, lists))
            .collect();
        let mut world = machine.world();
        let expected: Vec<Expected> = jobs.iter().map(|job| world.apply(job)).collect();
        for job in &jobs {
            machine.queue.submit(job).unwrap();
        }
        for units in stops {
            for _ in 0..units {
                machine.sim.step();
            }
            machine = machine.migrate();
        }
        let completions = machine.run();
        prop_assert_eq!(completions.len(), jobs.len());
        for (expected, completion) in expected.iter().zip(&completions) {
            prop_assert_eq!(expected.error, Error::None);
            prop_assert_eq!(expected.check(completion), Ok(()));
        }
        prop_assert!(machine.world() == world);
    }

    /// Lists of any bytes: progress and error are the oracle's.
    #[test]
    fn hostile_lists_stop_where_they_turn_bad(
        plan in plan(),
        bad in 0usize..80,
        what in 0usize..6,
        longer in 0u64..3,
    ) {
        let mut machine = Machine::new(1);
        scatter(&machine);
        let mut job = plan.job(&machine, LISTS);
        // Also longer than the lists.
        job.len = (job.len + longer * 70_000).min(HALF);
        let side = bad % 2;
        let entry = LISTS + side as u64 * 0x1000 + (bad / 2) as u64 * ENTRY_SIZE as u64;
        let mut guest = machine.guest.contents();
        match what {
            0 => guest.write(entry + 8, &[0; 4]),
            1 => guest.write(entry + 12, &[2, 0, 0, 0]),
            2 => guest.write(entry + 12, &[1, 0, 0, 0x80]),
            3 => guest.write(entry, &[[0xff; 8].as_slice(), &[9, 0, 0, 0, 1, 0, 0, 0]].concat()),
            4 => guest.write(entry, &[[0xff; 8].as_slice(), &[9, 0, 0, 0, 0, 0, 0, 0]].concat()),
            _ => guest.write(entry + 8, &[1, 0, 0, 0]),
        }
        machine.guest.set_contents(guest);
        // Without a list the job may only be too long for one of its sides.
        prop_assume!(job.has_list());
        let fits = |place: Place| match place {
            Place::Guest(iova) => iova + job.len <= DATA + DATA_SIZE,
            Place::Device(at) => at + job.len <= MEMORY,
            Place::Key { .. } => false,
        };
        for operand in [job.source(), job.destination()].into_iter().flatten() {
            if let Operand::At(place) = operand {
                prop_assume!(fits(place));
            }
        }
        let mut world = machine.world();
        let [reads, writes] = world.reads_and_writes(&job);
        let inside = |half: std::ops::Range<u64>, &(place, len): &(Place, u64)| match place {
            Place::Guest(iova) => iova >= DATA + half.start && iova + len <= DATA + half.end,
            Place::Device(at) => at >= half.start && at + len <= half.end,
            Place::Key { .. } => false,
        };
        prop_assume!(reads.iter().all(|range| inside(0..HALF, range)));
        prop_assume!(writes.iter().all(|range| inside(HALF..2 * HALF, range)));

        let expected = world.apply(&job);
        machine.queue.submit(&job).unwrap();
        let completions = machine.run();
        prop_assert_eq!(expected.check(&completions[0]), Ok(()));
        prop_assert!(machine.world() == world);
        let done = machine.queue.mdma().get(mdma::regs::Reg::BytesDone).unwrap();
        prop_assert_eq!(done, expected.bytes);
    }

    /// Entries round trip, or are refused.
    #[test]
    fn any_entry_decodes_or_is_refused(mut bytes in any::<[u8; ENTRY_SIZE]>(), near: bool) {
        if near {
            bytes[12] %= 3;
            bytes[13..16].fill(0);
        }
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
            prop_assert_ne!(entry.len, 0);
        }
    }
}

/// A job that fails, and its error.
fn error_of(machine: &mut Machine, job: &Descriptor) -> (Error, u64) {
    machine.queue.submit(job).unwrap();
    let completion = machine.run()[0];
    (Error::from_raw(completion.error).unwrap(), completion.bytes)
}

#[test]
fn every_error_of_a_list() {
    let entry = |place, len| Entry { place, len };
    let good = entry(Place::Guest(DATA), 100);
    let list = |base, entries| List { base, entries };
    let end = LISTS + LISTS_SIZE;
    let full = u64::from(MAX_ENTRIES);
    for (entries, list, len, expected) in [
        (vec![good], list(LISTS, 1), 101, (Error::BadList, 100)),
        (vec![good], list(LISTS, 0), 1, (Error::BadList, 0)),
        (vec![good], list(LISTS + 8, 1), 1, (Error::BadList, 0)),
        (
            vec![good],
            list(LISTS, MAX_ENTRIES + 1),
            1,
            (Error::BadList, 0),
        ),
        (vec![good], list(u64::MAX - 31, 3), 1, (Error::BadList, 0)),
        (vec![good], list(u64::MAX - 15, 1), 1, (Error::ListFault, 0)),
        (vec![good], list(end, 1), 1, (Error::ListFault, 0)),
        (vec![], list(end - 16, 2), 1, (Error::ListFault, 0)),
        (
            vec![good, entry(good.place, 0)],
            list(LISTS, 2),
            101,
            (Error::BadList, 100),
        ),
        (
            vec![good, entry(Place::Device(MEMORY - 1), 2)],
            list(LISTS, 2),
            101,
            (Error::SrcRange, 100),
        ),
        (
            vec![good, entry(Place::Guest(u64::MAX), 2)],
            list(LISTS, 2),
            101,
            (Error::SrcFault, 100),
        ),
        (
            vec![good, entry(Place::Guest(DATA + DATA_SIZE), 1)],
            list(LISTS, 2),
            101,
            (Error::SrcFault, 100),
        ),
        // The last entry may be longer than needed.
        (vec![good], list(LISTS, 1), 99, (Error::None, 99)),
        (
            vec![good; full as usize],
            list(LISTS, MAX_ENTRIES),
            full * 100,
            (Error::None, full * 100),
        ),
    ] {
        let mut machine = Machine::new(1);
        machine.write_list(list.base.min(end - 16), &entries);
        let job = job::crc32c(list, len);
        assert_eq!(
            error_of(&mut machine, &job),
            expected,
            "{list:?} {entries:?} {len}"
        );
    }
}

#[test]
fn a_side_is_a_list_or_in_device_memory() {
    for job in [
        Descriptor {
            flags: 2 | 8,
            src_entries: 1,
            ..job::crc32c(Place::Guest(LISTS), 1)
        },
        Descriptor {
            flags: 4 | 16,
            dst_entries: 1,
            ..job::fill(Place::Guest(LISTS), 0, 1)
        },
    ] {
        assert_eq!(error_of(&mut Machine::new(1), &job), (Error::BadFlags, 0));
    }
    let job = Descriptor {
        src_entries: 1,
        ..job::crc32c(Place::Guest(LISTS), 1)
    };
    assert_eq!(
        error_of(&mut Machine::new(1), &job),
        (Error::BadReserved, 0)
    );
    let job = Descriptor {
        dst_entries: 1,
        ..job::fill(Place::Guest(LISTS), 0, 1)
    };
    assert_eq!(
        error_of(&mut Machine::new(1), &job),
        (Error::BadReserved, 0)
    );
}

#[test]
fn small_entries_do_not_make_units_long() {
    let mut machine = Machine::new(2);
    let entries: Vec<Entry> = (0..u64::from(MAX_ENTRIES))
        .map(|i| Entry {
            place: Place::Guest(DATA + i),
            len: 1,
        })
        .collect();
    let list = machine.write_list(LISTS, &entries);
    machine
        .queue
        .submit(&job::crc32c(list, MAX_ENTRIES.into()))
        .unwrap();
    assert_eq!(machine.sim.run(), u64::from(MAX_ENTRIES / WINDOW));
    // Large ones are cut.
    let list = machine.write_list(
        LISTS,
        &[Entry {
            place: Place::Guest(DATA),
            len: 1 << 20,
        }],
    );
    machine.queue.submit(&job::crc32c(list, 1 << 20)).unwrap();
    assert_eq!(machine.sim.run(), (1 << 20) / UNIT as u64);
}

/// Makes a job that is in the middle of its list.
fn in_flight() -> Machine {
    let mut machine = Machine::new(1);
    let entries = [(0, 70_000), (100_000, 100_000)];
    let entries = entries.map(|(at, len)| Entry {
        place: Place::Guest(DATA + at),
        len,
    });
    let list = machine.write_list(LISTS, &entries);
    machine
        .queue
        .submit(&job::fill(list, 0x0807_0605_0403_0201, 170_000))
        .unwrap();
    assert_eq!(machine.sim.step(), Step::Unit);
    machine
}

#[test]
fn a_list_that_changes_under_its_job() {
    // The entry becomes shorter than the part already done.
    let mut machine = in_flight();
    machine.write_list(
        LISTS,
        &[Entry {
            place: Place::Guest(DATA),
            len: 60_000,
        }],
    );
    let completion = machine.run()[0];
    assert_eq!(
        (completion.error, completion.bytes),
        (Error::BadList as u32, UNIT as u64)
    );

    // The list is unmapped.
    let mut machine = in_flight();
    machine.guest.unmap(LISTS);
    let completion = machine.run()[0];
    assert_eq!(
        (completion.error, completion.bytes),
        (Error::ListFault as u32, UNIT as u64)
    );
}

#[test]
fn a_saved_list_is_checked() {
    let machine = in_flight();
    let good: [u8; SIZE] = machine.sim.save().try_into().unwrap();
    assert!(decode(&good, MEMORY).is_ok());
    let change = |name: &str, value: u64| {
        let field = LAYOUT.iter().find(|field| field.name == name).unwrap();
        let mut bytes = good;
        bytes[field.offset..field.offset + field.size]
            .copy_from_slice(&value.to_le_bytes()[..field.size]);
        decode(&bytes, MEMORY)
            .map(drop)
            .map_err(|invalid| invalid.field)
    };
    let unit = UNIT as u64;
    // The device is at byte 65536 of the first entry.
    assert_eq!(change("job.dst_at", unit), Ok(()));
    assert_eq!(change("job.dst_at", unit + 1), Err("job.dst_entry"));
    assert_eq!(change("job.dst_at", unit - 1), Err("job.dst_entry"));
    assert_eq!(change("job.dst_entry", 1), Err("job.dst_entry"));
    assert_eq!(change("job.dst_entry", 3), Err("job.dst_entry"));
    assert_eq!(change("job.src_entry", 1), Err("job.src_entry"));
    assert_eq!(change("job.src_at", 1), Err("job.src_entry"));
    assert_eq!(change("job.done", 170_000), Err("job.done"));
    // Any length may end a unit, but the cursor must match.
    assert_eq!(change("job.done", unit - 1), Err("job.dst_entry"));
}

#[test]
fn cursors_that_can_be() {
    let at = |entry, at| Cursor { entry, at };
    let most = u64::from(u32::MAX);
    for (cursor, entries, done, possible) in [
        (at(0, 5), 1, 5, true),
        (at(0, 5), 1, 6, false),
        (at(1, 0), 1, 5, true),
        (at(1, 1), 1, 5, false),
        (at(2, 0), 1, 5, false),
        (at(3, 2), 4, 5, true),
        (at(3, 3), 4, 5, false),
        (at(1, 1), 2, most + 1, true),
        (at(1, 1), 2, most + 2, false),
        (at(1, u32::MAX), MAX_ENTRIES, MAX_LEN, true),
    ] {
        assert_eq!(
            cursor.possible(entries, done),
            possible,
            "{cursor:?} {entries} {done}"
        );
    }
    assert_eq!(list::DEVICE, 1);
}
