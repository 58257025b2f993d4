// SPDX-License-Identifier: GPL-2.0

//! Peer-to-peer: two devices in one container, each with the other's memory as a target of its DMA.
//!
//! The memory is mapped as a VMM maps the BARs of its devices. A device that stops alone loses what the other writes to it
//! after its last data was read. So the devices stop in two steps: each enters a state in which it begins no DMA and still
//! takes that of others, and only then the first of them stops.

use std::sync::Arc;

use mdma::desc::Error;
use mdma::regs::Reg;
use mdma::{job, Descriptor, Queue, World};
use vfio_client::v2::{DataFd, State};
use vfio_client::{v1, Access, Container, DmaBuffer, Mapping};

use crate::dirty::pages::{get, set};
use crate::dma::keys::{by_key, expect_error};
use crate::dma::oracle::register;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::bytes::{random_bytes, same};
use crate::fixture::v2::MdmaV2;
use crate::fixture::{
    device, guest, parse, run_jobs, wait_register, MdmaFixture, VfioQueue, PAGE, QUEUE,
};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{note, tests};

tests! { "peer" needs [Mdma]:
    p30_jobs_on_the_memory_of_another_device ["P30"],
    p34_a_write_is_in_the_stream_of_its_target ["P34"],
    registering_the_memory_of_another_device_is_refused [],
    a_ring_in_the_memory_of_another_device_is_copied [],
    without_p2p_a_write_is_lost [],
    with_p2p_no_write_is_lost [],
    with_p2p_no_write_is_lost_in_any_order [],
    a_destination_needs_p2p_too [],
    v1_loses_no_write_if_all_stop_before_the_last_data_is_read [],
}

/// The IOVAs of the memory of the devices, and of their queues.
const BARS: [u64; 2] = [0x20_0000_0000, 0x21_0000_0000];
const QUEUES: [u64; 2] = [QUEUE, QUEUE + (1 << 32)];
/// Guest memory that the devices only read.
const SOURCE: u64 = 0x1_0000_0000;
const SOURCE_SIZE: usize = 1 << 20;
/// The part of each device's memory that the other writes.
const AREA: u64 = 4 << 20;
const ORDER: u32 = 6;

/// Two devices in one container, each with its memory mapped for the other.
struct Pair<F> {
    // Dropped in this order.
    bars: Vec<DmaBuffer>,
    devices: Vec<F>,
    container: Container,
}

impl<F> Pair<F> {
    fn of(env: &Env, wrap: impl Fn(MdmaFixture) -> Result<F>) -> Result<Self> {
        let container = Container::open()?;
        let (mut bars, mut devices) = (Vec::new(), Vec::new());
        for iova in BARS {
            let fixture = MdmaFixture::within(env, &container)?;
            let memory = Arc::new(fixture.mdma.map_memory()?);
            bars.push(DmaBuffer::of(&container, iova, memory, Access::ReadWrite)?);
            devices.push(wrap(fixture)?);
        }
        Ok(Pair {
            bars,
            devices,
            container,
        })
    }
}

impl Pair<MdmaV2> {
    fn new(env: &Env) -> Result<Self> {
        Self::of(env, MdmaV2::of)
    }

    /// Enables a queue of each device.
    fn queues(&self) -> Result<Vec<VfioQueue>> {
        let both = self.devices.iter().zip(QUEUES);
        both.map(|(device, iova)| device.queue_at(iova, ORDER))
            .collect()
    }

    /// Continues queues of other devices, with copies of their memory.
    fn take_over(&self, queues: Vec<VfioQueue>) -> Result<Vec<VfioQueue>> {
        let both = self.devices.iter().zip(queues);
        both.map(|(device, queue)| {
            let old = queue.memory();
            let new = DmaBuffer::new(&self.container, old.iova(), old.memory().len())?;
            old.copy_to(0, &new, 0, old.memory().len());
            Ok(queue.moved(device.mdma.clone(), new))
        })
        .collect()
    }

    /// Maps the memory that the devices read.
    fn source(&self, bytes: &[u8]) -> Result<DmaBuffer> {
        let source = DmaBuffer::new(&self.container, SOURCE, bytes.len())?;
        source.write(0, bytes);
        Ok(source)
    }

    /// Loads both devices and starts them by way of P2P.
    fn load(&self, streams: &[Vec<u8>; 2], order: [usize; 2]) -> Result {
        for n in order {
            self.devices[n]
                .begin(State::RESUMING)?
                .write_all(&streams[n])?;
        }
        for state in [State::RUNNING_P2P, State::RUNNING] {
            for n in order {
                self.devices[n].to(state)?;
            }
        }
        Ok(())
    }
}

/// Reads all that is left.
fn rest(fd: &DataFd) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    Ok(bytes)
}

/// Each kind of job, on the other's memory by IOVA, compared with the oracle. type1 reports the pages at the IOVA of the BAR.
fn p30_jobs_on_the_memory_of_another_device(env: &Env) -> Result {
    let pair = Pair::new(env)?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    let mut queues = pair.queues()?;
    for n in [0, 1] {
        let (bar, other) = (BARS[1 - n], &pair.devices[1 - n]);
        let mut world = World::new(pair.devices[n].mdma.memory_size());
        let theirs = random_bytes(&mut rng, AREA as usize);
        other.write_memory(0, &theirs)?;
        world.write(guest(bar), &theirs);
        let mine = random_bytes(&mut rng, AREA as usize);
        pair.devices[n].write_memory(0, &mine)?;
        world.write(device(0), &mine);
        // Beyond the area is memory that nobody has touched yet.
        let fresh = bar + (8 << 20);
        for job in [
            job::copy(device(100), guest(bar + 77), 200_000),
            job::copy(guest(bar + 4095), device(1 << 20), 70_000),
            job::copy(guest(bar), guest(fresh + 1), 150_000),
            job::copy(guest(fresh), guest(fresh + 70), 150_000),
            job::fill(guest(bar + 5000), 0x1122_3344_5566_7788, 99_999),
            job::fill(guest(fresh + (2 << 20)), 7, 3),
            job::crc32c(guest(bar), AREA),
        ] {
            let expected = world.apply(&job);
            queues[n].submit(&job)?;
            let completion = queues[n].wait(PATIENCE)?;
            if let Err(why) = expected.check(&completion) {
                crate::fail!("{job:?}: {why}");
            }
        }
        let size = 11usize << 20;
        let found = other.read_memory(0, size)?;
        same(
            &found,
            &world.read(guest(bar), size),
            guest(bar),
            "the other's",
        );
        let found = pair.devices[n].read_memory(0, AREA as usize)?;
        same(
            &found,
            &world.read(device(0), found.len()),
            device(0),
            "its own",
        );
    }
    pair.container.dirty_start()?;
    run_jobs(
        &mut queues[0],
        &[
            job::fill(guest(BARS[1] + 3 * PAGE - 1), 1, 2),
            job::crc32c(guest(BARS[1]), AREA),
        ],
    )?;
    let size = pair.bars[1].memory().len() as u64;
    let pages = get(&pair.container, BARS[1], size)?;
    assert_eq!(pages, set([BARS[1] + 2 * PAGE, BARS[1] + 3 * PAGE]));
    // The memory ends with the BAR.
    let end = BARS[1] + size;
    expect_error(
        &mut queues[0],
        &job::fill(guest(end - 8), 1, 16),
        Error::DstFault,
    )?;
    drop(queues);
    Ok(())
}

/// A page that the other device writes after the target has sent it is sent again.
fn p34_a_write_is_in_the_stream_of_its_target(env: &Env) -> Result {
    let pair = Pair::new(env)?;
    let mut queues = pair.queues()?;
    pair.devices[1].write_memory(0, &vec![1; 8 * PAGE as usize])?;
    let fd = pair.devices[1].begin(State::PRE_COPY)?;
    let first = rest(&fd)?;
    run_jobs(
        &mut queues[0],
        &[job::fill(guest(BARS[1] + 5 * PAGE + 9), 2, PAGE)],
    )?;
    pair.devices[1].to(State::PRE_COPY_P2P)?;
    run_jobs(
        &mut queues[0],
        &[job::fill(guest(BARS[1] + 700 * PAGE), 3, 1)],
    )?;
    pair.devices[1].to(State::STOP_COPY)?;
    let last = rest(&fd)?;
    let sent = parse(&[&first[..], &last].concat())?.pages(PAGE);
    let again: Vec<_> = sent.iter().filter(|page| **page >= 5).collect();
    assert_eq!(again, [&5, &6, &7, &5, &6, &700], "{sent:?}");
    drop(queues);
    Ok(())
}

/// The pages of a BAR cannot be pinned. The registration fails as that of a hole does, and nothing stays pinned.
fn registering_the_memory_of_another_device_is_refused(env: &Env) -> Result {
    let pair = Pair::new(env)?;
    let mut queues = pair.queues()?;
    // Guest memory that ends where the BAR begins.
    let before = 1025 * PAGE;
    let memory = Arc::new(Mapping::anonymous(before as usize)?);
    let ram = DmaBuffer::of(&pair.container, BARS[1] - before, memory, Access::ReadWrite)?;
    let queue = &mut queues[0];
    run_jobs(queue, &[job::nop(), job::fill(guest(BARS[1]), 5, 8)])?;
    let pins = Pins::now()?;
    for (iova, len) in [
        (BARS[1], PAGE),
        (BARS[1] + 5, 3),
        (ram.iova(), before + 1),
        (BARS[1] - PAGE, 2 * PAGE),
        // Its own.
        (BARS[0], PAGE),
    ] {
        for write in [false, true] {
            let mark = env.kmsg.mark();
            expect_error(
                queue,
                &job::register(iova, len, write),
                Error::RegisterFault,
            )?;
            let uuid = pair.devices[0].uuid();
            let lines = env.kmsg.since(mark);
            let ours = |text: &str| text.contains(uuid) && text.contains("register: ");
            assert!(lines.iter().any(|line| ours(&line.text)), "{lines:?}");
            run_jobs(queue, &[job::nop()])?;
            let now = Pins::now()?;
            assert_eq!((now.held(), now.locked), (pins.held(), pins.locked));
        }
    }
    // What is beside it can be registered, and copied to it.
    let key = register(queue, ram.iova(), before, false)?;
    ram.write(0, &[9; 8]);
    run_jobs(queue, &[job::copy(by_key(key, 0), guest(BARS[1]), 8)])?;
    assert_eq!(pair.devices[1].read_memory(0, 8)?, [9; 8]);
    drop((queues, ram));
    Ok(())
}

fn a_ring_in_the_memory_of_another_device_is_copied(env: &Env) -> Result {
    let pair = Pair::new(env)?;
    let pins = Pins::now()?;
    let mark = env.kmsg.mark();
    let mut queue = Queue::new(pair.devices[0].mdma.clone(), &pair.bars[1], 4)?;
    for n in 0..40 {
        let to = (1 << 20) + n * 8;
        queue.submit(&job::fill(guest(BARS[1] + to), n + 1, 8))?;
        let completion = queue.wait(PATIENCE)?;
        assert_eq!(completion.error, 0, "{completion:?}");
        assert_eq!(pair.devices[1].read_memory(to, 8)?, (n + 1).to_le_bytes());
    }
    assert_eq!(Pins::now()?.held(), pins.held());
    let uuid = pair.devices[0].uuid();
    let lines = env.kmsg.since(mark);
    let told = lines
        .iter()
        .filter(|line| line.text.contains(uuid) && line.text.contains("EFAULT"));
    assert_eq!(told.count(), 1, "{lines:?}");
    Ok(())
}

/// Moves two devices, of which number `first` stops first. The other writes to its memory after its last step before it is
/// stopped. Returns whether the write is lost, of which the writer says at the destination that it is done.
fn loses_a_write(env: &Env, first: usize, p2p: bool) -> Result<bool> {
    let second = 1 - first;
    let source = Pair::new(env)?;
    let mut queues = source.queues()?;
    let devices = &source.devices;
    devices[first].write_memory(0, &[1; PAGE as usize])?;
    let fds = [
        devices[0].begin(State::PRE_COPY)?,
        devices[1].begin(State::PRE_COPY)?,
    ];
    let mut streams = [rest(&fds[0])?, rest(&fds[1])?];
    let mut stop = |n: usize| -> Result {
        devices[n].to(State::STOP_COPY)?;
        streams[n].extend(rest(&fds[n])?);
        devices[n].to(State::STOP)
    };
    let write = job::fill(guest(BARS[first] + 8), 0x5a5a, 16);
    if p2p {
        devices[first].to(State::PRE_COPY_P2P)?;
        run_jobs(&mut queues[second], &[write])?;
        devices[second].to(State::PRE_COPY_P2P)?;
        stop(first)?;
    } else {
        stop(first)?;
        // The first device takes the write also now, but has nothing to send any more.
        run_jobs(&mut queues[second], &[write])?;
    }
    stop(second)?;
    let written = devices[first].read_memory(0, 64)?;
    assert_eq!(written[8..24], 0x5a5au64.to_le_bytes().repeat(2));

    let destination = Pair::new(env)?;
    let mut queues = destination.take_over(queues)?;
    destination.load(&streams, [first, second])?;
    let done = destination.devices[second].mdma.get(Reg::JobsDone)?;
    assert_eq!(done, 1, "the writer does not say that its job is done");
    run_jobs(&mut queues[second], &[job::nop()])?;
    let found = destination.devices[first].read_memory(0, 64)?;
    drop(queues);
    if found == written {
        return Ok(false);
    }
    assert_eq!(found, [1; 64], "neither the old contents nor the new");
    Ok(true)
}

fn without_p2p_a_write_is_lost(env: &Env) -> Result {
    for first in [0, 1] {
        assert!(
            loses_a_write(env, first, false)?,
            "device {first} stopped first, and nothing is lost"
        );
    }
    Ok(())
}

fn with_p2p_no_write_is_lost(env: &Env) -> Result {
    for first in [0, 1] {
        assert!(
            !loses_a_write(env, first, true)?,
            "device {first} stopped first, and a write is lost"
        );
    }
    Ok(())
}

/// Returns a random job that writes to the other's memory, from memory that nobody writes.
fn random_job(rng: &mut fastrand::Rng, n: usize) -> Descriptor {
    let len = match rng.u8(0..3) {
        0 => rng.u64(1..64),
        1 => rng.u64(1..3 * PAGE),
        _ => rng.u64(1..200_000),
    };
    let to = guest(BARS[1 - n] + rng.u64(0..AREA - len));
    match rng.u8(0..3) {
        0 => job::fill(to, rng.u64(..), len),
        1 => job::copy(
            guest(SOURCE + rng.u64(0..SOURCE_SIZE as u64 - len)),
            to,
            len,
        ),
        // Its own memory, beyond what the other writes.
        _ => job::copy(device(AREA + rng.u64(0..AREA - len)), to, len),
    }
}

/// Both devices write to each other while both stop and both are read, in each order and at any moment. At the destination
/// they finish their jobs, and then all memory is as if nothing had happened.
fn with_p2p_no_write_is_lost_in_any_order(env: &Env) -> Result {
    let seed = env.limits.seed;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut in_flight = 0;
    // In half of the rounds a device stops with jobs left. Each round has its own order of the steps.
    let rounds = (env.limits.iterations / 50).max(8);
    for round in 0..rounds {
        let source = Pair::new(env)?;
        let bytes = random_bytes(&mut rng, SOURCE_SIZE);
        let memory = source.source(&bytes)?;
        let mut queues = source.queues()?;
        let devices = &source.devices;
        let mut worlds = Vec::new();
        for n in [0, 1] {
            let mut world = World::new(devices[n].mdma.memory_size());
            world.write(guest(SOURCE), &bytes);
            let own = random_bytes(&mut rng, AREA as usize);
            devices[n].write_memory(AREA, &own)?;
            world.write(device(AREA), &own);
            worlds.push(world);
            devices[n].mdma.set_throttle(rng.u32(0..2000))?;
        }
        let mut expected = [Vec::new(), Vec::new()];
        for (n, queue) in queues.iter_mut().enumerate() {
            while queue.room() > 0 {
                let job = random_job(&mut rng, n);
                queue.fill(&job)?;
                expected[n].push(worlds[n].apply(&job));
            }
        }
        for queue in &mut queues {
            queue.ring_doorbell()?;
        }
        // One of them has done a part when the migration begins.
        let n = rng.usize(0..2);
        let count = rng.u64(0..40);
        wait_register(&devices[n].mdma, Reg::JobsDone, "some jobs", |done| {
            done >= count
        })?;

        let mut order = [0, 1];
        let mut fds = Vec::new();
        let mut streams = [Vec::new(), Vec::new()];
        for device in devices {
            fds.push(device.begin(State::PRE_COPY)?);
        }
        for state in [State::PRE_COPY_P2P, State::STOP_COPY] {
            rng.shuffle(&mut order);
            for n in order {
                for n in [0, 1] {
                    if rng.bool() {
                        fds[n].read_available(&mut streams[n])?;
                    }
                }
                devices[n].to(state)?;
                // All of its data may be read while the other is not stopped yet.
                if rng.bool() {
                    fds[n].read_available(&mut streams[n])?;
                }
            }
        }
        for n in order {
            fds[n].read_available(&mut streams[n])?;
            devices[n].to(State::STOP)?;
        }
        in_flight += queues
            .iter()
            .map(|queue| queue.mdma().get(Reg::JobsDone))
            .filter(|done| !matches!(done, Ok(done) if *done == (1 << ORDER) - 1))
            .count();

        let destination = Pair::new(env)?;
        let _memory = destination.source(&memory.to_vec(0, SOURCE_SIZE))?;
        let mut queues = destination.take_over(queues)?;
        rng.shuffle(&mut order);
        destination.load(&streams, order)?;
        for (n, queue) in queues.iter_mut().enumerate() {
            destination.devices[n].mdma.set_throttle(0)?;
            for (index, expected) in expected[n].iter().enumerate() {
                let completion = queue.wait(PATIENCE)?;
                if let Err(why) = expected.check(&completion) {
                    crate::fail!("round {round}, job {index} of device {n}: {why}");
                }
            }
        }
        for n in [0, 1] {
            let found = destination.devices[1 - n].read_memory(0, AREA as usize)?;
            let bar = guest(BARS[1 - n]);
            let expected = worlds[n].read(bar, found.len());
            same(&found, &expected, bar, &format!("round {round}"));
        }
        drop(queues);
    }
    note!("seed {seed}: {rounds} rounds, {in_flight} devices stopped with jobs left");
    assert!(in_flight > 0, "no device stopped in the middle of its jobs");
    Ok(())
}

/// A device that runs before the other is loaded writes to memory that the load overwrites.
fn a_destination_needs_p2p_too(env: &Env) -> Result {
    for (first, p2p) in [(0, false), (1, false), (0, true), (1, true)] {
        let second = 1 - first;
        let source = Pair::new(env)?;
        let mut queues = source.queues()?;
        let devices = &source.devices;
        devices[second].write_memory(0, &[1; PAGE as usize])?;
        for device in devices {
            device.to(State::RUNNING_P2P)?;
        }
        // It is due, and done by the destination.
        queues[first].submit(&job::fill(guest(BARS[second]), 0x5a5a, 8))?;
        let streams = [devices[0].save_v2()?, devices[1].save_v2()?];

        let destination = Pair::new(env)?;
        let mut queues = destination.take_over(queues)?;
        let devices = &destination.devices;
        if p2p {
            destination.load(&streams, [first, second])?;
            assert_eq!(queues[first].wait(PATIENCE)?.error, 0);
        } else {
            devices[first].load_v2(&streams[first])?;
            assert_eq!(queues[first].wait(PATIENCE)?.error, 0);
            devices[second].load_v2(&streams[second])?;
        }
        let found = devices[second].read_memory(0, 8)?;
        let expected = if p2p { 0x5a5au64.to_le_bytes() } else { [1; 8] };
        assert_eq!(found, expected, "device {first} first, P2P {p2p}");
        drop(queues);
    }
    Ok(())
}

/// v1 has no such state. A device that is stopped takes writes to its memory, and sends them as long as its last data was
/// not read. So a VMM that stops all devices before it reads the last data of any loses nothing. One that saves a device
/// before it stops the next does.
fn v1_loses_no_write_if_all_stop_before_the_last_data_is_read(env: &Env) -> Result {
    for stops_all in [true, false] {
        let source = Pair::of(env, Ok)?;
        let mut queue = source.devices[1].queue_at(QUEUES[1], ORDER)?;
        source.devices[0].write_memory(0, &[1; PAGE as usize])?;
        source.devices[0].go(&[v1::State::PRE_COPY])?;
        let mut stream = source.devices[0].save_pending()?.concat();
        source.devices[0].go(&[v1::State::STOP_AND_COPY])?;
        if !stops_all {
            stream.extend(source.devices[0].save_pending()?.concat());
        }
        run_jobs(&mut queue, &[job::fill(guest(BARS[0]), 0x5a5a, 8)])?;
        source.devices[1].go(&[v1::State::STOP])?;
        if stops_all {
            stream.extend(source.devices[0].save_pending()?.concat());
        }
        let destination = MdmaFixture::new(env)?;
        destination.load(&stream)?;
        let found = destination.read_memory(0, 8)?;
        let expected = if stops_all {
            0x5a5au64.to_le_bytes()
        } else {
            [1; 8]
        };
        assert_eq!(found, expected, "stops all first: {stops_all}");
        drop(queue);
    }
    Ok(())
}
