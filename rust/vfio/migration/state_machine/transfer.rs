// SPDX-License-Identifier: GPL-2.0

//! What moves through a session, and how much of it.
//!
//! All of it with the state locked, and none of it to or from a user.

use super::{
    errno,
    owner::{
        FrontEnd,
        Owner,
        Session,
        Staged, //
    },
    times::Times,
    Locked,
    StateMachine, //
};
use crate::{
    memory::{
        DeviceMemory,
        Dirtied, //
    },
    migration::staging::Window, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use migration::{
    load,
    save::{
        self,
        PrecopyInfo,
        Source, //
    },
    state::State,
};

/// What debugfs shows.
pub(in crate::migration) struct Report {
    /// The state.
    pub(in crate::migration) state: State,
    /// The front end that opened the session.
    pub(in crate::migration) front_end: &'static str,
    /// Bytes staged and not consumed.
    pub(in crate::migration) staged: usize,
    /// What a save still has to send, without what is staged.
    pub(in crate::migration) pending: u64,
    /// The present or the last save.
    pub(in crate::migration) saved: save::Stats,
    /// The present or the last load.
    pub(in crate::migration) loaded: load::Stats,
    /// Bytes of device memory.
    pub(in crate::migration) memory: u64,
    /// Bytes of it that are no holes.
    pub(in crate::migration) populated: u64,
    /// Dirty pages.
    pub(in crate::migration) dirty: u64,
    /// The most looks of type1 that found the same pages pinned, of all devices.
    pub(in crate::migration) unmap_looks_max: u32,
    /// How long the device was in each state.
    pub(in crate::migration) times: Times,
}

impl StateMachine {
    /// Offers the staged buffer again, as its user may or may not have read it (P23).
    pub(super) fn restage(&self, inner: &mut Locked<'_>, window: &mut Window) {
        let endpoint = self.endpoint();
        let Owner::V1 {
            session: Session::Save(save),
            staged: Some(staged),
        } = &mut inner.owner
        else {
            return;
        };
        // The header it rewrites is in the window, so this does not fail.
        let _ = save.restage(&endpoint, window);
        staged.offered = false;
    }

    /// Fills a window with the next bytes of a save; 0 if there are none now.
    pub(in crate::migration) fn fill(
        &self,
        inner: &mut Locked<'_>,
        window: &mut Window,
        len: usize,
    ) -> Result<usize> {
        let Some(Session::Save(save)) = inner.owner.session_mut() else {
            return Ok(0);
        };
        let endpoint = self.endpoint();
        save.fill(&endpoint, window, len).map_err(|error| {
            endpoint.refuse(&self.core, "save failed", &error);
            errno(error)
        })
    }

    /// Stages the next buffer of v1, unless one is staged that was not consumed (P17, P18).
    ///
    /// Outside of a save of v1's it does nothing.
    pub(in crate::migration) fn stage(
        &self,
        inner: &mut Locked<'_>,
        window: &mut Window,
        len: usize,
    ) -> Result {
        match &mut inner.owner {
            Owner::None | Owner::V2 { .. } => return Ok(()),
            Owner::V1 {
                staged: Some(staged),
                ..
            } => {
                staged.offered = true;
                return Ok(());
            }
            Owner::V1 { staged: None, .. } => {}
        }
        let len = self.fill(inner, window, len)?;
        if len == 0 {
            return Ok(());
        }
        inner.number += 1;
        let number = inner.number;
        if let Owner::V1 { staged, .. } = &mut inner.owner {
            *staged = Some(Staged {
                len,
                offered: true,
                number,
            });
        }
        Ok(())
    }

    /// What v1 reads from `pending_bytes`, without what is staged (P22).
    pub(in crate::migration) fn pending(&self, inner: &Locked<'_>) -> u64 {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.pending(&self.endpoint()),
            None | Some(Session::Load(_)) => 0,
        }
    }

    /// What a save of the stopped device has to send, the save that is open or another one (P47).
    pub(in crate::migration) fn size(&self, inner: &Locked<'_>) -> u64 {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.remaining(&self.endpoint()),
            None | Some(Session::Load(_)) => save::estimate(&self.identity, &self.endpoint()),
        }
    }

    /// What pre-copy still has to send (P45).
    pub(in crate::migration) fn precopy_info(&self, inner: &Locked<'_>) -> PrecopyInfo {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.precopy_info(&self.endpoint()),
            None | Some(Session::Load(_)) => PrecopyInfo::default(),
        }
    }

    /// Whether a save has something to send now.
    pub(in crate::migration) fn has_data(&self, inner: &Locked<'_>) -> bool {
        match inner.owner.session() {
            Some(Session::Save(save)) => save.has_data(&self.endpoint()),
            None | Some(Session::Load(_)) => false,
        }
    }

    /// Those who wait for something to send.
    pub(in crate::migration) fn dirtied(&self) -> Arc<Dirtied> {
        self.dirtied.clone()
    }

    /// Takes the next bytes of a load (P24, P25), and returns how many. Fewer than `len` if the rest
    /// failed with an errno that passes: `ENOMEM`, or `EINTR` for a user who is being killed. The next
    /// call may bring the rest.
    pub(in crate::migration) fn feed(
        &self,
        inner: &mut Locked<'_>,
        window: &Window,
        len: usize,
    ) -> Result<usize> {
        let endpoint = self.endpoint();
        let Some(Session::Load(load)) = inner.owner.session_mut() else {
            return Err(EINVAL);
        };
        let before = load.stats().bytes;
        match load.feed(&endpoint, window, len) {
            Ok(()) => Ok(len),
            Err(error) => {
                endpoint.refuse(&self.core, "load refused", &error);
                match (load.stats().bytes - before) as usize {
                    taken if taken != 0 && error.is_transient() => Ok(taken),
                    _ => Err(errno(error)),
                }
            }
        }
    }

    /// [`StateMachine::feed`] for a front end that can take all of its buffer or fail.
    ///
    /// After an errno that passes, its user does not know how much of it was taken: what he hands over
    /// next has to be the beginning of a buffer.
    pub(in crate::migration) fn feed_all(
        &self,
        inner: &mut Locked<'_>,
        window: &Window,
        len: usize,
    ) -> Result {
        let endpoint = self.endpoint();
        let Some(Session::Load(load)) = inner.owner.session_mut() else {
            return Err(EINVAL);
        };
        load.feed(&endpoint, window, len).map_err(|error| {
            endpoint.refuse(&self.core, "load refused", &error);
            if error.is_transient() {
                load.lose_position();
            }
            errno(error)
        })
    }

    /// What there is to say about the device now; `None` if its state is changing and that takes long.
    pub(in crate::migration) fn report(&self) -> Option<Report> {
        let inner = self.lock_briefly()?;
        let memory = self.core.memory.as_deref();
        let mut report = Report {
            state: inner.state,
            front_end: inner.owner.front_end().map_or("none", FrontEnd::name),
            staged: inner.staged().map_or(0, |staged| staged.len),
            pending: self.pending(&inner),
            saved: inner.saved,
            loaded: inner.loaded,
            memory: self.identity.memory_size,
            populated: memory.map_or(0, DeviceMemory::populated_bytes),
            dirty: self.endpoint().dirty().count(),
            unmap_looks_max: self.core.dma.unmap_looks_max(),
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
