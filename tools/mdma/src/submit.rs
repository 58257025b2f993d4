// SPDX-License-Identifier: GPL-2.0

//! A queue: jobs in, completions out.

use mdma_model::desc::{Completion, Descriptor, COMPLETION_SEQUENCE, COMPLETION_SIZE};
use mdma_model::queue::Ring;
use mdma_model::regs::{self, Reg};

use crate::device::Mdma;
use crate::error::{Error, Result};
use crate::transport::{Bar, Buffer};
use std::sync::atomic::{fence, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Alignment of the completion records in the buffer, so that they share no page with descriptors.
const PAGE: usize = 4096;

/// The enabled queue of a device.
///
/// Descriptors are at the start of the buffer, completion records from the next page on. Drop does not change the
/// device; see [`Queue::close`].
#[derive(Debug)]
pub struct Queue<B, M> {
    mdma: Mdma<B>,
    memory: M,
    ring: Ring,
    completions_at: usize,
    /// Index of the next completion to reap.
    head: u32,
    /// Index of the next descriptor to fill.
    tail: u32,
    /// The sequence number of the next completion.
    sequence: u64,
}

impl<B: Bar, M: Buffer> Queue<B, M> {
    /// Returns the buffer size for a ring of `1 << order` entries.
    pub fn size(order: u32) -> usize {
        let entries = 1 << order;
        (entries * mdma_model::desc::DESCRIPTOR_SIZE).next_multiple_of(PAGE)
            + (entries * COMPLETION_SIZE).next_multiple_of(PAGE)
    }

    /// Enables the queue of a device, after disabling it if necessary.
    pub fn new(mdma: Mdma<B>, memory: M, order: u32) -> Result<Self> {
        let ring = Self::ring_in(&memory, order)?;
        let sequence = Self::start(&mdma, &memory, &ring)?;

        Ok(Queue {
            mdma,
            memory,
            completions_at: Self::completions_at(&ring),
            ring,
            head: 0,
            tail: 0,
            sequence,
        })
    }

    /// Enables the queue, after disabling it if necessary; returns the sequence number of the first completion.
    fn start(mdma: &Mdma<B>, memory: &M, ring: &Ring) -> Result<u64> {
        mdma.disable()?;
        // Records of an earlier queue must not look like completions of this one.
        memory.write(Self::completions_at(ring), &vec![0; ring.completions_len()]);
        mdma.set(Reg::RingBase, ring.base())?;
        mdma.set(Reg::RingOrder, ring.entries().trailing_zeros().into())?;
        mdma.set(Reg::CompletionBase, ring.completions())?;
        let sequence = mdma.get(Reg::JobsDone)?.wrapping_add(1);
        mdma.set(Reg::Control, regs::CONTROL_ENABLE.into())?;
        if mdma.get(Reg::Control)? & u64::from(regs::CONTROL_ENABLE) == 0 {
            return Err(Error::NotEnabled {
                refused: mdma.get(Reg::Refused)?,
            });
        }
        Ok(sequence)
    }

    /// Describes a ring in the buffer, which must be large enough.
    fn ring_in(memory: &M, order: u32) -> Result<Ring> {
        if !(1..=regs::MAX_RING_ORDER).contains(&order) {
            return Err(Error::Buffer(format!("ring order {order} is illegal")));
        }
        if memory.size() < Self::size(order) {
            let (have, need) = (memory.size(), Self::size(order));
            return Err(Error::Buffer(format!("{have} bytes, {need} needed")));
        }
        let completions_at = (mdma_model::desc::DESCRIPTOR_SIZE << order).next_multiple_of(PAGE);
        let base = memory.iova();
        let completions = base.wrapping_add(completions_at as u64);
        Ring::new(base, order, completions)
            .map_err(|reg| Error::Buffer(format!("{} would be illegal", reg.row().name)))
    }

    /// Returns the offset of the completion records in the buffer.
    fn completions_at(ring: &Ring) -> usize {
        ring.completions().wrapping_sub(ring.base()) as usize
    }

    /// Disables the queue and enables it again, with a ring of `1 << order` entries. Drops jobs that are not completed.
    pub fn restart(&mut self, order: u32) -> Result<()> {
        let ring = Self::ring_in(&self.memory, order)?;
        self.sequence = Self::start(&self.mdma, &self.memory, &ring)?;
        self.completions_at = Self::completions_at(&ring);
        self.ring = ring;
        self.head = 0;
        self.tail = 0;
        Ok(())
    }

    /// Continues on a device that has taken over this one's state, with memory that has the old buffer's contents, at
    /// the same IOVA.
    pub fn moved<C: Bar, N: Buffer>(self, mdma: Mdma<C>, memory: N) -> Queue<C, N> {
        Queue {
            mdma,
            memory,
            ring: self.ring,
            completions_at: self.completions_at,
            head: self.head,
            tail: self.tail,
            sequence: self.sequence,
        }
    }

    /// Returns the device.
    pub fn mdma(&self) -> &Mdma<B> {
        &self.mdma
    }

    /// Returns the buffer.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Returns the index of the next completion to reap.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Returns the index of the next descriptor to fill, the value of `TAIL` after the doorbell.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Returns the number of jobs submitted and not reaped.
    pub fn outstanding(&self) -> u32 {
        self.ring.pending(self.head, self.tail)
    }

    /// Returns the number of jobs that may be submitted now.
    pub fn room(&self) -> u32 {
        self.ring.entries() - 1 - self.outstanding()
    }

    /// Puts a descriptor into the ring without telling the device; see [`Queue::ring_doorbell`].
    pub fn fill(&mut self, desc: &Descriptor) -> Result<()> {
        self.fill_raw(&desc.encode())
    }

    /// Puts the raw bytes of a descriptor into the ring.
    pub fn fill_raw(&mut self, bytes: &[u8; mdma_model::desc::DESCRIPTOR_SIZE]) -> Result<()> {
        if self.room() == 0 {
            return Err(Error::Full);
        }
        self.memory.write(self.ring.descriptor_at(self.tail), bytes);
        self.tail = self.ring.next(self.tail);
        Ok(())
    }

    /// Tells the device about the descriptors filled since the last doorbell.
    pub fn ring_doorbell(&self) -> Result<()> {
        fence(Ordering::Release);
        // A completion record appears a moment before `HEAD` moves on. If its entry were reused at once, a full ring
        // would look empty.
        if self.room() == 0 {
            while self.mdma.get(Reg::Head)? == u64::from(self.tail) {
                self.mdma.check_halted()?;
                thread::yield_now();
            }
        }
        self.mdma.set(Reg::Tail, self.tail.into())
    }

    /// Submits one job.
    pub fn submit(&mut self, desc: &Descriptor) -> Result<()> {
        self.fill(desc)?;
        self.ring_doorbell()
    }

    /// Reaps the next completion, if there is one. It may be that of a failed job.
    pub fn poll(&mut self) -> Option<Completion> {
        if self.head == self.tail {
            return None;
        }
        let at = self.completions_at + self.ring.completion_at(self.head);
        if u64::from_le(self.memory.load_acquire(at + COMPLETION_SEQUENCE)) != self.sequence {
            return None;
        }
        let mut bytes = [0; COMPLETION_SIZE];
        self.memory.read(at, &mut bytes);
        self.head = self.ring.next(self.head);
        self.sequence = self.sequence.wrapping_add(1);
        Some(Completion::decode(&bytes))
    }

    /// Waits for the next completion, by polling.
    ///
    /// # Errors
    ///
    /// [`Error::Halted`] if the queue has halted and left no record, [`Error::Timeout`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Completion> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            if let Some(completion) = self.poll() {
                return Ok(completion);
            }
            if let Err(halted) = self.mdma.check_halted() {
                // The record may have been written just before the queue halted.
                return self.poll().ok_or(halted);
            }
            if start.elapsed() > timeout {
                return Err(Error::Timeout {
                    what: "completion",
                    after: timeout,
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Waits for all submitted jobs, and returns their completions in order.
    ///
    /// `timeout` applies to each. A failed job is the last one in the list.
    pub fn drain(&mut self, timeout: Duration) -> Result<Vec<Completion>> {
        let mut completions = Vec::new();
        while self.outstanding() != 0 {
            let completion = self.wait(timeout)?;
            completions.push(completion);
            if completion.error != 0 {
                break;
            }
        }
        Ok(completions)
    }

    /// Disables the queue and returns device and buffer.
    pub fn close(self) -> Result<(Mdma<B>, M)> {
        self.mdma.disable()?;
        Ok((self.mdma, self.memory))
    }
}
