// SPDX-License-Identifier: GPL-2.0

//! Admin commands.

use crate::command::{self, find, Admin, Command, ADMIN};
use crate::controller::Controller;
use crate::event::Event;
use crate::feature::{EVENTS, QUEUE_COUNT};
use crate::host::Identity;
use crate::log_page::log_len;
use crate::queue::{self, CompletionQueue, SubmissionQueue, COMPLETION_SIZE};
use crate::regs::{CC_ENTRY_SIZES, CC_ENTRY_SIZES_LEGAL, VECTORS};
use crate::status::Status;
use crate::{PAGE, QUEUES, TRANSFER_MAX};
use core::ops::Range;

/// The queue is physically contiguous.
const CONTIGUOUS: u32 = 1 << 0;
/// Interrupts of a completion queue are enabled.
const INTERRUPTS: u32 = 1 << 1;

/// How a command went.
pub(crate) enum Reply {
    /// It is complete; dword 0 of the completion.
    Done(u32),
    /// This part of the page is to be copied to guest memory.
    Data {
        part: Range<usize>,
        /// Bytes that the PRP entries describe.
        len: usize,
    },
    /// It completes when an event occurs.
    Held,
}

impl Controller {
    /// Carries out an admin command, except for the transfer of data. `page` is 0.
    pub(crate) fn admin(
        &mut self,
        command: &Command,
        identity: &Identity,
        page: &mut [u8; PAGE],
    ) -> Result<Reply, Status> {
        let what = find(&ADMIN, command.opcode)?;
        command.check()?;
        Ok(match what {
            Admin::Identify => {
                self.identify(command, identity, page)?;
                Reply::Data {
                    part: 0..PAGE,
                    len: PAGE,
                }
            }
            Admin::GetLogPage => {
                let len = log_len(command.dw10(), command.dw11());
                if len > TRANSFER_MAX {
                    return Err(Status::InvalidField);
                }
                let part = self.get_log_page(command, page)?;
                Reply::Data { part, len }
            }
            Admin::AsyncEventRequest => {
                self.state.events.request(command.cid)?;
                self.effects.schedule = true;
                Reply::Held
            }
            Admin::GetFeatures => Reply::Done(self.state.features.get_command(command)?),
            Admin::SetFeatures => Reply::Done(self.set_features(command)?),
            Admin::CreateCq => self.create_cq(command)?,
            Admin::CreateSq => self.create_sq(command)?,
            Admin::DeleteCq => self.delete_cq(command)?,
            Admin::DeleteSq => self.delete_sq(command)?,
            Admin::Abort => self.abort(command),
        })
    }

    fn set_features(&mut self, command: &Command) -> Result<u32, Status> {
        if command.dw10() as u8 == QUEUE_COUNT && self.has_io_queues() {
            return Err(Status::CommandSequenceError);
        }
        let state = &mut self.state;
        let value = state.features.set_command(command)?;
        // The threshold or the wish for events may be new.
        if state.features.is_hot() && state.features.values[EVENTS] & (1 << 1) != 0 {
            state.events.raise(Event::Temperature);
            self.effects.schedule = true;
        }
        Ok(value)
    }

    /// Returns the number and the entries of the queue to create.
    fn new_queue(&self, command: &Command, entry_size: usize) -> Result<(usize, u16), Status> {
        let id = (command.dw10() & 0xffff) as usize;
        let entries = (command.dw10() >> 16) + 1;
        if !(1..QUEUES).contains(&id) {
            return Err(Status::InvalidQueueIdentifier);
        }
        if self.state.cc & CC_ENTRY_SIZES != CC_ENTRY_SIZES_LEGAL
            || !queue::legal(entries, 0, entry_size)
        {
            return Err(Status::InvalidQueueSize);
        }
        if command.dw11() & CONTIGUOUS == 0 {
            return Err(Status::InvalidField);
        }
        if !queue::legal(entries, command.prp1, entry_size) {
            return Err(Status::InvalidPrpOffset);
        }
        Ok((id, entries as u16))
    }

    fn create_cq(&mut self, command: &Command) -> Result<Reply, Status> {
        let (id, entries) = self.new_queue(command, COMPLETION_SIZE)?;
        let vector = (command.dw11() >> 16) as u16;
        if self.state.cq[id].exists() {
            return Err(Status::InvalidQueueIdentifier);
        }
        if vector >= VECTORS {
            return Err(Status::InvalidInterruptVector);
        }
        self.state.cq[id] = CompletionQueue {
            base: command.prp1,
            entries,
            phase: true,
            vector,
            interrupts: command.dw11() & INTERRUPTS != 0,
            ..CompletionQueue::default()
        };
        Ok(Reply::Done(0))
    }

    fn create_sq(&mut self, command: &Command) -> Result<Reply, Status> {
        let (id, entries) = self.new_queue(command, command::ENTRY_SIZE)?;
        let cq = (command.dw11() >> 16) as u16;
        if self.state.sq[id].exists() {
            return Err(Status::InvalidQueueIdentifier);
        }
        // The admin queue does not take the completions of I/O commands.
        match usize::from(cq) {
            0 | QUEUES.. => return Err(Status::InvalidQueueIdentifier),
            number if !self.state.cq[number].exists() => {
                return Err(Status::CompletionQueueInvalid)
            }
            _ => {}
        }
        self.state.sq[id] = SubmissionQueue {
            base: command.prp1,
            entries,
            cq,
            ..SubmissionQueue::default()
        };
        Ok(Reply::Done(0))
    }

    fn delete_cq(&mut self, command: &Command) -> Result<Reply, Status> {
        let id = (command.dw10() & 0xffff) as u16;
        let mut users = self.state.sq[1..].iter().filter(|sq| sq.exists());
        if users.any(|sq| sq.cq == id) {
            return Err(Status::InvalidQueueDeletion);
        }
        match self.state.cq.get_mut(usize::from(id)) {
            Some(cq) if id != 0 && cq.exists() => *cq = CompletionQueue::default(),
            _ => return Err(Status::InvalidQueueIdentifier),
        }
        self.effects.asserted = true;
        Ok(Reply::Done(0))
    }

    fn delete_sq(&mut self, command: &Command) -> Result<Reply, Status> {
        let id = (command.dw10() & 0xffff) as usize;
        match self.state.sq.get_mut(id) {
            Some(sq) if id != 0 && sq.exists() => *sq = SubmissionQueue::default(),
            _ => return Err(Status::InvalidQueueIdentifier),
        }
        Ok(Reply::Done(0))
    }

    /// Abort. Bit 0 of the completion says that the command was not aborted.
    fn abort(&mut self, command: &Command) -> Reply {
        let id = (command.dw10() & 0xffff) as usize;
        let cid = (command.dw10() >> 16) as u16;
        let sq = self.state.sq.get_mut(id);
        let job = sq.and_then(|sq| sq.job.as_mut());
        match job.filter(|job| job.cid == cid) {
            Some(job) => {
                job.aborted = true;
                Reply::Done(0)
            }
            None => Reply::Done(1),
        }
    }
}
