// SPDX-License-Identifier: GPL-2.0

//! Runs random jobs on an instance of the device and compares the results with the oracle.
//!
//! ```text
//! exercise TYPE [JOBS [SEED [MOVES]]]     for example: exercise mdma-16M 500 1 100
//! ```
//!
//! It creates two instances that see the same guest memory. MOVES times it moves the device from one to the other, by
//! the v1 region and with jobs in flight. In the end it removes them. The exit status is 0 if completions, interrupts,
//! guest memory and device memory are all as expected.

use mdma::regs::{Reg, INT_ALL, INT_COMPLETION};
use mdma::{job, Descriptor, Mdma, Place, Queue, World};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use vfio_client::v1::{Migration, State};
use vfio_client::{mdev, Access, Device, DmaBuffer, EventFd, Mapping, Region};

/// IOVAs of the queue and of the data.
const QUEUE: u64 = 0x1_0000_0000;
const DATA: u64 = 0xffff_f000_0000;
/// Bytes of guest memory and of device memory that jobs use.
const SIZE: usize = 4 << 20;
/// Order of the ring.
const ORDER: u32 = 6;
/// The longest job.
const MAX: u64 = 300 << 10;

/// Least microseconds per unit while the device is moved.
const THROTTLE: u32 = 300;

/// A random number generator: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Picks a place with room for `len` bytes.
    fn place(&mut self, len: u64) -> Place {
        let at = self.below(SIZE as u64 - len + 1);
        match self.below(2) {
            0 => Place::Guest(DATA + at),
            _ => Place::Device(at),
        }
    }

    /// Picks a job that succeeds.
    fn job(&mut self) -> Descriptor {
        let len = 1 + self.below(MAX);
        let desc = match self.below(8) {
            0 => job::nop(),
            1..=3 => job::copy(self.place(len), self.place(len), len),
            4..=6 => job::fill(self.place(len), self.next(), len),
            _ => job::crc32c(self.place(len), len),
        };
        desc.cookie(self.next())
    }
}

/// The result of `main` and its helpers.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The memory of a guest.
struct Guest {
    queue: Arc<Mapping>,
    data: Arc<Mapping>,
    completion: EventFd,
}

/// A device that can run a guest.
struct Side {
    device: Device,
    mdma: Mdma<Region>,
    migration: Migration,
    /// Keeps the guest's data mapped.
    _data: DmaBuffer,
}

impl Side {
    /// Opens an instance for a guest.
    fn open(instance: &mdev::Instance, guest: &Guest) -> Result<Side> {
        let device = instance.open_alone()?;
        let container = device.container();
        let data = DmaBuffer::of(container, DATA, guest.data.clone(), Access::ReadWrite)?;
        let mdma = Mdma::open(&device)?;
        device.irq(2)?.set_eventfds(0, &[Some(&guest.completion)])?;
        let migration = Migration::find(&device)?.ok_or("no migration region")?;
        Ok(Side {
            mdma,
            migration,
            _data: data,
            device,
        })
    }

    /// Returns the guest's queue on this device.
    fn queue_memory(&self, guest: &Guest) -> Result<DmaBuffer> {
        let container = self.device.container();
        let memory = guest.queue.clone();
        Ok(DmaBuffer::of(container, QUEUE, memory, Access::ReadWrite)?)
    }

    /// Moves the device to another instance, and resets this one; returns the bytes transferred.
    fn move_to(&self, other: &Side) -> Result<u64> {
        let (from, to) = (&self.migration, &other.migration);
        to.set_state(State::RESUMING)?;
        from.set_state(State::PRE_COPY)?;
        let mut buffer = Vec::new();
        let mut bytes = 0;
        // One round while the device runs, then the rest.
        if from.pending_bytes()? > 0 {
            from.save_buffer(&mut buffer)?;
            to.load_buffer(&buffer)?;
            bytes += buffer.len() as u64;
        }
        from.set_state(State::STOP_AND_COPY)?;
        let before = self.mdma.snapshot()?;
        bytes += from.save_all(&mut |buffer| to.load_buffer(buffer))?;
        from.set_state(State::STOP)?;

        to.set_state(State::STOP)?;
        let differences = before.diff(&other.mdma.snapshot()?);
        if !differences.is_empty() {
            return Err(format!("registers differ after a move: {differences:x?}").into());
        }
        to.set_state(State::RUNNING)?;
        self.device.reset()?;
        Mdma::open(&self.device)?;
        Ok(bytes)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exercise: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let typ = args
        .next()
        .ok_or("usage: exercise TYPE [JOBS [SEED [MOVES]]]")?;
    let jobs: usize = args.next().map_or(Ok(200), |arg| arg.parse())?;
    let mut random = Random(args.next().map_or(Ok(1), |arg| arg.parse())?);
    let moves: u32 = args.next().map_or(Ok(0), |arg| arg.parse())?;

    let typ = mdev::Sysfs::default().find_type(&typ)?;
    let instances = [
        typ.create(&mdev::Uuid::random()?)?,
        typ.create(&mdev::Uuid::random()?)?,
    ];
    let result = exercise(&instances, jobs, moves, &mut random);
    for instance in instances {
        instance.remove()?;
    }
    result
}

fn exercise(
    instances: &[mdev::Instance; 2],
    jobs: usize,
    mut moves: u32,
    random: &mut Random,
) -> Result<()> {
    let guest = Guest {
        queue: Arc::new(Mapping::anonymous(Queue::<Region, DmaBuffer>::size(ORDER))?),
        data: Arc::new(Mapping::anonymous(SIZE)?),
        completion: EventFd::new()?,
    };
    let sides = [
        Side::open(&instances[0], &guest)?,
        Side::open(&instances[1], &guest)?,
    ];
    let mut here = 0;
    let mut queue = Queue::new(sides[0].mdma.clone(), sides[0].queue_memory(&guest)?, ORDER)?;

    let noise: Vec<u8> = (0..SIZE / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    let mut world = World::new(queue.mdma().memory_size());
    world.guest.write(DATA, &noise);
    guest.data.write(0, &noise);
    world.device.write(1, &noise[..SIZE - 1]);
    sides[0].mdma.map_memory()?.write(1, &noise[..SIZE - 1]);

    queue.mdma().set_interrupts(INT_ALL)?;
    if moves != 0 {
        queue.mdma().set_throttle(THROTTLE)?;
    }

    let start = Instant::now();
    let (mut done, mut bytes, mut moved, mut in_flight, mut streamed) = (0, 0, 0, 0, 0);
    while done < jobs {
        let batch: Vec<Descriptor> = (0..queue.room().min((jobs - done) as u32))
            .map(|_| random.job())
            .collect();
        for (i, job) in batch.iter().enumerate() {
            let last = i + 1 == batch.len();
            queue.fill(&if last { job.interrupt() } else { *job })?;
        }
        queue.ring_doorbell()?;

        while moves > 0 && queue.mdma().busy()? {
            thread::sleep(Duration::from_micros(random.below(5000)));
            let there = 1 - here;
            // Mapped before the device runs there.
            let memory = sides[there].queue_memory(&guest)?;
            streamed += sides[here].move_to(&sides[there])?;
            queue = queue.moved(sides[there].mdma.clone(), memory);
            here = there;
            moves -= 1;
            moved += 1;
            in_flight += u32::from(queue.mdma().busy()?);
        }

        let interrupts = guest.completion.wait(Duration::from_secs(20))?;
        if interrupts != 1 {
            let registers = queue.mdma().snapshot()?;
            return Err(format!("{interrupts} interrupts, not one\n{registers}").into());
        }
        if queue.mdma().acknowledge()? != INT_COMPLETION {
            return Err("not one completion".into());
        }
        for job in &batch {
            let expected = world.apply(job);
            let found = queue.poll().ok_or("a completion is missing")?;
            expected
                .check(&found)
                .map_err(|why| format!("job {done} {job:?}: {why}"))?;
            done += 1;
            bytes += job.len;
        }
    }
    println!("{jobs} jobs, {bytes} bytes in {:?}", start.elapsed());
    println!("{moved} moves, {in_flight} with jobs left, {streamed} bytes");
    if queue.mdma().get(Reg::BytesDone)? != bytes {
        return Err("BYTES_DONE is not the sum of the jobs".into());
    }

    if guest.data.to_vec(0, SIZE) != world.guest.to_vec(DATA, SIZE) {
        return Err("guest memory differs".into());
    }
    let memory = world.device.to_vec(0, SIZE);
    if sides[here].mdma.map_memory()?.to_vec(0, SIZE) != memory {
        return Err("device memory differs, mapped".into());
    }
    let mut trapped = vec![0; SIZE];
    sides[here].mdma.memory()?.read(0, &mut trapped)?;
    if trapped != memory {
        return Err("device memory differs, read".into());
    }

    // A job that is dropped in flight.
    queue.mdma().set_throttle(20_000)?;
    queue.submit(&job::fill(Place::Device(0), 0, 1 << 20))?;
    while queue.mdma().get(Reg::BytesDone)? == bytes {}
    let (mdma, _memory) = queue.close()?;
    let partial = mdma.get(Reg::BytesDone)? - bytes;
    if partial >= 1 << 20 {
        return Err("the job was not caught in flight".into());
    }
    println!("dropped a job after {partial} bytes");
    Ok(())
}
