// SPDX-License-Identifier: GPL-2.0

//! The effects of a change of the migration state.

use super::{
    device_access::DeviceAccess,
    owner::{
        FrontEnd,
        Owner,
        Request,
        Session, //
    },
    state_machine::{
        errno,
        Locked, //
    },
};
use crate::{
    device::Device,
    device_worker::RunCondition, //
    driver::Driver,
};
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};
use kernel_ext::fault::FaultPoint;
use migration::{
    dirty_query::Query,
    load::LoadSession,
    save::SaveSession,
    state::State,
    transition::{
        Action,
        Transition, //
    },
    v2018::Registers, //
};
use vfio::{
    refuse,
    trace::{
        self,
        Cause, //
    },
};

impl<T: Driver> Device<T> {
    /// Returns the device as crate `migration` accesses it.
    pub(super) fn access(&self) -> DeviceAccess<'_, T> {
        DeviceAccess::new(self)
    }

    /// Locks the migration state for a user. A device that has failed enters the error state first.
    ///
    /// `EINTR` if the task is killed while it waits.
    pub(super) fn lock_state(&self) -> Result<Locked<'_>> {
        let mut inner = self.machine.lock()?;
        if self.worker.has_failed() && inner.state != State::Error {
            self.stop()?;
            self.end(&mut inner);
            self.enter(&mut inner, State::Error, Cause::Failure);
        }
        Ok(inner)
    }

    /// Enters `state`.
    fn enter(&self, inner: &mut Locked<'_>, state: State, cause: Cause) {
        let before = inner.state;
        if inner.enter(state) {
            trace::state(&self.mdev, before.to_v2(), state.to_v2(), cause);
        }
    }

    /// The device is being opened. It runs (P8).
    pub(crate) fn open_migration(&self) -> Result {
        let mut inner = self.machine.lock()?;
        // SAFETY: VFIO alternates open and close of a device.
        unsafe { self.data_section.open()? };
        self.enter(&mut inner, State::Running, Cause::Open);
        inner.open = true;
        inner.was_open = true;
        inner.v2018 = Registers::default();
        self.run();
        Ok(())
    }

    /// The last user has closed the device, and the worker has stopped. Resets the device to power-on, so
    /// that the next user finds nothing of this one.
    ///
    /// If root asked for it, registers and memory stay. A device that is half loaded or in the error state
    /// is reset in any case.
    pub(crate) fn close_migration(&self) {
        let mut inner = self.machine.inner.lock_closing();
        self.worker.timers().run(false);
        self.host_end.run(false);
        self.irq.stop();
        self.end(&mut inner);
        if !self.machine.keeps_state() || is_half_loaded(&inner) || self.worker.has_failed() {
            self.power_on(&mut inner);
            self.discard_memory(&mut inner);
        } else if let Some(memory) = &self.memory {
            // Frees the pages that were mapped when they were discarded. Nobody maps them now.
            let _ = memory.free(0, 0);
        }
        inner.open = false;
        drop(inner);
        // SAFETY: The device was open. With its last file all mappings and calls have ended.
        unsafe { self.data_section.close() };
    }

    /// Returns whether the last close leaves the device as it is.
    pub(crate) fn keeps_state(&self) -> bool {
        self.machine.keeps_state()
    }

    /// Sets whether the last close leaves the device as it is. If not, drops a kept state at once.
    ///
    /// `EINTR` if the task is killed while it waits: nothing has changed then.
    pub(crate) fn set_keep_state(&self, keep: bool) -> Result {
        let mut inner = self.machine.lock()?;
        self.machine.keep.store(keep, Relaxed);
        if !keep && !inner.open {
            self.power_on(&mut inner);
            self.discard_memory(&mut inner);
        }
        Ok(())
    }

    /// `VFIO_DEVICE_RESET`: ends any session, resets the device and lets it run (P11).
    ///
    /// Configuration space and eventfds stay, as they do when vfio-pci resets a function. Storage stays
    /// too, unless it is half loaded.
    ///
    /// `EINTR` if the task is killed while it waits: nothing has changed then.
    pub(crate) fn reset_device(&self) -> Result {
        let mut inner = self.machine.lock()?;
        self.reset_locked(&mut inner)
    }

    /// [`Device::reset_device`], with the state locked.
    pub(super) fn reset_locked(&self, inner: &mut Locked<'_>) -> Result {
        self.stop()?;
        self.end(inner);
        self.power_on(inner);
        if self.function.storage == 0 || is_half_loaded(inner) {
            self.discard_memory(inner);
        }
        self.enter(inner, State::Running, Cause::Reset);
        inner.v2018 = Registers::default();
        self.run();
        Ok(())
    }

    /// Lets the device work and interrupt.
    fn run(&self) {
        self.worker.timers().run(true);
        self.host_end.run(true);
        self.worker.set_condition(RunCondition::Running);
        self.irq.run();
    }

    /// Lets the driver get what it needs to run. A device that is not bus master does no DMA yet: it gets
    /// what it needs in its first units of work.
    fn prepare_run(&self) -> Result {
        self.inject(&self.faults.run, "run", ENOMEM)?;
        if self.worker.holds(RunCondition::Enabled) {
            T::prepare_run(self)
        } else {
            Ok(())
        }
    }

    /// Passes a point at which a call can be made to fail. Logs the failure.
    pub(super) fn inject(&self, point: &FaultPoint, name: &str, error: Error) -> Result {
        point.pass(error).inspect_err(|&error| {
            if error != EINTR {
                refuse!(self, "fault injection: {name} fails ({error:?})");
            }
        })
    }

    /// Stops the device. When this returns it neither works nor interrupts.
    ///
    /// `EINTR` if the task is killed while it waits: the device still runs then.
    fn stop(&self) -> Result {
        self.worker
            .clear_condition(RunCondition::Running, || T::stopped(self))?;
        self.worker.timers().run(false);
        self.host_end.run(false);
        self.irq.stop();
        Ok(())
    }

    /// Puts the stopped device back to power-on, except for its memory.
    fn power_on(&self, _inner: &mut Locked<'_>) {
        T::reset(self);
        self.worker.mend();
        self.worker.timers().reset();
        self.host_end.reset();
        self.irq.reset();
        self.msix.reset();
        // For a driver that kept pages pinned.
        self.dma.revoke_all();
    }

    /// Discards the memory of the stopped device.
    fn discard_memory(&self, _inner: &mut Locked<'_>) {
        if let Some(memory) = &self.memory {
            memory.discard();
        }
    }

    /// Ends the session, if one is open.
    fn end(&self, inner: &mut Locked<'_>) {
        let owner = core::mem::replace(&mut inner.owner, Owner::None);
        if owner.front_end().is_some_and(FrontEnd::reports_dirty_pages) {
            self.dma.stop_logging();
        }
        match owner.session() {
            None => {}
            Some(Session::Save(save)) => {
                inner.saved = save.stats();
                T::end_save(self);
                if let Some(memory) = &self.memory {
                    memory.stop_tracking();
                }
            }
            Some(Session::Load(load)) => {
                inner.loaded = load.stats();
                T::end_load(self);
            }
        }
        if let Owner::V2 { file, .. } = &owner {
            file.end();
        }
    }

    /// Refuses a request of `front_end` while the other front end has a session (P48).
    pub(super) fn check_owner(&self, inner: &Locked<'_>, front_end: FrontEnd) -> Result {
        match inner.owner.front_end() {
            Some(owner) if owner != front_end => {
                refuse!(
                    self,
                    "migration: the session was opened by {}, this is {}",
                    owner.name(),
                    front_end.name()
                );
                Err(EBUSY)
            }
            _ => Ok(()),
        }
    }

    /// Changes the state.
    ///
    /// When this returns, a device that has to stop has stopped (P9). If it fails, it has logged why, and
    /// the state is what it was, or [`State::Error`] if a load failed (P10, P26). `EINTR` if the task is
    /// killed while it waits for the device to stop.
    pub(super) fn change(
        &self,
        inner: &mut Locked<'_>,
        transition: &Transition,
        mut request: Request<'_>,
    ) -> Result {
        self.check_owner(inner, request.front_end())?;
        // Stop first: if the caller is killed in the wait, nothing has changed.
        let stops = transition
            .actions
            .iter()
            .any(|action| matches!(action, Action::QuiescePeer | Action::QuiesceAll));
        if stops {
            if transition.from.may_dma() {
                self.inject(&self.faults.stop, "stop", EIO)?;
                T::prepare_stop(self)?;
            }
            self.stop()?;
        }
        let runs = transition.actions.contains(&Action::Run);
        if runs && transition.on_failure() == transition.from {
            self.prepare_run()?;
        }
        for action in transition.actions {
            let mut result = self.act(inner, *action, &mut request);
            if *action == Action::CommitLoad && runs {
                result = result.and_then(|()| self.prepare_run());
            }
            if let Err(error) = result {
                // Only the first of the other actions can fail, so nothing else is to be undone.
                let state = transition.on_failure();
                self.enter(inner, state, request.front_end().cause());
                if stops && state.may_dma() {
                    self.run();
                }
                return Err(error);
            }
        }
        self.enter(inner, transition.to, request.front_end().cause());
        Ok(())
    }

    /// Carries out one action of a change.
    fn act(&self, inner: &mut Locked<'_>, action: Action, request: &mut Request<'_>) -> Result {
        match action {
            Action::BeginSave => self
                .begin_save(inner, request)
                .inspect_err(|e| refuse!(self, "migration: cannot begin a save: {e:?}"))?,
            Action::PrepareLoad => self
                .prepare_load(inner, request)
                .inspect_err(|e| refuse!(self, "migration: cannot begin a load: {e:?}"))?,
            // `change` has stopped the device. A device that may do no DMA only answers register accesses,
            // in every such state.
            Action::QuiescePeer | Action::QuiesceAll => {}
            Action::RunPeer => {}
            Action::Run => {
                self.run();
                // A state that was kept over a close continues here, like a loaded state.
                self.worker.schedule();
            }
            Action::StopSave => {
                if let Some(Session::Save(save)) = inner.owner.session_mut() {
                    save.stop();
                }
            }
            Action::Restage => {
                if let Request::Region(_, window) = request {
                    self.restage(inner, &mut **window);
                }
            }
            Action::EndSave => self.end(inner),
            Action::BeginLoad => self.begin_load(),
            Action::RestartLoad => {
                if let Some(Session::Load(load)) = inner.owner.session_mut() {
                    if load.is_broken() {
                        load.restart();
                        self.begin_load();
                    }
                }
            }
            Action::CommitLoad => return self.commit_load(inner),
        }
        Ok(())
    }

    /// Opens a save session and starts tracking.
    fn begin_save(&self, inner: &mut Locked<'_>, request: &mut Request<'_>) -> Result {
        let buffer = self.machine.buffer()?;
        let memory = self.memory();
        T::begin_save(self)?;
        if let Some(memory) = memory {
            memory.start_tracking().inspect_err(|_| T::end_save(self))?;
        }
        let owner = SaveSession::begin(self.machine.identity, buffer, &self.access())
            .and_then(|save| save.with_parts(self.machine.parts))
            .map(|save| save.with_checksums(self.machine.has_checksums()))
            .map_err(errno)
            .and_then(|save| request.owner(Session::Save(save)));
        let owner = owner.and_then(|owner| {
            inner.query = Query::default();
            if request.front_end().reports_dirty_pages() {
                self.log_all()?;
            }
            Ok(owner)
        });
        match owner {
            Ok(owner) => {
                inner.owner = owner;
                Ok(())
            }
            Err(error) => {
                if let Some(memory) = memory {
                    memory.stop_tracking();
                }
                T::end_save(self);
                Err(error)
            }
        }
    }

    /// Opens a load session.
    fn prepare_load(&self, inner: &mut Locked<'_>, request: &mut Request<'_>) -> Result {
        let load = LoadSession::new(self.machine.identity, self.machine.buffer()?)
            .and_then(|load| load.since(T::OLDEST_VERSION).with_parts(self.machine.parts))
            .map_err(errno)?;
        let owner = request.owner(Session::Load(load))?;
        T::begin_load(self)?;
        inner.owner = owner;
        Ok(())
    }

    /// Begins a load: device memory reads 0 from now on.
    fn begin_load(&self) {
        if let Some(memory) = &self.memory {
            // If the caller is killed, some pages stay. The first record of the stream discards all of them
            // again. Without that record the device does not run before a reset.
            let _ = memory.free(0, memory.size());
        }
    }

    /// Makes the loaded state take effect (P26).
    fn commit_load(&self, inner: &mut Locked<'_>) -> Result {
        let access = self.access();
        let result = match inner.owner.session_mut() {
            Some(Session::Load(load)) => load.finish(&access),
            None | Some(Session::Save(_)) => Ok(()),
        };
        self.end(inner);
        result.map_err(|error| {
            access.refuse("load failed", &error);
            errno(error)
        })?;
        // The device continues the work that it was doing when it was saved.
        self.irq.loaded();
        self.worker.schedule();
        Ok(())
    }
}

/// Returns whether a load has begun and not succeeded: registers and memory do not belong together.
fn is_half_loaded(inner: &Locked<'_>) -> bool {
    matches!(inner.state, State::Resuming | State::Error)
}
