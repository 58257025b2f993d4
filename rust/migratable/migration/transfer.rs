// SPDX-License-Identifier: GPL-2.0

//! Moves data through a session, and counts it.
//!
//! All functions are called with the state locked. None waits for a page of the user.

use super::{
    owner::{
        FrontEnd,
        Owner,
        Session,
        Staged, //
    },
    state_machine::{
        errno,
        Inner,
        Locked, //
    },
    stream_buffer::DynBuffer,
    times::Times, //
};
use crate::{
    device::Device,
    driver::Driver,
    memory::DeviceMemory, //
};
use kernel::prelude::*;
use migration::{
    load,
    save::{
        self,
        PrecopyInfo,
        Source, //
    },
    state::State,
    stream, //
};

/// The values that debugfs shows.
pub(super) struct Report {
    /// The state.
    pub(super) state: State,
    /// The front end that opened the session.
    pub(super) front_end: &'static str,
    /// Bytes staged and not consumed.
    pub(super) staged: usize,
    /// Bytes that a save still has to send, without the staged buffer.
    pub(super) pending: u64,
    /// The present or the last save.
    pub(super) saved: save::Stats,
    /// The present or the last load.
    pub(super) loaded: load::Stats,
    /// Bytes of device memory.
    pub(super) memory: u64,
    /// Bytes of it that are not holes.
    pub(super) populated: u64,
    /// Dirty pages.
    pub(super) dirty: u64,
    /// How many looks of type1 found the same pages pinned: the maximum of all devices.
    pub(super) unmap_looks_max: u32,
    /// How long the device was in each state.
    pub(super) times: Times,
}

/// Whether a call of the user has tried to move the same data before: a page of the user was not present.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Again,
}

impl<T: Driver> Device<T> {
    /// Offers the staged buffer again: the user may or may not have read it (P23).
    pub(super) fn restage(&self, inner: &mut Locked<'_>, buffer: &mut DynBuffer) {
        let access = self.access();
        let Owner::Region {
            session: Session::Save(save),
            staged: Some(staged),
            ..
        } = &mut inner.owner
        else {
            return;
        };
        // The header it rewrites is in the buffer, so this does not fail.
        let _ = save.restage(&access, buffer);
        staged.offered = false;
    }

    /// Fills a buffer with the next bytes of a save. Returns how many; 0 if there are none now.
    pub(super) fn fill(
        &self,
        inner: &mut Locked<'_>,
        buffer: &mut DynBuffer,
        len: usize,
        attempt: Attempt,
    ) -> Result<usize> {
        let Some(Session::Save(save)) = inner.owner.session_mut() else {
            return Ok(0);
        };
        if attempt == Attempt::First {
            self.inject(&self.faults.save, "save", EIO)?;
        }
        let access = self.access();
        save.fill(&access, buffer, len).map_err(|error| {
            access.reported();
            if error != stream::Error::Buffer {
                access.refuse("save failed", &error);
            }
            errno(error)
        })
    }

    /// Stages the next buffer of a region, unless a staged buffer is not consumed yet (P17, P18). Returns
    /// its number; `None` if there is no data, or no region has a save open.
    ///
    /// The buffer is offered once the user has read where it is: [`Inner::offer`].
    pub(super) fn stage(
        &self,
        inner: &mut Locked<'_>,
        buffer: &mut DynBuffer,
        len: usize,
    ) -> Result<Option<u64>> {
        match &inner.owner {
            Owner::None | Owner::V2 { .. } => return Ok(None),
            Owner::Region {
                staged: Some(staged),
                ..
            } => return Ok(Some(staged.number)),
            Owner::Region { staged: None, .. } => {}
        }
        let len = self.fill(inner, buffer, len, Attempt::First)?;
        if len == 0 {
            return Ok(None);
        }
        inner.number += 1;
        let number = inner.number;
        if let Owner::Region { staged, .. } = &mut inner.owner {
            *staged = Some(Staged {
                len,
                offered: false,
                number,
            });
        }
        Ok(Some(number))
    }

    /// Returns the bytes that a region still has to send, and the number of the buffer that the read of
    /// this value consumes (P19, P22).
    pub(super) fn read_pending(&self, inner: &Locked<'_>) -> (u64, Option<u64>) {
        // A region has nothing pending in a session of v2.
        let pending = match inner.owner {
            Owner::Region { .. } => self.pending_bytes(inner),
            Owner::None | Owner::V2 { .. } => 0,
        };
        match inner.staged() {
            None => (pending, None),
            Some(staged) if staged.offered => (pending, Some(staged.number)),
            Some(staged) => (pending.saturating_add(staged.len as u64), None),
        }
    }

    /// Returns the bytes that a save still has to send, without the staged buffer (P22).
    pub(super) fn pending_bytes(&self, inner: &Locked<'_>) -> u64 {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.pending(&self.access()),
            None | Some(Session::Load(_)) => 0,
        }
    }

    /// Returns how many bytes a save would send if the device stopped now (P47).
    pub(super) fn stop_copy_size(&self, inner: &Locked<'_>) -> u64 {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.remaining(&self.access()),
            None | Some(Session::Load(_)) => {
                save::estimate(&self.machine.identity, self.machine.parts, &self.access())
            }
        }
    }

    /// Returns the bytes that pre-copy still has to send (P45).
    pub(super) fn precopy_info(&self, inner: &mut Locked<'_>) -> PrecopyInfo {
        match inner.owner.session_mut() {
            Some(Session::Save(save)) => save.precopy_info(&self.access()),
            None | Some(Session::Load(_)) => PrecopyInfo::default(),
        }
    }

    /// The user of v2 knows that the initial bytes started over, and has read them.
    pub(super) fn forget_reinit(&self, inner: &mut Locked<'_>) {
        if let Some(Session::Save(save)) = inner.owner.session_mut() {
            save.forget_reinit();
        }
    }

    /// Returns whether a save has something to send now.
    pub(super) fn has_data(&self, inner: &Locked<'_>) -> bool {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.has_data(&self.access()),
            None | Some(Session::Load(_)) => false,
        }
    }

    /// Takes the next bytes of a load (P24, P25), and returns how many. These are fewer than `len` if the
    /// rest failed with a transient errno: `ENOMEM`, `EFAULT` if a page of the user's is not present, or
    /// `EINTR` if the caller is being killed. The next call may bring the rest.
    pub(super) fn feed(
        &self,
        inner: &mut Locked<'_>,
        buffer: &DynBuffer,
        len: usize,
        attempt: Attempt,
    ) -> Result<usize> {
        let access = self.access();
        let Some(Session::Load(load)) = inner.owner.session_mut() else {
            return Err(EINVAL);
        };
        if attempt == Attempt::First {
            access.doom_load()?;
        }
        let before = load.stats().bytes;
        match load.feed(&access, buffer, len) {
            Ok(()) => Ok(len),
            Err(error) => {
                if error != stream::Error::Buffer {
                    access.refuse("load refused", &error);
                }
                match (load.stats().bytes - before) as usize {
                    taken if taken != 0 && error.is_transient() => Ok(taken),
                    _ => Err(errno(error)),
                }
            }
        }
    }

    /// [`Device::feed`] for a front end that takes a whole buffer or fails.
    ///
    /// After a transient errno the user does not know how much was taken. So the next call has to start
    /// with the beginning of a buffer.
    pub(super) fn feed_all(
        &self,
        inner: &mut Locked<'_>,
        buffer: &DynBuffer,
        len: usize,
    ) -> Result {
        let access = self.access();
        let Some(Session::Load(load)) = inner.owner.session_mut() else {
            return Err(EINVAL);
        };
        access.doom_load()?;
        load.feed(&access, buffer, len).map_err(|error| {
            access.refuse("load refused", &error);
            if error.is_transient() {
                load.lose_position();
            }
            errno(error)
        })
    }

    /// Returns what debugfs shows; `None` if a change of state is in progress and takes long.
    pub(super) fn report(&self) -> Option<Report> {
        let inner = self.machine.lock_briefly()?;
        let memory = self.memory();
        let mut report = Report {
            state: inner.state,
            front_end: inner.owner.front_end().map_or("none", FrontEnd::name),
            staged: inner.staged().map_or(0, |staged| staged.len),
            pending: self.pending_bytes(&inner),
            saved: inner.saved,
            loaded: inner.loaded,
            memory: self.machine.identity.memory_size,
            populated: memory.map_or(0, DeviceMemory::populated_bytes),
            dirty: self.access().dirty().count(),
            unmap_looks_max: self.dma.unmap_looks_max(),
            times: inner.times,
        };
        match inner.owner.session() {
            None => {}
            Some(Session::Save(save)) => report.saved = save.stats(),
            Some(Session::Load(load)) => report.loaded = load.stats(),
        }
        Some(report)
    }
}

impl Inner {
    /// The user has read where the staged buffer with this number is.
    pub(super) fn offer(&mut self, number: u64) {
        if let Owner::Region {
            staged: Some(staged),
            ..
        } = &mut self.owner
        {
            staged.offered |= staged.number == number;
        }
    }
}
