// SPDX-License-Identifier: GPL-2.0

//! The one state of a device, and what a change of it does.
//!
//! Both front ends drive it. A session is what is open while a device is saved or loaded; it belongs
//! to the front end that opened it, and the other one is told `EBUSY` (P48).
//!
//! # Locks
//!
//! ```text
//!   state              this file's mutex: the state, the session, what is staged
//!     engine.control   while the engine is quiesced or run
//!     driver's locks   in save_state(), load_state(), reset(), stopped()
//!       dma.pins, type1's iommu->lock     when a driver gives up what it pinned
//!       memory.lock    write protection, discarding
//! ```
//!
//! `state` is held while a step of the engine in flight is waited for, so a step must not need it:
//! it has no way to. That wait is as long as a page of the user's memory takes, so who waits for
//! `state` can be killed. It is never held over a copy to or from a user, who may hand in memory whose
//! page faults end up in `memory.lock`, or in no time at all. What a register reads is worked out
//! under the lock and copied after; what is written to one is copied first.
//!
//! A reset waits for the change of state or the staging that is under way, each of which ends by
//! itself, and what waits behind the reset finds the device running. So it is neither lost nor stuck.

pub(super) mod link;
pub(super) mod owner;
mod times;
mod transfer;

use self::{
    link::Link,
    owner::{
        FrontEnd,
        Owner,
        Request,
        Session,
        Staged, //
    },
    times::Times, //
};
use super::endpoint::Endpoint;
use crate::{
    bindings,
    device::Operations,
    engine::Gate,
    handle::Core,
    memory::Dirtied,
    mutex::{
        new_killable_mutex,
        Guard,
        Mutex, //
    },
    refuse, //
};
use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use migration::{
    dirty::DirtyMap,
    load::{
        self,
        LoadSession, //
    },
    save::{
        self,
        SaveSession, //
    },
    state::State,
    stream::{
        self,
        Identity, //
    },
    transition::{
        Action,
        Transition, //
    },
};

/// How often who only looks at the state tries to lock it.
const LOOKS: u32 = 50;

/// How long he waits between two times.
const LOOK_MSECS: u32 = 10;

/// What the mutex locks.
pub(super) struct Inner {
    /// The state.
    state: State,
    /// The device is open.
    open: bool,
    /// How long it was what.
    times: Times,
    /// Who has a session open.
    owner: Owner,
    /// Buffers staged so far.
    number: u64,
    /// What the last save sent.
    saved: save::Stats,
    /// What the last load received.
    loaded: load::Stats,
}

/// The migration state of one device.
#[pin_data]
pub(super) struct StateMachine {
    core: Arc<Core>,
    device: Arc<dyn Operations>,
    identity: Identity,
    /// The dirty map of a device without memory.
    no_pages: DirtyMap<KVVec<AtomicU64>>,
    /// Those who wait for something to send.
    dirtied: Arc<Dirtied>,
    /// The last close leaves the device as it is. Changed with `inner` locked.
    keep: AtomicBool,
    #[pin]
    inner: Mutex<Inner>,
}

/// The locked state.
pub(super) type Locked<'a> = Guard<'a, Inner>;

impl Inner {
    /// The state.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// The data file of a session of v2.
    pub(super) fn file(&self) -> Option<&dyn Link> {
        match &self.owner {
            Owner::V2 { file, .. } => Some(&**file),
            Owner::None | Owner::V1 { .. } => None,
        }
    }

    /// Whether `file` is the session's data file.
    pub(super) fn is_file<T: Link>(&self, file: &T) -> bool {
        self.file()
            .is_some_and(|mine| core::ptr::addr_eq(mine, file))
    }

    /// The buffer that v1 has staged and that was not consumed.
    pub(super) fn staged(&self) -> Option<Staged> {
        match self.owner {
            Owner::V1 { staged, .. } => staged,
            Owner::None | Owner::V2 { .. } => None,
        }
    }

    /// Forgets the buffer that v1 has staged if it is number `number` and `data_offset` was read.
    pub(super) fn consume(&mut self, number: u64) {
        if let Owner::V1 { staged, .. } = &mut self.owner {
            if staged.is_some_and(|s| s.offered && s.number == number) {
                *staged = None;
            }
        }
    }

    /// Changes the state.
    fn enter(&mut self, state: State) {
        if state != self.state {
            self.times.leave(self.state);
            self.state = state;
        }
    }
}

/// An error of crate `migration` as the kernel's.
fn errno(error: stream::Error) -> Error {
    Error::from_errno(-error.errno())
}

impl StateMachine {
    /// The state of a device that is not open.
    pub(super) fn new(
        core: Arc<Core>,
        device: Arc<dyn Operations>,
        identity: Identity,
    ) -> Result<Arc<Self>> {
        identity.validate().map_err(errno)?;
        let no_pages = DirtyMap::new(KVVec::new(), 0).ok_or(EINVAL)?;
        let dirtied = match &core.memory {
            Some(memory) => memory.dirtied(),
            None => Dirtied::new()?,
        };
        Arc::pin_init(
            pin_init!(Self {
                core,
                device,
                identity,
                no_pages,
                dirtied,
                keep: AtomicBool::new(false),
                inner <- new_killable_mutex!(
                    Inner {
                        state: State::Running,
                        open: false,
                        times: Times::new(),
                        owner: Owner::None,
                        number: 0,
                        saved: save::Stats::default(),
                        loaded: load::Stats::default(),
                    },
                    "migration state"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Locks the state. `EINTR` if the task is killed before it gets it.
    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        self.inner.lock()
    }

    /// Locks the state for who only looks at it; `None` if another keeps it locked, as who waits for the
    /// end of a step does.
    fn lock_briefly(&self) -> Option<Locked<'_>> {
        for _ in 0..LOOKS {
            if let Some(inner) = self.inner.try_lock() {
                return Some(inner);
            }
            // SAFETY: Nothing is held that forbids sleeping.
            unsafe { bindings::msleep(LOOK_MSECS) };
        }
        None
    }

    /// The device, for crate `migration`.
    fn endpoint(&self) -> Endpoint<'_> {
        Endpoint::new(&*self.device, self.core.memory.as_deref(), &self.no_pages)
    }

    /// The device is being opened: it runs (P8).
    pub(super) fn open(&self) -> Result {
        let mut inner = self.lock()?;
        inner.enter(State::Running);
        inner.open = true;
        self.run();
        Ok(())
    }

    /// The last user has closed the device, and the engine has stopped. The device goes back to power-on,
    /// so that the next user finds nothing of this one.
    ///
    /// If root asked for it, registers and memory stay. But what was left half loaded, or in the error
    /// state, nobody can use.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock_closing();
        self.core.irq.stop();
        self.end(&mut inner);
        if !self.keeps_state() || matches!(inner.state, State::Resuming | State::Error) {
            self.power_on(&mut inner);
        } else if let Some(memory) = &self.core.memory {
            // Pages that were mapped when they were discarded: nobody maps any now.
            let _ = memory.free(0, 0);
        }
        inner.open = false;
    }

    /// Whether the last close leaves the device as it is.
    pub(super) fn keeps_state(&self) -> bool {
        self.keep.load(Relaxed)
    }

    /// Says whether the last close leaves the device as it is. If not, a state that was kept is dropped
    /// at once.
    ///
    /// `EINTR` if the task is killed while it waits: nothing has changed then.
    pub(super) fn keep_state(&self, keep: bool) -> Result {
        let mut inner = self.lock()?;
        self.keep.store(keep, Relaxed);
        if !keep && !inner.open {
            self.power_on(&mut inner);
        }
        Ok(())
    }

    /// Ends any session, resets the device and has it run (P11).
    ///
    /// `EINTR` if the task is killed while it waits: nothing has changed then.
    pub(super) fn reset(&self) -> Result {
        let mut inner = self.lock()?;
        self.stop()?;
        self.end(&mut inner);
        self.power_on(&mut inner);
        inner.enter(State::Running);
        self.run();
        Ok(())
    }

    /// Lets the device work and interrupt.
    fn run(&self) {
        self.core.engine.open_gate(Gate::Running);
        self.core.irq.run();
    }

    /// Stops the device. When this returns it neither works nor interrupts.
    ///
    /// `EINTR` if the task is killed while it waits for the device: it runs on then.
    fn stop(&self) -> Result {
        self.core.engine.close_gate(Gate::Running)?;
        self.core.irq.stop();
        Ok(())
    }

    /// Puts the stopped device back to power-on.
    fn power_on(&self, _inner: &mut Locked<'_>) {
        self.device.reset();
        if let Some(memory) = &self.core.memory {
            memory.discard();
        }
        self.core.irq.reset();
        self.core.msix.reset();
        // A driver that kept something pinned has lost it.
        self.core.dma.revoke_all();
    }

    /// Ends the session, whatever became of it.
    fn end(&self, inner: &mut Locked<'_>) {
        let owner = core::mem::replace(&mut inner.owner, Owner::None);
        match owner.session() {
            None => {}
            Some(Session::Save(save)) => {
                inner.saved = save.stats();
                if let Some(memory) = &self.core.memory {
                    memory.stop_tracking();
                }
            }
            Some(Session::Load(load)) => inner.loaded = load.stats(),
        }
        if let Owner::V2 { file, .. } = &owner {
            file.end();
        }
    }

    /// Memory for the state of the driver's device.
    fn buffer(&self) -> Result<KVVec<u8>> {
        Ok(KVVec::from_elem(
            0,
            self.identity.state_size_max as usize,
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// Refuses what `front_end` asks for while the session is the other one's (P48).
    pub(super) fn check_owner(&self, inner: &Locked<'_>, front_end: FrontEnd) -> Result {
        match inner.owner.front_end() {
            Some(owner) if owner != front_end => {
                refuse!(
                    self.core,
                    "migration: the session was opened by {}, this is {}",
                    owner.name(),
                    front_end.name()
                );
                Err(EBUSY)
            }
            _ => Ok(()),
        }
    }

    /// Whether the session is `front_end`'s.
    pub(super) fn is_owner(&self, inner: &Locked<'_>, front_end: FrontEnd) -> bool {
        inner.owner.front_end() == Some(front_end)
    }

    /// Changes the state.
    ///
    /// When this returns, a device that stops has stopped (P9). A change that fails has logged why,
    /// and the state is what it was, or [`State::Error`] if a load failed (P10, P26). `EINTR` if the task
    /// is killed while it waits for the device to stop.
    pub(super) fn change(
        &self,
        inner: &mut Locked<'_>,
        transition: &Transition,
        mut request: Request<'_>,
    ) -> Result {
        self.check_owner(inner, request.front_end())?;
        // First, as a kill of the caller ends the wait: nothing has changed then.
        let stops = transition
            .actions
            .iter()
            .any(|action| matches!(action, Action::QuiescePeer | Action::QuiesceAll));
        if stops {
            self.stop()?;
        }
        for action in transition.actions {
            if let Err(error) = self.act(inner, *action, &mut request) {
                // Only the first other action of a change fails, so there is nothing more to undo.
                let state = transition.on_failure();
                inner.enter(state);
                if stops && state.may_dma() {
                    self.run();
                }
                return Err(error);
            }
        }
        inner.enter(transition.to);
        Ok(())
    }

    /// Does one step of a change.
    fn act(&self, inner: &mut Locked<'_>, action: Action, request: &mut Request<'_>) -> Result {
        match action {
            Action::BeginSave => self
                .begin_save(inner, request)
                .inspect_err(|e| refuse!(self.core, "migration: cannot begin a save: {e:?}"))?,
            Action::PrepareLoad => self
                .prepare_load(inner, request)
                .inspect_err(|e| refuse!(self.core, "migration: cannot begin a load: {e:?}"))?,
            // `change` has done it. A device that may do no DMA does nothing but answer accesses to its
            // registers, in whatever state.
            Action::QuiescePeer | Action::QuiesceAll => {}
            Action::RunPeer => {}
            Action::Run => {
                self.run();
                // A state that was kept over a close goes on when its user says so, as one that was loaded.
                self.core.engine.kick();
            }
            Action::StopSave => {
                if let Some(Session::Save(save)) = inner.owner.session_mut() {
                    save.stop();
                }
            }
            Action::Restage => {
                if let Request::V1(window) = request {
                    self.restage(inner, window);
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
        let buffer = self.buffer()?;
        let memory = self.core.memory.as_deref();
        if let Some(memory) = memory {
            memory.start_tracking()?;
        }
        let owner = SaveSession::begin(self.identity, buffer, &self.endpoint())
            .map_err(errno)
            .and_then(|save| request.owner(Session::Save(save)));
        match owner {
            Ok(owner) => {
                inner.owner = owner;
                Ok(())
            }
            Err(error) => {
                if let Some(memory) = memory {
                    memory.stop_tracking();
                }
                Err(error)
            }
        }
    }

    /// Opens a load session.
    fn prepare_load(&self, inner: &mut Locked<'_>, request: &mut Request<'_>) -> Result {
        let load = LoadSession::new(self.identity, self.buffer()?).map_err(errno)?;
        inner.owner = request.owner(Session::Load(load))?;
        Ok(())
    }

    /// A load begins: device memory reads 0 from now on.
    fn begin_load(&self) {
        if let Some(memory) = &self.core.memory {
            // A caller who is being killed leaves some of it. The first record of the stream discards
            // all of it once more, and without one the device does not run before it is reset.
            let _ = memory.free(0, memory.size());
        }
    }

    /// Has what was loaded take effect (P26).
    fn commit_load(&self, inner: &mut Locked<'_>) -> Result {
        let endpoint = self.endpoint();
        let result = match inner.owner.session_mut() {
            Some(Session::Load(load)) => load.finish(&endpoint),
            None | Some(Session::Save(_)) => Ok(()),
        };
        self.end(inner);
        result.map_err(|error| {
            endpoint.refuse(&self.core, "load failed", &error);
            errno(error)
        })?;
        // What the device was doing when it was saved goes on.
        self.core.irq.loaded();
        self.core.engine.kick();
        Ok(())
    }
}
