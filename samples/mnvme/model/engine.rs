// SPDX-License-Identifier: GPL-2.0

//! One unit of work: a command, from its fetch to its completion, or a part of a long one.
//!
//! ```text
//!   begin    chooses a queue that has a command, and whose completion queue has room   locked
//!   fetch    reads the entry, carries out the command                               not locked
//!   finish   takes the entry of the completion queue                                   locked
//!   post     writes it, the phase tag last                                          not locked
//!   posted   raises the interrupt                                                      locked
//! ```
//!
//! Between two units each command is complete, not fetched, or a [`Job`] or an Asynchronous Event
//! Request of the saved state. So a command completes exactly once, whenever the device is migrated.

use crate::admin::Reply;
use crate::command::{Admin, Command, ADMIN, ENTRY_SIZE};
use crate::completion::{Completion, Outcome};
use crate::controller::Controller;
use crate::event::Event;
use crate::host::{Fault, Host, Identity};
use crate::io;
use crate::job::Job;
use crate::prp::Prps;
use crate::queue::{COMPLETION_SIZE, PHASE_AT};
use crate::status::Status;
use crate::{BLOCK, PAGE, QUEUES};

/// What a unit does.
enum Task {
    /// Fetches the entry at this IOVA.
    Fetch(u64),
    /// Continues a job.
    Continue(Job),
    /// Completes this request by an event.
    Report(u16, Event),
}

/// A unit that was chosen.
struct Ticket {
    run: u32,
    sq: usize,
    task: Task,
    blocks: u64,
}

/// An entry of a completion queue to be written.
struct Post {
    cq: usize,
    iova: u64,
    bytes: [u8; COMPLETION_SIZE],
}

impl Controller {
    /// Chooses the next unit. The caller must call [`Controller::end`] when it is done.
    fn begin(&mut self) -> Option<Ticket> {
        let state = &mut self.state;
        if !state.is_running() {
            return None;
        }
        let report = state.events.due().filter(|_| !state.cq[0].is_full());
        let (sq, task) = match report {
            Some(event) => (0, Task::Report(state.events.report(event), event)),
            None => {
                let mut queues = (0..QUEUES).map(|i| (self.next + i) % QUEUES);
                let number = queues.find(|&number| {
                    let sq = &state.sq[number];
                    let cq = &state.cq[usize::from(sq.cq)];
                    sq.exists() && sq.is_ready() && !cq.is_full()
                })?;
                self.next = (number + 1) % QUEUES;
                let sq = &state.sq[number];
                let task = match sq.job {
                    Some(job) => Task::Continue(job),
                    None => Task::Fetch(sq.entry()),
                };
                (number, task)
            }
        };
        self.unit = Some(self.run);
        Some(Ticket {
            run: self.run,
            sq,
            task,
            blocks: self.blocks(),
        })
    }

    /// Applies the outcome of a unit. Returns the completion to write.
    fn finish(
        &mut self,
        ticket: &Ticket,
        command: Option<&Command>,
        outcome: Result<Outcome, (u16, Status)>,
    ) -> Option<Post> {
        // A reset has come in between.
        if ticket.run != self.run {
            return None;
        }
        let state = &mut self.state;
        let sq = &mut state.sq[ticket.sq];
        if let Task::Fetch(_) = ticket.task {
            sq.advance();
        }
        sq.job = None;
        let completion = match outcome {
            Ok(Outcome::Held) => return None,
            Ok(Outcome::Begun(job)) => {
                sq.job = Some(job);
                return None;
            }
            Ok(Outcome::Completed(completion)) => completion,
            Err((cid, status)) => {
                state.errors.command(ticket.sq, cid, command, status);
                Completion {
                    cid,
                    status: status.field(),
                    ..Completion::default()
                }
            }
        };
        let counters = &mut state.counters;
        for (blocks, sum, commands) in [
            (
                completion.read,
                &mut counters.blocks_read,
                &mut counters.reads,
            ),
            (
                completion.written,
                &mut counters.blocks_written,
                &mut counters.writes,
            ),
        ] {
            *sum = sum.wrapping_add(blocks.into());
            *commands = commands.wrapping_add((blocks != 0).into());
        }
        let number = usize::from(sq.cq);
        let cq = &mut state.cq[number];
        let mut bytes = [0; COMPLETION_SIZE];
        bytes[..4].copy_from_slice(&completion.result.to_le_bytes());
        bytes[8..10].copy_from_slice(&sq.head.to_le_bytes());
        bytes[10..12].copy_from_slice(&(ticket.sq as u16).to_le_bytes());
        bytes[12..14].copy_from_slice(&completion.cid.to_le_bytes());
        let status = (completion.status << 1) | u16::from(cq.phase);
        bytes[14..].copy_from_slice(&status.to_le_bytes());
        let iova = cq.entry();
        // Software that sees the entry may ring the doorbell at once.
        cq.advance();
        self.posting = Some(number);
        Some(Post {
            cq: number,
            iova,
            bytes,
        })
    }

    /// A queue's memory is not accessible.
    fn fail(&mut self, ticket: &Ticket) {
        if ticket.run == self.run {
            self.state.fatal = true;
        }
    }

    /// A completion was written, or could not be.
    fn posted(&mut self, ticket: &Ticket, post: &Post, written: Result<(), Fault>) {
        if ticket.run != self.run {
            return;
        }
        self.posting = None;
        self.effects.asserted = true;
        let cq = &self.state.cq[post.cq];
        if written.is_err() {
            self.state.fatal = true;
        } else if cq.interrupts {
            self.effects.signal |= 1 << cq.vector;
        }
    }

    /// The unit is done.
    fn end(&mut self) {
        self.unit = None;
    }
}

/// Does one unit of work. `page` is scratch memory. Returns whether there may be more to do.
pub fn unit(host: &impl Host, page: &mut [u8; PAGE]) -> bool {
    let Some(ticket) = host.lock(Controller::begin) else {
        return false;
    };
    let mut command = None;
    let outcome = match &ticket.task {
        Task::Report(cid, event) => Ok(Outcome::Completed(Completion {
            cid: *cid,
            result: event.dword(),
            ..Completion::default()
        })),
        Task::Continue(job) => {
            io::advance(host, job, ticket.blocks).map_err(|status| (job.cid, status))
        }
        Task::Fetch(iova) => {
            let mut bytes = [0; ENTRY_SIZE];
            if host.read(*iova, &mut bytes).is_err() {
                host.lock(|controller| {
                    controller.fail(&ticket);
                    controller.end();
                });
                return true;
            }
            let decoded = command.insert(Command::decode(&bytes));
            let outcome = match ticket.sq {
                0 => admin(host, &ticket, decoded, page),
                _ => io::run(host, decoded, ticket.blocks, page),
            };
            outcome.map_err(|status| (decoded.cid, status))
        }
    };
    let post = host.lock(|controller| controller.finish(&ticket, command.as_ref(), outcome));
    let written = post.as_ref().map(|post| write(host, post));
    host.lock(|controller| {
        if let (Some(post), Some(written)) = (&post, written) {
            controller.posted(&ticket, post, written);
        }
        controller.end();
    });
    true
}

/// Writes an entry of a completion queue.
///
/// Software waits for the phase tag, and may see a part of a copy before the rest. So first the entry
/// is written with the old tag, then the byte with the new one.
fn write(host: &impl Host, post: &Post) -> Result<(), Fault> {
    let mut old = post.bytes;
    old[PHASE_AT] ^= 1;
    host.write(post.iova, &old)?;
    let at = post.iova + PHASE_AT as u64;
    host.write(at, &post.bytes[PHASE_AT..=PHASE_AT])
}

/// Carries out an admin command.
fn admin(
    host: &impl Host,
    ticket: &Ticket,
    command: &Command,
    page: &mut [u8; PAGE],
) -> Result<Outcome, Status> {
    let mut id = Identity::default();
    if ADMIN
        .iter()
        .any(|row| row.command == Admin::Identify && row.opcode == command.opcode)
    {
        id = identity(host, ticket.blocks).map_err(|_| Status::InternalError)?;
    }
    page.fill(0);
    let reply = host.lock(|controller| match ticket.run == controller.run {
        true => controller.admin(command, &id, page),
        false => Err(Status::AbortRequested),
    })?;
    let mut completion = Completion::of(command);
    match reply {
        Reply::Done(result) => completion.result = result,
        Reply::Data { part, len } => {
            let prps = Prps::new(host, command.prp1, command.prp2, len)?;
            prps.write(host, &page[part])?;
        }
        Reply::Held => return Ok(Outcome::Held),
    }
    Ok(Outcome::Completed(completion))
}

/// Returns the identity in the storage behind the namespace, which a new controller writes there.
fn identity(host: &impl Host, blocks: u64) -> Result<Identity, Fault> {
    let at = blocks * BLOCK as u64;
    let mut id = Identity::default();
    host.load(at, &mut id)?;
    if id == Identity::default() {
        id = host.uuid();
        host.store(at, &id)?;
    }
    Ok(id)
}
