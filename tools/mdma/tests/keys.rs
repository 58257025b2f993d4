// SPDX-License-Identifier: GPL-2.0

//! Registered memory.

mod common;

use common::{scatter, Machine, DATA, DATA_SIZE, MEMORY};
use mdma::desc::{Error, Operand};
use mdma::engine::UNIT;
use mdma::key::{SavedKey, MAX_LEN, SAVED_KEY_SIZE};
use mdma::sim::{Guest, Sim};
use mdma::state::SIZE;
use mdma::{job, Completion, Descriptor, Place};

impl Machine {
    /// Runs one job.
    fn one(&mut self, job: &Descriptor) -> Completion {
        self.queue.submit(job).unwrap();
        let [completion] = self.run()[..] else {
            panic!("no completion of {job:?}");
        };
        completion
    }

    /// Registers memory and returns its key.
    fn register(&mut self, iova: u64, len: u64, write: bool) -> u32 {
        let completion = self.one(&job::register(iova, len, write));
        assert_eq!((completion.error, completion.bytes), (0, len));
        completion.result
    }

    /// Runs a job that fails, and enables the queue again.
    fn error(&mut self, job: &Descriptor) -> Error {
        let completion = self.one(job);
        assert_eq!(completion.result, 0);
        self.queue.restart(3).unwrap();
        Error::from_raw(completion.error).unwrap()
    }
}

fn at(key: u32, offset: u64) -> Place {
    Place::Key { key, offset }
}

#[test]
fn jobs_by_key_do_what_jobs_by_iova_do() {
    let mut machine = Machine::new(3);
    let mut world = scatter(&machine);
    let (first, second) = (DATA + 100, DATA + DATA_SIZE / 2);
    let half = DATA_SIZE / 2;
    let keys = [
        machine.register(first, half - 100, true),
        machine.register(second, half, true),
    ];
    assert_eq!(keys, [1, 2]);
    world.keys.extend([(keys[0], first), (keys[1], second)]);
    let unit = UNIT as u64;
    for job in [
        job::fill(at(keys[0], 7), 0x1122_3344_5566_7788, 2 * unit + 3),
        job::copy(at(keys[0], 0), at(keys[1], 1), unit + 5),
        job::copy(at(keys[1], 3), Place::Device(9), 3 * unit),
        job::copy(Place::Device(1), at(keys[0], 9), 3 * unit),
        job::copy(at(keys[1], 0), Place::Guest(DATA), 99),
        job::copy(Place::Guest(DATA + 5), at(keys[1], half - 9), 9),
        // Overlaps, in both directions.
        job::copy(at(keys[1], 0), at(keys[1], 1000), 2 * unit),
        job::copy(at(keys[1], 1000), at(keys[1], 0), 2 * unit),
        job::crc32c(at(keys[0], 1), half - 101),
    ] {
        let completion = machine.one(&job);
        world.apply(&job).check(&completion).unwrap();
        assert_eq!(completion.error, 0);
    }
    let mut found = machine.world();
    found.keys = world.keys.clone();
    assert!(found == world);
}

#[test]
fn each_misuse_of_a_key_has_its_error() {
    let mut machine = Machine::new(3);
    let key = machine.register(DATA, 4096, false);
    let crc = |place, len| job::crc32c(place, len);
    for (job, error) in [
        (crc(at(key, 0), 4097), Error::KeyRange),
        (crc(at(key, 4096), 1), Error::KeyRange),
        (crc(at(key, u64::MAX), 1), Error::KeyRange),
        (crc(at(key, u64::MAX), 2), Error::KeyRange),
        (crc(at(key + 1, 0), 1), Error::BadKey),
        (crc(at(0, 0), 1), Error::BadKey),
        (job::fill(at(key, 0), 0, 1), Error::KeyAccess),
        (job::copy(at(key, 0), at(key, 1), 1), Error::KeyAccess),
        (job::deregister(key + 1), Error::BadKey),
        (
            job::register(DATA, DATA_SIZE + 1, false),
            Error::RegisterFault,
        ),
        (job::register(u64::MAX, 2, false), Error::RegisterFault),
        (job::register(DATA, MAX_LEN + 1, false), Error::BadLength),
        (job::register(DATA, 0, false), Error::BadLength),
    ] {
        assert_eq!(machine.error(&job), error, "{job:?}");
    }
    let unknown = Descriptor {
        value: 2,
        ..job::register(DATA, 1, false)
    };
    assert_eq!(machine.error(&unknown), Error::BadFlags);
    let far = Descriptor {
        value: (1 << 32) | u64::from(key),
        ..job::deregister(0)
    };
    assert_eq!(machine.error(&far), Error::BadKey);
    assert_eq!(machine.one(&crc(at(key, 0), 4096)).error, 0);
    assert_eq!(machine.one(&job::deregister(key)).error, 0);
    assert_eq!(machine.error(&crc(at(key, 0), 1)), Error::BadKey);
    // A key is not used twice.
    assert_eq!(machine.register(DATA, 1, true), key + 1);
}

#[test]
fn a_key_of_unmapped_memory_is_of_no_use() {
    let mut machine = Machine::new(3);
    let buffer = machine.guest.map(0x9000_0000, 0x2000);
    let key = machine.register(0x9000_0000, 0x2000, true);
    machine.guest.unmap(0x9000_0000);
    drop(buffer);
    let fill = job::fill(at(key, 0), 0, 8);
    assert_eq!(machine.error(&fill), Error::KeyUnmapped);
    assert_eq!(machine.one(&job::deregister(key)).error, 0);
}

#[test]
fn keys_move_with_the_device() {
    let mut machine = Machine::new(3);
    let mut world = scatter(&machine);
    let keys: Vec<u32> = (0..5)
        .map(|n| machine.register(DATA + n, 4 * UNIT as u64, n % 2 == 0))
        .collect();
    assert_eq!(machine.one(&job::deregister(keys[1])).error, 0);
    world.keys.insert(keys[2], DATA + 2);
    // In the middle of a job by key.
    let job = job::fill(at(keys[2], 0), 7, 3 * UNIT as u64);
    machine.queue.submit(&job).unwrap();
    machine.sim.step();
    let mut machine = machine.migrate();
    let [completion] = machine.run()[..] else {
        panic!("no completion");
    };
    world.apply(&job).check(&completion).unwrap();
    let crc = |n: usize| job::crc32c(at(keys[n], 0), 9);
    for n in [0, 2, 3, 4] {
        assert_eq!(machine.one(&crc(n)).error, 0);
    }
    assert_eq!(machine.error(&crc(1)), Error::BadKey);
    let fill = job::fill(at(keys[3], 0), 0, 8);
    assert_eq!(machine.error(&fill), Error::KeyAccess);
    assert_eq!(machine.register(DATA, 1, true), keys[4] + 1);
}

/// A registration that is in progress when the device is saved starts over.
#[test]
fn a_registration_in_progress_is_not_saved() {
    let mut machine = Machine::new(3);
    machine.guest.map(0x1_0000_0000, 64 << 20);
    let job = job::register(0x1_0000_0000, 64 << 20, true);
    machine.queue.submit(&job).unwrap();
    machine.sim.step();
    let mut machine = machine.migrate();
    let [completion] = machine.run()[..] else {
        panic!("no completion");
    };
    assert_eq!((completion.error, completion.result), (0, 1));
}

#[test]
fn each_field_of_a_saved_key_is_checked() {
    let mut machine = Machine::new(3);
    let keys = [
        machine.register(DATA, 4096, true),
        machine.register(DATA, 4096, false),
    ];
    let job = job::fill(at(keys[0], 0), 7, 4096);
    assert!(matches!(
        job.destination(),
        Some(Operand::At(Place::Key { .. }))
    ));
    let saved = machine.sim.save();
    assert_eq!(saved.len(), SIZE + 2 * SAVED_KEY_SIZE);
    let load = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = saved.clone();
        change(&mut bytes);
        let sim = Sim::new(Guest::new(), MEMORY, 0);
        sim.load(&bytes).map_err(|invalid| invalid.field)
    };
    let set = |at: usize, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        load(&move |saved: &mut Vec<u8>| saved[at..at + bytes.len()].copy_from_slice(&bytes))
    };
    assert_eq!(load(&|_| ()), Ok(()));
    assert_eq!(load(&|saved| saved.truncate(SIZE + 24)), Err("length"));
    assert_eq!(load(&|saved| saved.truncate(SIZE + 47)), Err("length"));
    assert_eq!(set(SIZE, &[0]), Err("key"));
    assert_eq!(set(SIZE + 24, &[1]), Err("key"));
    assert_eq!(set(SIZE + 4, &[4]), Err("key.flags"));
    assert_eq!(set(SIZE + 8, &[0xff; 8]), Err("key.iova"));
    assert_eq!(set(SIZE + 16, &[0; 8]), Err("key.len"));
    assert_eq!(set(SIZE + 16, &[0xff; 8]), Err("key.len"));
    let key = SavedKey::decode(saved[SIZE..SIZE + 24].try_into().unwrap(), 0).unwrap();
    assert!(key.memory().write && !key.is_unmapped());
}

/// A state whose job in flight uses a key as it may not.
#[test]
fn a_job_in_flight_must_have_its_key() {
    let mut machine = Machine::new(3);
    let len = 4 * UNIT as u64;
    let key = machine.register(DATA, len, true);
    machine
        .queue
        .submit(&job::fill(at(key, 0), 7, len))
        .unwrap();
    machine.sim.step();
    let saved = machine.sim.save();
    for (offset, value) in [(SIZE, 9u32), (SIZE + 4, 0), (SIZE + 16, len as u32 - 1)] {
        let mut bytes = saved.clone();
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        let sim = Sim::new(Guest::new(), MEMORY, 0);
        assert_eq!(sim.load(&bytes).unwrap_err().field, "job.descriptor");
    }
}
