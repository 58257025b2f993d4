// SPDX-License-Identifier: GPL-2.0

//! One instance: what it is made of, and its life.
//!
//! ```text
//!   probe    new()      reserve memory, make the device; `registration` makes it VFIO's
//!   open     open()     guest memory can be reached, the engine may run
//!   close    close()    engine drained, pins and eventfds given up, all as at power-on
//!   release  drop()     the last reference is gone: the device is dropped, its memory given back
//! ```

use crate::{
    bindings,
    debugfs::{
        Counters,
        Dir,
        File, //
    },
    device::{
        Device,
        Operations, //
    },
    dma::Unmaps,
    engine::{
        Gate,
        Runnable, //
    },
    handle::{
        Core,
        Handle, //
    },
    mdev::budget::Reservation,
    migration::{
        Migration,
        Params, //
    },
    uuid::Uuid, //
};
use core::{
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    prelude::*,
    str::CString,
    sync::Arc, //
};

/// One instance of a mediated device.
///
/// This is what the callbacks of `struct vfio_device` reach.
pub(crate) struct Instance {
    /// What is the same for every driver.
    pub(crate) core: Arc<Core>,
    /// The driver's device.
    pub(crate) device: Arc<dyn Operations>,
    /// The migration state and region.
    pub(crate) migration: Migration,
    /// Shows the counters of `core`, until it is dropped.
    _counters: File<Arc<Counters>>,
    /// The instance's share of the parent's memory, given back when all else is gone.
    _reservation: Reservation,
}

/// What is allocated for an instance: VFIO's part, then a pointer to ours.
///
/// VFIO wants its part at the start, zeroes all of it, and frees all of it.
///
/// # Invariants
///
/// `instance` is null, or points to a box that this allocation owns. It is set before the device is
/// registered and not changed until it is released.
#[repr(C)]
struct Allocation {
    vdev: bindings::vfio_device,
    instance: *mut Instance,
}

impl Instance {
    /// Bytes to allocate for a `struct vfio_device` and its instance.
    pub(crate) const ALLOCATION: usize = size_of::<Allocation>();

    /// The instance behind a `struct vfio_device`.
    ///
    /// # Safety
    ///
    /// `vdev` was given an instance by [`Instance::attach`], has been registered, and lives for `'a`.
    pub(crate) unsafe fn from_raw<'a>(vdev: *mut bindings::vfio_device) -> &'a Self {
        // SAFETY: By the requirement of this function `vdev` is the start of an `Allocation`, which
        // has its instance since before it was registered.
        unsafe { &*(*vdev.cast::<Allocation>()).instance }
    }

    /// Hands the instance to a `struct vfio_device`, which owns it from then on.
    ///
    /// # Safety
    ///
    /// `vdev` was allocated with [`Instance::ALLOCATION`] bytes, has no instance and is not registered.
    pub(crate) unsafe fn attach(this: KBox<Self>, vdev: NonNull<bindings::vfio_device>) {
        // INVARIANT: `vdev` is not registered yet, and its memory was zeroed.
        // SAFETY: As many bytes were allocated as an `Allocation` has.
        unsafe { (*vdev.cast::<Allocation>().as_ptr()).instance = KBox::into_raw(this) };
    }

    /// Drops the instance of a `struct vfio_device`, if it has one.
    ///
    /// # Safety
    ///
    /// `vdev` was allocated with [`Instance::ALLOCATION`] bytes, has no users left and is about to be
    /// freed.
    pub(crate) unsafe fn detach(vdev: *mut bindings::vfio_device) {
        // SAFETY: By the requirement of this function.
        let instance = unsafe { (*vdev.cast::<Allocation>()).instance };

        if !instance.is_null() {
            // SAFETY: By the type invariant the allocation owns the box, and it is freed after this.
            drop(unsafe { KBox::from_raw(instance) });
        }
    }

    /// Makes the parts of an instance and connects them.
    pub(crate) fn new<D: Device>(
        uuid: Uuid,
        config: &D::Config,
        reservation: Reservation,
        debugfs: &Dir,
        unmaps: Arc<Unmaps>,
    ) -> Result<KBox<Self>> {
        let core = Core::new(
            D::NAME,
            uuid,
            D::pci(config),
            D::memory_size(config),
            unmaps,
        )?;
        let device = Arc::pin_init(D::new(config, Handle::new(core.clone())), GFP_KERNEL)?;
        let runnable: Arc<dyn Runnable> = device.clone();
        let device: Arc<dyn Operations> = device;
        let debugfs = Dir::new(
            &CString::try_from_fmt(format_args!("{uuid}"))?,
            Some(debugfs),
        )?;
        let migration = Migration::new(core.clone(), device.clone(), &Params::of::<D>(), &debugfs)?;
        let counters = debugfs.file(c"counters", core.counters.clone())?;
        let this = KBox::new(
            Self {
                core,
                device,
                migration,
                _counters: counters,
                _reservation: reservation,
            },
            GFP_KERNEL,
        )?;

        this.core.engine.attach(runnable);
        Ok(this)
    }

    /// The first user opens the device.
    ///
    /// # Safety
    ///
    /// `vdev` is this instance's, and open until [`Instance::close`] is called.
    pub(crate) unsafe fn open(&self, vdev: NonNull<bindings::vfio_device>) -> Result {
        self.migration.open()?;
        // SAFETY: By the requirement of this function; `close` takes it back.
        unsafe { self.core.dma.set_device(Some(vdev)) };
        self.core.engine.opened();
        self.core.engine.open_gate(Gate::Open);
        Ok(())
    }

    /// The last user has closed the device, which goes back to power-on.
    ///
    /// With `keep_state` registers, memory and the MSI-X table stay. What the user put in place goes in any
    /// case: eventfds, pins, configuration space, sessions.
    pub(crate) fn close(&self) {
        self.core.engine.close();
        self.migration.close();
        self.core.irq.release();
        self.core.config_close();
        self.core.dma.revoke_all();
        // SAFETY: Taking the device away is always allowed.
        unsafe { self.core.dma.set_device(None) };
    }

    /// `VFIO_DEVICE_RESET`: registers, memory and migration as at power-on.
    ///
    /// Configuration space and eventfds stay, as they do when vfio-pci resets a function. `EINTR` if the
    /// caller is killed while it waits: nothing has changed then.
    pub(crate) fn reset(&self) -> Result {
        self.migration.reset()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The engine holds the device, which holds the core, which holds the engine.
        self.core.engine.detach();
        if let Some(memory) = &self.core.memory {
            // SAFETY: Taking the mapping away is always allowed.
            unsafe { memory.set_mapping(ptr::null_mut()) };
        }
    }
}
