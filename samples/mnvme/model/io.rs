// SPDX-License-Identifier: GPL-2.0

//! I/O commands.

use crate::command::{find, Command, Nvm, ALL_NAMESPACES, NAMESPACE, NVM};
use crate::completion::{Completion, Outcome};
use crate::host::{Fault, Host};
use crate::job::Job;
use crate::prp::Prps;
use crate::status::Status;
use crate::{BLOCK, PAGE};

/// The most bytes that one unit sets to zero.
pub const ZERO_UNIT: usize = 1 << 20;

/// Bytes of such a range.
const RANGE: usize = 16;

/// The attribute Deallocate of a Dataset Management command.
const DEALLOCATE: u32 = 1 << 2;

/// Blocks of the namespace.
struct Blocks {
    first: u64,
    count: u64,
}

impl Blocks {
    /// Checks that all blocks are in the namespace.
    fn new(first: u64, count: u64, blocks: u64) -> Result<Self, Status> {
        match first.checked_add(count) {
            Some(end) if end <= blocks => Ok(Self { first, count }),
            _ => Err(Status::LbaOutOfRange),
        }
    }

    /// Returns the offset of the first byte.
    fn offset(&self) -> u64 {
        self.first * BLOCK as u64
    }

    /// Returns the number of bytes.
    fn len(&self) -> usize {
        self.count as usize * BLOCK
    }
}

/// Carries out an I/O command, or begins one that takes several units. `page` is scratch memory.
pub(crate) fn run(
    host: &impl Host,
    command: &Command,
    blocks: u64,
    page: &mut [u8; PAGE],
) -> Result<Outcome, Status> {
    let what = find(&NVM, command.opcode)?;
    command.check()?;
    match (what, command.nsid) {
        (_, NAMESPACE) | (Nvm::Flush, ALL_NAMESPACES) => {}
        _ => return Err(Status::InvalidNamespace),
    }
    let range = || Blocks::new(command.slba(), command.blocks().into(), blocks);
    let prps = |len| Prps::new(host, command.prp1, command.prp2, len);
    let mut completion = Completion::of(command);
    match what {
        Nvm::Flush => {}
        Nvm::Write => {
            let range = range()?;
            let at = range.offset();
            prps(range.len())?.for_each(range.len(), |iova, done, n| {
                Ok(host.guest_to_storage(iova, at + done as u64, n)?)
            })?;
            completion.written = command.blocks();
        }
        Nvm::Read => {
            let range = range()?;
            let at = range.offset();
            prps(range.len())?.for_each(range.len(), |iova, done, n| {
                host.storage_to_guest(at + done as u64, iova, n)
                    .map_err(unread)
            })?;
            completion.read = command.blocks();
        }
        Nvm::Compare => {
            let range = range()?;
            compare(host, &prps(range.len())?, &range, page)?;
            completion.read = command.blocks();
        }
        Nvm::WriteZeroes => {
            let range = range()?;
            return Ok(Outcome::Begun(Job {
                cid: command.cid,
                slba: range.first,
                left: range.count,
                ..Job::default()
            }));
        }
        Nvm::DatasetManagement if command.dw11() & DEALLOCATE != 0 => {
            return Ok(Outcome::Begun(Job {
                cid: command.cid,
                ranges: (command.dw10() & 0xff) as u16 + 1,
                prp1: command.prp1,
                prp2: command.prp2,
                ..Job::default()
            }));
        }
        Nvm::DatasetManagement => {}
    }
    Ok(Outcome::Completed(completion))
}

/// Returns the status of a command that only reads the storage.
fn unread(fault: Fault) -> Status {
    match fault {
        Fault::Guest => Status::DataTransferError,
        Fault::Storage => Status::InternalError,
    }
}

/// Compares guest memory with blocks, half a page at a time.
fn compare(
    host: &impl Host,
    prps: &Prps,
    range: &Blocks,
    page: &mut [u8; PAGE],
) -> Result<(), Status> {
    let (ours, theirs) = page.split_at_mut(PAGE / 2);
    prps.for_each(range.len(), |iova, done, n| {
        for at in (0..n).step_by(PAGE / 2) {
            let len = (n - at).min(PAGE / 2);
            let (ours, theirs) = (&mut ours[..len], &mut theirs[..len]);
            host.read(iova + at as u64, theirs)?;
            host.load(range.offset() + (done + at) as u64, ours)
                .map_err(unread)?;
            if ours != theirs {
                return Err(Status::CompareFailure);
            }
        }
        Ok(())
    })
}

/// Does the next unit of a job: zeroes a part of a range, or reads the next one.
pub(crate) fn advance(host: &impl Host, job: &Job, blocks: u64) -> Result<Outcome, Status> {
    let mut job = *job;
    if job.aborted {
        return Err(Status::AbortRequested);
    }
    if job.left == 0 {
        let mut bytes = [0; RANGE];
        Prps::new(host, job.prp1, job.prp2, usize::from(job.ranges) * RANGE)?.read(
            host,
            usize::from(job.index) * RANGE,
            &mut bytes,
        )?;
        let [_, _, _, _, l0, l1, l2, l3, slba @ ..] = bytes;
        let count = u32::from_le_bytes([l0, l1, l2, l3]);
        let range = Blocks::new(u64::from_le_bytes(slba), count.into(), blocks)?;
        job.slba = range.first;
        job.left = range.count;
        job.index += 1;
    }
    let count = job.left.min((ZERO_UNIT / BLOCK) as u64);
    let part = Blocks::new(job.slba, count, blocks)?;
    host.zero(part.offset(), part.len())?;
    job.slba += count;
    job.left -= count;
    if job.left != 0 || job.index < job.ranges {
        return Ok(Outcome::Begun(job));
    }
    Ok(Outcome::Completed(Completion {
        cid: job.cid,
        ..Completion::default()
    }))
}
