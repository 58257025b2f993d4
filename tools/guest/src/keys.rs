// SPDX-License-Identifier: GPL-2.0

//! Registered memory: some blocks are registered, and some of the jobs in them name them by key.

use mdma::desc::{Error, Operand};
use mdma::{job, Bar, Buffer, Completion, Expected, Place};

use crate::event::{Wrong, WrongResult};
use crate::footprint::Footprint;
use crate::parts::Window;
use crate::workload::{InFlight, Workload};

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Submits registrations of the next blocks, as many as the queue has room for.
    pub(crate) fn register(&mut self) -> WrongResult {
        while self.queue.room() > 1 {
            let Some((iova, len)) = self.unregistered.pop() else {
                break;
            };
            self.register_block(iova, len)?;
        }
        Ok(())
    }

    fn register_block(&mut self, iova: u64, len: u64) -> WrongResult {
        let job = job::register(iova, len, true)
            .cookie(self.next_cookie())
            .interrupt();
        self.queue.fill(&job)?;
        self.in_flight.push_back(InFlight {
            job,
            expected: Expected {
                cookie: job.cookie,
                error: Error::None,
                result: 0,
                bytes: len,
            },
            footprint: Footprint::default(),
        });
        self.totals.jobs += 1;
        Ok(())
    }

    /// Checks a registration and takes the key.
    pub(crate) fn registered(&mut self, done: &InFlight, completion: &Completion) -> WrongResult {
        // The device chooses the key.
        let expected = Expected {
            result: completion.result,
            ..done.expected
        };
        if expected.check(completion).is_err() || completion.result == 0 {
            let (expected, found) = (format!("{expected:x?}"), format!("{completion:x?}"));
            return Err(Wrong::values("completion record", expected, found));
        }
        self.world.keys.insert(completion.result, done.job.src);
        Ok(())
    }

    /// Returns an operand by key, if it is a range in a registered block.
    pub(crate) fn keyed(&self, operand: Operand) -> Operand {
        let Operand::At(Place::Guest(iova)) = operand else {
            return operand;
        };
        let (block, offset) = self.block(iova);
        let key = self.world.keys.iter().find(|(_, &at)| at == block.iova());
        key.map_or(operand, |(&key, _)| {
            let offset = offset as u64;
            Place::Key { key, offset }.into()
        })
    }
}
