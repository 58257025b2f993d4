// SPDX-License-Identifier: GPL-2.0

//! The device: one object for VFIO, the framework and the driver.

use crate::{
    bindings,
    budget::Reservation,
    config::ConfigSpace,
    debugfs::Counters,
    dma::Dma,
    engine::Engine,
    irq::Irq,
    log::Log,
    memory::DeviceMemory,
    migration::{
        Staging,
        StateMachine, //
    },
    msix::Msix,
    pci::Function,
    uuid::Uuid, //
};
use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        aref::AlwaysRefCounted,
        Arc, //
    },
    types::Opaque, //
};

/// A mediated device.
///
/// It starts with the `struct vfio_device` and ends with the driver's part, a `T`, to which it
/// dereferences. VFIO allocates it, counts references to it and frees it.
///
/// # Invariants
///
/// All fields are initialised, and the device is pinned.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Device<T> {
    #[pin]
    pub(crate) raw: Opaque<bindings::vfio_device>,
    /// Runs [`Driver::work`](crate::Driver::work).
    #[pin]
    pub(crate) engine: Engine<Device<T>>,
    /// Name of the driver.
    pub(crate) name: &'static CStr,
    /// UUID of the mdev.
    pub(crate) uuid: Uuid,
    /// The log of refusals.
    #[pin]
    pub(crate) log: Log,
    /// Counts what is not logged.
    pub(crate) counters: Arc<Counters>,
    /// What the device looks like on the PCI bus.
    pub(crate) function: Function,
    /// The emulated configuration space.
    #[pin]
    pub(crate) config: ConfigSpace,
    /// Interrupts.
    #[pin]
    pub(crate) irq: Irq,
    /// The BAR with the MSI-X table.
    #[pin]
    pub(crate) msix: Msix,
    /// Guest memory.
    #[pin]
    pub(crate) dma: Dma,
    /// Device memory, if the device has any.
    pub(crate) memory: Option<Arc<DeviceMemory>>,
    /// The migration state.
    #[pin]
    pub(crate) machine: StateMachine,
    /// The data section of the v1 region.
    pub(crate) staging: Staging,
    /// The driver's part.
    #[pin]
    pub(crate) driver: T,
    /// The device's share of the parent's memory. Given back after all else is gone.
    pub(crate) reservation: Reservation,
}

// SAFETY: A `struct vfio_device` is not tied to a thread, and the rest is `Send`.
unsafe impl<T: Send + Sync> Send for Device<T> {}

// SAFETY: VFIO does the locking of its part, and the rest is `Sync`.
unsafe impl<T: Send + Sync> Sync for Device<T> {}

impl<T> Device<T> {
    /// Returns what VFIO knows the device by.
    pub(crate) fn as_raw(&self) -> *mut bindings::vfio_device {
        self.raw.get()
    }

    /// Returns the device of a `struct vfio_device`.
    ///
    /// # Safety
    ///
    /// `raw` is the start of a `Device<T>` that is initialised and lives for `'a`.
    pub(crate) unsafe fn from_raw<'a>(raw: *mut bindings::vfio_device) -> &'a Self {
        // SAFETY: By the requirement of this function; the `vfio_device` is the first field.
        unsafe { &*raw.cast::<Self>() }
    }

    /// Runs [`Driver::work`](crate::Driver::work) soon.
    ///
    /// Cheap, and callable in any context. While the device may not run the call is remembered
    /// and acts when it may (P52).
    pub fn kick(&self) {
        self.engine.kick();
    }

    /// Returns guest memory, which is accessed by IOVA.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Returns device memory; `None` if the device has no [`Bar::Memory`](crate::pci::Bar::Memory).
    pub fn memory(&self) -> Option<&DeviceMemory> {
        self.memory.as_deref()
    }

    /// Returns the interrupts.
    pub fn irq(&self) -> &Irq {
        &self.irq
    }

    /// Logs why something was refused: one line, rate-limited for each device.
    ///
    /// Use it through [`refuse!`](crate::refuse).
    pub fn refuse(&self, reason: core::fmt::Arguments<'_>) {
        self.log.refuse(self.name, &self.uuid, reason);
    }
}

impl<T> Deref for Device<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.driver
    }
}

// SAFETY: The `struct device` inside has a reference count, and its last put frees the device.
unsafe impl<T: Send + Sync> AlwaysRefCounted for Device<T> {
    fn inc_ref(&self) {
        // SAFETY: The caller has a reference.
        unsafe { bindings::get_device(&raw mut (*self.as_raw()).device) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe {
            bindings::put_device(&raw mut (*obj.cast::<bindings::vfio_device>().as_ptr()).device)
        };
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Device<T> {
    fn drop(self: Pin<&mut Self>) {
        // The worker refers to the device.
        self.engine.stop();
        if let Some(memory) = &self.memory {
            // SAFETY: Taking the mapping away is always allowed.
            unsafe { memory.set_mapping(ptr::null_mut()) };
        }
    }
}
