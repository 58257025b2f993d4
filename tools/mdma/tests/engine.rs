// SPDX-License-Identifier: GPL-2.0

//! The engine: jobs give the oracle's results, in one piece and in several.

mod common;

use common::{good_job, scatter, Machine, DATA, DATA_SIZE, MEMORY, QUEUE};
use mdma::control::{Control, Effect, Plan};
use mdma::desc::{Error, DESCRIPTOR_SIZE};
use mdma::engine::{self, UNIT};
use mdma::key::{Progress, Registration};
use mdma::queue::Ring;
use mdma::regs::Reg;
use mdma::sim::Step;
use mdma::{job, Buffer, Descriptor, Expected, Place};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any mix of jobs gives the oracle's results, and moving to another device between any units
    /// of them makes no difference.
    #[test]
    fn jobs_survive_moving_at_any_unit(
        jobs in proptest::collection::vec(good_job(), 1..16),
        stops in proptest::collection::vec(0usize..6, 0..24),
    ) {
        let mut machine = Machine::new(4);
        let mut world = scatter(&machine);
        let expected: Vec<Expected> = jobs.iter().map(|job| world.apply(job)).collect();
        let bytes: u64 = jobs.iter().map(|job| job.len).sum();
        let mut interrupts = jobs.iter().filter(|job| job.flags & 1 != 0).count() as u64;

        machine.queue.mdma().set_interrupts(1).unwrap();
        for job in &jobs {
            machine.queue.submit(job).unwrap();
        }
        for units in stops {
            for _ in 0..units {
                machine.sim.step();
            }
            interrupts -= machine.sim.take_events()[0];
            machine = machine.migrate();
        }
        let completions = machine.run();
        interrupts -= machine.sim.take_events()[0];

        prop_assert_eq!(completions.len(), jobs.len());
        for (i, (expected, completion)) in expected.iter().zip(&completions).enumerate() {
            prop_assert_eq!(expected.check(completion), Ok(()));
            prop_assert_eq!(completion.sequence, i as u64 + 1);
        }
        prop_assert!(machine.world() == world);
        prop_assert_eq!(interrupts, 0);
        prop_assert_eq!(machine.queue.mdma().get(Reg::BytesDone).unwrap(), bytes);
        prop_assert_eq!(machine.queue.mdma().get(Reg::JobsDone).unwrap(), jobs.len() as u64);
        prop_assert!(!machine.queue.mdma().busy().unwrap());
    }

    /// Overlapping copies, at any distance in both directions.
    #[test]
    fn overlapping_copies(
        device: bool,
        src in 0u64..200 << 10,
        dst in 0u64..200 << 10,
        len in 1u64..300 << 10,
    ) {
        let mut machine = Machine::new(1);
        let mut world = scatter(&machine);
        let place = |at| if device { Place::Device(at) } else { Place::Guest(DATA + at) };
        let job = job::copy(place(src), place(dst), len);
        let expected = world.apply(&job);
        machine.queue.submit(&job).unwrap();
        let completions = machine.run();
        prop_assert_eq!(expected.check(&completions[0]), Ok(()));
        prop_assert!(machine.world() == world);
    }

    /// Any bytes in the ring either run or halt the queue with a record.
    #[test]
    fn any_descriptor_runs_or_halts(mut bytes in any::<[u8; DESCRIPTOR_SIZE]>(), near: bool) {
        if near {
            // Make it nearly valid, or nearly all results are BAD_OP.
            bytes[0] %= 5;
            bytes[1..4].fill(0);
            bytes[4] %= 33;
            bytes[5..8].fill(0);
            bytes[27..32].fill(0);
            bytes[50..52].fill(0);
            bytes[54..64].fill(0);
        }
        let mut machine = Machine::new(2);
        machine.queue.fill_raw(&bytes).unwrap();
        machine.queue.ring_doorbell().unwrap();
        let completions = machine.run();
        prop_assert_eq!(completions.len(), 1);
        prop_assert_eq!(completions[0].cookie, Descriptor::cookie_of(&bytes));
        let error = Error::from_raw(completions[0].error).unwrap();
        let mdma = machine.queue.mdma();
        prop_assert_eq!(mdma.get(Reg::Error).unwrap(), error as u64);
        prop_assert_eq!(mdma.check_halted().is_err(), error != Error::None);
        // The resulting state can be saved and loaded.
        machine.migrate();
    }
}

/// Runs one job that must fail, and checks all consequences.
fn halts(machine: &mut Machine, job: &Descriptor, error: Error, bytes: u64) {
    let mdma = machine.queue.mdma().clone();
    let before = mdma.snapshot().unwrap();

    machine.queue.submit(&job.cookie(0x1234)).unwrap();
    machine.queue.submit(&job::nop()).unwrap();
    let completions = machine.run();
    let after = mdma.snapshot().unwrap();

    assert_eq!(completions.len(), 1, "{error:?}");
    assert_eq!(completions[0].error, error as u32);
    assert_eq!(completions[0].cookie, 0x1234);
    assert_eq!(completions[0].bytes, bytes);
    assert_eq!(after.get(Reg::Status), 5);
    assert_eq!(after.get(Reg::Error), error as u64);
    assert_eq!(after.get(Reg::ErrorIndex), before.get(Reg::Head));
    assert_eq!(after.get(Reg::Head), before.get(Reg::Head));
    assert_eq!(after.get(Reg::IntCause), before.get(Reg::IntCause) | 2);
    let changed = [
        "STATUS",
        "ERROR",
        "ERROR_INDEX",
        "INT_CAUSE",
        "TAIL",
        "JOBS_DONE",
        "BYTES_DONE",
    ];
    for (name, ..) in before.diff(&after) {
        assert!(changed.contains(&name), "{name} has changed");
    }

    // A halted queue stays halted after a doorbell, and after a save and a load.
    machine.queue.ring_doorbell().unwrap();
    assert_eq!(machine.sim.step(), Step::Idle);
    let saved = machine.sim.save();
    machine.sim.load(&saved).unwrap();
    assert_eq!(machine.sim.step(), Step::Idle);
    assert_eq!(mdma.snapshot().unwrap(), after);

    // Disabling clears the error.
    mdma.disable().unwrap();
    for reg in [
        Reg::Status,
        Reg::Error,
        Reg::ErrorIndex,
        Reg::Head,
        Reg::Tail,
    ] {
        assert_eq!(mdma.get(reg).unwrap(), 0);
    }
}

#[test]
fn every_error_of_a_job() {
    use Place::{Device, Guest};
    let outside = DATA + DATA_SIZE;
    let cases = [
        (
            Descriptor {
                flags: 32,
                ..job::nop()
            },
            Error::BadFlags,
            0,
        ),
        (job::fill(Device(0), 0, 0), Error::BadLength, 0),
        (job::crc32c(Device(MEMORY - 1), 2), Error::SrcRange, 0),
        (job::fill(Device(MEMORY), 0, 1), Error::DstRange, 0),
        (job::crc32c(Guest(outside - 1), 2), Error::SrcFault, 0),
        (job::fill(Guest(outside), 0, 1), Error::DstFault, 0),
        (job::copy(Guest(outside), Device(0), 8), Error::SrcFault, 0),
        (job::copy(Device(0), Guest(outside), 8), Error::DstFault, 0),
        // The second unit fails after the first one succeeded.
        (
            job::crc32c(Guest(outside - UNIT as u64), UNIT as u64 + 1),
            Error::SrcFault,
            UNIT as u64,
        ),
    ];
    for (job, error, bytes) in cases {
        halts(&mut Machine::new(3), &job, error, bytes);
    }
}

#[test]
fn faults_of_the_queue_itself() {
    // The page that stays mapped, and the error of a fault on the other one.
    for (kept, error) in [
        (QUEUE + 0x1000, Error::RingFault),
        (QUEUE, Error::CompletionFault),
    ] {
        let mut machine = Machine::new(3);
        let mdma = machine.queue.mdma().clone();
        machine.guest.unmap(QUEUE);
        machine.guest.map(kept, 0x1000);

        machine.queue.submit(&job::nop()).unwrap();
        machine.sim.run();
        let error = u64::from(error as u32);
        assert_eq!(mdma.get(Reg::Error).unwrap(), error);
        assert_eq!(mdma.get(Reg::JobsDone).unwrap(), 0);
        assert!(machine.queue.wait(std::time::Duration::ZERO).is_err());
        machine.migrate();
    }
}

#[test]
fn disabling_drops_jobs_and_the_next_queue_starts_over() {
    let mut machine = Machine::new(3);
    machine
        .queue
        .submit(&job::fill(Place::Device(0), 1, 3 * UNIT as u64))
        .unwrap();
    assert_eq!(machine.sim.step(), Step::Unit);
    let mdma = machine.queue.mdma().clone();
    assert!(mdma.busy().unwrap());
    mdma.disable().unwrap();
    assert_eq!(machine.sim.step(), Step::Idle);
    assert_eq!(mdma.get(Reg::BytesDone).unwrap(), UNIT as u64);
    assert_eq!(mdma.get(Reg::JobsDone).unwrap(), 0);

    let memory = machine.queue.memory().clone();
    let mut queue = mdma::Queue::new(mdma, memory, 2).unwrap();
    queue.submit(&job::nop().cookie(9)).unwrap();
    machine.sim.run();
    assert_eq!(queue.poll().unwrap().cookie, 9);
    assert!(queue.poll().is_none());
}

#[test]
fn full_rings_and_wrap_around() {
    let mut machine = Machine::new(2);
    let mut cookie = 0;
    for lap in 0..10 {
        for _ in 0..3 {
            cookie += 1;
            machine.queue.submit(&job::nop().cookie(cookie)).unwrap();
        }
        assert!(matches!(
            machine.queue.submit(&job::nop()),
            Err(mdma::Error::Full)
        ));
        let cookies: Vec<u64> = machine
            .run()
            .iter()
            .map(|completion| completion.cookie)
            .collect();
        assert_eq!(cookies, [lap * 3 + 1, lap * 3 + 2, lap * 3 + 3]);
    }
}

#[test]
fn the_record_is_at_the_index_of_its_descriptor() {
    let mut machine = Machine::new(3);
    machine.queue.submit(&job::nop()).unwrap();
    machine
        .queue
        .submit(&job::fill(Place::Guest(DATA), 5, 16).cookie(77))
        .unwrap();
    machine.sim.run();
    let mut record = [0; 32];
    machine.queue.memory().read(0x1000 + 32, &mut record);
    assert_eq!(record[..8], 77u64.to_le_bytes());
    assert_eq!(record[16..24], 16u64.to_le_bytes());
    assert_eq!(record[24..], 2u64.to_le_bytes());
}

/// A bus with one descriptor that counts records.
struct Bus {
    descriptor: Descriptor,
    records: usize,
}

impl mdma::engine::Bus for Bus {
    fn prepare(&mut self, _: &Ring) -> Result<(), Error> {
        Ok(())
    }
    fn fetch(&mut self, _: &Ring, _: u32) -> Result<[u8; DESCRIPTOR_SIZE], Error> {
        Ok(self.descriptor.encode())
    }
    fn complete(&mut self, _: &Ring, _: u32, _: &[u8; 32]) -> Result<(), Error> {
        self.records += 1;
        Ok(())
    }
    fn check_key(&mut self, _: u32, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Err(Error::BadKey)
    }
    fn register(&mut self, _: &Registration) -> Result<Progress, Error> {
        Err(Error::RegisterFault)
    }
    fn deregister(&mut self, _: u64) -> Result<bool, Error> {
        Err(Error::BadKey)
    }
    fn entries(&mut self, _: u64, _: &mut [u8]) -> Result<(), Error> {
        Ok(())
    }
    fn copy(&mut self, _: Place, _: Place, _: usize) -> Result<(), Error> {
        Ok(())
    }
    fn fill(&mut self, _: Place, _: u64, _: usize) -> Result<(), Error> {
        Ok(())
    }
    fn crc32c(&mut self, _: Place, crc: u32, _: usize) -> Result<u32, Error> {
        Ok(crc)
    }
}

#[test]
fn disabling_in_the_middle_of_a_unit() {
    let mut bus = Bus {
        descriptor: job::fill(Place::Guest(0), 0, 100).interrupt(),
        records: 0,
    };
    let mut control = Control::new(MEMORY, 0);
    let set = |control: &mut Control, reg: Reg, value: u32| {
        control.write(reg.offset(), &value.to_le_bytes())
    };
    let get = |control: &mut Control, reg: Reg| {
        let mut data = vec![0; reg.row().width as usize];
        control.read(reg.offset(), &mut data).unwrap();
        data[0]
    };
    set(&mut control, Reg::RingOrder, 2).unwrap();
    set(&mut control, Reg::IntMask, 3).unwrap();
    set(&mut control, Reg::Control, 1).unwrap();
    set(&mut control, Reg::Tail, 1).unwrap();

    let Plan::Unit(ticket) = control.begin() else {
        panic!("there is a job");
    };
    set(&mut control, Reg::Control, 0).unwrap();
    // The unit is still in flight, so the device is busy, and enabling the queue now begins another
    // run.
    assert_eq!(get(&mut control, Reg::Status), 2);
    set(&mut control, Reg::Control, 1).unwrap();
    set(&mut control, Reg::Tail, 2).unwrap();
    assert_eq!(get(&mut control, Reg::Status), 3);
    let outcome = engine::run(&ticket, &mut bus);
    let effect = control.finish(&ticket, &outcome, &mut bus);

    // The moved bytes count, but there is no record and no interrupt.
    assert_eq!(bus.records, 0);
    assert_eq!(effect, Effect::default());
    assert_eq!(get(&mut control, Reg::BytesDone), 100);
    for reg in [Reg::JobsDone, Reg::Head, Reg::IntCause] {
        assert_eq!(get(&mut control, reg), 0);
    }
    // The new run starts with its first job.
    let Plan::Unit(next) = control.begin() else {
        panic!("the new run has jobs");
    };
    assert_ne!(next.run, ticket.run);
    assert_eq!((next.index, next.job), (0, None));
}
