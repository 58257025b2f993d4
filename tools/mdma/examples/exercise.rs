// SPDX-License-Identifier: GPL-2.0

//! Runs random jobs on an instance of the device and compares with the oracle.
//!
//! ```text
//! exercise TYPE [JOBS [SEED]]     for example: exercise mdma-16M 500 1
//! ```
//!
//! It creates an instance, and removes it when it is done. The exit status is 0 if completions, guest
//! memory and device memory are all as expected.

use mdma::regs::{INT_ALL, INT_COMPLETION};
use mdma::{job, Buffer, Descriptor, Mdma, Place, Queue, World};
use std::error::Error;
use std::time::{Duration, Instant};
use vfio_client::{mdev, Container, DmaBuffer, EventFd};

/// Where the queue is, and where the data is.
const QUEUE: u64 = 0x1_0000_0000;
const DATA: u64 = 0xffff_f000_0000;
/// Bytes of guest memory, and of device memory, that jobs work on.
const SIZE: usize = 4 << 20;
/// Order of the ring.
const ORDER: u32 = 6;
/// The longest job.
const MAX: u64 = 300 << 10;

/// A generator of numbers: xorshift.
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

    /// A place with room for `len` bytes.
    fn place(&mut self, len: u64) -> Place {
        let at = self.below(SIZE as u64 - len + 1);
        match self.below(2) {
            0 => Place::Guest(DATA + at),
            _ => Place::Device(at),
        }
    }

    /// A job that succeeds.
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

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let typ = args.next().ok_or("usage: exercise TYPE [JOBS [SEED]]")?;
    let jobs: usize = args.next().map_or(Ok(200), |arg| arg.parse())?;
    let mut random = Random(args.next().map_or(Ok(1), |arg| arg.parse())?);

    let instance = mdev::Sysfs::default().find_type(&typ)?.create(&mdev::Uuid::random()?)?;
    let result = exercise(&instance, jobs, &mut random);
    instance.remove()?;
    result
}

fn exercise(
    instance: &mdev::Instance,
    jobs: usize,
    random: &mut Random,
) -> Result<(), Box<dyn Error>> {
    let device = instance.open_alone()?;
    let container: &Container = device.container();
    let data = DmaBuffer::new(container, DATA, SIZE)?;
    let mut queue = Queue::create(&device, container, QUEUE, ORDER)?;
    let mdma = queue.mdma().clone();
    let memory = mdma.map_memory()?;
    println!("{}", mdma.snapshot()?);

    let completion = EventFd::new()?;
    device.irq(2)?.set_eventfds(0, &[Some(&completion)])?;
    mdma.set_interrupts(INT_ALL)?;

    let noise: Vec<u8> = (0..SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut world = World::new(mdma.memory_size());
    world.guest.write(DATA, &noise);
    Buffer::write(&data, 0, &noise);
    world.device.write(1, &noise[..SIZE - 1]);
    memory.write(1, &noise[..SIZE - 1]);

    let start = Instant::now();
    let (mut done, mut bytes) = (0, 0);
    while done < jobs {
        let batch: Vec<Descriptor> = (0..queue.room().min((jobs - done) as u32))
            .map(|_| random.job())
            .collect();
        for (i, job) in batch.iter().enumerate() {
            let last = i + 1 == batch.len();
            queue.fill(&if last { job.interrupt() } else { *job })?;
        }
        queue.ring_doorbell()?;
        if completion.wait(Duration::from_secs(60))? != 1 {
            return Err("not one interrupt".into());
        }
        if mdma.acknowledge()? != INT_COMPLETION {
            return Err("not one completion".into());
        }
        for job in &batch {
            let expected = world.apply(job);
            let found = queue.poll().ok_or("a completion is missing")?;
            expected.check(&found).map_err(|why| format!("job {done} {job:?}: {why}"))?;
            done += 1;
            bytes += job.len;
        }
    }
    println!("{jobs} jobs, {bytes} bytes in {:?}", start.elapsed());

    if data.to_vec(0, SIZE) != world.guest.to_vec(DATA, SIZE) {
        return Err("guest memory differs".into());
    }
    if memory.to_vec(0, SIZE) != world.device.to_vec(0, SIZE) {
        return Err("device memory differs, mapped".into());
    }
    let mut trapped = vec![0; SIZE];
    mdma.memory()?.read(0, &mut trapped)?;
    if trapped != world.device.to_vec(0, SIZE) {
        return Err("device memory differs, read".into());
    }

    // A job caught in flight and dropped.
    mdma.set_throttle(5000)?;
    queue.submit(&job::fill(Place::Device(0), 0, 1 << 20))?;
    while mdma.get(mdma::regs::Reg::BytesDone)? == bytes {}
    let (mdma, _buffer): (Mdma<_>, _) = queue.close()?;
    let partial = mdma.get(mdma::regs::Reg::BytesDone)? - bytes;
    println!("dropped after {partial} bytes");
    if partial == 0 || partial >= 1 << 20 {
        return Err("the job was not caught in flight".into());
    }
    println!("{}", mdma.snapshot()?);
    Ok(())
}
